"""A whole run of the offline catalogue without training: the real keep rule, made-up outcomes.

The outcome of a train.py is a hidden effect of each step from the base plus seeded noise; tips,
verdicts, reruns and returns are `inner_loop.position`'s own.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from inner_loop.catalog import choose
from inner_loop.catalog_knobs import describe, read_description, replaced, step_name
from inner_loop.position import Position, fold, start
from inner_loop.program import parse_program
from inner_loop.records import Experiment, Measured, Move, derive_seed
from inner_loop.researcher import Brief

TRAIN = (Path(__file__).parent.parent / "train.py").read_text()
BASELINE = 1.0

Outcome = Callable[[str, random.Random], float | None]
"""A train.py and a source of noise -> bits per byte; None is a crash."""


class Played(NamedTuple):
    """What came of a run."""

    moves: list[Move]
    position: Position
    sources: dict[str, str]
    """Commit -> train.py."""

    @property
    def history(self) -> tuple[Experiment, ...]:
        """Charged experiments with their status."""
        return self.position.history


def landscape(seed: int, noise: float = 0.002) -> Outcome:
    """Every step has a fixed effect, most of them harmful; a rerun differs by the noise."""

    def outcome(source: str, rng: random.Random) -> float | None:
        total = BASELINE
        for change in read_description(describe(TRAIN, source)):
            effect = random.Random(derive_seed(seed, step_name(change), change.new))
            total += effect.gauss(0.003, 0.01)
        return total + rng.gauss(0, noise)

    return outcome


def play(program: str | bytes, seed: int, outcome: Outcome, experiments: int = 8) -> Played:
    """A run of `experiments`; moves without an experiment are free, as in the loop."""
    body = program.encode() if isinstance(program, str) else program
    parsed, begin = parse_program(body, "p"), start("base", "base", BASELINE)
    sources, moves, done, numbers = {"base": TRAIN}, [], [], {}
    while True:
        now = fold(begin, moves, done, numbers)
        if len(done) >= experiments or now.is_stalled:
            return Played(moves, now, sources)
        number = len(moves) + 1
        move = choose(
            Brief(
                program=parsed, train_py=sources[now.tip], base_commit="base", tip_commit=now.tip,
                baseline_bpb=BASELINE, tip_bpb=now.tip_bpb, history=now.history, facts=(),
                experiments_left=experiments - len(done), move_number=number,
                seed=derive_seed(seed, "move", number),
            )
        )  # fmt: skip
        moves.append(move)
        now = fold(begin, moves, done, numbers)
        if move.kind in ("edit", "rerun"):
            index = len(done) + 1
            numbers[index] = number
            done.append(_experiment(move, now, index, seed, outcome, sources))


def _experiment(
    move: Move, now: Position, index: int, seed: int, outcome: Outcome, sources: dict[str, str]
) -> Experiment:
    if move.kind == "edit":
        source, parent, commit = replaced(sources[now.tip], move.edits), now.tip, f"c{index}"
    else:
        commit = move.commit or now.tip
        source, parent = sources[commit], now.parents.get(commit, commit)
    assert source is not None
    sources[commit] = source
    bpb = outcome(source, random.Random(derive_seed(seed, "noise", index)))
    return Experiment(
        run_id="r", index=index, kind="rerun" if move.kind == "rerun" else "edit", commit=commit,
        tree=hashlib.sha256(source.encode()).hexdigest() if commit != "base" else "base",
        parent_commit=parent, seed=derive_seed(seed, index), description=move.description,
        cites=move.cites, categories=move.categories,
        measured=Measured(search_bpb=bpb, crash=None if bpb is not None else "nan"),
    )  # fmt: skip

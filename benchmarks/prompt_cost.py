"""How much a language model is sent per experiment, at 10, 50 and 100 experiments of a run.

Writes prompt_cost.md. No model is asked and nothing is trained: the catalogue's edits stand in for
a model's, outcomes are drawn (15 in 100 are kept, 10 crash), and every ask is measured in bytes.

Usage: python benchmarks/prompt_cost.py [--program programs/stock] [--seed 0]
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import random
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from inner_loop.briefing import first_ask, template
from inner_loop.catalog import choose
from inner_loop.edits import apply_edits
from inner_loop.home import REPOSITORY
from inner_loop.messages import Ask
from inner_loop.position import Position, fold, start
from inner_loop.program import read_program
from inner_loop.records import Experiment, Measured, Move, Program, derive_seed
from inner_loop.researcher import Brief

HERE = Path(__file__).parent
POINTS = (1, 10, 50, 100)
BASELINE = 1.0
KEPT, CRASHED = 0.15, 0.10
BYTES_PER_TOKEN = 4
"""A rule of thumb for English and code; providers' tokenizers are not bundled."""
NOTE = "The change of experiment {} did what was expected of it; try the next one on the list.\n"
TRACE = 'File "train.py", line 1, in forward\n  x = self.block(x)\n' * 60


class Sent(NamedTuple):
    """One ask, in bytes."""

    all: int
    stable: int
    """Up to the last part that a provider's cache may hold: rules, program and train.py."""


@dataclass
class Simulated:
    """A run without trainings."""

    program: Program
    seed: int
    sources: dict[str, str] = field(
        default_factory=lambda: {"base": (REPOSITORY / "train.py").read_text(encoding="utf-8")}
    )
    moves: list[Move] = field(default_factory=list)
    done: list[Experiment] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)
    notes: str = ""

    def asks(self, experiments: int) -> list[Ask]:
        """What a model would be sent before each of so many experiments."""
        found: list[Ask] = []
        while len(self.done) < experiments:
            position = self._position()
            brief = self._brief(position, experiments)
            move = choose(brief)
            self.moves.append(move)
            if move.kind in ("edit", "rerun"):
                found.append(first_ask(brief))
                self._try(move, self._position())
        return found

    def _position(self) -> Position:
        return fold(start("base", "base", BASELINE), self.moves, self.done, self.numbers)

    def _brief(self, now: Position, experiments: int) -> Brief:
        last = now.history[-1] if now.history else None
        kept = [e for e in now.history if e.status == "keep" and e.measured.search_bpb]
        best = min(kept, key=lambda e: e.measured.search_bpb or 0.0, default=None)
        return Brief(
            program=self.program,
            train_py=self.sources[now.tip],
            overturned_train_py=self.sources["base"] if last and not last.measured.crash else "",
            base_commit="base",
            tip_commit=now.tip,
            baseline_bpb=BASELINE,
            tip_bpb=now.tip_bpb,
            history=now.history,
            last_diff=self._diff(last),
            best_diff=self._diff(best) if best != last else "",
            notes=self.notes,
            facts=_facts(experiments - len(self.done)),
            last_error=last.measured.error if last else "",
            experiments_left=experiments - len(self.done),
            move_number=len(self.moves) + 1,
            seed=derive_seed(self.seed, "move", len(self.moves)),
        )

    def _diff(self, e: Experiment | None) -> str:
        if e is None:
            return ""
        old, new = (self.sources[c].splitlines(True) for c in (e.parent_commit, e.commit))
        return "".join(difflib.unified_diff(old, new, "a/train.py", "b/train.py"))

    def _try(self, move: Move, now: Position) -> None:
        index = len(self.done) + 1
        commit, source = now.tip, self.sources[now.tip]
        if move.kind == "edit":
            source = apply_edits(source, move.edits)
            commit = hashlib.sha256(f"{index}{source}".encode()).hexdigest()[:40]
        draw = random.Random(derive_seed(self.seed, "outcome", index)).random()
        bpb = now.tip_bpb + (-0.001 if draw < KEPT else 0.001)
        crashed = draw > 1 - CRASHED
        self.sources[commit] = source
        self.notes += NOTE.format(index)
        self.numbers[index] = len(self.moves)
        self.done.append(
            Experiment(
                run_id="r", index=index, kind="rerun" if move.kind == "rerun" else "edit",
                commit=commit, tree=hashlib.sha256(source.encode()).hexdigest(),
                parent_commit=now.tip, seed=index, description=move.description,
                measured=Measured(
                    search_bpb=None if crashed else bpb, crash="exception" if crashed else None,
                    error=TRACE if crashed else "",
                ),
            )
        )  # fmt: skip


def _facts(left: int) -> tuple[str, ...]:
    fields = {"branch": "autoresearch/T-00000000-stock-r0", "budget": "6 CPU seconds"}
    return tuple(template("facts").format(experiments_left=left, **fields).splitlines())


def sent(ask: Ask) -> Sent:
    """Bytes of an ask, and of its stable beginning."""
    parts = [part for message in ask.messages for part in message.parts]
    stable = sum(len(part.text.encode()) for part in parts if part.stable)
    rest = sum(len(part.text.encode()) for part in parts if not part.stable)
    rules = len(ask.system.encode())
    return Sent(rules + stable + rest, rules + stable)


def table(program: Program, asks: list[Ask]) -> str:
    """The Markdown page."""
    sizes = [sent(ask) for ask in asks]
    totals = list(accumulate(size.all for size in sizes))
    rows = [
        f"| {n} | {sizes[n - 1].all:,} | {sizes[n - 1].stable:,} "
        f"| {sizes[n - 1].all // BYTES_PER_TOKEN:,} | {totals[n - 1] // BYTES_PER_TOKEN:,} |"
        for n in POINTS
        if n <= len(sizes)
    ]
    return "\n".join(
        [
            "# What a language model is sent per experiment",
            "",
            f"Generated by `python benchmarks/prompt_cost.py`: a simulated run of {len(asks)} "
            f"experiments under `{program.name}` ({len(program.text.encode()):,} bytes), "
            f"{KEPT:.0%} kept, {CRASHED:.0%} crashed, notes that grow to their cap. Tokens are "
            f"bytes / {BYTES_PER_TOKEN}, a rule of thumb; a provider's own count is in each run's "
            "report. Repair turns and replies come on top.",
            "",
            "| experiment | bytes sent | of them stable | tokens, about | of the run so far |",
            "|---:|---:|---:|---:|---:|",
            *rows,
            "",
            "Stable bytes are the rules, the program and train.py: a provider that caches prefixes "
            "charges less for the rules and the program each time, and for train.py while the tip "
            "stays. The rest is bounded: at most 40 rows of the table, capped diffs, error and "
            "notes. So tokens grow linearly with experiments, not quadratically.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--program", type=Path, default=REPOSITORY / "programs" / "stock")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    program = read_program(options.program)
    text = table(program, Simulated(program, options.seed).asks(max(POINTS)))
    (HERE / "prompt_cost.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

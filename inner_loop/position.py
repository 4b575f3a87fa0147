"""Where a run stands, derived from its ledger rows alone; pure.

Owns: the keep rule, the branch tip, what a commit is believed to measure, and the history a
researcher sees. A killed run resumes by folding its rows again.
Does not own: any effect (`loop.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from inner_loop.records import Experiment, Move, Status

MAX_IDLE_MOVES = 10
"""Moves in a row without an experiment after which a run is stalled."""


@dataclass(frozen=True)
class Position:
    """A run after some of its moves."""

    tip: str
    """Commit at the end of the branch."""
    parents: dict[str, str] = field(default_factory=dict)
    """Commit -> the commit it was made from; the base commit has none."""
    trees: dict[str, str] = field(default_factory=dict)
    """Commit -> tree."""
    measurements: dict[str, list[float]] = field(default_factory=dict)
    """Tree -> search-shard bits per byte of every training of it."""
    history: tuple[Experiment, ...] = ()
    """Charged experiments with their status."""
    idle_moves: int = 0
    """Moves since the last experiment."""

    @property
    def tip_bpb(self) -> float:
        """Mean of all trainings of the tip's tree."""
        return fmean(self.measurements[self.trees[self.tip]])

    @property
    def is_stalled(self) -> bool:
        """Whether too many moves in a row led to no experiment."""
        return self.idle_moves >= MAX_IDLE_MOVES

    def has(self, commit: str | None) -> bool:
        """Whether `commit` is one of this run's: it can be trained again."""
        return commit in self.trees

    def has_measured(self, commit: str | None) -> bool:
        """Whether `commit` has a number: the branch can go back to it."""
        return commit in self.trees and bool(self.measurements.get(self.trees[commit]))


def start(base: str, tree: str, baseline_bpb: float) -> Position:
    """The position before the first move."""
    return Position(tip=base, trees={base: tree}, measurements={tree: [baseline_bpb]})


def fold(
    begin: Position,
    moves: Sequence[Move],
    experiments: Sequence[Experiment],
    move_numbers: Mapping[int, int],
) -> Position:
    """The position after `moves` and the charged `experiments` they caused.

    Args:
        begin: from `start`.
        moves: all moves in order.
        experiments: charged experiments in order; a missing status is upstream's rule.
        move_numbers: experiment index -> number (from 1) of the move that caused it.
    """
    caused = {move_numbers[e.index]: e for e in experiments}
    position = begin
    for number, move in enumerate(moves, start=1):
        if move.kind == "return" and position.has_measured(move.commit):
            position = replace(position, tip=move.commit or position.tip)
        if number in caused:
            position = _after(position, caused[number], _override(moves, number))
        elif move.kind != "failed" and (number < len(moves) or move.kind in ("return", "unusable")):
            position = replace(position, idle_moves=position.idle_moves + 1)
    return position


def decide(position: Position, e: Experiment, override: Status | None) -> tuple[Status, str]:
    """The status of an experiment and the reason, given the position before it."""
    if e.measured.search_bpb is None:
        return "crash", e.measured.crash or "no number"
    if override is not None:
        return override, "the program's verdict"
    if e.kind == "rerun":
        return ("keep", "rerun of the tip") if e.commit == position.tip else ("discard", "rerun")
    gain = 1000 * (position.tip_bpb - e.measured.search_bpb)
    return ("keep" if gain > 0 else "discard"), f"gain of {gain:+.1f} mbpb over the tip"


def _after(position: Position, e: Experiment, override: Status | None) -> Position:
    status, reason = (e.status, e.reason) if e.status else decide(position, e, override)
    trees = position.trees | {e.commit: e.tree}
    parents = {e.commit: e.parent_commit} | position.parents
    measurements = dict(position.measurements)
    if e.measured.search_bpb is not None:
        measurements[e.tree] = [*measurements.get(e.tree, []), e.measured.search_bpb]
    return Position(
        tip=_next_tip(position, e, status),
        parents=parents,
        trees=trees,
        measurements=measurements,
        history=(*position.history, e.model_copy(update={"status": status, "reason": reason})),
    )


def _next_tip(position: Position, e: Experiment, status: Status) -> str:
    if status == "keep":
        return e.commit
    if e.kind == "rerun" and status == "discard" and e.commit == position.tip:
        return position.parents.get(e.commit, position.tip)
    return position.tip


def answer_after(moves: Sequence[Move], number: int) -> Move | None:
    """The answer that follows move `number` (from 1); a service that failed gave none."""
    return next((move for move in moves[number:] if move.kind != "failed"), None)


def _override(moves: Sequence[Move], number: int) -> Status | None:
    answer = answer_after(moves, number)
    return answer.verdict if answer else None

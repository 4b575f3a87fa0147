"""The keep rule and the fold from rows to a run's position."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inner_loop.position import MAX_IDLE_MOVES, Position, fold, start
from inner_loop.records import Experiment, Measured, Move, Status

BEGIN = start("base", "tree-base", 3.0)


def experiment(index: int, bpb: float | None, parent: str, **fields: object) -> Experiment:
    measured = Measured(search_bpb=bpb, crash=None if bpb is not None else "oom")
    values = {"commit": f"c{index}", "tree": f"t{index}", "kind": "edit", "seed": 0} | fields
    return Experiment(
        run_id="r",
        index=index,
        parent_commit=parent,
        measured=measured,
        **values,  # type: ignore[arg-type]
    )


def run(bpbs: Sequence[float | None], verdicts: Sequence[Status | None] | None = None) -> Position:
    """A run of edits, each made from the tip at its time; verdicts[i] is on edit i."""
    verdicts = verdicts or [None] * len(bpbs)
    moves = [Move(kind="edit")] + [Move(kind="edit", verdict=v) for v in verdicts]  # type: ignore[arg-type]
    done: list[Experiment] = []
    for index, bpb in enumerate(bpbs, start=1):
        tip = fold(BEGIN, moves[:index], done, {e.index: e.index for e in done}).tip
        done.append(experiment(index, bpb, tip))
    return fold(BEGIN, moves[: len(bpbs) + 1], done, {e.index: e.index for e in done})


def statuses(position: Position) -> list[Status | None]:
    return [e.status for e in position.history]


def test_an_edit_is_kept_only_if_it_is_lower_than_the_tip() -> None:
    position = run([2.9, 2.95, 2.9, 2.8])
    assert statuses(position) == ["keep", "discard", "discard", "keep"]
    assert position.tip == "c4"
    assert position.tip_bpb == 2.8


def test_a_crash_does_not_advance_the_branch() -> None:
    position = run([None, 2.9, None])
    assert statuses(position) == ["crash", "keep", "crash"]
    assert position.tip == "c2"


def test_a_programs_own_verdict_beats_upstreams_rule() -> None:
    position = run([2.9, 3.5], verdicts=["discard", "keep"])
    assert statuses(position) == ["discard", "keep"]
    assert position.tip == "c2"


def test_a_verdict_cannot_keep_a_crash() -> None:
    assert run([None], verdicts=["keep"]).tip == "base"


@given(st.lists(st.one_of(st.none(), st.floats(2, 4)), max_size=12))
def test_the_tip_never_gets_worse_under_upstreams_rule(bpbs: list[float | None]) -> None:
    values = [run(bpbs[:n]).tip_bpb for n in range(len(bpbs) + 1)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == min([3.0, *(b for b in bpbs if b is not None)])


@given(st.lists(st.one_of(st.none(), st.floats(2, 4)), min_size=1, max_size=8))
def test_stored_verdicts_and_recomputed_ones_agree(bpbs: list[float | None]) -> None:
    position = run(bpbs)
    moves = [Move(kind="edit")] * len(bpbs)
    numbers = {e.index: e.index for e in position.history}
    assert fold(BEGIN, moves, position.history, numbers).tip == position.tip


def test_a_rerun_of_the_tip_moves_its_mean_and_nothing_else() -> None:
    first = experiment(1, 2.8, "base")
    again = experiment(2, 2.9, "base", kind="rerun", commit="c1", tree="t1")
    moves = [Move(kind="edit"), Move(kind="rerun", commit="c1")]
    position = fold(BEGIN, moves, [first, again], {1: 1, 2: 2})
    assert position.tip == "c1"
    assert position.tip_bpb == pytest.approx(2.85)
    assert statuses(position) == ["keep", "keep"]


def test_discarding_a_rerun_of_the_tip_goes_back_to_the_commit_before() -> None:
    first = experiment(1, 2.8, "base")
    again = experiment(2, 3.2, "base", kind="rerun", commit="c1", tree="t1")
    moves = [
        Move(kind="edit"),
        Move(kind="rerun", commit="c1"),
        Move(kind="edit", verdict="discard"),
    ]
    assert fold(BEGIN, moves, [first, again], {1: 1, 2: 2}).tip == "base"


def test_return_goes_to_a_known_commit_only() -> None:
    one = [experiment(1, 2.8, "base")]
    back = [Move(kind="edit"), Move(kind="return", commit="base")]
    assert fold(BEGIN, back, one, {1: 1}).tip == "base"
    crashed = [experiment(1, None, "base")]
    assert (
        fold(BEGIN, [Move(kind="edit"), Move(kind="return", commit="c1")], crashed, {1: 1}).tip
        == "base"
    )
    nowhere = [Move(kind="edit"), Move(kind="return", commit="unheard-of")]
    assert fold(BEGIN, nowhere, one, {1: 1}).tip == "c1"


def test_a_run_that_only_talks_is_stalled() -> None:
    moves = [Move(kind="unusable")] * MAX_IDLE_MOVES
    assert fold(BEGIN, moves, [], {}).is_stalled
    assert not fold(BEGIN, moves[1:], [], {}).is_stalled


def test_an_experiment_ends_idleness() -> None:
    moves = [*[Move(kind="unusable")] * (MAX_IDLE_MOVES - 1), Move(kind="edit")]
    position = fold(BEGIN, moves, [experiment(1, 2.8, "base")], {1: len(moves)})
    assert position.idle_moves == 0

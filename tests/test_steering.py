"""On real training a program's text matters: the committed table, and (slow) the same again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from inner_loop.program import read_program
from inner_loop.records import Leaderboard

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import steering  # noqa: E402


def test_the_committed_table_is_the_committed_measurement_and_shows_steering() -> None:
    board = Leaderboard.model_validate_json((BENCHMARKS / "steering.json").read_text())
    assert (BENCHMARKS / "steering.md").read_text(encoding="utf-8") == steering.table(board)
    assert steering.contrast(board, "toward", "away").ratio > 2
    measured = {s.name: s.program_id for s in board.standings}
    for name in ("toward", "away"):  # of these very texts
        assert read_program(BENCHMARKS / "steering" / f"{name}.md").id == measured[name]


@pytest.mark.slow
def test_a_program_that_points_at_what_helps_beats_one_that_points_away() -> None:
    board = steering.run_tournament(replicates=6, seed=1)
    assert steering.contrast(board, "toward", "away").ratio > 2

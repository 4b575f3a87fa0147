"""Five rounds on the steps track: the committed page is the data, and says what it may."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from analysis.story import Lineage
from outer_loop.leading import TAKES_OVER

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
LINEAGE = Lineage.model_validate_json((BENCHMARKS / "rounds.json").read_text(encoding="utf-8"))


def test_over_five_rounds_the_leaders_expected_gain_does_not_fall() -> None:
    assert [row.round for row in LINEAGE.leaders] == [1, 2, 3, 4, 5]
    assert all(b.expected >= a.expected for a, b in pairwise(LINEAGE.leaders))
    assert LINEAGE.leaders[-1].low > 0
    changes = [row for a, row in pairwise(LINEAGE.leaders) if row.program_id != a.program_id]
    assert all((row.p_better or 0.0) > TAKES_OVER for row in changes)


def test_the_table_has_every_leader_and_every_instruction_that_survived() -> None:
    page = (BENCHMARKS / "rounds.md").read_text(encoding="utf-8")
    assert all(f"| {row.round} | {row.name} |" in page for row in LINEAGE.leaders)
    assert LINEAGE.survivors
    assert page.count("\n| ") >= len(LINEAGE.leaders) + len(LINEAGE.survivors)

"""What a leaderboard may and may not claim."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_fixture import Plan, Try, nasty_tournament, open_ledger, write_tournament
from scipy import stats

from analysis.curves import run_detail, run_details, staircase
from analysis.frames import EXPERIMENT_COLUMNS, RUN_COLUMNS, experiments_frame, runs_frame
from analysis.leaderboard import clearly_better, estimate, leaderboard, pooled_spread, ranks
from analysis.wording import show_gain, supported_decimals, verdict
from inner_loop.errors import UserError
from inner_loop.ledger import Ledger

TENTHS = st.integers(-3000, 3000).map(lambda n: n / 10)
GROUPS = st.lists(st.lists(TENTHS, max_size=4), min_size=1, max_size=5)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = open_ledger(tmp_path)
    yield found
    found.close()


# --- the numeric core -------------------------------------------------------------------------


def test_the_spread_is_pooled_within_programs_and_ignores_the_differences_between_them():
    sd, df = pooled_spread([[1.0, 3.0], [101.0, 103.0, 105.0], [7.0], []])
    assert df == 3
    assert sd == pytest.approx(math.sqrt((2 + 8) / 3))


def test_the_interval_is_students_t_on_the_pooled_spread():
    groups = [[10.0, 14.0], [50.0, 56.0]]
    spread = pooled_spread(groups)
    mean, low, high = estimate(groups[0], spread)
    half = 4.302653 * math.sqrt((8 + 18) / 2) / math.sqrt(2)
    assert (mean, low, high) == pytest.approx((12, 12 - half, 12 + half), rel=1e-6)


def test_one_run_per_program_gives_no_interval_and_no_order():
    groups = [[300.0], [0.0]]
    assert estimate(groups[0], pooled_spread(groups)) == (300.0, None, None)
    assert ranks(groups) == [1, 1]


def test_equal_data_share_a_rank():
    assert ranks([[5.0, 7.0]] * 4) == [1, 1, 1, 1]


def test_runs_that_do_not_differ_at_all_give_no_interval_and_no_order():
    groups = [[5.0, 5.0], [9.0, 9.0]]
    assert estimate(groups[1], pooled_spread(groups)) == (9.0, None, None)
    assert ranks(groups) == [1, 1]


def test_a_program_without_a_scored_run_comes_after_all_others():
    assert ranks([[], [1.0, 2.0], [101.0, 102.0], []]) == [3, 2, 1, 3]


def test_no_program_scored_means_everybody_shares_the_first_rank():
    assert ranks([[], []]) == [1, 1]


@pytest.mark.parametrize("seed", range(6))
def test_the_pairwise_test_agrees_with_scipys_tukey_hsd(seed: int):
    rng = np.random.default_rng(seed)
    groups = [list(rng.normal(12.0 * k, 10, size=2 + (k + seed) % 3)) for k in range(4)]
    spread = pooled_spread(groups)
    theirs = stats.tukey_hsd(*groups).pvalue
    for i, a in enumerate(groups):
        for j, b in enumerate(groups):
            expected = np.mean(a) > np.mean(b) and theirs[i, j] < 0.05
            assert clearly_better(a, b, spread, 4) == expected


@settings(max_examples=60, deadline=None)
@given(GROUPS, st.integers(-500, 500))
def test_adding_a_constant_to_all_gains_shifts_means_and_leaves_ranks(
    groups: list[list[float]], shift: int
):
    moved = [[x + shift for x in group] for group in groups]
    assert ranks(moved) == ranks(groups)
    before, after = pooled_spread(groups), pooled_spread(moved)
    for old, new in zip(groups, moved, strict=True):
        if old:
            a, b = estimate(old, before), estimate(new, after)
            assert b.mean == pytest.approx((a.mean or 0) + shift, abs=1e-9)
            if a.low is not None and b.low is not None:
                assert b.low == pytest.approx(a.low + shift, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(GROUPS, st.randoms(use_true_random=False))
def test_the_order_of_programs_in_the_plan_does_not_matter(groups, random):
    order = list(range(len(groups)))
    random.shuffle(order)
    found = ranks([groups[i] for i in order])
    expected = ranks(groups)
    assert found == [expected[i] for i in order]


@settings(max_examples=60, deadline=None)
@given(GROUPS)
def test_the_highest_mean_always_has_rank_one(groups: list[list[float]]):
    scored = [i for i, g in enumerate(groups) if g]
    if scored:
        best = max(scored, key=lambda i: sum(groups[i]) / len(groups[i]))
        assert ranks(groups)[best] == 1


# --- from a ledger ----------------------------------------------------------------------------


def test_a_gain_is_measured_against_its_own_blocks_baselines(ledger: Ledger):
    plans = [Plan("a", 0, [], [2.9]), Plan("a", 1, [], [3.4])]
    tournament = write_tournament(ledger, plans, [[3.0, 3.02], [3.5, 3.5]])
    gains = [d.gain for d in run_details(ledger, tournament) if d.run.role != "baseline"]
    assert gains == pytest.approx([110.0, 100.0])
    board = leaderboard(ledger, tournament)
    assert board.standings[0].mean_gain == pytest.approx(105.0)
    assert board.baseline_sd == pytest.approx(math.sqrt(200 / 2))


def test_a_run_counts_only_when_complete_and_scored(ledger: Ledger):
    board = leaderboard(ledger, nasty_tournament(ledger))
    n = {s.name: s.n for s in board.standings}
    assert n == {
        "optimizer-first": 2,
        "architecture-first": 2,
        "stock": 2,
        "single": 1,
        "doomed": 0,
    }
    assert (board.finished_runs, board.planned_runs) == (8, 10)


def test_a_program_with_one_run_borrows_the_spread_of_the_others(ledger: Ledger):
    board = leaderboard(ledger, nasty_tournament(ledger))
    single = next(s for s in board.standings if s.name == "single")
    double = next(s for s in board.standings if s.name == "stock")
    assert single.ci_low is not None
    assert single.ci_high is not None
    assert double.ci_low is not None
    assert double.ci_high is not None
    ratio = (single.ci_high - single.ci_low) / (double.ci_high - double.ci_low)
    assert ratio == pytest.approx(math.sqrt(2))


def test_crashed_confirmations_leave_a_program_last_without_a_number(ledger: Ledger):
    last = leaderboard(ledger, nasty_tournament(ledger)).standings[-1]
    assert (last.name, last.rank, last.mean_gain) == ("doomed", 5, None)


def test_keeps_and_crashes_are_counted_over_charged_experiments(ledger: Ledger):
    board = leaderboard(ledger, nasty_tournament(ledger))
    first = next(s for s in board.standings if s.name == "optimizer-first")
    assert (first.keeps, first.experiments, first.crashes) == (5, 7, 1)


def test_a_tournament_without_any_run_has_a_leaderboard(ledger: Ledger):
    tournament = write_tournament(ledger, [Plan("a", 0, state="waiting")], [])
    board = leaderboard(ledger, tournament)
    assert board.baseline_bpb is None
    assert "nothing can be said" in verdict(board)


def test_one_runs_detail_equals_the_one_read_with_its_tournament(ledger: Ledger):
    tournament = nasty_tournament(ledger)
    for detail in run_details(ledger, tournament):
        assert run_detail(ledger, detail.run.id) == detail
    with pytest.raises(UserError, match="Unknown run"):
        run_detail(ledger, "nobody")


def test_the_staircase_never_rises_and_compares_with_the_parent(ledger: Ledger):
    tries = [Try(2.9), Try(2.95), Try(crash="oom"), Try(2.8)]
    tournament = write_tournament(ledger, [Plan("a", 0, tries)], [[3.0]])
    steps = staircase(run_details(ledger, tournament)[1])
    assert [s.best_bpb for s in steps] == [2.9, 2.9, 2.9, 2.8]
    changes = [s.gain_over_parent for s in steps]
    assert changes[2] is None
    assert [c for c in changes if c is not None] == pytest.approx([100, -50, 100])


def test_frames_have_the_documented_columns_in_order_even_when_empty(ledger: Ledger):
    tournament = nasty_tournament(ledger)
    experiments, runs = experiments_frame(ledger, tournament), runs_frame(ledger, tournament)
    assert list(experiments.columns) == list(EXPERIMENT_COLUMNS)
    assert list(runs.columns) == list(RUN_COLUMNS)
    assert len(runs) == 12
    assert experiments[experiments.crash != ""].search_bpb.isna().all()
    assert runs.gain_mbpb.notna().sum() == 7
    empty = tournament.model_copy(update={"id": "T-00000000"})
    assert list(experiments_frame(ledger, empty).columns) == list(EXPERIMENT_COLUMNS)


# --- digits and words -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (152.4, 98.2, 206.6, "+152 [+98, +207]"),
        (1.26, 0.96, 1.56, "+1.3 [+1.0, +1.6]"),
        (-0.2, -30.0, 29.6, "0 [-30, +30]"),
        (152.4, None, None, "+152"),
        (None, None, None, "not scored"),
    ],
)
def test_no_digit_is_shown_that_the_interval_does_not_support(value, low, high, shown):
    assert show_gain(value, low, high) == shown


@given(st.one_of(st.none(), st.floats()))
def test_any_half_width_gives_a_sane_number_of_decimals(half_width: float | None):
    assert 0 <= supported_decimals(abs(half_width) if half_width is not None else None) <= 3


def test_the_verdict_names_what_the_data_cannot_order(ledger: Ledger):
    said = verdict(leaderboard(ledger, nasty_tournament(ledger)))
    assert said.startswith("optimizer-first: +147 mbpb over the baseline, 95 % interval [+")
    assert "The data cannot order it against architecture-first or single." in said
    assert "2 of 10 planned runs are not finished." in said


def test_the_verdict_says_so_when_the_interval_includes_zero(ledger: Ledger):
    plans = [Plan("a", 0, [], [2.9]), Plan("a", 1, [], [3.09])]
    tournament = write_tournament(ledger, plans, [[3.0], [3.0]])
    assert "may be no gain at all" in verdict(leaderboard(ledger, tournament))


def test_the_verdict_of_single_runs_admits_it_has_no_interval(ledger: Ledger):
    tournament = write_tournament(ledger, [Plan("a", 0, [], [2.9])], [[3.0]])
    assert "without an interval" in verdict(leaderboard(ledger, tournament))

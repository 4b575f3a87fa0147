"""The citation ledger: counts by hand, intervals against simulation, and the page's words."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_fixture import (
    Plan,
    Try,
    instruction_ids,
    nasty_tournament,
    open_ledger,
    program_body,
    program_id,
    write_tournament,
)
from rich.console import Console
from scipy import integrate, stats
from test_report import Page

from analysis.citations import (
    CitationRow,
    citations,
    keep_rate,
    mean_gain,
    unknown_citations,
    weighing,
)
from analysis.citations_view import citations_table, gain, kinds, ledger_part
from analysis.curves import run_details
from analysis.report import Report, render_report, report_citations, report_record
from inner_loop.ledger import Ledger
from inner_loop.program import parse_program
from inner_loop.records import Program, Tournament

FIRST, SECOND = instruction_ids("mine")
LR, WIDTH = ("learning-rate",), ("width", "depth")


def programs(*names: str) -> dict[str, Program]:
    return {program_id(n): parse_program(program_body(n), n) for n in names}


def planned(ledger: Ledger) -> Tournament:
    """Three runs that cite the first instruction, one of which cites the second too."""
    plans = [
        Plan(
            "mine",
            block,
            [
                Try(2.9, cites=(FIRST,), categories=LR),
                Try(2.9 + 0.01 * block, cites=(FIRST,), kind="rerun", categories=LR),
                Try(2.95, cites=(FIRST, "I-00000000"), categories=WIDTH),
                Try(crash="nan", cites=(FIRST, SECOND) if block == 2 else (FIRST,)),
                Try(2.8 - 0.01 * block),
            ],
            [2.8],
        )
        for block in range(3)
    ]
    plans += [Plan("other", b, [Try(3.2)], [3.0]) for b in range(3)]
    return write_tournament(ledger, plans, [[3.0, 3.01], [3.0, 2.99], [3.01, 3.0]])


@pytest.fixture(name="tournament")
def _tournament(ledger: Ledger) -> Tournament:
    return planned(ledger)


@pytest.fixture(name="ledger")
def _ledger(tmp_path: Path):
    found = open_ledger(tmp_path)
    yield found
    found.close()


def rows_of(ledger: Ledger, tournament: Tournament) -> dict[str, CitationRow]:
    details = run_details(ledger, tournament)
    fit = weighing([1.0, 90.0, -50.0], 5.0)
    return {row.id: row for row in citations(programs("mine", "other"), details, fit)}


def test_counts_are_those_of_the_experiments(ledger: Ledger, tournament: Tournament) -> None:
    row = rows_of(ledger, tournament)[FIRST]
    assert (row.cited, row.experiments) == (12, 15 + (row.runs - 3))
    assert (row.kept, row.discarded, row.crashed) == (3, 3, 3)
    assert [(k.kind, k.count) for k in row.kinds] == [
        *(("depth", 3), ("learning-rate", 3), ("not named", 3), ("rerun", 3), ("width", 3)),
    ]
    assert row.citing_runs == 3
    assert row.gain_runs == 3
    assert row.gain is not None
    second = rows_of(ledger, tournament)[SECOND]
    assert (second.cited, second.crashed, second.citing_runs, second.gain_runs) == (1, 1, 1, 0)
    assert second.gain is None


def test_equal_instructions_share_a_row_and_never_cited_ones_are_there(
    ledger: Ledger, tournament: Tournament
) -> None:
    rows = rows_of(ledger, tournament)
    assert instruction_ids("other")[0] == FIRST  # "Tune the optimiser first." stands in both
    assert rows[FIRST].programs == ("mine", "other")
    assert rows[FIRST].runs == 6
    lonely = rows[instruction_ids("other")[1]]
    assert (lonely.cited, lonely.runs, lonely.keep_rate, lonely.kinds) == (0, 3, None, ())


def test_the_most_cited_come_first(ledger: Ledger, tournament: Tournament) -> None:
    rows = list(rows_of(ledger, tournament).values())
    assert [row.cited for row in rows] == sorted((row.cited for row in rows), reverse=True)


def test_an_id_of_no_instruction_is_counted_apart(ledger: Ledger, tournament: Tournament) -> None:
    details = run_details(ledger, tournament)
    assert unknown_citations(programs("mine"), details) == 3
    assert "I-00000000" not in rows_of(ledger, tournament)


def test_a_citation_under_a_program_without_the_instruction_counts_for_nobody(
    ledger: Ledger,
) -> None:
    strange = write_tournament(ledger, [Plan("other", 0, [Try(2.9, cites=(SECOND,))])], [[3.0]])
    details = run_details(ledger, strange)
    rows = citations(programs("mine", "other"), details, None)
    assert all(row.cited == 0 for row in rows)


# --- intervals ----------------------------------------------------------------------------------


@given(st.integers(0, 40).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(deadline=None, max_examples=25)
def test_a_keep_rate_is_the_posterior_of_a_beta_prior(counts: tuple[int, int]) -> None:
    kept, judged = counts
    rate = keep_rate(kept, judged)
    if not judged:
        assert rate is None
        return
    assert rate is not None
    assert 0 <= rate.low < rate.mean < rate.high <= 1
    posterior = lambda p: p**kept * (1 - p) ** (judged - kept + 4)  # noqa: E731
    whole = integrate.quad(posterior, 0, 1)[0]
    inside = integrate.quad(posterior, rate.low, rate.high)[0]
    assert inside / whole == pytest.approx(0.95, abs=1e-3)
    mean = integrate.quad(lambda p: p * posterior(p), 0, 1)[0] / whole
    assert rate.mean == pytest.approx(mean, rel=1e-6)


def test_a_mean_gain_is_students_interval_over_runs() -> None:
    values = [10.0, 14.0, 6.0, 11.0]
    found = mean_gain(values)
    low, high = stats.t.interval(0.95, 3, fmean(values), stats.sem(values))
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((fmean(values), low, high))


@pytest.mark.parametrize("values", [[], [5.0], [5.0, 6.0], [5.0, 5.0, 5.0]])
def test_too_few_or_equal_runs_give_no_gain(values: Sequence[float]) -> None:
    assert mean_gain(values) is None


def planted(share: float, width: float, n: int, rng: random.Random) -> list[tuple[float, bool]]:
    """(gain, whether it is real) with a noise of sd 1 for a single training."""
    made = []
    for _ in range(n):
        real = rng.random() < share
        made.append((rng.gauss(0, math.sqrt(2)) + (rng.gauss(0, width) if real else 0), real))
    return made


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_mixture_finds_what_was_planted(share: float) -> None:
    gains = planted(share, 12.0, 600, random.Random(1))
    fit = weighing([g for g, _ in gains], 1.0)
    assert fit is not None
    assert fit.real_share == pytest.approx(share, abs=0.1)
    assert math.sqrt(fit.real_variance) == pytest.approx(12.0, rel=0.25)


def test_weights_are_calibrated() -> None:
    gains = planted(0.5, 8.0, 4000, random.Random(2))
    fit = weighing([g for g, _ in gains], 1.0)
    assert fit is not None
    middle = [real for g, real in gains if 0.3 < fit.weight(g) < 0.7]
    assert len(middle) > 200
    assert fmean(middle) == pytest.approx(0.5, abs=0.12)


def test_gains_of_noise_alone_are_shrunk_towards_nothing() -> None:
    gains = [g for g, _ in planted(0.0, 1.0, 300, random.Random(3))]
    fit = weighing(gains, 1.0)
    assert fit is not None
    raw = fmean(abs(g) for g in gains)
    assert fmean(abs(g) * fit.weight(g) for g in gains) < 0.4 * raw


@given(st.lists(st.floats(-1e5, 1e5), max_size=12), st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=60)
def test_any_gains_give_weights_between_nothing_and_all(gains: list[float], sd: float) -> None:
    fit = weighing(gains, sd)
    assert fit is not None
    assert 0 < fit.real_share < 1
    for gain_ in (*gains, 0.0):
        assert 0 <= fit.weight(gain_) <= 1
        assert fit.weight(gain_) == fit.weight(-gain_)


def test_without_a_noise_floor_there_is_no_weighing() -> None:
    assert weighing([1.0, 2.0], None) is None


# --- what a reader sees -------------------------------------------------------------------------


def test_the_page_has_the_ledger_with_its_warning(ledger: Ledger, tournament: Tournament) -> None:
    source = render_report(ledger, tournament)
    page = Page(source)
    assert "Citations are self-report" in page.words
    assert "They are no cause" in page.words
    assert "12 of 18" in page.words
    assert "1 instruction never cited" in page.words
    assert "3 / 3 / 3" in page.words
    assert "citation named" not in page.words
    assert "3 citations named an instruction that the program does not have" in page.words
    assert len(page.all("caption")) == len(page.all("table"))


def test_a_report_of_one_program_says_it_once(ledger: Ledger, tournament: Tournament) -> None:
    ids = [r.id for r in ledger.runs(tournament.id) if r.program_name == "mine"]
    page = Page(render_report(ledger, tournament, ids))
    tables = [d for d in page.all("div") if "cited under" in d.get("aria-label", "")]
    assert len(tables) == 1
    assert "12 of 15" in page.words


def test_json_has_the_rows(ledger: Ledger, tournament: Tournament) -> None:
    report = report_record(ledger, tournament)
    assert report.citations[0].id == FIRST
    assert Report.model_validate_json(report.model_dump_json()) == report
    ids = [r.id for r in ledger.runs(tournament.id) if r.program_name == "other"]
    assert all(row.cited == 0 for row in report_record(ledger, tournament, ids).citations)


def test_a_long_table_is_folded(ledger: Ledger) -> None:
    body = "# long\n\n" + "".join(f"- Try idea number {n}.\n" for n in range(30))
    long = parse_program(body.encode(), "long")
    tries = [Try(2.99, cites=(unit.id,)) for unit in long.instructions[:20]]
    tournament = write_tournament(ledger, [Plan("mine", 0, tries)], [[3.0]])
    details = [
        d.model_copy(update={"run": d.run.model_copy(update={"program_id": long.id})})
        for d in run_details(ledger, tournament)
        if d.run.role != "baseline"
    ]
    part = ledger_part([long], details, None)
    assert (len(part.first), len(part.rest), len(part.never)) == (12, 8, 10)


def test_the_terminal_says_self_report_and_fits(ledger: Ledger, tournament: Tournament) -> None:
    console = Console(width=80, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(citations_table(report_citations(ledger, tournament)))
    shown = capture.get()
    print(shown)
    assert "self-report" in shown
    assert FIRST in shown
    assert "3/6" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_strangers_words_stay_words(ledger: Ledger) -> None:
    tournament = nasty_tournament(ledger)
    part = report_citations(ledger, tournament)
    assert part.unknown == 1
    row = part.cited[0].model_copy(update={"text": "[bold]x\x1b[2J <script>"})
    console = Console(width=100, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(citations_table(part._replace(first=(row,), rest=())))
    assert "\x1b" not in capture.get()
    assert "[bold]x" in capture.get()


def test_cells_say_why_there_is_no_number(ledger: Ledger) -> None:
    tries = [Try(2.9, cites=(FIRST,), categories=tuple("abcdef"))]
    tournament = write_tournament(ledger, [Plan("mine", 0, tries)], [[3.0, 3.01]])
    (row, _) = (
        report_citations(ledger, tournament).cited + report_citations(ledger, tournament).never
    )
    assert gain(row) == "too few runs"
    assert kinds(row) == "a 1, b 1, c 1, d 1, 2 others"

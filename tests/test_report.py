"""The page a stranger opens, and its terminal and JSON forms."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest
from ledger_fixture import Plan, Try, instruction_ids, nasty_tournament, open_ledger
from ledger_fixture import write_tournament as write
from rich.console import Console

from analysis.curves import run_details
from analysis.leaderboard import leaderboard
from analysis.plots import curves_svg, forest_svg, staircase_svg
from analysis.report import Report, render_report, report_record
from analysis.terminal import diff_text, experiment_panel, leaderboard_table, run_table
from inner_loop.ledger import Ledger
from inner_loop.records import ExperimentDetail, Tournament

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Checks nesting; collects elements, ids and text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.feed(source)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    found = open_ledger(tmp_path_factory.mktemp("ledger"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def tournament(ledger: Ledger) -> Tournament:
    return nasty_tournament(ledger)


@pytest.fixture(scope="module")
def html(ledger: Ledger, tournament: Tournament) -> str:
    return render_report(ledger, tournament, commands=["metaresearch demo --seed 0"])


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def plain(renderable: object, width: int = 100) -> str:
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def without_times(html: str) -> str:
    return re.sub(r'<span class="time">.*?</span>', "", html, flags=re.DOTALL)


def test_a_strangers_text_stays_text(html: str, page: Page):
    assert not page.all("script")
    assert not page.all("b")
    assert "<script>alert(1)</script>" in page.words
    hidden = {c for c in html if unicodedata.category(c) in ("Cc", "Cf")} - {"\n"}
    assert not hidden


def test_the_page_loads_nothing_and_runs_nothing(html: str, page: Page):
    for _, attrs in page.elements:
        assert not any(name.startswith("on") for name in attrs)
        for name in ("src", "href", "xlink:href", "action"):
            assert attrs.get(name, "#").startswith("#")
    assert "@import" not in html
    assert "url(http" not in html
    assert any("default-src 'none'" in m.get("content", "") for m in page.all("meta"))


def test_ids_are_unique_and_every_link_has_a_target(page: Page):
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert [i for i, n in Counter(ids).items() if n > 1] == []
    for _, attrs in page.elements:
        for name in ("href", "xlink:href"):
            if name in attrs:
                assert attrs[name].removeprefix("#") in ids, attrs[name]
        for name in ("aria-labelledby",):
            if name in attrs:
                assert attrs[name] in ids


def test_the_verdict_comes_before_any_table(page: Page):
    assert page.words.index("optimizer-first: +147 mbpb") < page.words.index("rank")


def test_labels_say_offline_and_untrusted(page: Page):
    assert "Offline catalogue, no language model" in page.words
    assert "does not hide files or the network" in page.words


def test_a_model_driven_boxed_tournament_carries_neither_label(tmp_path: Path):
    ledger = open_ledger(tmp_path)
    tournament = write(ledger, [Plan("a", 0)], [])
    track = tournament.track.model_copy(update={"researcher": "anthropic"})
    report = report_record(ledger, tournament.model_copy(update={"track": track}))
    assert report.labels == ()


def test_headings_descend_one_level_at_a_time(page: Page):
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_tables_and_figures_are_readable_without_eyes(page: Page):
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(th.get("scope") in ("row", "col") for th in page.all("th"))
    figures = page.all("svg")
    assert all(s["role"] == "img" and len(s["aria-label"]) > 20 for s in figures)
    assert all(d["tabindex"] == "0" for d in page.all("div") if d.get("class") == "scroll")


def test_a_citation_links_to_the_instructions_text(page: Page):
    cited = instruction_ids("optimizer-first")[0]
    links = [a["href"] for a in page.all("a") if a["href"].endswith(cited)]
    rows = [r["id"] for r in page.all("tr") if r.get("id", "").endswith(cited)]
    assert links == [f"#{rows[0]}"] * 2
    assert "I-00000000 (not in this program)" in page.words


def test_a_run_without_a_number_says_why(page: Page):
    assert "every confirmation of its final script crashed" in page.words
    assert "Not finished (running); not counted yet." in page.words
    assert "crash (out of memory)" in page.words


def test_naming_runs_limits_the_sections_but_not_the_leaderboard(
    ledger: Ledger, tournament: Tournament
):
    wanted = next(r.id for r in ledger.runs(tournament.id) if r.program_name == "stock")
    page = Page(render_report(ledger, tournament, [wanted]))
    anchors = [h.get("id", "") for h in page.all("h4")]
    assert len(anchors) == 1
    assert "architecture-first" in page.words
    assert report_record(ledger, tournament, [wanted]).runs[0].run.id == wanted


def test_two_tournaments_that_differ_in_times_alone_give_the_same_page(
    tmp_path: Path, html: str, tournament: Tournament
):
    again = open_ledger(tmp_path)
    slower = nasty_tournament(again, clock_offset=7.5)
    other = render_report(again, slower, commands=["metaresearch demo --seed 0"])
    assert other != html
    assert without_times(other) == without_times(html)


def test_an_empty_tournament_still_has_a_page(tmp_path: Path):
    ledger = open_ledger(tmp_path)
    words = Page(render_report(ledger, write(ledger, [Plan("a", 0, state="waiting")], []))).words
    assert "nothing can be said" in words
    assert "No experiment yet." in words
    assert "No command was recorded" in words


def test_a_hostile_program_name_is_only_text(tmp_path: Path):
    ledger = open_ledger(tmp_path)
    name = '"><script>x</script> $\\frac{1}{2}$ [bold] 🚀'
    plans = [Plan(name, b, [Try(2.9)], [2.9 + 0.01 * b]) for b in (0, 1)]
    tournament = write(ledger, plans, [[3.0], [3.0]])
    assert not Page(render_report(ledger, tournament)).all("script")
    shown = plain(leaderboard_table(leaderboard(ledger, tournament)), width=200)
    assert "[bold]" in shown


def test_figures_are_the_same_bytes_every_time(ledger: Ledger, tournament: Tournament):
    details = run_details(ledger, tournament)
    board = leaderboard(ledger, tournament)
    assert forest_svg(board) == forest_svg(board)
    assert curves_svg(details) == curves_svg(details)
    assert staircase_svg(details[2]) == staircase_svg(details[2])


def test_a_crowded_staircase_labels_only_the_keeps_that_fit(tmp_path: Path):
    ledger = open_ledger(tmp_path)
    tries = [
        Try(2.99 - 0.001 * k, description=f"A rather long description, number {k}")
        for k in range(60)
    ]
    tournament = write(ledger, [Plan("a", 0, tries)], [[3.0]])
    drawn = staircase_svg(run_details(ledger, tournament)[1])
    labels = re.findall(r"A rather long|#\d+<", drawn)
    assert 3 < len(labels) < 60


def test_the_report_as_json_fits_its_own_schema(ledger: Ledger, tournament: Tournament):
    report = report_record(ledger, tournament)
    data = report.model_dump(mode="json")
    jsonschema.validate(data, Report.model_json_schema())
    assert Report.model_validate_json(report.model_dump_json()) == report
    assert len(data["runs"]) == 10


def test_the_terminal_says_everything_without_colour(ledger: Ledger, tournament: Tournament):
    board = leaderboard(ledger, tournament)
    shown = plain(leaderboard_table(board))
    assert "8 of 10 planned runs finished" in shown
    assert "not scored" in shown
    detail = next(
        d for d in run_details(ledger, tournament) if d.run.program_name == "optimizer-first"
    )
    shown = plain(run_table(detail, board.baseline_sd), width=140)
    assert "keep" in shown
    assert "crash (out" in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_an_experiment_is_shown_with_its_diff(ledger: Ledger, tournament: Tournament):
    run = next(r for r in ledger.runs(tournament.id) if r.program_name == "optimizer-first")
    experiment = ledger.experiments(run.id)[1]
    diff = "--- a/train.py\n+++ b/train.py\n-LR = 0.04\n+LR = 0.08\x1b[2J\n"
    detail = ExperimentDetail(experiment=experiment, move=None, diff=diff)
    shown = plain(experiment_panel(detail)) + plain(diff_text(detail))
    assert "+LR = 0.08" in shown
    assert "claimed" in shown
    assert "\x1b" not in shown

"""The report of a tournament: one self-contained HTML page, and the same as a record for JSON.

Owns: which facts go into which section. Every text a stranger wrote reaches the page escaped and
without control characters. What may differ between two identical tournaments (dates, seconds,
memory) carries the class `time`. Does not own: sentences and digits (`wording`), figures (`plots`),
numbers (`curves`, `leaderboard`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import fmean
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from analysis import citations_view, wording
from analysis.citations import CitationRow, Weighing, citations
from analysis.citations_view import LedgerPart, ledger_part, weighing_of
from analysis.curves import (
    MBPB_PER_BPB,
    Step,
    audit_scores,
    lost_its_confirmations,
    run_details,
    search_scores,
    staircase,
)
from analysis.leaderboard import pooled_spread, standings_of
from analysis.plots import curves_svg, forest_svg, gain_so_far, staircase_svg
from analysis.story import Lineage, Story, is_offline, rewriting, story_of
from inner_loop.ledger import Ledger
from inner_loop.program import parse_program
from inner_loop.records import (
    SCHEMA_VERSION,
    Experiment,
    Leaderboard,
    Program,
    Record,
    RunDetail,
    Standing,
    Submission,
    Tournament,
)
from inner_loop.settings import Usage


class Report(Record):
    """A tournament's standings and runs, as `report --json` prints them."""

    schema_version: int = SCHEMA_VERSION
    verdict: str
    """What the standings show, in plain words."""
    labels: tuple[str, ...]
    """What a reader must know before any number, for example that results are untrusted."""
    leaderboard: Leaderboard
    runs: tuple[RunDetail, ...]
    """Runs of entrants and controls, or those asked for."""
    lineage: Lineage | None = None
    """Who led after each round and which instructions survived, as the rewriter's model sees it."""
    story: Story | None = None
    """The rounds that led here; None if there was only one."""
    rewriter_usage: Usage | None = None
    """What a model used as the rewriter, all rounds together; None where none was asked."""
    citations: tuple[CitationRow, ...] = ()
    """Self-report: what these runs' researcher cited, per instruction, the most cited first."""


class Citation(NamedTuple):
    """An instruction id as an experiment cites it."""

    id: str
    anchor: str
    """Where on the page its text is; empty if the program has no such instruction."""


class ExperimentRow(NamedTuple):
    """One line of a run's table."""

    experiment: Experiment
    step: Step | None
    cites: tuple[Citation, ...]


class RunPart(NamedTuple):
    """One run on the page."""

    anchor: str
    detail: RunDetail
    rows: tuple[ExperimentRow, ...]
    figure: Markup
    search_gain: float | None
    confirmations_lost: bool


class ProgramPart(NamedTuple):
    """One program on the page."""

    anchor: str
    standing: Standing
    submission: Submission | None
    program: Program
    citations: LedgerPart
    runs: tuple[RunPart, ...]


class BaselineRow(NamedTuple):
    """One block's baselines."""

    block: int
    trainings: int
    scored: int
    audit_mean: float | None
    audit_sd: float | None
    search_mean: float | None


def report_record(
    ledger: Ledger,
    tournament: Tournament,
    run_ids: Collection[str] | None = None,
    lineage: Lineage | None = None,
    rewriter_usage: Usage | None = None,
) -> Report:
    """The report as data; `run_ids` limits the runs, never the leaderboard.

    `rewriter_usage` is what a model used as the rewriter; nothing asked counts as None.
    """
    details = run_details(ledger, tournament)
    board = standings_of(tournament, details)
    shown = _wanted(details, run_ids)
    programs = {program.id: program for program in _programs(ledger, board, shown)}
    return Report(
        verdict=wording.verdict(board),
        labels=tuple(wording.labels(board, details)),
        leaderboard=board,
        runs=tuple(shown),
        lineage=lineage,
        story=story_of(ledger, tournament),
        rewriter_usage=_asked(rewriter_usage),
        citations=citations(programs, shown, weighing_of(details, board.baseline_sd)),
    )


def report_citations(
    ledger: Ledger, tournament: Tournament, run_ids: Collection[str] | None = None
) -> LedgerPart:
    """The citation ledger alone, of all runs or of those asked for."""
    details = run_details(ledger, tournament)
    board = standings_of(tournament, details)
    shown = _wanted(details, run_ids)
    weigh = weighing_of(details, board.baseline_sd)
    return ledger_part(_programs(ledger, board, shown), shown, weigh)


def render_report(
    ledger: Ledger,
    tournament: Tournament,
    run_ids: Collection[str] | None = None,
    *,
    commands: Sequence[str] = (),
    lineage: Lineage | None = None,
    rewriter_usage: Usage | None = None,
) -> str:
    """The report as one HTML page that needs no network and no script.

    Args:
        ledger: where the facts are.
        tournament: what to report on.
        run_ids: runs to show in detail; None shows all. The leaderboard always has all.
        commands: what to type to get the same again, one line each.
        lineage: the leaders of the rounds, as the rewriter's model sees them.
        rewriter_usage: what a model used as the rewriter, all rounds together.
    """
    details = run_details(ledger, tournament)
    board = standings_of(tournament, details)
    shown = _wanted(details, run_ids)
    weigh = weighing_of(details, board.baseline_sd)
    story = story_of(ledger, tournament)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            board=board,
            tournament=tournament,
            track=tournament.track,
            verdict=wording.verdict(board),
            labels=wording.labels(board, details),
            wording=wording,
            noise=board.baseline_sd,
            forest=Markup(forest_svg(board)),
            curves=Markup(curves_svg(_by_standing(board, details))),
            programs=_program_parts(ledger, board, shown, weigh),
            citations=ledger_part(_programs(ledger, board, shown), shown, weigh),
            cells=citations_view,
            citation_method=citations_view.method(weigh),
            budget_runs=[d for d in details if d.run.role != "baseline"],
            harness=_harness_experiments(details),
            baselines=_baseline_rows(details),
            commands=list(commands),
            story=story,
            lineage=lineage,
            rewriting=rewriting(story) if story else "",
            is_offline=story is None or is_offline(story),
            rewriter_usage=_asked(rewriter_usage),
            unboxed={d.run.program_id for d in details if d.answers.untrusted},
        )
    )


def _asked(usage: Usage | None) -> Usage | None:
    return usage if usage and usage.calls else None


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["one_line"] = wording.one_line
    return environment


def _finalize(value: object) -> object:
    if isinstance(value, str) and not isinstance(value, Markup):
        return wording.visible(value)
    return value


def _wanted(details: Sequence[RunDetail], run_ids: Collection[str] | None) -> list[RunDetail]:
    entered = [d for d in details if d.run.role != "baseline"]
    return [d for d in entered if run_ids is None or d.run.id in run_ids]


def _by_standing(board: Leaderboard, details: Sequence[RunDetail]) -> list[RunDetail]:
    order = {s.program_id: place for place, s in enumerate(board.standings)}
    entered = [d for d in details if d.run.program_id in order]
    return sorted(entered, key=lambda d: order[d.run.program_id or ""])


def _programs(ledger: Ledger, board: Leaderboard, details: Sequence[RunDetail]) -> list[Program]:
    """The programs of these runs, by standing."""
    running = {d.run.program_id for d in details}
    wanted = [s.program_id for s in board.standings if s.program_id in running]
    return [parse_program(body, name) for name, body in map(ledger.program, wanted)]


def _program_parts(
    ledger: Ledger, board: Leaderboard, details: Sequence[RunDetail], weigh: Weighing | None
) -> list[ProgramPart]:
    submissions = {s.program_id: s for s in ledger.submissions()}
    standings = {s.program_id: s for s in board.standings}
    parts = []
    for program in _programs(ledger, board, details):
        runs = [d for d in details if d.run.program_id == program.id]
        cited = ledger_part([program], runs, weigh)
        standing, submission = standings[program.id], submissions.get(program.id)
        parts.append(_program_part(board, standing, program, submission, runs, cited))
    return parts


def _program_part(
    board: Leaderboard,
    standing: Standing,
    program: Program,
    submission: Submission | None,
    runs: list[RunDetail],
    cited: LedgerPart,
) -> ProgramPart:
    anchor = f"program-{standing.program_id}"
    anchors = {row.id: f"{anchor}-{row.id}" for row in cited.cited}
    return ProgramPart(
        anchor=anchor,
        standing=standing,
        submission=submission,
        program=program,
        citations=cited,
        runs=tuple(
            _run_part(d, f"{anchor}-run-{n}", anchors, board.baseline_sd)
            for n, d in enumerate(runs, 1)
        ),
    )


def _run_part(
    detail: RunDetail, anchor: str, anchors: dict[str, str], noise_sd: float | None
) -> RunPart:
    steps = {s.index: s for s in staircase(detail)}
    curve = gain_so_far(detail)
    return RunPart(
        anchor=anchor,
        detail=detail,
        rows=tuple(
            ExperimentRow(
                e, steps.get(e.index), tuple(Citation(i, anchors.get(i, "")) for i in e.cites)
            )
            for e in detail.experiments
        ),
        figure=Markup(staircase_svg(detail, noise_sd, name=anchor)),
        search_gain=curve[-1] if curve else None,
        confirmations_lost=lost_its_confirmations(detail),
    )


def _harness_experiments(details: Sequence[RunDetail]) -> list[Experiment]:
    return [e for d in details for e in d.experiments if e.kind in ("baseline", "confirm")]


def _baseline_rows(details: Sequence[RunDetail]) -> list[BaselineRow]:
    blocks: dict[int, list[Experiment]] = {}
    for detail in details:
        if detail.run.role == "baseline":
            found = [e for e in detail.experiments if e.kind == "baseline"]
            blocks.setdefault(detail.run.replicate, []).extend(found)
    return [_baseline_row(block, found) for block, found in sorted(blocks.items())]


def _baseline_row(block: int, found: list[Experiment]) -> BaselineRow:
    audit, search = audit_scores(found), search_scores(found)
    return BaselineRow(
        block=block,
        trainings=len(found),
        scored=len(audit),
        audit_mean=fmean(audit) if audit else None,
        audit_sd=pooled_spread([[MBPB_PER_BPB * x for x in audit]]).sd,
        search_mean=fmean(search) if search else None,
    )

"""One run at a time: its gain, its staircase, its detail record.

Owns: what a run's gain is (audit shard, against its own block's baselines) and the running best a
staircase plot draws (search shard). Does not own: comparing programs (`leaderboard`) or drawing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean

from inner_loop.ledger import Ledger
from inner_loop.records import (
    Experiment,
    Move,
    Record,
    Run,
    RunDetail,
    Status,
    Tournament,
    Track,
)
from inner_loop.settings import Answers, Usage

MBPB_PER_BPB = 1000.0
CHARGED = ("edit", "rerun")


class Step(Record):
    """One charged experiment as a staircase plot and a table row show it."""

    index: int
    """Position in the run, from 1."""
    status: Status | None
    """None until the verdict is written; a crash is a crash at once."""
    search_bpb: float | None
    """Bits per byte on the search shard; None after a crash."""
    parent_bpb: float | None
    """What the code it was derived from measured, mean over its trainings so far."""
    best_bpb: float | None
    """Running minimum over the baseline and all kept experiments up to and with this one."""
    gain_over_parent: float | None
    """mbpb on the search shard, one training each: a keep may be luck."""
    label: str
    """The researcher's one line."""


def run_details(ledger: Ledger, tournament: Tournament) -> tuple[RunDetail, ...]:
    """All runs of a tournament with their experiments and gains, baselines included."""
    runs = ledger.runs(tournament.id)
    found = {run.id: ledger.experiments(run.id) for run in runs}
    blocks = _blocks(runs, found)
    opening = tournament.track.opening_baselines
    return tuple(
        _detail(
            _seen(run, tournament.track),
            found[run.id],
            blocks.get(run.replicate, []),
            opening,
            ledger.moves(run.id),
        )
        for run in runs
    )


def run_detail(ledger: Ledger, run_id: str) -> RunDetail:
    """One run with all its experiments and, once confirmed, its gain.

    Raises:
        UserError: there is no run with that id.
    """
    run = ledger.run(run_id)
    block = [
        other
        for other in ledger.runs(run.tournament_id)
        if other.role == "baseline" and other.replicate == run.replicate
    ]
    baselines = [e for other in block for e in ledger.experiments(other.id)]
    track = ledger.tournament(run.tournament_id).track
    return _detail(
        _seen(run, track),
        ledger.experiments(run_id),
        baselines,
        track.opening_baselines,
        ledger.moves(run_id),
    )


def run_gain(
    run: Run, experiments: Iterable[Experiment], baselines: Sequence[float]
) -> float | None:
    """Baseline minus final in mbpb; None until the run is complete and both have a score.

    Args:
        run: the run.
        experiments: its experiments; the scored confirmations are the final.
        baselines: bits per byte of its block's baselines on the audit shard.
    """
    final = audit_scores(e for e in experiments if e.kind == "confirm")
    if run.role == "baseline" or run.state != "complete" or not final or not baselines:
        return None
    return MBPB_PER_BPB * (fmean(baselines) - fmean(final))


def audit_scores(experiments: Iterable[Experiment]) -> list[float]:
    """Bits per byte on the audit shard of those that have one."""
    return [e.measured.audit_bpb for e in experiments if e.measured.audit_bpb is not None]


def search_scores(experiments: Iterable[Experiment]) -> list[float]:
    """Bits per byte on the search shard of those that have one."""
    return [e.measured.search_bpb for e in experiments if e.measured.search_bpb is not None]


def charged(experiments: Iterable[Experiment]) -> list[Experiment]:
    """The experiments a run pays for: edits and reruns."""
    return [e for e in experiments if e.kind in CHARGED]


def status_of(experiment: Experiment) -> Status | None:
    """The verdict; a crash is one even before its verdict row is written."""
    if experiment.measured.crash is not None:
        return "crash"
    return experiment.status


def lost_its_confirmations(detail: RunDetail) -> bool:
    """Whether a complete run has no number because every confirmation crashed."""
    confirms = [e for e in detail.experiments if e.kind == "confirm"]
    return detail.run.state == "complete" and bool(confirms) and not audit_scores(confirms)


def staircase(detail: RunDetail) -> tuple[Step, ...]:
    """The charged experiments of a run in order, each with the running best after it."""
    best = detail.baseline_search_bpb
    trees: dict[str, str] = {}
    scores: dict[str, list[float]] = {}
    steps = []
    for experiment in charged(detail.experiments):
        status, score = status_of(experiment), experiment.measured.search_bpb
        earlier = scores.get(trees.get(experiment.parent_commit, ""))
        parent = fmean(earlier) if earlier else detail.baseline_search_bpb
        if status == "keep" and score is not None:
            best = score if best is None else min(best, score)
        steps.append(
            Step(
                index=experiment.index,
                status=status,
                search_bpb=score,
                parent_bpb=parent,
                best_bpb=best,
                gain_over_parent=_difference(parent, score),
                label=experiment.description,
            )
        )
        trees[experiment.commit] = experiment.tree
        if score is not None:
            scores.setdefault(experiment.tree, []).append(score)
    return tuple(steps)


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else MBPB_PER_BPB * (before - after)


def _blocks(
    runs: Iterable[Run], experiments: dict[str, list[Experiment]]
) -> dict[int, list[Experiment]]:
    blocks: dict[int, list[Experiment]] = {}
    for run in runs:
        if run.role == "baseline":
            blocks.setdefault(run.replicate, []).extend(experiments[run.id])
    return blocks


def _seen(run: Run, track: Track) -> Run:
    """The run, without tokens and dollars where an agent used a model that is not seen here."""
    if track.researcher != "command" or run.role == "baseline" or run.state == "waiting":
        return run
    unseen = run.spent.model_copy(update={"tokens": None, "usd": None})
    return run.model_copy(update={"spent": unseen})


def answers(moves: Sequence[Move]) -> Answers:
    """What a run's researcher answered, counted."""
    kinds = Counter(move.kind for move in moves)
    return Answers(
        edits=kinds["edit"],
        reruns=kinds["rerun"],
        returns=kinds["return"],
        unusable=kinds["unusable"],
        failed=kinds["failed"],
        repaired=sum(move.repaired for move in moves),
        continued=sum(move.continued for move in moves),
        untrusted=sum(move.untrusted for move in moves),
        usage=sum((move.usage for move in moves), Usage()),
    )


def _detail(
    run: Run,
    experiments: list[Experiment],
    block: list[Experiment],
    opening: int,
    moves: Sequence[Move],
) -> RunDetail:
    baselines = [e for e in block if e.kind == "baseline"]
    start = search_scores(e for e in baselines if e.index <= opening)
    said = answers(moves)
    if run.spent.usd is None:
        said = said.model_copy(update={"usage": said.usage.model_copy(update={"usd": None})})
    return RunDetail(
        run=run,
        experiments=tuple(experiments),
        baseline_search_bpb=fmean(start) if start else None,
        gain=run_gain(run, experiments, audit_scores(baselines)),
        answers=said,
    )

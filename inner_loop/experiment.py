"""The one choke point: nothing trains, costs GPU time or enters the ledger but through here.

Owns: the order commit -> executor (run box, scorer) -> ledger row, and the seeds.
Does not own: what is tried and what is kept (`loop.py`), or how a job runs (`execute.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from inner_loop.execute import Job
from inner_loop.executor import Executor
from inner_loop.ledger import Ledger
from inner_loop.records import (
    Experiment,
    ExperimentKind,
    Measured,
    Move,
    Run,
    Shard,
    Track,
    derive_seed,
)
from inner_loop.repo import Commit, Repository

SHARDS: dict[ExperimentKind, tuple[Shard, ...]] = {
    "edit": ("search",),
    "rerun": ("search",),
    "baseline": ("search", "audit"),
    "confirm": ("search", "audit"),
}
"""Edits never touch the audit shard: it ranks programs and must not steer a run."""


@dataclass(frozen=True)
class Desk:
    """What a run needs from its surroundings; one per tournament, shared by its runs."""

    ledger: Ledger
    repository: Repository
    executor: Executor
    track: Track
    data: str
    """Name of the prepared corpus under the site's cache."""
    folder: Callable[[Run], Path]
    """Where a run keeps its worktree, program.md and results.tsv."""
    now: Callable[[], str]
    """UTC ISO time."""
    on_experiment: Callable[[Experiment], None] = lambda _: None
    """Told of each experiment once it is in the ledger."""


@dataclass(frozen=True)
class Trial:
    """One experiment before it has run."""

    run: Run
    index: int
    kind: ExperimentKind
    commit: Commit
    parent: str
    move: Move | None = None
    move_number: int | None = None


async def run_experiment(desk: Desk, trial: Trial) -> Experiment:
    """Run one experiment and return it as the ledger now has it."""
    desk.repository.keep_reachable(trial.run.id, trial.index, trial.commit.sha)
    started = desk.now()
    job = _job(desk, trial)
    measured = await desk.executor.submit(job)
    experiment = _experiment(trial, job.seed, measured, started)
    desk.ledger.add_experiment(experiment, desk.now(), trial.move_number)
    desk.on_experiment(experiment)
    return experiment


def _job(desk: Desk, trial: Trial) -> Job:
    return Job(
        run_id=trial.run.id,
        index=trial.index,
        files=desk.repository.files(trial.commit.sha),
        track=desk.track,
        seed=derive_seed(trial.run.seed, trial.kind, trial.index),
        shards=SHARDS[trial.kind],
        data=desk.data,
    )


def _experiment(trial: Trial, seed: int, measured: Measured, started: str) -> Experiment:
    move = trial.move or Move(kind="edit", description=trial.kind)
    return Experiment(
        run_id=trial.run.id,
        index=trial.index,
        kind=trial.kind,
        commit=trial.commit.sha,
        tree=trial.commit.tree,
        parent_commit=trial.parent,
        seed=seed,
        description=move.description,
        cites=move.cites,
        categories=move.categories,
        measured=measured,
        started_at=started,
    )

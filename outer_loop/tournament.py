"""Runs a planned tournament: block by block, all entrants of a block side by side.

Owns: the order of work. In a block the baselines open, the runs take turns on the slots (first
come, first served, one experiment at a time each, so machine drift hits all alike), the remaining
baselines close. Every step is derived from the ledger, so the same command resumes a killed
tournament.
Does not own: a run (`inner_loop.loop`), the plan (`plan.py`), what is printed (`progress.py`).
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import fmean
from typing import Any

from inner_loop.errors import UserError
from inner_loop.execute import Site
from inner_loop.executor import LocalExecutor
from inner_loop.experiment import Desk, Trial, run_experiment
from inner_loop.home import Home
from inner_loop.ledger import Ledger
from inner_loop.loop import Session
from inner_loop.meter import Meter
from inner_loop.program import parse_program
from inner_loop.records import Experiment, Run, Tournament, derive_seed
from inner_loop.repo import Commit, Repository
from inner_loop.researcher import Setup, make_researcher
from outer_loop.plan import Admitted, planned_runs


def record_plan(
    ledger: Ledger,
    tournament: Tournament,
    admitted: Sequence[Admitted],
    now: Callable[[], str],
    *,
    follows: str = "",
) -> None:
    """Freeze the plan in the ledger; doing it again changes nothing.

    Args:
        ledger: where it goes.
        tournament: the plan.
        admitted: its programs, in the order of its entrants.
        now: the clock.
        follows: the tournament from whose evidence its programs were rewritten, if any.
    """
    for each in admitted:
        body = each.program.text.encode("utf-8")
        ledger.add_program(each.program.id, each.program.name, body)
        ledger.add_submission(each.submission, now())
    ledger.add_tournament(tournament, now())
    if follows:
        ledger.add_round(tournament.id, follows)
    for run in planned_runs(tournament):
        ledger.add_run(run)


async def conduct(
    home: Home,
    ledger: Ledger,
    repository: Repository,
    tournament: Tournament,
    *,
    data: str,
    slots: int,
    now: Callable[[], str],
    on_experiment: Callable[[Experiment], None],
    meter: Meter,
    tell: Callable[[str], None],
) -> None:
    """Run, or resume, a recorded tournament to its end.

    Raises:
        UserError: the unchanged train.py does not train here.
    """
    repository.remove_stale_locks()
    shutil.rmtree(home.scratch, ignore_errors=True)  # left by a killed driver
    executor = LocalExecutor(Site(home.cache, home.scratch), slots)
    desk = Desk(
        ledger=ledger,
        repository=repository,
        executor=executor,
        track=tournament.track,
        data=data,
        folder=lambda run: home.run(tournament.id, run.id),
        now=now,
        on_experiment=on_experiment,
    )
    try:
        for block in range(tournament.replicates):
            await Block(desk, tournament, block, meter, tell).conduct()
    finally:
        await executor.close()


@dataclass(frozen=True)
class Block:
    """One replicate of every entrant, with the baselines they share."""

    desk: Desk
    tournament: Tournament
    number: int
    meter: Meter
    tell: Callable[[str], None]

    async def conduct(self) -> None:
        """Opening baselines, all runs together, closing baselines."""
        runs = [r for r in self._runs() if r.state != "complete"]
        baselines = [r for r in runs if r.role == "baseline"]
        entrants = [r for r in runs if r.role != "baseline"]
        total, opening = self.desk.track.baselines, self.desk.track.opening_baselines
        await self._train_baselines(range(1, opening + 1))
        start = self._start_value()
        Random(derive_seed(self.tournament.seed, "order", self.number)).shuffle(entrants)
        await together([self._session(run, start).work() for run in entrants])
        await self._train_baselines(range(opening + 1, total + 1))
        for run in baselines:
            state = {"state": "complete", "exit_reason": "done", "ended_at": self.desk.now()}
            self.desk.ledger.set_run(run.id, tip=self.tournament.track.base_commit, **state)

    async def _train_baselines(self, indices: range) -> None:
        run = self._baseline_run()
        if run.state == "waiting":
            self.desk.ledger.set_run(run.id, state="running", started_at=self.desk.now())
        base = self.tournament.track.base_commit
        commit = Commit(base, self.desk.repository.tree(base))
        done = {e.index for e in self.desk.ledger.experiments(run.id)}
        await together(
            [
                run_experiment(self.desk, Trial(run, index, "baseline", commit, base))
                for index in indices
                if index not in done
            ]
        )

    def _start_value(self) -> float:
        """What every run of the block starts from: the opening baselines' mean, search shard."""
        run = self._baseline_run()
        opening = self.desk.track.opening_baselines
        found = [e for e in self.desk.ledger.experiments(run.id) if e.index <= opening]
        values = [e.measured.search_bpb for e in found if e.measured.search_bpb is not None]
        if not values:
            why = found[0].measured.crash
            raise UserError(
                f"The unchanged train.py does not train on this machine ({why}); read its output "
                f"with `metaresearch show {run.id} --experiment 1`, mend the cause, and start "
                "afresh with another --seed."
            )
        return fmean(values)

    def _session(self, run: Run, start: float) -> Session:
        assert run.program_id is not None
        name, body = self.desk.ledger.program(run.program_id)
        track = self.tournament.track
        folder = self.desk.folder(run)
        setup = replace(
            Setup.of(track),
            run_id=run.id,
            folder=folder,
            worktree=folder / "worktree",
            meter=self.meter,
            tell=lambda line: self.tell(f"{run.id}: {line}"),
        )
        researcher = make_researcher(setup)
        return Session(self.desk, run, parse_program(body, name), researcher, start)

    def _baseline_run(self) -> Run:
        return next(r for r in self._runs() if r.role == "baseline")

    def _runs(self) -> list[Run]:
        found = self.desk.ledger.runs(self.tournament.id)
        return [r for r in found if r.replicate == self.number]


async def together(work: Sequence[Coroutine[Any, Any, Any]]) -> None:
    """Run all of `work` side by side; the first failure cancels the rest and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None

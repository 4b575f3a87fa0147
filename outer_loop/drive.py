"""From a command to a finished tournament: plan, lock, run, standings, report.

Owns: the sequence every spending command shares, and stopping cleanly on Ctrl-C or SIGTERM.
Does not own: arguments (`cli.py`), the plan (`plan.py`), the order of work (`tournament.py`).
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis.wording import OFFLINE, clock_budget, count
from inner_loop.data import prepare_data
from inner_loop.errors import UserError
from inner_loop.faults import preflight
from inner_loop.home import Home, utc_now
from inner_loop.ledger import Ledger
from inner_loop.machine import default_slots
from inner_loop.meter import Cap, Meter
from inner_loop.records import Tournament, Track
from inner_loop.repo import Repository
from inner_loop.researcher import Setup, make_researcher
from inner_loop.settings import Usage
from inner_loop.transcript import spent_in
from outer_loop.details import write_report
from outer_loop.plan import (
    Admitted,
    admit,
    make_plan,
    on_this_machine,
    shipped_programs,
    trainings,
)
from outer_loop.pool import program_path
from outer_loop.progress import Reporter
from outer_loop.tournament import conduct, record_plan

INTERRUPTED = 130
ACCOUNT = "rewriter"
"""What the meter calls a rewriter's spending."""


def drive(
    home: Home,
    programs: Sequence[str] | None,
    track: Track,
    *,
    replicates: int,
    seed: int,
    slots: int | None,
    rounds: int = 1,
    night: Cap | None = None,
    rewriting: Rewriting | None = None,
) -> None:
    """Plan a tournament and run it to its end, or resume it; then print standings and report.

    With more rounds, programs are rewritten from the evidence after each, and the challengers meet
    the leader and the controls in the next. `night` caps what all language models of it use.

    Raises:
        UserError: anything about the request that cannot work, before anything is spent; later, a
            service that fails for good, or the night's cap.
    """
    slots = slots or default_slots(track)
    admitted = admit([program_path(p, home) for p in programs] if programs else shipped_programs())
    meter = Meter(night, track.settings.concurrency)
    asked = make_researcher(replace(Setup.of(track), meter=Meter(night)))
    rewriter = (rewriting or Rewriting()).setup(track, meter)
    _check_rounds(rounds, admitted, rewriter)
    home.make()
    with home.driver_lock():
        preflight(track, slots)
        repository = Repository(home.root / "repository.git")
        ledger = home.ledger()
        data = prepare_data(track, home)
        here = on_this_machine(track, repository, data)
        here = here.model_copy(update={"protocol": asked.protocol})
        plan = make_plan(here, admitted, replicates=replicates, seed=seed)
        record_plan(ledger, plan, admitted, utc_now)
        wanted = (rewriting or Rewriting()).challengers
        series = Series(home, ledger, repository, data.name, slots, meter, rewriter, wanted)
        plan, page = series.conduct(plan, rounds)
        _finish(ledger, plan, page)
        repository.close()
        ledger.close()


def _check_rounds(rounds: int, admitted: Sequence[Admitted], rewriter: Setup) -> None:
    if rounds == 1:
        if rewriter.kind != "offline":
            raise UserError(
                f"--rewriter {rewriter.kind} has nothing to do in one round; add --rounds 2."
            )
        return
    if all(each.entrant.role == "control" for each in admitted):
        raise UserError(
            "Rounds need at least one program that is no control, to be rewritten; add one."
        )
    from outer_loop.rewriter.choice import make_rewriter  # numpy and scipy: only where needed

    make_rewriter(rewriter)


@dataclass(frozen=True)
class Rewriting:
    """Who rewrites programs between rounds, as it was typed."""

    kind: str = "offline"
    model: str | None = None
    base_url: str | None = None
    challengers: int = 1

    def setup(self, track: Track, meter: Meter) -> Setup:
        """What the rewriter is made for.

        The researcher's settings are its own too where both are of one kind; else its lengths and
        patience only, for another provider's key must never go to the researcher's server.
        """
        same = self.kind == track.researcher
        its_own = {"base_url": "", "effort": None, "temperature": None, "top_p": None}
        settings = track.settings if same else track.settings.model_copy(update=its_own)
        if self.base_url is not None:
            settings = settings.model_copy(update={"base_url": self.base_url})
        model = self.model or (track.model if same else None)
        return Setup(kind=self.kind, model=model, settings=settings, meter=meter)


@dataclass(frozen=True)
class Series:
    """Rounds of running and rewriting, on one home that is held."""

    home: Home
    ledger: Ledger
    repository: Repository
    data: str
    slots: int
    meter: Meter
    rewriter: Setup
    challengers: int

    def conduct(self, plan: Tournament, rounds: int) -> tuple[Tournament, Path]:
        """Run, or resume, all rounds; the last one and its report."""
        folder = self.home.rewriter(plan.id)
        self.meter.open(ACCOUNT, spent_in(folder))
        page = self._run(plan)
        for number in range(2, rounds + 1):
            following = self._rewritten(plan, number, folder)
            _tell_rewrite(self.ledger, plan, number, goes_on=following is not None)
            if following is None:
                return plan, write_report(self.home, self.ledger, plan)  # with why nothing follows
            record_plan(self.ledger, *following, utc_now, follows=plan.id)
            plan = following[0]
            page = self._run(plan)
        return plan, page

    def _rewritten(
        self, plan: Tournament, number: int, folder: Path
    ) -> tuple[Tournament, list[Admitted]] | None:
        """The next round, as the rewriter and the evidence want it; None where nothing is new."""
        from outer_loop.rewriter.choice import make_rewriter
        from outer_loop.rounds import next_round

        tell = Console(highlight=False, markup=False, soft_wrap=True).print
        rewriter = make_rewriter(replace(self.rewriter, run_id=ACCOUNT, folder=folder, tell=tell))
        stored = {p.rewriter for p in self.ledger.proposals(plan.id)} - {rewriter.label}
        if stored:
            tell(f"After round {number - 1} {stored.pop()} has rewritten already; that stands.")
        with _stoppable():
            return next_round(
                self.ledger,
                plan,
                number,
                utc_now,
                rewriter=rewriter,
                train_py=lambda commit: self.repository.files(commit)["train.py"],
                wanted=self.challengers,
            )

    def _run(self, plan: Tournament) -> Path:
        """One round, and its report."""
        console, ledger = Console(), self.ledger
        for run in ledger.runs(plan.id):
            self.meter.open(run.id, sum((m.usage for m in ledger.moves(run.id)), Usage()))
        done, total = _finished_trainings(ledger, plan), trainings(plan)
        announcement = _announcement(plan, total, done, self.slots)
        console.print(announcement, soft_wrap=True, highlight=False)
        if all(run.state == "complete" for run in ledger.runs(plan.id)):
            console.print("Already complete; another --seed starts a fresh one.")
            return write_report(self.home, ledger, plan)
        reporter = Reporter(console, plan, total, done)
        work = conduct(
            self.home,
            ledger,
            self.repository,
            plan,
            data=self.data,
            slots=self.slots,
            now=utc_now,
            on_experiment=reporter.experiment,
            meter=self.meter,
            tell=reporter.tell,
        )
        with reporter.showing():
            _run_until_stopped(work)
        return write_report(self.home, ledger, plan)


def _run_until_stopped(work: Coroutine[Any, Any, None]) -> None:
    async def main() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
        await work

    with _stoppable():
        asyncio.run(main())


@contextmanager
def _stoppable() -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("Stopped. The same command continues where it was.", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _finished_trainings(ledger: Ledger, plan: Tournament) -> int:
    return sum(len(ledger.experiments(run.id)) for run in ledger.runs(plan.id))


def _announcement(plan: Tournament, total: int, done: int, slots: int) -> str:
    track = plan.track
    each = f"{count(track.budget.experiments, 'experiment')} of {clock_budget(track)}"
    names = ", ".join(e.name for e in plan.entrants)
    left = f", {done} already done" if done else ""
    return (
        f"Tournament {plan.id} on track {track.name} ({track.fingerprint}): {names}.\n"
        f"{count(len(plan.entrants), 'program')} x {count(plan.replicates, 'run')} x {each}: "
        f"{total} trainings with baselines and confirmations{left}, {slots} at a time. "
        f"Researcher: {researcher_label(track)}."
    )


def researcher_label(track: Track) -> str:
    """The researcher as every report names it."""
    if track.researcher == "catalog":
        return OFFLINE
    return f"{track.researcher} {track.model or ''}".strip()


def _tell_rewrite(ledger: Ledger, plan: Tournament, number: int, *, goes_on: bool) -> None:
    """The standings of a round that is not the last, and what the rewriter made of them."""
    from analysis.leaderboard import leaderboard
    from analysis.story import rewrite_lines
    from analysis.terminal import leaderboard_table

    if goes_on:
        Console().print(leaderboard_table(leaderboard(ledger, plan)))
    title = f"Round {number}." if goes_on else f"There is no round {number}."
    print(title, *rewrite_lines(ledger, plan), sep="\n")


def _finish(ledger: Ledger, plan: Tournament, page: Path) -> None:
    from analysis.curves import run_details
    from analysis.leaderboard import leaderboard
    from analysis.terminal import standings_view

    Console().print(standings_view(leaderboard(ledger, plan), run_details(ledger, plan)))
    print(f"Report: {page}")
    print(f"Next: {_command()} show {plan.entrants[0].name}-r0 --experiment 1")


def _command() -> str:
    """What a person types for us: the bare name if that is on PATH, else what was typed now."""
    typed = sys.argv[0]
    bare = shutil.which("metaresearch") or Path(typed).name != "metaresearch"
    return "metaresearch" if bare else typed

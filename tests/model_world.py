"""A run whose researcher is the language-model one, with a queue for the model.

The ledger, git, the loop and the whole way from ask to move are real; only the slot is an instant
one (`test_loop.InstantSlot`), and the model is a `ReplyQueue`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reply_queue import Answer, ReplyQueue, said
from test_loop import AT, SOURCE, InstantSlot, score

from inner_loop.execute import Job
from inner_loop.experiment import Desk
from inner_loop.ledger import Ledger
from inner_loop.loop import Session
from inner_loop.messages import Ask, Chat
from inner_loop.meter import Meter
from inner_loop.model_researcher import ModelResearcher
from inner_loop.program import parse_program
from inner_loop.records import (
    Budget,
    Entrant,
    Experiment,
    Measured,
    Move,
    Run,
    Tournament,
    Track,
)
from inner_loop.repo import Repository
from inner_loop.researcher import Setup
from inner_loop.settings import Usage

BASELINE = 2.8
"""What the base commit measured."""


class Slot(InstantSlot):
    """An instant slot in which a train.py may crash."""

    async def submit(self, job: Job) -> Measured:
        if self.score(job.files["train.py"]) is None:
            self.jobs += 1
            return Measured(crash="exception", error="Traceback: boom")
        return await super().submit(job)


class World:
    """One run in a folder; making it again resumes it.

    Args:
        folder: where ledger, repository and run live.
        track: the track; its budget and researcher are replaced.
        chat: the model.
        program: the program.md.
        experiments: the run's budget.
        tokens: cap on the run's tokens.
        source: the starting train.py.
        score: train.py -> bits per byte of the instant slot; None is a crash.
    """

    def __init__(
        self,
        folder: Path,
        track: Track,
        chat: Chat,
        *,
        program: str = "- improve\n- be bold\n",
        experiments: int = 2,
        tokens: int | None = None,
        source: str = SOURCE,
        score: Callable[[str], Any] = score,
    ) -> None:
        budget = Budget(experiments=experiments, tokens=tokens)
        repository = Repository(folder / "repository.git")
        files = {"train.py": source, "prepare.py": "", "task.json": "{}"}
        base = repository.commit(files, "base\n")
        fields = {"budget": budget, "base_commit": base.sha, "researcher": "openai"}
        self.track = track.model_copy(update=fields | {"model": "queue"})
        self.base = base.sha
        self.program = parse_program(program.encode(), "p")
        self.ledger = Ledger.at(folder / "ledger.db")
        self.ledger.add_program(self.program.id, "p", program.encode())
        run = self._run()
        self.desk = Desk(
            ledger=self.ledger,
            repository=repository,
            executor=Slot(score),
            track=self.track,
            data="none",
            folder=lambda r: folder / r.id,
            now=lambda: AT,
        )
        self.meter = Meter()
        self.meter.open(run.id, sum((m.usage for m in self.ledger.moves(run.id)), Usage()))
        self.setup = Setup(
            kind="openai",
            model="queue",
            settings=self.track.settings,
            budget=budget,
            run_id=run.id,
            folder=self.desk.folder(run),
            meter=self.meter,
            environ={},
        )
        self.researcher = ModelResearcher(self.setup, chat)
        self.session = Session(self.desk, run, self.program, self.researcher, BASELINE)

    def _run(self) -> Run:
        entrant = Entrant(program_id=self.program.id, name="p", role="entrant")
        plan = Tournament(id="T-1", track=self.track, entrants=(entrant,), replicates=1, seed=0)
        self.ledger.add_tournament(plan, AT)
        run = Run(
            id="T-1-p-r0",
            tournament_id="T-1",
            program_id=self.program.id,
            program_name="p",
            role="entrant",
            replicate=0,
            seed=1,
            branch="autoresearch/T-1-p-r0",
        )
        self.ledger.add_run(run)
        return self.ledger.run(run.id)

    def work(self) -> World:
        """Run it to its end."""
        asyncio.run(self.session.work())
        return self

    @property
    def moves(self) -> list[Move]:
        """All moves on record."""
        return self.ledger.moves(self.session.run.id)

    @property
    def experiments(self) -> list[Experiment]:
        """The charged ones."""
        rows = self.ledger.experiments(self.session.run.id)
        return [e for e in rows if e.kind in ("edit", "rerun")]

    @property
    def outcomes(self) -> list[tuple[str, str | None]]:
        """(description, status) of each charged experiment."""
        return [(e.description, e.status) for e in self.experiments]

    @property
    def confirmed(self) -> str:
        """The commit that was confirmed."""
        return self.ledger.experiments(self.session.run.id)[-1].commit

    @property
    def exit_reason(self) -> str:
        """Why the run ended."""
        return self.ledger.run(self.session.run.id).exit_reason


def queue(*answers: Answer, then: Answer | None = "VERDICT: none") -> ReplyQueue:
    """A queue that gives no verdict at the closing question."""
    return ReplyQueue(*answers, then=then)


def edit(old: str, new: str, *lines: str, description: str = "a change") -> str:
    """A reply with one block; `lines` come before it."""
    head = "\n".join((f"DESCRIPTION: {description}", "HYPOTHESIS: it helps", *lines))
    return f"{head}\n<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE\n"


def commit_in(ask: Ask, index: int) -> str:
    """The commit that the table of an ask gives for an experiment; 0 is the baseline."""
    found = re.search(rf"^{index}\t\w+\t([0-9a-f]+)\t", said(ask), re.MULTILINE)
    assert found, f"no row {index}"
    return found[1]

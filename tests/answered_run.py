"""Runs of the language-model researcher without a model and without training.

The loop, the ledger, git, the ask and the reading of replies are the real ones; a queue answers
in the model's place, and a slot gives the measurements it was told to give.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from inner_loop.execute import Job
from inner_loop.experiment import Desk
from inner_loop.ledger import Ledger
from inner_loop.loop import Session
from inner_loop.messages import Ask, Chat, Message, Reply
from inner_loop.model_researcher import ModelResearcher
from inner_loop.program import parse_program
from inner_loop.records import Entrant, Experiment, Measured, Move, Program, Run, Tournament, Track
from inner_loop.repo import Repository
from inner_loop.researcher import Setup

AT = "2026-01-01T00:00:00+00:00"
BASELINE = 2.8
CONFIRMED = 2.777
TRAIN = (Path(__file__).parent.parent / "train.py").read_text(encoding="utf-8")


class ListedSlot:
    """An executor that gives its measurements in order, and `CONFIRMED` to every confirmation."""

    def __init__(self, *measured: Measured) -> None:
        self.measured = list(measured)

    def capacity(self) -> int:
        return 1

    async def submit(self, job: Job) -> Measured:
        if "audit" in job.shards:
            return Measured(search_bpb=CONFIRMED, audit_bpb=CONFIRMED)
        return self.measured.pop(0)

    async def close(self) -> None: ...


@dataclass
class Place:
    """A ledger and a repository in which runs happen, one tournament for each."""

    folder: Path
    track: Track
    source: str = TRAIN
    ledger: Ledger = field(init=False)
    repository: Repository = field(init=False)
    base: str = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger.at(self.folder / "ledger.db")
        self.repository = Repository(self.folder / "repository.git")
        files = {"train.py": self.source, "prepare.py": "", "task.json": "{}"}
        self.base = self.repository.commit(files, "base\n").sha

    def session(
        self, name: str, body: bytes, chat: Chat, measured: Sequence[Measured], experiments: int = 2
    ) -> Session:
        """A run of the program `body` that has not begun."""
        program = parse_program(body, name)
        self.ledger.add_program(program.id, name, body)
        budget = self.track.budget.model_copy(update={"experiments": experiments})
        track = self.track.model_copy(
            update={
                "budget": budget,
                "base_commit": self.base,
                "researcher": "openai",
                "model": "queue",
            }
        )
        entrant = Entrant(program_id=program.id, name=name, role="entrant")
        plan = Tournament(id=f"T-{name}", track=track, entrants=(entrant,), replicates=1, seed=0)
        self.ledger.add_tournament(plan, AT)
        run = Run(
            id=f"T-{name}-r0", tournament_id=plan.id, program_id=program.id, program_name=name,
            role="entrant", replicate=0, seed=1, branch=f"autoresearch/{name}",
        )  # fmt: skip
        self.ledger.add_run(run)
        desk = Desk(
            ledger=self.ledger, repository=self.repository, executor=ListedSlot(*measured),
            track=track, data="none", folder=lambda r: self.folder / r.id, now=lambda: AT,
        )  # fmt: skip
        setup = Setup("openai", "queue", budget=budget, run_id=run.id, environ={})
        told = Telling(chat, self.base, program, self.ledger, run.id)
        researcher = ModelResearcher(setup, told)
        return Session(desk, self.ledger.run(run.id), program, researcher, BASELINE)


class Outcome(NamedTuple):
    """What the ledger says after a run."""

    run: Run
    moves: list[Move]
    charged: list[Experiment]
    confirmed: list[Experiment]


def work(session: Session) -> Outcome:
    """Run it to its end."""
    asyncio.run(session.work())
    ledger, id_ = session.desk.ledger, session.run.id
    rows = ledger.experiments(id_)
    charged = [e for e in rows if e.kind in ("edit", "rerun")]
    confirmed = [e for e in rows if e.kind == "confirm"]
    return Outcome(ledger.run(id_), ledger.moves(id_), charged, confirmed)


class Telling:
    """A chat that fills in what a model would read off the table, just before it answers.

    `{BASE}`, `{E1}`, `{E2}` become short commits, `{I1}` ... the ids of instructions; what is
    filled in must stand in the ask.
    """

    def __init__(self, chat: Chat, base: str, program: Program, ledger: Ledger, run: str) -> None:
        self.chat, self.base, self.program = chat, base, program
        self.ledger, self.run, self.sdk = ledger, run, chat.sdk
        self.bound, self.learn = chat.bound, chat.learn

    async def ask(self, ask: Ask) -> Reply:
        reply = await self.chat.ask(ask)
        names = {"BASE": self.base[:7]}
        names |= {f"E{e.index}": e.commit[:7] for e in self.ledger.experiments(self.run)}
        names |= {f"I{n}": u.id for n, u in enumerate(self.program.instructions, start=1)}

        def known(found: re.Match[str]) -> str:
            assert names[found[1]] in all_text(ask), f"{found[0]} is nowhere in the ask"
            return names[found[1]]

        text = re.sub(r"\{(BASE|[EI]\d+)\}", known, reply.text)
        return reply.model_copy(update={"text": text})


# --- what is asked ------------------------------------------------------------------------------


def all_text(ask: Ask) -> str:
    """Everything an ask says."""
    return "\n".join([ask.system, *map(text_of, ask.messages)])


def text_of(message: Message) -> str:
    """All parts of one message."""
    return "\n\n".join(part.text for part in message.parts)


class Quoted(NamedTuple):
    """A quotation in an ask."""

    name: str
    mark: str
    text: str


_OPENING = re.compile(r"^<([a-z_.]+)-([0-9a-f]{8})>\n", re.MULTILINE)


def read_quotes(text: str) -> tuple[list[Quoted], str]:
    """All quotations in a message, and the words around them, read as the rules say.

    A quotation begins with a tag that stands alone on a line and ends with the first closing tag of
    the same name and digits.
    """
    quotes, around, at = [], [], 0
    while opening := _OPENING.search(text, at):
        name, mark = opening.groups()
        end = text.index(f"\n</{name}-{mark}>", opening.end() - 1)
        around.append(text[at : opening.start()])
        quotes.append(Quoted(name, mark, text[opening.end() : end]))
        at = end + len(f"\n</{name}-{mark}>")
    return quotes, "".join([*around, text[at:]])


def in_turn(*values: float | str) -> list[Measured]:
    """Measurements: a number, or the code of a crash."""
    return [
        Measured(search_bpb=value)
        if isinstance(value, float)
        else Measured(crash=value, error=f"RuntimeError: {value}")
        for value in values
    ]

"""The rewriter that is a language model: it declares operations, code carries them out and judges.

Owns: the turns of a conversation (one repair), and the checks that only this rewriter needs: rows
cited, answers, the door. Does not own: what is shown (`model_prompt`, `table`), the reply's shape
(`model_reply`), operations (`apply`), the proof (`verify`), the wire (`inner_loop.chat`), or who
asks (`rounds`).

Whatever the model answers, the result is a list of proposals that each may run or say why not. A
rival's text may talk the model into anything; it cannot talk the checks into it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

from analysis.wording import one_line, visible
from inner_loop.errors import UserError
from inner_loop.messages import Ask, NoReply, Reply, TooLong
from inner_loop.meter import OutOfBudget
from inner_loop.program import unit_id
from inner_loop.proposal import Operation, Proposal, proposal_id
from inner_loop.records import Program
from outer_loop.door import Offer, examine
from outer_loop.rewriter.answers import answer_in
from outer_loop.rewriter.apply import apply
from outer_loop.rewriter.model_prompt import repair, request
from outer_loop.rewriter.model_reply import (
    Draft,
    Unreadable,
    read_rewrite,
)
from outer_loop.rewriter.offline import Composer
from outer_loop.rewriter.seam import Case, nothing
from outer_loop.rewriter.surgery import RewriteRefused
from outer_loop.rewriter.table import Row, evidence_table
from outer_loop.rewriter.verify import verified

FOCUSES = (
    "what to try first, and in which order",
    "when to keep, repeat or drop a change",
    "what to leave out, because it costs attention and seems to bring nothing",
    "how to go on after losses in a row",
    "what to take over from other programs",
)
"""Asked for in turn; the model says in its own words what it made of it."""


class Asker(Protocol):
    """What this rewriter needs of `inner_loop.correspond.Correspondent`."""

    async def ask(self, name: str, ask: Ask) -> Reply:
        """One request, stored under `name`.

        Raises:
            NoReply: the service failed for now.
            OutOfBudget: it could go over a cap.
            UserError: it can never work as it is set up.
        """
        ...


@dataclass(frozen=True)
class ModelRewriter:
    """A `Rewriter` over a language model.

    Args:
        connect: makes the correspondent, inside the event loop that will use it.
        label: provider and model, as proposals are labelled.
        focuses: what is asked for, in turn.
    """

    connect: Callable[[], Asker]
    label: str
    focuses: tuple[str, ...] = FOCUSES

    def rewrite(self, case: Case) -> list[Proposal]:
        """What may run first, then what was refused. Not to be called inside an event loop.

        Raises:
            UserError: no answer came, so there is nothing to record.
        """

        async def work() -> list[Proposal]:
            return await rewrite(self.connect(), case, self.label, self.focuses)

        return asyncio.run(work())


async def rewrite(
    correspondent: Asker, case: Case, label: str, focuses: Sequence[str] = FOCUSES
) -> list[Proposal]:
    """`case.wanted` proposals, one focus each, those that may run first.

    The model is asked again for each, and shown what it proposed before. Where the service fails or
    a cap is reached, the rest is not asked for if there is something to run, and nothing is
    recorded if there is not: what was answered is stored, so that the next call goes on from there.

    Raises:
        UserError: no answer came and nothing may run yet, or the service can never work as it is
            set up.
    """
    found: list[Proposal] = []
    for asked in range(len(case.history), len(case.history) + case.wanted):
        known = [each.program_id for each in found if not each.rejection]
        now = replace(
            case, history=[*case.history, *found], earlier=case.earlier | frozenset(known)
        )
        desk = Desk.of(now, label)
        if not desk.rows:
            reason = "There is no strategy instruction and no rival, so no evidence to rest on."
            return [nothing(case.champion, label, reason)]
        try:
            found.append(await desk.propose(correspondent.ask, focuses[asked % len(focuses)]))
        except TooLong as stop:
            found.append(nothing(case.champion, label, _too_long(stop)))
            break
        except (NoReply, OutOfBudget) as stop:
            if not known:
                raise _stopped(stop) from stop
            break
    return sorted(found, key=lambda each: bool(each.rejection))


def _too_long(stop: TooLong) -> str:
    return f"The request is too long for the model: {_why(stop)}."


def _stopped(stop: NoReply | OutOfBudget) -> UserError:
    if isinstance(stop, OutOfBudget):
        return UserError(
            f"The rewriter stopped at the {_why(stop)}; raise it and give the same command again."
        )
    return UserError(
        f"The rewriter got no answer ({_why(stop)}). Nothing is lost: the same command goes on "
        "from there."
    )


def _why(stop: Exception) -> str:
    return one_line(visible(str(stop))).rstrip(".")


@dataclass(frozen=True)
class Desk:
    """Everything about one proposal: what is shown, and what a reply is judged by."""

    case: Case
    label: str
    composer: Composer
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, case: Case, label: str) -> Desk:
        """Estimate what is shown from the case.

        Raises:
            KeyError: the champion is not in the pool.
        """
        composer = Composer.of(case.pool, case.evidence, case.champion_id)
        return cls(case, label, composer, evidence_table(composer, case.evidence, case.citations))

    async def propose(self, ask: Callable[[str, Ask], Awaitable[Reply]], focus: str) -> Proposal:
        """One proposal, after one repair turn if the first answer may not run.

        Raises:
            NoReply, OutOfBudget: there was no answer, first or repaired.
            TooLong: the request does not fit; where only the repair's does not, it is a rejection.
            UserError: the service can never work as it is set up.
        """
        number = len(self.case.history) + 1
        first = request(self.case, self.composer, self.rows, focus)
        reply = await ask(f"rewrite-{number}-1", first)
        proposal = self.judged(reply, focus)
        if not proposal.rejection:
            return proposal
        again = repair(first, reply, proposal.rejection)
        try:
            repaired = self.judged(await ask(f"rewrite-{number}-2", again), focus)
        except TooLong as stop:
            return _rejected(proposal, f"{proposal.rejection} {_too_long(stop)}")
        if repaired.operations or not proposal.operations:
            return repaired
        return _rejected(proposal, f"{proposal.rejection} Its repair: {repaired.rejection}")

    # --- how a reply is judged ----------------------------------------------------------------

    def judged(self, reply: Reply, focus: str) -> Proposal:
        """The proposal in a reply, with its rejection filled in; never an exception."""
        try:
            draft = read_rewrite(reply.text)
        except Unreadable as error:
            return nothing(self.composer.base, self.label, _unreadable(reply, error), focus)
        cited = _Cited({row.id: row for row in self.rows})
        operations = tuple(self._sourced(cited.lines(each)) for each in draft.operations)
        base = self.composer.base
        if cited.problem:
            return self._draft(draft, operations, base, cited.problem)
        try:
            result = apply(base, operations)
        except RewriteRefused as refusal:
            reason = f"The operations cannot be carried out: {refusal}."
            return self._draft(draft, operations, base, reason)
        proposal = self._draft(draft, operations, result, "")
        checked = verified(proposal, base, [*self.case.earlier, *self.composer.pool.programs])
        reason = checked.rejection or self._answers(operations) or _door(result, base)
        return _rejected(checked, reason)

    def _draft(
        self, draft: Draft, operations: tuple[Operation, ...], result: Program, rejection: str
    ) -> Proposal:
        base = self.composer.base
        sources = [each.source_program_id for each in operations if each.source_program_id]
        return Proposal(
            id=proposal_id(base.id, operations),
            rewriter=self.label,
            base_program_id=base.id,
            parents=tuple(dict.fromkeys([base.id, *sources])),
            operations=operations,
            focus=draft.focus,
            hypothesis=draft.hypothesis,
            text=result.text,
            program_id=result.id,
            rejection=rejection,
        )

    @cached_property
    def _said_by(self) -> Mapping[str, str]:
        """Instruction id -> the first other program of the pool that has it."""
        others = (each for each in self.case.pool if each.id != self.case.champion_id)
        found: dict[str, str] = {}
        for program in others:
            for unit in program.instructions:
                found.setdefault(unit.id, program.id)
        return found

    def _sourced(self, operation: Operation) -> Operation:
        """With the program that a text comes from, found by its wording."""
        sources = [self._said_by.get(unit_id(text), "") for text in operation.texts]
        found = next(filter(None, sources), "")
        return operation.model_copy(update={"source_program_id": found})

    def _answers(self, operations: Sequence[Operation]) -> str:
        brings = [text for each in operations for text in (*each.texts, each.section) if text]
        return answer_in(brings, self.composer.base.text, self.case.answers)


class _Cited:
    """Evidence ids exchanged for their rows; keeps the first problem."""

    def __init__(self, rows: Mapping[str, Row]) -> None:
        self.rows = rows
        self.number = 0
        self.problem = ""

    def lines(self, operation: Operation) -> Operation:
        """The operation with the rows it cites as they were shown."""
        self.number += 1
        where = f"Operation {self.number}, {operation.kind},"
        unknown = [name for name in operation.evidence if name not in self.rows]
        if unknown and not self.problem:
            last = len(self.rows)
            self.problem = f"{where} cites {unknown[0]!r}; the rows are E-1 to E-{last}."
        if not operation.evidence and not self.problem:
            self.problem = f"{where} cites no row of the evidence."
        known = dict.fromkeys(name for name in operation.evidence if name in self.rows)
        lines = tuple(self.rows[name].line for name in known)
        return operation.model_copy(update={"evidence": lines})


def _door(result: Program, base: Program) -> str:
    """What the door refuses in the result and not in the base; empty where nothing."""
    before = {finding.code for finding in _refusals(base)}
    found = (f.sentence for f in _refusals(result) if f.code not in before)
    return next((f"The door refuses it: {sentence}" for sentence in found), "")


def _refusals(program: Program) -> Sequence[Any]:
    body = program.text.encode()
    return examine(Offer("the rewrite", body, len(body), "challenger")).refusals


def _rejected(proposal: Proposal, reason: str) -> Proposal:
    return proposal.model_copy(update={"rejection": reason})


def _unreadable(reply: Reply, error: Unreadable) -> str:
    if reply.stop == "refusal":
        return f"The model refused. {error}"
    if reply.stop == "length":
        return f"The reply was cut at the output limit; write less. {error}"
    return str(error)

"""The researchers `anthropic` and `openai`: a language model answers each brief in its own words.

Owns: the conversation about one move (question, at most one continuation and one repair turn) and
what of a reply becomes a move.
Does not own: the ask (`briefing.py`), the form of a reply (`protocol.py`), where a block fits
(`matching.py`), caps, prices, records of what was said (`correspond.py`).

Between moves nothing is remembered but failures in a row, so that a run resumes anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from inner_loop.briefing import (
    continuation,
    first_ask,
    repair,
    sent_back,
    verdict_leaves,
    wording,
)
from inner_loop.correspond import correspondent_for
from inner_loop.edits import CannotApply, apply_edits
from inner_loop.errors import UserError
from inner_loop.matching import fit
from inner_loop.messages import Ask, Chat, NoReply, Reply, TooLong
from inner_loop.meter import OutOfBudget
from inner_loop.protocol import BASE, Said, Unreadable, read_reply
from inner_loop.quoting import one_line
from inner_loop.record import content_hash
from inner_loop.records import Edit, Move
from inner_loop.researcher import Brief, Setup
from inner_loop.settings import Usage

MOST_FAILURES = 3
"""Asks in a row that the service failed to answer, after which the tournament stops."""
LINE = 300
"""Characters of a reason on record."""


class _Silent(Exception):
    """A reply without an action: a question, a refusal, a stop."""


class _Wrong(Exception):
    """An action that cannot be carried out; the exact reason."""


@dataclass
class _Talk:
    """The conversation about one move."""

    brief: Brief
    ask: Ask
    turn: int = 0
    reply: Reply | None = None
    may_continue: bool = True
    may_repair: bool = True
    usage: Usage = field(default_factory=Usage)
    repaired: int = 0
    continued: int = 0
    notes: str | None = None
    verdict: Literal["keep", "discard"] | None = None

    def hear(self, said: Said) -> None:
        """Notes stay until others are given; a verdict is the latest reply's."""
        if said.notes is not None:
            self.notes = said.notes
        self.verdict = said.verdict if self.brief.overturned_train_py else None

    @property
    def overturns(self) -> bool:
        """Whether the verdict is not the one of upstream's rule."""
        return self.verdict is not None and self.verdict != self.brief.history[-1].status

    def answer(self, problem: Exception) -> bool:
        """Say what was wrong with the reply, if a turn for that is left; the next ask has it."""
        silent = isinstance(problem, _Silent)
        if not (self.may_continue if silent else self.may_repair):
            return False
        if silent:
            self.may_continue, self.continued = False, self.continued + 1
        else:
            self.may_repair, self.repaired = False, self.repaired + 1
        text = continuation() if silent else repair(str(problem))
        self.ask = sent_back(self.ask, self.reply.text if self.reply else "", text)
        return True

    def move(self, kind: Any, **fields: Any) -> Move:
        """A move with what the conversation has cost and said so far."""
        return Move(
            kind=kind,
            verdict=self.verdict,
            notes=self.notes,
            usage=self.usage,
            repaired=self.repaired,
            continued=self.continued,
            **fields,
        )

    def unusable(self, reason: object) -> Move:
        """The move of a conversation that led to nothing."""
        return self.move("unusable", description=one_line(str(reason), LINE))


class ModelResearcher:
    """A researcher that is a language model.

    Args:
        setup: the run it works in; `kind` is the provider.
        chat: the model to ask; None opens the provider's.

    Raises:
        UserError: no model is named, or there is no key for the provider.
    """

    def __init__(self, setup: Setup, chat: Chat | None = None) -> None:
        self._correspondent = correspondent_for(setup, chat)
        self._most_tokens = setup.settings.max_output_tokens
        self._failures = 0
        self._talk: _Talk | None = None
        self.protocol = content_hash([self._correspondent.sdk, wording()])

    async def next_move(self, brief: Brief) -> Move:
        """The model's answer to a brief.

        Raises:
            OutOfBudget: the first question could go over a cap.
            UserError: the model can never answer as it is set up, or failed three times in a row.
        """
        if brief.repair:
            return await self._again(brief)
        self._talk = _Talk(brief, first_ask(brief))
        return await (self._converse if brief.experiments_left else self._close)(self._talk)

    async def _again(self, brief: Brief) -> Move:
        """The loop found a fault in the move that came of the last conversation."""
        talk = self._talk
        if talk is None or talk.brief.move_number != brief.move_number:
            return Move(kind="unusable", description=brief.repair)
        talk.usage, talk.continued = Usage(), 0  # the loop adds this answer to the one before
        is_asked = talk.answer(_Wrong(brief.repair))
        talk.repaired = 0
        return await self._converse(talk) if is_asked else talk.unusable(brief.repair)

    async def _converse(self, talk: _Talk) -> Move:
        """Ask until a reply is a move, or no turn is left to say why it is not."""
        problem: Exception = _Wrong(talk.brief.repair)
        while True:
            try:
                reply = await self._turn(talk)
            except OutOfBudget as end:
                if talk.reply is None:
                    raise
                return talk.unusable(f"{problem} (and the {end} left no further turn)")
            except TooLong as failure:
                return talk.unusable(failure)
            except NoReply as failure:
                return talk.move("failed", description=one_line(str(failure), LINE))
            try:
                return self._read(talk, reply)
            except (_Silent, _Wrong) as found:
                problem = found
            if not talk.answer(problem):
                return talk.unusable(problem)

    async def _close(self, talk: _Talk) -> Move:
        """The question after the last experiment: a verdict, a return, or nothing."""
        while True:
            try:
                reply = await self._turn(talk)
                break
            except TooLong as failure:
                return talk.move("close", description=one_line(str(failure), LINE))
            except NoReply:
                continue  # `_turn` raises when it is enough: the verdict waits for the service
        try:
            said = self._heard(talk, reply)
            if said.kind == "return":
                commit = _measured(talk.brief, said)
                return talk.move("return", commit=commit, **_words(said, talk.brief))
        except (_Silent, _Wrong) as problem:
            return talk.move("close", description=one_line(str(problem), LINE))
        return talk.move("close")

    async def _turn(self, talk: _Talk) -> Reply:
        """One request, counted."""
        talk.turn += 1
        try:
            reply = await self._correspondent.ask(
                f"{talk.brief.move_number:04d}-{talk.turn}", talk.ask
            )
        except NoReply as failure:
            talk.turn -= 1
            talk.usage = talk.usage + failure.usage
            self._failures += not isinstance(failure, TooLong)
            if self._failures < MOST_FAILURES:
                raise
            raise UserError(
                f"The model did not answer {MOST_FAILURES} times in a row ({failure}). Nothing is "
                "lost: the same command continues where it was."
            ) from failure
        self._failures = 0
        talk.reply, talk.usage = reply, talk.usage + reply.usage
        return reply

    # --- what a reply says ------------------------------------------------------------------------

    def _heard(self, talk: _Talk, reply: Reply) -> Said:
        if reply.stop == "refusal":
            raise _Silent("the model refused")
        try:
            said = read_reply(reply.text)
        except Unreadable as error:
            raise _Wrong(self._reason(reply, error)) from error
        talk.hear(said)
        return said

    def _read(self, talk: _Talk, reply: Reply) -> Move:
        """The move that a reply is."""
        said = self._heard(talk, reply)
        match said.kind:
            case "edit":
                edits = self._fitted(talk, reply, said)
                return talk.move("edit", edits=edits, **_words(said, talk.brief))
            case "rerun":
                commit = _commit(talk.brief, said.commit) if said.commit else None
                return talk.move("rerun", commit=commit, **_words(said, talk.brief))
            case "return":
                commit = _measured(talk.brief, said)
                return talk.move("return", commit=commit, **_words(said, talk.brief))
            case _:
                return self._without_action(talk, reply, said)

    def _fitted(self, talk: _Talk, reply: Reply, said: Said) -> tuple[Edit, ...]:
        brief = talk.brief
        source = brief.overturned_train_py if talk.overturns else brief.train_py
        try:
            edits = fit(said.blocks, source)
            apply_edits(source, edits)
        except CannotApply as error:
            where = f" (train.py as VERDICT: {talk.verdict} leaves it)" if talk.overturns else ""
            raise _Wrong(self._reason(reply, f"{error}{where}")) from error
        return edits

    def _without_action(self, talk: _Talk, reply: Reply, said: Said) -> Move:
        """A verdict alone is an action where it changes something: back to what it leaves."""
        if talk.overturns:
            text = f"{'kept' if talk.verdict == 'keep' else 'discarded'} by the program's rule"
            words = _words(said, talk.brief)
            words["description"] = words["description"] or text
            return talk.move("return", commit=verdict_leaves(talk.brief), **words)
        if reply.stop == "length":
            raise _Wrong(self._reason(reply, ""))
        raise _Silent("the reply held no action")

    def _reason(self, reply: Reply, reason: object) -> str:
        if reply.stop == "length":
            return f"your reply was cut at {self._most_tokens:,} tokens; answer shorter"
        return str(reason)


def _words(said: Said, brief: Brief) -> dict[str, Any]:
    """What the model says of its move; a citation of an unknown id is none."""
    known = {unit.id for unit in brief.program.instructions}
    return {
        "description": said.description,
        "hypothesis": said.hypothesis,
        "cites": tuple(id_ for id_ in said.cites if id_ in known),
    }


def _measured(brief: Brief, said: Said) -> str:
    """The commit that a return names; it must have a number."""
    commit = _commit(brief, said.commit or "")
    trees = {e.tree for e in brief.history if e.measured.search_bpb is not None}
    if commit != brief.base_commit and not any(
        e.commit == commit and e.tree in trees for e in brief.history
    ):
        raise _Wrong(f"commit {commit[:7]} has no val_bpb, so the branch cannot go back to it")
    return commit


def _commit(brief: Brief, written: str) -> str:
    """The commit of this run whose first digits are `written`."""
    if written == BASE:
        return brief.base_commit
    known = {brief.base_commit, brief.tip_commit, *(e.commit for e in brief.history)}
    found = {c for c in known if written and c.startswith(written.lower())}
    if len(found) == 1:
        return found.pop()
    if found:
        raise _Wrong(f"commit {written} fits {len(found)} commits of this run; write more digits")
    raise _Wrong(f"commit {written} is not one of this run's; the table has them")

"""A language model that answers from a list: for tests of what is asked and of what comes of it."""

from __future__ import annotations

from collections.abc import Callable

from inner_loop.messages import Ask, NoReply, Reply
from inner_loop.settings import Usage

Answer = str | Reply | NoReply | Callable[[Ask], str]


class ReplyQueue:
    """A `Chat` that gives its answers in order and remembers what it was asked.

    Args:
        answers: texts, functions of the ask, whole replies, or a `NoReply` to raise.
        then: what every ask after them gets; None fails the test.
    """

    sdk = "queue 1"

    def __init__(self, *answers: Answer, then: Answer | None = None) -> None:
        self.answers, self.then = list(answers), then
        self.asks: list[Ask] = []

    async def ask(self, ask: Ask) -> Reply:
        """The next answer."""
        self.asks.append(ask)
        answer = self.answers.pop(0) if self.answers else self.then
        assert answer is not None, f"ask {len(self.asks)} is one more than there are answers"
        if isinstance(answer, NoReply):
            raise answer
        if isinstance(answer, Reply):
            return answer
        text = answer if isinstance(answer, str) else answer(ask)
        usage = Usage(calls=1, tokens_in=len(said(ask)) // 4, tokens_out=len(text) // 4)
        return Reply(text=text, stop="end", model="queue", usage=usage)

    def bound(self, ask: Ask) -> Usage:
        """No answer of a test is longer than 16,000 tokens by this count."""
        return Usage(calls=1, tokens_in=len(said(ask)) // 4, tokens_out=16_000)

    def learn(self, ask: Ask, usage: Usage) -> None:
        """Its bounds are its own."""


def said(ask: Ask) -> str:
    """Everything that an ask says, as one text."""
    parts = [part.text for message in ask.messages for part in message.parts]
    return "\n".join([ask.system, *parts])


def cut(text: str, tokens: int = 10) -> Reply:
    """A reply that ended at the output limit."""
    return Reply(text=text, stop="length", model="queue", usage=Usage(calls=1, tokens_out=tokens))


def refusal(text: str = "") -> Reply:
    """A reply that the provider calls a refusal."""
    return Reply(text=text, stop="refusal", model="queue", usage=Usage(calls=1, tokens_out=1))

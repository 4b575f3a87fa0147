"""What is said to a language model and what comes back, whatever the provider.

Owns: the shape of a request and of a reply, and the seam `Chat`.
Does not own: a provider's wire format (`chat.py`), caps, prices and records (`correspond.py`), or
what is said (the prompts).
"""

from __future__ import annotations

from typing import Literal, Protocol

from inner_loop.record import Record, content_hash
from inner_loop.settings import Usage


class Part(Record):
    """A piece of a message."""

    text: str
    stable: bool = False
    """Everything up to here will be sent again soon: the provider may cache it."""


class Message(Record):
    """One turn."""

    role: Literal["user", "assistant"]
    parts: tuple[Part, ...]


class Ask(Record):
    """One request: stable parts first, so that a provider's prefix cache can help."""

    system: str
    messages: tuple[Message, ...]

    @property
    def key(self) -> str:
        """Hash of everything that is said."""
        return content_hash(self.model_dump(mode="json"), length=16)


class Reply(Record):
    """What came back."""

    text: str
    stop: Literal["end", "length", "refusal", "other"]
    """`length`: cut at the output limit. `refusal`: the provider's own word for it."""
    model: str = ""
    """The model's name as the server gave it."""
    usage: Usage
    """Without dollars: `usd` is filled in by whoever knows the price."""


class NoReply(Exception):
    """The service failed after all its tries, and may work again later; one sentence says how.

    Args:
        sentence: what happened.
        usage: what had come back when it failed, and may be billed.
    """

    def __init__(self, sentence: str, usage: Usage | None = None) -> None:
        super().__init__(sentence)
        self.usage = usage or Usage()


class TooLong(NoReply):
    """The request does not fit into the model's context; asking it again changes nothing."""


class Chat(Protocol):
    """A language model that can be asked."""

    sdk: str
    """Name and version of the client library."""

    async def ask(self, ask: Ask) -> Reply:
        """One request and its reply.

        Raises:
            NoReply: the service failed for now.
            TooLong: it does not fit into the model's context.
            UserError: it can never work as it is set up (key, model name, address).
        """
        ...

    def bound(self, ask: Ask) -> Usage:
        """The most one `ask` can use: input tokens from above, and the output limit."""
        ...

    def learn(self, ask: Ask, usage: Usage) -> None:
        """Take what the server once counted for an `ask`, so that later bounds are closer."""
        ...

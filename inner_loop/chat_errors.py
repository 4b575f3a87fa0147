"""What goes wrong with a language model's service, in one sentence each.

Owns: which failures may pass (`NoReply`), which never will (`UserError`) and which are a filter's
refusal of what was said (`Blocked`), and what of a server's own words is shown: one line, short,
printable, without the key.
Does not own: telling the SDKs' exceptions apart (`chat.py`).
"""

from __future__ import annotations

import re
import socket
import ssl
from dataclasses import dataclass, field

from inner_loop.errors import UserError
from inner_loop.messages import NoReply, TooLong

SHOWN = 300
"""Characters of a server's own words."""
PASSING = (408, 409, 429)
"""Statuses below 500 that another time may not have."""

# no wire format has a word for it that all servers use
_TOO_LONG = re.compile(
    r"context_length_exceeded|request_too_large|(?:prompt|input|request|messages?) (?:is|are) too "
    r"(?:long|large)|(?:context|sequence|model)(?:'s)?[ _](?:length|window|size|len)"
    r"|exceed\w* (?:the )?(?:available |maximum |model's )*context",
    re.IGNORECASE,
)
# likewise; of a right that is missing or an account that is closed none of this is said
_BLOCKED = re.compile(
    r"invalid_prompt|content[ _-]?filter|content[ _](?:management[ _])?policy|prohibited_content"
    r"|(?:prompt|input|request) was (?:flagged|blocked)",
    re.IGNORECASE,
)
_NO_CONNECTION: dict[type[BaseException], str] = {
    ConnectionRefusedError: "connection refused",
    socket.gaierror: "no such host",
    ssl.SSLError: "no secure connection",
}


class Blocked(Exception):
    """A filter of the provider refused this very text; one sentence says how."""


@dataclass(frozen=True)
class Place:
    """Who is asked, and where."""

    provider: str
    model: str
    address: str
    variable: str
    """Name of the environment variable with the key."""
    key: str = field(repr=False)

    def __str__(self) -> str:
        return f"{self.provider} '{self.model}' at {self.address}"

    def unreachable(self, error: BaseException, answered: bool) -> Exception:
        """No connection, or one that was lost.

        A server that was never there is the user's to start; one that has `answered` before may
        come back.
        """
        reason = never_there(error)
        if reason and not answered:
            return UserError(
                f"{self.address} cannot be reached ({reason}); is a server running there?"
            )
        return NoReply(f"{self}: {reason or 'the connection was lost'}.")

    def refused(self, status: int, body: object, message: str) -> Exception:
        """An HTTP status that the SDK gave up on; below 400, an error in the midst of a stream."""
        words = self.words(body, message)
        said = f"{_code(body)} {words}"
        if (status < 400 or status in (400, 403, 422)) and _BLOCKED.search(said):
            return Blocked(f"{self} refuses this text: {words}")
        if status == 401:
            return self._no_access()
        if status == 403:
            return UserError(
                f"The key in {self.variable} may not use '{self.model}' at {self.address}: {words}"
            )
        if status == 404:
            return UserError(
                f"{self.address} knows no model '{self.model}', or is not the right address "
                f"(OpenAI-compatible ones mostly end in /v1): {words}"
            )
        if isinstance(body, dict) and body.get("code") == "insufficient_quota":
            return UserError(f"The account of {self.variable} has nothing left to spend: {words}")
        if status in (400, 413, 422) and _TOO_LONG.search(said):
            return TooLong(f"{self}: the request is too long for the model: {words}")
        if 400 <= status < 500 and status not in PASSING:
            return UserError(f"{self} refuses the request (HTTP {status}): {words}")
        return NoReply(f"{self}: {f'HTTP {status}: ' if status >= 400 else ''}{words}")

    def _no_access(self) -> UserError:
        if not self.key:
            return UserError(f"{self.address} needs a key; set {self.variable}.")
        return UserError(f"{self.address} does not accept the key in {self.variable}.")

    def words(self, body: object, message: str) -> str:
        """The first line of what the server said, or of the SDK's `message`."""
        found = body.get("error", body) if isinstance(body, dict) else body
        if isinstance(found, dict):
            found = found.get("message") or found.get("detail")
        text = found if isinstance(found, str) and found.strip() else message
        return first_line(text.replace(self.key, "[key]") if self.key else text)


def _code(body: object) -> str:
    found = body.get("error", body) if isinstance(body, dict) else body
    return str(found.get("code") or "") if isinstance(found, dict) else ""


def never_there(error: BaseException | None) -> str:
    """Why no connection was made at all, from the causes of an error; empty where one was."""
    while error is not None:
        inside = error.exceptions if isinstance(error, BaseExceptionGroup) else (error,)
        for each in inside:
            if found := [text for kind, text in _NO_CONNECTION.items() if isinstance(each, kind)]:
                return found[0]
        error = error.__cause__ or error.__context__
    return ""


def first_line(text: str) -> str:
    """The first line, printable and not long."""
    line = next((each for each in text.splitlines() if each.strip()), "").strip()
    return "".join(c if c.isprintable() else " " for c in line)[:SHOWN]

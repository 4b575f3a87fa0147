"""Shows the waits between an SDK's tries of a request, while they last.

Owns: hearing from the SDK that it will try again, for how long it waits, and why.
Does not own: the tries themselves, which are the SDK's, or where the lines go (`tell`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any


class Waiting:
    """What one request tells of its tries; its methods are the HTTP client's event hooks."""

    def __init__(self, who: str, tries: int, tell: Callable[[str], None]) -> None:
        self._who, self._tries, self._tell = who, tries, tell
        self._tried = 0
        self._why = "no answer"

    async def sent(self, _: object) -> None:
        """A request is on its way."""
        self._why = "no answer"

    async def answered(self, response: Any) -> None:
        """A response's head is here."""
        self._why = f"HTTP {response.status_code}"

    def again(self, seconds: float) -> None:
        """The client waits and tries again."""
        self._tried += 1
        which = f"{self._tried} of {self._tries}"
        self._tell(f"{self._who}: {self._why}; next try in {seconds:.1f} s ({which}).")


current: ContextVar[Waiting] = ContextVar("waiting")
"""The request that this task waits for; requests at the same time each tell their own lines."""


class Retries(logging.Filter):
    """Turns an SDK's log line on a retry into one for the request that waits.

    It is the only place where both SDKs say for how long they will wait, before they do.
    """

    @classmethod
    def listen(cls, sdk: str) -> None:
        """Attach to an SDK's logger, once."""
        logger = logging.getLogger(f"{sdk}._base_client")
        if not any(isinstance(each, cls) for each in logger.filters):
            logger.addFilter(cls())
        if not logger.isEnabledFor(logging.INFO):
            logger.setLevel(logging.INFO)

    def filter(self, record: logging.LogRecord) -> bool:
        """False for lines that were not asked for."""
        waiting = current.get(None)
        numbers = record.args if isinstance(record.args, tuple) else ()
        seconds = [each for each in numbers if isinstance(each, float)]
        if waiting and seconds and str(record.msg).startswith("Retrying request"):
            waiting.again(seconds[0])
        parent = logging.getLogger(record.name).parent
        return parent is None or record.levelno >= parent.getEffectiveLevel()

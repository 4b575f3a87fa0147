"""Token and dollar caps, held before a call and not after it.

Owns: what has been spent and what calls on the way may still spend, per run and per night, and the
rule that no call begins which could go over a cap.
Does not own: counting (`Usage` comes from the API's own figures), prices (`prices.py`), requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from inner_loop.errors import UserError
from inner_loop.settings import Usage


class OutOfBudget(Exception):
    """A call was not begun, for it could have gone over a cap; the text names the cap."""


@dataclass(frozen=True)
class Cap:
    """A limit on what language models use; None = none."""

    name: str
    """Whose: `run` or `night`."""
    tokens: int | None = None
    """In and out."""
    usd: float | None = None


@dataclass
class _Account:
    spent: Usage = field(default_factory=Usage)
    on_the_way: list[Usage] = field(default_factory=list)

    def after(self, bound: Usage) -> Usage:
        """What it would have spent if all calls on the way cost as much as they can."""
        return sum(self.on_the_way, self.spent) + bound


class Call:
    """A call that was allowed; say what it used before it ends."""

    def __init__(self) -> None:
        self.used = Usage()


class Meter:
    """Accounts of one night; shared by its runs and its rewriter.

    Args:
        night: the cap on everything together.
        concurrency: calls at a time.
    """

    def __init__(self, night: Cap | None = None, concurrency: int = 4) -> None:
        self.night = night or Cap("night")
        self._concurrency = concurrency
        self._gates: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            WeakKeyDictionary()
        )
        self._accounts: dict[str, _Account] = {}
        self._told: set[str] = set()

    def open(self, name: str, spent: Usage) -> None:
        """Begin an account with what the ledger says was spent; an open one stays as it is."""
        self._accounts.setdefault(name, _Account(spent))

    def spent(self, name: str) -> Usage:
        """What an account has spent."""
        return self._accounts.setdefault(name, _Account()).spent

    def is_news(self, line: str) -> bool:
        """Whether this remark on the night's costs was not made before; it counts as made now."""
        is_new = line not in self._told
        self._told.add(line)
        return is_new

    @asynccontextmanager
    async def call(self, name: str, cap: Cap, bound: Usage) -> AsyncIterator[Call]:
        """Wait for a turn and hold `bound` back until the call ends.

        Args:
            name: the account: a run's id, or the rewriter's.
            cap: that account's own.
            bound: the most that the call can use.

        Raises:
            OutOfBudget: it could go over `cap` or over the night's.
            UserError: a cap is in dollars and the call's price is not known.
        """
        async with self._gate():
            account = self._accounts.setdefault(name, _Account())
            _check(cap, [account], bound)
            _check(self.night, self._accounts.values(), bound)
            account.on_the_way.append(bound)
            call = Call()
            try:
                yield call
            finally:
                account.on_the_way.remove(bound)
                account.spent = account.spent + call.used

    def _gate(self) -> asyncio.Semaphore:
        """One for each event loop: a night has several, one after the other."""
        return self._gates.setdefault(
            asyncio.get_running_loop(), asyncio.Semaphore(self._concurrency)
        )

    def note(self, name: str, usage: Usage) -> None:
        """Count what was used without a call: a reply that a killed driver had left on disk."""
        account = self._accounts.setdefault(name, _Account())
        account.spent = account.spent + usage


def _check(cap: Cap, accounts: Iterable[_Account], bound: Usage) -> None:
    """No harm yet, or the exception that says why the call may not begin."""
    zero = Usage()
    worst = sum((each.after(zero) for each in accounts), bound)
    if cap.tokens is not None and worst.tokens > cap.tokens:
        raise OutOfBudget(f"{cap.name} cap of {cap.tokens:,} tokens")
    if cap.usd is None:
        return
    if worst.usd is None:
        raise UserError(
            f"A cap of ${cap.usd:g} cannot be held, for this model's price is not known; add it to "
            "prices.toml, or cap tokens instead."
        )
    if worst.usd > cap.usd:
        raise OutOfBudget(f"{cap.name} cap of ${cap.usd:g}")

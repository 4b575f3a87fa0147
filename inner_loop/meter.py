"""Token and dollar caps, held before a call and not after it.

Owns: what has been spent and what calls on the way may still spend, per run and per night, and the
rule that no call begins which could go over a cap. A run ends at its own cap; at the night's
everything stops, so that no run is scored on less than the others had.
Does not own: counting (`Usage` comes from the API's own figures), prices (`prices.py`), requests.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from inner_loop.errors import UserError
from inner_loop.prices import unknown_price
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

    def __post_init__(self) -> None:
        if self.usd is not None and not math.isfinite(self.usd):
            raise UserError(f"A cap of {self.usd} dollars is none; give a number, or leave it out.")

    def __str__(self) -> str:
        limits = [] if self.tokens is None else [f"{self.tokens:,} tokens"]
        limits += [] if self.usd is None else [f"${self.usd:g}"]
        return f"{self.name} cap of {' and '.join(limits)}"


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
        self._waiting: list[asyncio.Future[None]] = []

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

        Where only calls on the way stand between it and the night's cap, it waits for what they
        really use.

        Args:
            name: the account: a run's id, or the rewriter's.
            cap: that account's own.
            bound: the most that the call can use.

        Raises:
            OutOfBudget: it could go over `cap`.
            UserError: it could go over the night's, `cap` does not allow a single call, or a cap is
                in dollars and the call's price is not known.
        """
        async with self._gate():
            account = self._accounts.setdefault(name, _Account())
            if _is_over(cap, bound) and not account.spent.calls:
                raise _too_small(cap, bound)
            if _is_over(cap, account.after(bound)):
                raise OutOfBudget(str(cap))
            while _is_over(self.night, self._all_after(bound)):
                await self._for_a_call_to_end(bound)
            account.on_the_way.append(bound)
            call = Call()
            try:
                yield call
            finally:
                account.on_the_way.remove(bound)
                account.spent = account.spent + call.used
                self._wake()

    def _all_after(self, bound: Usage) -> Usage:
        zero = Usage()
        return sum((each.after(zero) for each in self._accounts.values()), bound)

    async def _for_a_call_to_end(self, bound: Usage) -> None:
        if not any(each.on_the_way for each in self._accounts.values()):
            spent = sum((each.spent for each in self._accounts.values()), Usage())
            raise UserError(
                f"The {self.night} leaves no room for another call ({_worth(self.night, spent)} "
                f"spent, the call may use {_worth(self.night, bound)}). Nothing is lost: the same "
                "command with a higher cap goes on."
            )
        ended = asyncio.get_running_loop().create_future()
        self._waiting.append(ended)
        await ended

    def _wake(self) -> None:
        for each in self._waiting:
            if not each.done():
                each.set_result(None)
        self._waiting.clear()

    def _gate(self) -> asyncio.Semaphore:
        """One for each event loop: a night has several, one after the other."""
        return self._gates.setdefault(
            asyncio.get_running_loop(), asyncio.Semaphore(self._concurrency)
        )

    def note(self, name: str, usage: Usage) -> None:
        """Count what was used without a call: a reply that a killed driver had left on disk."""
        account = self._accounts.setdefault(name, _Account())
        account.spent = account.spent + usage


def _is_over(cap: Cap, worst: Usage) -> bool:
    """Whether `worst` is more than the cap allows. Raises `UserError` for an unknown price."""
    if cap.tokens is not None and worst.tokens > cap.tokens:
        return True
    if cap.usd is None:
        return False
    if worst.usd is None:
        raise unknown_price(cap.usd)
    return worst.usd > cap.usd


def _too_small(cap: Cap, bound: Usage) -> UserError:
    return UserError(
        f"The {cap} does not allow a single call, which may use {_worth(cap, bound)}; raise it, or "
        "lower max_output_tokens."
    )


def _worth(cap: Cap, usage: Usage) -> str:
    """`usage` in what the cap counts."""
    if cap.usd is not None and usage.usd is not None:
        return f"${usage.usd:.2f}"
    return f"{usage.tokens:,} tokens"

"""Progress of preparation: a bar with time left on a terminal, now and then a line elsewhere.

Owns: how progress looks. Does not own: what is counted. Meters may be advanced from any thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import TaskProgressColumn as PercentColumn

FIRST_LINE, NEXT_LINE = 3.0, 15.0
"""Seconds until the first plain line, and between lines."""
MB = 1_000_000


class Meter(Protocol):
    """What work reports to."""

    def advance(self, amount: int) -> None:
        """So many more bytes or documents are done (or lost again, below zero)."""

    def expect(self, total: int) -> None:
        """The total is now known, or known better."""


class Meters:
    """Makes the meters of one preparation."""

    def __init__(
        self,
        say: Callable[[str], None],
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.say = say
        self._console = console or Console()
        self._clock = clock

    @contextmanager
    def meter(self, label: str, total: int | None, unit: str = "bytes") -> Iterator[Meter]:
        """Show one piece of work while it lasts.

        Args:
            label: for example `Downloading climbmix`.
            total: how much there is to do; None if unknown.
            unit: `bytes`, shown as MB, or a plural noun.
        """
        if not self._console.is_terminal:
            yield _Lines(label, total, unit, self.say, self._clock)
            return
        with Progress(*_columns(unit), console=self._console, transient=True) as progress:
            yield _Bar(progress, progress.add_task(label, total=total))


class _Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, amount: int) -> None:
        self._progress.advance(self._task, amount)

    def expect(self, total: int) -> None:
        self._progress.update(self._task, total=total)


class _Lines:
    def __init__(
        self,
        label: str,
        total: int | None,
        unit: str,
        say: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._say, self._clock, self._lock = say, clock, threading.Lock()
        self._done, self._start = 0, clock()
        self._next = self._start + FIRST_LINE

    def advance(self, amount: int) -> None:
        with self._lock:
            self._done += amount
            now = self._clock()
            if now >= self._next:
                self._next = now + NEXT_LINE
                self._say(progress_line(*self._state(), elapsed=now - self._start))

    def expect(self, total: int) -> None:
        with self._lock:
            self._total = total

    def _state(self) -> tuple[str, int, int | None, str]:
        return self._label, self._done, self._total, self._unit


def progress_line(label: str, done: int, total: int | None, unit: str, elapsed: float) -> str:
    """One plain line, for example `Downloading climbmix: 120 of 1,000 MB, about 44 s left`."""
    scale, noun = (MB, "MB") if unit == "bytes" else (1, unit)
    if not total:
        return f"{label}: {done // scale:,} {noun}"
    line = f"{label}: {done // scale:,} of {total // scale:,} {noun}"
    if not 0 < done < total:
        return line
    return f"{line}, about {_duration(elapsed * (total - done) / done)} left"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _columns(unit: str) -> list[ProgressColumn]:
    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn()]
    if unit == "bytes":
        columns += [DownloadColumn(), TransferSpeedColumn()]
    else:
        columns.append(PercentColumn())
    return [*columns, TimeRemainingColumn()]

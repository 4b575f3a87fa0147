"""What a person sees while a tournament runs: one bar with time left, one line per experiment.

Owns: the terminal output of spending commands; plain lines when the output is no terminal.
Does not own: tables and reports (`analysis`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from inner_loop.records import Experiment, Tournament


class Reporter:
    """Turns experiments into lines and a bar."""

    def __init__(self, console: Console, tournament: Tournament, total: int, done: int) -> None:
        self._console, self._tournament = console, tournament
        self._total, self._done = total, done
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Show the bar, if this is a terminal, until the block ends."""
        if not self._console.is_terminal:
            yield
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console) as self._progress:
            self._task = self._progress.add_task(
                "trainings", total=self._total, completed=self._done
            )
            yield

    def experiment(self, e: Experiment) -> None:
        """Print one finished experiment and move the bar."""
        self._done += 1
        line = self.line(e)
        if self._progress is None or self._task is None:
            self._console.print(f"{self._done:>3}/{self._total} {line}", soft_wrap=True)
        else:
            self._progress.print(line)
            self._progress.update(self._task, completed=self._done)

    def tell(self, line: str) -> None:
        """Print one line that is no experiment: a wait, a service that fails."""
        short = escape(line.removeprefix(f"{self._tournament.id}-"))
        (self._progress or self._console).print(f"[dim]{short}[/dim]", soft_wrap=True)

    def line(self, e: Experiment) -> str:
        """One experiment as one line of rich markup."""
        who = escape(e.run_id.removeprefix(f"{self._tournament.id}-"))
        m = e.measured
        value = f"{m.search_bpb:.4f}" if m.search_bpb is not None else f"crash ({m.crash})"
        what = escape(" ".join(e.description.split())[:60])
        kind = f"{e.kind} {e.index}"
        return f"[dim]{who:<24}[/dim] {kind:<11} val_bpb {value}  {what}"

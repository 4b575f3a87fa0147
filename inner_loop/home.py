"""Where state lives: one folder, `$METARESEARCH_HOME`, default `./results`; DESIGN.md section 4.

Owns: the paths under it, the lock that lets one driver write at a time, and how times are written.
Does not own: what is in the files.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from inner_loop.errors import UserError
from inner_loop.ledger import Ledger

REPOSITORY = Path(__file__).resolve().parent.parent
"""The clone: train.py, prepare.py, data/ and programs/ lie here."""


def utc_now() -> str:
    """The time as the ledger writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Home:
    """The state folder."""

    def __init__(self, root: Path, ledger_url: str = "") -> None:
        self.root = root
        self.ledger_url = ledger_url

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Home:
        """`METARESEARCH_HOME` (default `results`) and `METARESEARCH_LEDGER` (a SQLAlchemy URL)."""
        root = Path(env.get("METARESEARCH_HOME") or "results")
        return cls(root.expanduser().absolute(), env.get("METARESEARCH_LEDGER", ""))

    @property
    def cache(self) -> Path:
        """Tokenised corpora, one folder per data key."""
        return self.root / "cache"

    @property
    def scratch(self) -> Path:
        """Throw-away folders of run boxes."""
        return self.root / "scratch"

    def tournament(self, tournament_id: str) -> Path:
        """Folder of one tournament: its repository, runs and report."""
        return self.root / "tournaments" / tournament_id

    def run(self, tournament_id: str, run_id: str) -> Path:
        """Folder of one run: worktree, program.md, logs, results.tsv."""
        return self.tournament(tournament_id) / "runs" / run_id

    def rewriter(self, first_tournament_id: str) -> Path:
        """Where the rewriter of a series of rounds keeps what it was asked and answered."""
        return self.tournament(first_tournament_id) / "rewriter"

    def make(self) -> None:
        """Create the folder.

        Raises:
            UserError: it cannot be created or written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".probe-{os.getpid()}"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"Cannot write to the state folder {self.root} ({error.strerror}); set "
                "METARESEARCH_HOME to a folder you can write to."
            ) from error

    def ledger(self, *, must_exist: bool = False) -> Ledger:
        """The ledger, made if missing unless `must_exist`."""
        if self.ledger_url:
            return Ledger(self.ledger_url)
        path = self.root / "ledger.db"
        if must_exist and not path.exists():
            raise UserError(
                f"No ledger at {path}; run `metaresearch demo` or `metaresearch tournament` first, "
                "or set METARESEARCH_HOME to the folder that has one."
            )
        return Ledger.at(path)

    @contextmanager
    def driver_lock(self) -> Iterator[None]:
        """Hold the right to write; the kernel frees it when the process dies, however it dies.

        Raises:
            UserError: another process drives a tournament in this home.
        """
        with (self.root / "driver.lock").open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                handle.seek(0)
                raise UserError(
                    f"Process {handle.read().strip() or '?'} is already driving a tournament in "
                    f"{self.root}; wait for it, stop it, or set another METARESEARCH_HOME."
                ) from error
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            yield

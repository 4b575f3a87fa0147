"""The folder an agent works in: made fresh for one call, read back with suspicion, removed.

Owns: writing it, reading what the agent left without following any link, and removing it whatever
its permissions.
Does not own: what lies in it (`command.py`) or who sees it (`agent_box.py`).
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from inner_loop.agent_box import INNER_ID, Mounts

MOST_BYTES = 1 << 20
"""Of a file that is read back."""
MOST_LISTED = 20


class Unfit(Exception):
    """What the agent left cannot be used; the text says which file and why."""


@contextmanager
def agent_folder(parent: Path | None, name: str) -> Iterator[Mounts]:
    """An empty folder, HOME and /tmp for one call; nothing of them is left afterwards.

    Args:
        parent: where it is made; None = the system's folder for temporary files.
        name: its name there; what a killed driver left under it goes.
    """
    root = Path(tempfile.mkdtemp()) if parent is None else parent / name
    remove(root)
    try:
        root.mkdir(parents=True, mode=0o700)
        mounts = Mounts(*(root / part for part in ("worktree", "home", "tmp", "etc")))
        for path in mounts:
            path.mkdir()
        owner = f"agent:x:{INNER_ID}"
        (mounts.users / "passwd").write_text(f"{owner}:{INNER_ID}:agent:/:/bin/sh\n")
        (mounts.users / "group").write_text(f"{owner}:\n")
        yield mounts
    finally:
        remove(root)


def remove(folder: Path) -> None:
    """Delete a folder, also where its permissions forbid it; follows no link."""
    if folder.is_symlink():
        folder.unlink()
    if not folder.exists():
        return
    for root, folders, _ in os.walk(folder):
        for path in (Path(root), *(Path(root, name) for name in folders)):
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


class LeftBehind:
    """The files of a folder after a call, by the folder as it was opened before it."""

    def __init__(self, folder: Path) -> None:
        self._fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def __enter__(self) -> LeftBehind:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self, name: str) -> bytes | None:
        """The content of a regular file, or None if there is nothing of that name.

        Raises:
            Unfit: it is anything else, too large, or cannot be read.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self._check(name)
            fd = os.open(name, flags, dir_fd=self._fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unfit(f"{name} cannot be read ({error.strerror})") from error
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Unfit(f"{name} is no longer a regular file")
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise Unfit(f"{name} is larger than {MOST_BYTES >> 20} MiB")
        return content

    def text(self, name: str) -> str | None:
        """The same as text.

        Raises:
            Unfit: also if it is not UTF-8.
        """
        content = self.read(name)
        try:
            return None if content is None else content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Unfit(f"{name} is not UTF-8 text (byte {error.start})") from error

    def others(self, known: Iterable[str]) -> list[str]:
        """Names beside `known`, shortened to a few."""
        try:
            names = sorted(set(os.listdir(self._fd)) - set(known))  # noqa: PTH208  # a descriptor
        except OSError:
            return []
        more = len(names) - MOST_LISTED
        return names[:MOST_LISTED] + ([f"and {more} more"] if more > 0 else [])

    def _check(self, name: str) -> None:
        mode = os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            raise Unfit(f"{name} is a symbolic link; links are not followed")
        if not stat.S_ISREG(mode):
            raise Unfit(f"{name} is no longer a regular file")

"""The folder an agent works in: made fresh for one call, read back with suspicion, removed.

Owns: writing it, reading what the agent left without following any link, and removing it whatever
its permissions.
Does not own: what lies in it (`command.py`) or who sees it (`agent_box.py`).
"""

from __future__ import annotations

import os
import stat
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from inner_loop.agent_box import INNER_ID, Mounts
from inner_loop.errors import UserError

MOST_BYTES = 1 << 20
"""Of a file that is read back."""
MOST_LISTED = 20
LONG_PATH = 2000
"""Bytes; the system refuses paths of 4096."""


class Unfit(Exception):
    """What the agent left cannot be used; the text says which file and why."""


@contextmanager
def agent_folder(parent: Path | None, name: str) -> Iterator[Mounts]:
    """An empty folder, HOME and /tmp for one call; nothing of them is left afterwards.

    Args:
        parent: where it is made; None = the system's folder for temporary files.
        name: its name there; what a killed driver left under it goes.

    Raises:
        UserError: what lies there can be neither removed nor put aside.
    """
    root = Path(tempfile.mkdtemp()) if parent is None else parent / name
    _vacate(root)
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


def _vacate(root: Path) -> None:
    """Remove what lies at `root`; what cannot be removed is put aside."""
    remove(root)
    if not os.path.lexists(root):
        return
    try:
        os.replace(root, tempfile.mkdtemp(prefix=f"{root.name}.left-", dir=root.parent))  # noqa: PTH105
    except OSError as error:
        raise UserError(f"{root} is in the way ({error.strerror}); remove it by hand.") from error


def remove(folder: Path) -> None:
    """Delete a folder, however deep and whatever its permissions; follows no link.

    What cannot be deleted stays, and nothing is raised. No path gets too long for the system:
    folders far down are moved up before they are emptied.
    """
    with suppress(OSError):
        if folder.is_symlink() or not folder.is_dir():
            folder.unlink(missing_ok=True)
            return
        folder.chmod(0o700)
        pit = folder / uuid.uuid4().hex
        with suppress(OSError):  # a full disk has no room for it; all but the farthest goes
            pit.mkdir(mode=0o700)
        names, waiting, emptied = map(str, count()), [folder], []
        while waiting:
            emptied.append(waiting.pop())
            waiting += _emptied(emptied[-1], pit, names)
        for path in (*reversed(emptied[1:]), pit, folder):
            with suppress(OSError):
                path.rmdir()


def _emptied(top: Path, pit: Path, names: Iterator[str]) -> list[Path]:
    """Delete the files of `top`; returns its folders, those with long paths moved into `pit`."""
    folders: list[Path] = []
    with suppress(OSError):
        for path in (top / name for name in os.listdir(top)):  # noqa: PTH208  # the whole list
            if path == pit:
                continue
            with suppress(OSError):
                if path.is_symlink() or not path.is_dir():
                    path.unlink()
                else:
                    path.chmod(0o700)
                    is_far = len(os.fsencode(path)) > LONG_PATH
                    folders.append(path.rename(pit / next(names)) if is_far else path)
    return folders


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
        """Names beside `known`, shortened to a few; bytes that are not UTF-8 are escaped."""
        try:
            names = sorted(set(os.listdir(self._fd)) - set(known))  # noqa: PTH208  # a descriptor
        except OSError:
            return []
        shown = [os.fsencode(n).decode("utf-8", "backslashreplace") for n in names[:MOST_LISTED]]
        more = len(names) - MOST_LISTED
        return shown + ([f"and {more} more"] if more > 0 else [])

    def _check(self, name: str) -> None:
        mode = os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            raise Unfit(f"{name} is a symbolic link; links are not followed")
        if not stat.S_ISREG(mode):
            raise Unfit(f"{name} is no longer a regular file")

"""One call of an agent: started, watched, ended with all it started.

Owns: its limits (time, memory, processes, what it may write), its output, and that nothing of it
is left when the call returns or is cancelled.
Does not own: where it runs (`agent_box.py`) or what its work means (`command.py`).
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

import psutil

from inner_loop.box import GIB, LAUNCHER, end_tree, own_processes, tree_members

MEMORY_GB = 8.0
PROCESSES = 512
"""Processes and threads it may start, beside those its user has."""
FILE_MB = 256
FOLDER_MB = 1024
"""All that it leaves on disk together."""
FOLDER_FILES = 50_000
FOLDER_LEVELS = 200
"""Of folders in folders."""
KEPT_OUTPUT = 1 << 18
"""Bytes of standard output, and of standard error, that are kept of the beginning; as many of the
end."""
POLL_SECONDS = 0.2
CHECK_SECONDS = 1.0


class Finished(NamedTuple):
    """How a call ended."""

    code: int
    """Exit code; 128 + N for signal N."""
    killed: str
    """Why the harness ended it; empty if it ended by itself."""
    output: str
    """Standard output, its middle cut out if it is long."""
    error: str
    """The same of standard error."""
    seconds: float


class _Drain(threading.Thread):
    """Reads a pipe to its end and keeps the first and the last bytes."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._pipe, self._head, self._tail, self._size = pipe, b"", b"", 0
        self.start()

    def run(self) -> None:
        while chunk := os.read(self._pipe.fileno(), 1 << 16):
            self._size += len(chunk)
            room = KEPT_OUTPUT - len(self._head)
            self._head += chunk[:room]
            self._tail = (self._tail + chunk[room:])[-KEPT_OUTPUT:]

    def text(self) -> str:
        """What was kept, with a note where bytes are missing."""
        self.join(timeout=5)
        missing = self._size - len(self._head) - len(self._tail)
        note = f"\n[... {missing:,} bytes left out ...]\n".encode() if missing else b""
        return (self._head + note + self._tail).decode("utf-8", "replace")


async def run_agent(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    cwd: Path,
    stdin: Path | None,
    seconds: float,
) -> Finished:
    """Run `command` and wait until nothing of it is left.

    It is started from the calling thread, the event loop's: a box dies with that thread.

    Args:
        command: the program's absolute path and its arguments; no shell reads it.
        folder: everything it may write lies under here.
        environment: all the variables it gets.
        cwd: where it starts.
        stdin: a file it reads as standard input.
        seconds: wall time after which it is killed.
    """
    started = time.monotonic()
    with (stdin or Path(os.devnull)).open("rb") as source:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), _limits(), *command],
            cwd=cwd,
            env=dict(environment),
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    assert process.stdout is not None
    assert process.stderr is not None
    tree = psutil.Process(process.pid)
    with process.stdout, process.stderr:
        output, error = _Drain(process.stdout), _Drain(process.stderr)
        try:
            killed = await _watch(process, tree, folder, seconds)
        finally:
            end_tree(process, tree)
            texts = output.text(), error.text()
    code = 128 - process.returncode if process.returncode < 0 else process.returncode
    return Finished(code, killed, *texts, time.monotonic() - started)


async def _watch(
    process: subprocess.Popen[bytes], tree: psutil.Process, folder: Path, seconds: float
) -> str:
    """Wait for its end; returns which limit it went over, if it did."""
    begun = time.monotonic()
    next_check, pause = begun + CHECK_SECONDS, POLL_SECONDS / 32
    while process.poll() is None:
        now = time.monotonic()
        if now >= begun + seconds:
            return f"it was killed after {seconds / 60:.2g} minutes, its time limit"
        if now >= next_check:
            if excess := await asyncio.to_thread(_excess, tree, folder):
                return excess
            next_check = time.monotonic() + CHECK_SECONDS
        await asyncio.sleep(pause)
        pause = min(POLL_SECONDS, 1.5 * pause)
    return ""


def _excess(tree: psutil.Process, folder: Path) -> str:
    """Which of the limits that nobody else holds is passed now."""
    memory = threads = 0
    for process in tree_members(tree):
        try:
            memory += process.memory_info().rss
            threads += process.num_threads()
        except psutil.Error:
            continue
    if memory > MEMORY_GB * GIB:
        return f"it was killed for using more than {MEMORY_GB:g} GiB of memory"
    if threads > PROCESSES:
        return f"it was killed for starting more than {PROCESSES} processes"
    if not _fits(folder):
        return (
            f"it was killed for writing more than {FOLDER_MB} MiB, {FOLDER_FILES:,} files or "
            f"{FOLDER_LEVELS} levels of folders in its folder"
        )
    return ""


def _fits(folder: Path) -> bool:
    files = size = 0
    waiting = [(str(folder), 0)]
    while waiting:
        path, level = waiting.pop()
        try:
            entries = list(os.scandir(path))
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return False
            continue  # it may be gone by now
        files += len(entries)
        for entry in entries:
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, level + 1))
                size += entry.stat(follow_symlinks=False).st_blocks * 512
        if files > FOLDER_FILES or size > FOLDER_MB << 20 or level > FOLDER_LEVELS:
            return False
    return True


def _limits() -> str:
    limits = {"RLIMIT_FSIZE": FILE_MB << 20, "RLIMIT_NOFILE": 4096}
    if sys.platform == "linux":
        limits["RLIMIT_NPROC"] = own_processes() + PROCESSES
    return json.dumps(limits)

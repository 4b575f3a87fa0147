"""The agent box: what a coding agent sees of the machine while it works on one move.

Owns: the bubblewrap command line, the check that it works here, and which paths may be shown.
Does not own: the agent's command, its limits and its end (`agent_run.py`), or its folder.

Inside there are: the system's programs and libraries read-only, a few files of /etc, a folder to
work in, an empty HOME and /tmp, and what the user lists, read-only. The ledger, other runs, caches
and the clone are not there, nor is any other process, and a network only where the user says so.
The line is that of the project's own measurements: 9 ms, capabilities dropped, own namespaces.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from inner_loop.errors import UserError

RULES = 1
"""Raise it when an agent could see or do something else: it is part of the track's protocol."""

WORKTREE = Path("/worktree")
"""Where the agent's folder is, inside."""
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
SHARED_ETC = (
    *("alternatives", "ca-certificates", "ca-certificates.conf", "crypto-policies", "gai.conf"),
    *("host.conf", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types"),
    *("nsswitch.conf", "pki", "protocols", "resolv.conf", "services", "ssl", "timezone"),
)
"""Of /etc: what programs need to start, to find a host and to check its certificate."""
INNER_ID = "1000"  # several CLIs refuse to work unattended as root
SHM_BYTES = str(64 << 20)
PROBE_SECONDS = 20


class Bubblewrap(NamedTuple):
    """What can box agents on this machine."""

    missing: str = ""
    """Why nothing can, in a few words; empty if it works."""
    executable: str = ""
    is_modern: bool = False
    """Whether this bubblewrap can forbid further user namespaces and size a tmpfs."""


class Mounts(NamedTuple):
    """Folders of this machine that one call gets, all made by the harness."""

    worktree: Path
    home: Path
    temporary: Path
    users: Path
    """Holds its own passwd and group."""


def box_report(environ: Mapping[str, str] | None = None) -> str:
    """Why agents cannot be boxed here, in a few words; empty if they can."""
    return find_box(os.environ if environ is None else environ).missing


def find_box(environ: Mapping[str, str]) -> Bubblewrap:
    """Try a box with nothing in it; the answer is kept for this process."""
    if sys.platform != "linux":
        return Bubblewrap("bubblewrap needs Linux")
    executable = shutil.which("bwrap", path=environ.get("PATH"))
    if executable is None:
        return Bubblewrap("bwrap is not on PATH; install the package `bubblewrap`")
    return _probe(executable)


@cache
def _probe(executable: str) -> Bubblewrap:
    complaint = ""
    for is_modern in (True, False):
        line = [executable, *_namespaces(False, is_modern), *_system(), "--", "/bin/sh", "-c", ":"]
        try:
            done = subprocess.run(
                line, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS, env={}
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return Bubblewrap(f"bwrap failed ({error})")
        if done.returncode == 0:
            return Bubblewrap("", executable, is_modern)
        complaint = " ".join(done.stderr.decode("utf-8", "replace").split())[:200]
    why = complaint or "it gave no reason"
    return Bubblewrap(f"bwrap failed ({why}); a container must allow user namespaces")


def boxed(
    bubblewrap: Bubblewrap,
    command: Sequence[str],
    mounts: Mounts,
    *,
    shown: Iterable[Path],
    hidden: Iterable[Path],
    network: bool,
    home: Path,
) -> list[str]:
    """`command` as it is started in a box; its environment is that of the process that starts it.

    Args:
        bubblewrap: one that works.
        command: with the paths it has inside.
        mounts: this call's folders.
        shown: paths that the agent may read.
        hidden: paths to cover where they lie in the system's own folders.
        network: whether it keeps this machine's network.
        home: where HOME is, inside: the user's own path, so that `~/.tool` in `shown` is found.
    """
    return [
        bubblewrap.executable,
        *_namespaces(network, bubblewrap.is_modern),
        *_system(),
        *_covers(hidden),
        *("--ro-bind", str(mounts.users / "passwd"), "/etc/passwd"),
        *("--ro-bind", str(mounts.users / "group"), "/etc/group"),
        *("--bind", str(mounts.temporary), "/tmp"),
        *("--bind", str(mounts.home), str(home)),
        *(word for path in shown for word in ("--ro-bind", str(path), str(path))),
        *("--bind", str(mounts.worktree), str(WORKTREE)),
        *("--remount-ro", "/", "--chdir", str(WORKTREE), "--"),
        *command,
    ]


def check_shown(paths: Iterable[Path], private: Iterable[Path], clone: Path) -> tuple[Path, ...]:
    """`paths` if an agent may be shown them all.

    Args:
        paths: absolute; what the user listed.
        private: where ledger, runs and caches lie.
        clone: the folder with train.py and data; folders inside it may be shown, itself not.

    Raises:
        UserError: one is missing, or shows or holds something private.
    """
    checked = tuple(paths)
    for path in checked:
        if not path.exists():
            raise UserError(f"{path} of agent_paths does not exist; correct it or leave it out.")
        real = path.resolve()
        for secret in (*(p.resolve() for p in private), clone.resolve()):
            is_inside = real.is_relative_to(secret) and secret != clone.resolve()
            if secret.is_relative_to(real) or is_inside:
                raise UserError(
                    f"{path} of agent_paths would show the agent {secret}, where it must not look; "
                    "list the files it needs one by one."
                )
    return checked


def is_visible(path: Path, shown: Iterable[Path]) -> bool:
    """Whether a program at `path` is there inside, its symbolic links followed."""
    roots = [*map(Path, SYSTEM), *shown]
    return all(_is_under(each, roots) for each in (path, path.resolve()))


def _is_under(path: Path, roots: Iterable[Path]) -> bool:
    return any(path.is_relative_to(each) for r in roots for each in (r, r.resolve()))


def _namespaces(network: bool, is_modern: bool) -> list[str]:
    return [
        *("--unshare-all", "--unshare-user", "--uid", INNER_ID, "--gid", INNER_ID),
        *(["--share-net"] if network else []),
        *(["--disable-userns"] if is_modern else []),
        *("--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *("--proc", "/proc", "--dev", "/dev"),
        *(["--size", SHM_BYTES] if is_modern else []),
        *("--tmpfs", "/dev/shm", "--remount-ro", "/dev"),
    ]


def _system() -> list[str]:
    words: list[str] = []
    for folder in map(Path, SYSTEM):
        if folder.is_symlink():
            words += ["--symlink", str(folder.readlink()), str(folder)]
        elif folder.is_dir():
            words += ["--ro-bind", str(folder), str(folder)]
    for name in SHARED_ETC:
        words += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    return words


def _covers(hidden: Iterable[Path]) -> list[str]:
    """An empty folder over what must not be seen and would be, as part of the system."""
    system = [Path(folder) for folder in SYSTEM]
    found = [p for p in hidden if p.is_dir() and _is_under(p.resolve(), system)]
    return [word for path in found for word in ("--tmpfs", str(path.resolve()))]

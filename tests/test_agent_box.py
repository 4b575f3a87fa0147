"""What an agent can see and do in its box, found out by agents that try."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from inner_loop import agent_box
from inner_loop.agent_box import (
    Bubblewrap,
    Mounts,
    box_report,
    boxed,
    check_shown,
    find_box,
    is_visible,
)
from inner_loop.command import CommandResearcher
from inner_loop.errors import UserError
from inner_loop.home import REPOSITORY
from inner_loop.records import Move
from inner_loop.researcher import Setup
from inner_loop.settings import Settings
from tests.test_command import AGENTS, brief, python_paths

NO_BOX = box_report()
needs_box = pytest.mark.skipif(bool(NO_BOX), reason=NO_BOX or "bubblewrap works")


@pytest.fixture
def port() -> Iterator[int]:
    """A server on this machine that anybody may talk to."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def neighbour() -> Iterator[None]:
    """Another process of this user, with a key in its environment."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"],
        env={"LEAK_KEY": "k-987654321"},
    )
    yield
    process.kill()
    process.wait()


@pytest.fixture
def secrets(tmp_path: Path) -> list[Path]:
    """What must stay unseen: the ledger, another run, hidden shards, a private file, the clone."""
    home = tmp_path / "runs"
    files = [home / "ledger.db", home / "tournaments" / "T-1" / "runs" / "rival" / "train.py"]
    files += [home / "cache" / "key" / "audit.bin", tmp_path / "private"]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("secret")
    clone = [REPOSITORY / "data", REPOSITORY / "train.py", REPOSITORY / "inner_loop"]
    return [*files, *clone, Path("/etc/shadow"), Path(__file__)]


def look(tmp_path: Path, secrets: list[Path], port: int, environ: dict[str, str]) -> Move:
    """Let an agent look for all of that."""
    line = f"{sys.executable} -I -S {AGENTS / 'odd.py'} look {':'.join(map(str, secrets))} {port}"
    settings = Settings(
        command=line,
        agent_paths=(*python_paths(), str(AGENTS)),
        agent_network="NETWORK" in environ,
    )
    folder = tmp_path / "runs" / "tournaments" / "T-1" / "runs" / "mine"
    setup = Setup(
        "command",
        settings=settings,
        folder=folder,
        environ=environ | {"METARESEARCH_HOME": str(tmp_path / "runs"), "LEAK_KEY": "k-123456789"},
    )
    return asyncio.run(CommandResearcher(setup).next_move(brief()))


@needs_box
def test_in_the_box_there_is_nothing_to_see(
    tmp_path: Path, secrets: list[Path], port: int, neighbour: None
) -> None:
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    move = look(tmp_path, secrets, port, environ)
    assert move.description == "saw nothing; uid 1000"
    assert not move.untrusted


@needs_box
def test_a_network_is_there_only_if_it_is_asked_for(tmp_path: Path, port: int) -> None:
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "NETWORK": "1"}
    assert look(tmp_path, [tmp_path / "x"], port, environ).description == "saw network; uid 1000"


def test_without_a_box_it_works_and_says_so(tmp_path: Path, port: int) -> None:
    (tmp_path / "bin").mkdir()
    environ = {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path)}
    move = look(tmp_path, [tmp_path / "bin"], port, environ)
    assert str(tmp_path / "bin") in move.description
    assert "LEAK" not in move.description  # its own environment is clean all the same
    assert move.untrusted


def test_the_report_says_in_a_few_words_what_is_missing(tmp_path: Path) -> None:
    assert "install the package `bubblewrap`" in box_report({"PATH": str(tmp_path)})
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    report = box_report({"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert report.startswith("bwrap failed (No permissions to create new namespace)")


@needs_box
def test_an_older_bubblewrap_is_asked_for_less(tmp_path: Path) -> None:
    real = find_box(os.environ).executable
    old = tmp_path / "bwrap"
    old.write_text(
        "#!/bin/sh\nfor word; do case $word in --disable-userns|--size) exit 1;; esac; done\n"
        f'exec {real} "$@"\n'
    )
    old.chmod(0o755)
    found = find_box({"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert (found.missing, found.is_modern) == ("", False)


def test_no_secret_stands_on_the_command_line(tmp_path: Path) -> None:
    mounts = Mounts(*(tmp_path / name for name in "whtu"))
    line = boxed(
        Bubblewrap("", "/usr/bin/bwrap", is_modern=True),
        ["/usr/bin/true"],
        mounts,
        shown=[],
        hidden=[],
        network=False,
        home=Path("/home/me"),
    )
    assert "--setenv" not in line
    assert "--share-net" not in line
    assert {"--unshare-all", "--die-with-parent", "--new-session", "--disable-userns"} <= set(line)


def test_private_folders_inside_the_system_are_covered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_box, "SYSTEM", (str(tmp_path),))
    (tmp_path / "state").mkdir()
    mounts = Mounts(*(tmp_path / name for name in "whtu"))
    line = boxed(
        Bubblewrap("", "/usr/bin/bwrap", is_modern=True),
        ["/usr/bin/true"],
        mounts,
        shown=[],
        hidden=[tmp_path / "state", Path("/elsewhere")],
        network=True,
        home=Path("/home/me"),
    )
    assert line[line.index(str(tmp_path / "state")) - 1] == "--tmpfs"
    assert "/elsewhere" not in line


def test_a_folder_that_leads_to_a_secret_is_not_shown(tmp_path: Path) -> None:
    private, clone = tmp_path / "results", tmp_path / "clone"
    for folder in (private / "cache", clone / ".venv", tmp_path / "tools"):
        folder.mkdir(parents=True)
    fine = [tmp_path / "tools", clone / ".venv"]
    assert check_shown(fine, [private], clone) == tuple(fine)
    for bad in (tmp_path, clone, private, private / "cache"):
        with pytest.raises(UserError, match="must not look"):
            check_shown([bad], [private], clone)


def test_a_program_is_visible_if_its_links_are(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "tool").write_text("")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tool").symlink_to(tmp_path / "real" / "tool")
    link = tmp_path / "bin" / "tool"
    assert not is_visible(link, [tmp_path / "bin"])
    assert is_visible(link, [tmp_path / "bin", tmp_path / "real"])
    assert is_visible(Path("/usr/bin/env"), [])

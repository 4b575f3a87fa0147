"""Bad input: one sentence, exit code 2, no traceback, a ledger that can still be read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from inner_loop.home import REPOSITORY, Home
from outer_loop.failures import as_sentence

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
QUICK = str(Path(__file__).parent / "data" / "quick.toml")


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """The command ended with code 2 and one sentence that has all `words`."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("Error: ")
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (None, ["does not exist"]),
        (b"", ["is empty"]),
        (b" \n\t\n", ["is empty"]),
        (b"\x89PNG\r\n\x1a\n\x00\x00", ["UTF-8"]),
        (b"x" * 10_000_000, ["10,000,000 bytes", "shorten"]),
        (b"text with \x00 in it", ["NUL"]),
    ],
)
def test_a_program_that_cannot_run_is_one_sentence(
    cli: Cli, home: Home, tmp_path: Path, body: bytes | None, words: list[str]
) -> None:
    path = tmp_path / "mine.md"
    if body is not None:
        path.write_bytes(body)
    refused(cli("run", str(path), "--track", QUICK), "mine.md", *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "stock", "--track", "tiny-cpuu"], ["Unknown track", "tiny-cpu"]),
        (["run", "stok"], ["Unknown program 'stok'", "Did you mean 'stock'"]),
        (["run", "stock", "--researcher", "shel"], ["Unknown researcher 'shel'", "catalog"]),
        (["run", "stock", "--researcher", "nosuch:Thing"], ["'nosuch:Thing'", "cannot be loaded"]),
        (["tournament", "stock", "stock"], ["same text"]),
        (["leaderboard"], ["No ledger at", "metaresearch demo"]),
        (["show", "anything"], ["No ledger at"]),
        (["report"], ["No ledger at"]),
        (["run", "stock", "--researcher", "replay", "--model", "nowhere.json"], ["nowhere.json"]),
    ],
)
def test_a_wrong_word_is_one_sentence(cli: Cli, words: list[str], said: list[str]) -> None:
    refused(cli(*words), *said)


def test_a_name_that_git_would_refuse_is_one_sentence(cli: Cli, home: Home, tmp_path: Path) -> None:
    path = tmp_path / "my program.md"
    path.write_text("- improve\n")
    refused(cli("run", str(path), "--track", QUICK), "'my program'", "rename")


def test_usage_errors_have_the_same_exit_code(cli: Cli) -> None:
    assert cli("tournament", "--replicates", "0").returncode == 2
    assert cli("fly").returncode == 2


def test_a_corrupt_ledger_is_one_sentence_and_stays_as_it_was(cli: Cli, home: Home) -> None:
    path = home.root / "ledger.db"
    path.write_bytes(b"SQLite format 3\x00" + b"garbage" * 1000)
    before = path.read_bytes()
    for words in (["leaderboard"], ["run", "stock", "--track", QUICK]):
        refused(cli(*words), "ledger.db", "damaged")
    assert path.read_bytes() == before


def test_no_git_is_one_sentence(cli: Cli, home: Home, tmp_path: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    done = cli("run", "stock", "--track", QUICK, env={"PATH": str(empty)})
    refused(done, "git is not installed")


def test_a_home_below_a_file_is_one_sentence(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    env = {"METARESEARCH_HOME": str(tmp_path / "file" / "home")}
    refused(cli("run", "stock", "--track", QUICK, env=env), "METARESEARCH_HOME")


def mounted(script: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a shell script in a mount namespace of its own, or skip where that is not allowed."""
    unshare = shutil.which("unshare")
    probe = [unshare or "unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    if not unshare or subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        pytest.skip("cannot mount a file system here")
    return subprocess.run(
        [unshare, "-rm", "sh", "-c", script],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | dict(env),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_read_only_home_is_one_sentence(tmp_path: Path) -> None:
    home = tmp_path / "ro"
    home.mkdir()
    script = (
        f"mount -t tmpfs -o size=1m none {home} && mount -o remount,ro {home} && "
        f"exec {sys.executable} -m outer_loop.cli run stock --track {QUICK}"
    )
    refused(mounted(script, {"METARESEARCH_HOME": str(home)}), "Read-only", "METARESEARCH_HOME")


@pytest.mark.parametrize("megabytes", [1, 9])
def test_a_full_disk_is_one_sentence_and_the_ledger_can_be_read(
    tmp_path: Path, prepared: Path, megabytes: int
) -> None:
    """1 MB is full while preparing, 9 MB while training."""
    home, copy = tmp_path / "full", tmp_path / "ledger.db"
    home.mkdir()
    fill = f"cp -r {prepared} {home}/cache && " if megabytes > 8 else ""
    python = f"{sys.executable} -m outer_loop.cli"
    script = (
        f"mount -t tmpfs -o size={megabytes}m none {home} && {fill}"
        f"dd if=/dev/zero of={home}/ballast bs=1k count={100 if megabytes == 1 else 3900} "
        f"2>/dev/null; {python} run stock --track {QUICK}; code=$?; rm -f {home}/ballast; "
        f"cp {home}/ledger.db* {tmp_path} 2>/dev/null; exit $code"
    )
    done = mounted(script, {"METARESEARCH_HOME": str(home)})
    refused(done, "No space left" if megabytes == 1 else "disk is full", "ree s", "pace")
    if copy.exists():
        from inner_loop.ledger import Ledger

        Ledger.at(copy).close()


def test_other_failures_stay_tracebacks() -> None:
    assert as_sentence(ValueError("a bug")) is None
    assert as_sentence(OSError(28, "No space left on device")) is not None

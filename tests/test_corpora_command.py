"""`python prepare.py` and whoever runs it: arguments, sentences, progress, a killed download."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from corpora_fixture import (
    ROOT,
    TASK,
    climb,
    contents,
)
from rich.console import Console
from shard_server import serving

from inner_loop.corpora import command, meter
from inner_loop.corpora.source import BUNDLED, CLIMBMIX, CLIMBMIX_URL, SUFFIXES, Source
from inner_loop.errors import UserError

# Killed


def run_prepare(folder: Path, *words: object, **variables: str) -> subprocess.Popen[str]:
    (folder / "task.json").write_text(json.dumps(TASK | {"corpus": CLIMBMIX}))
    where = ["--task", folder / "task.json", "--cache", folder / "c"]
    return subprocess.Popen(
        [sys.executable, ROOT / "prepare.py", *where, *map(str, words)],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
    )


def test_a_download_killed_half_way_goes_on_and_the_result_is_the_same(tmp_path: Path) -> None:
    with serving() as server:
        slow = "shard_06542.parquet"
        server.pause[slow] = threading.Event()
        process = run_prepare(tmp_path, "--shards", 1, "--base-url", server.url)
        downloads = tmp_path / "downloads" / "climbmix"
        end = time.monotonic() + 60
        while len(list(downloads.glob("*.parquet"))) < 3 or not part_size(downloads / slow):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        server.pause.pop(slow).set()
        left, first = part_size(downloads / slow), len(server.asked)
        assert first == 4
        again = run_prepare(tmp_path, "--shards", 1, METARESEARCH_CLIMBMIX_URL=server.url)
        output, error = again.communicate()
        assert again.returncode == 0, error
        assert output.startswith("Prepared climbmix in ")
        (asked,) = server.asked[first:]  # nothing that was finished is asked for again
        assert (asked.name, asked.start, asked.status) == (slow, left, 206)
        (tmp_path / "undisturbed").mkdir()
        climb(server, tmp_path / "undisturbed")
    assert contents(tmp_path / "c") == contents(tmp_path / "undisturbed" / "c")


@pytest.mark.parametrize("fault", ["busy", "silent"])
def test_ctrl_c_does_not_wait_for_a_server(tmp_path: Path, fault: str) -> None:
    """One that asks for a minute, or one that says nothing more."""
    with serving() as server:
        name, server.retry_after = "shard_06542.parquet", "60"
        if fault == "busy":
            server.statuses[name] += [503] * 99
        else:
            server.pause[name] = threading.Event()
        process = run_prepare(tmp_path, "--shards", 1, "--base-url", server.url)
        end = time.monotonic() + 60
        while len(list((tmp_path / "downloads" / "climbmix").glob("*.parquet"))) < 3:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end
            time.sleep(0.02)
        assert server.of(name)
        process.send_signal(signal.SIGINT)
        interrupted = time.monotonic()
        _, error = process.communicate(timeout=30)
    assert time.monotonic() - interrupted < 20  # the server asks for 60; 2 on an idle machine
    assert (process.returncode, error) == (
        130,
        "Interrupted; the same command continues the downloads.\n",
    )


def part_size(path: Path) -> int:
    part = path.with_name(f"{path.name}.part")
    return part.stat().st_size if part.exists() else 0


# The command line


def parsed(*words: str, corpus: str = "shakespeare", **env: str) -> Source:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.source_from(parser.parse_args(words), {"corpus": corpus}, env)


def test_the_task_names_the_corpus_unless_the_user_does(tmp_path: Path) -> None:
    bundled = Source("shakespeare", (BUNDLED / "shakespeare.parquet",))
    assert parsed() == parsed("--corpus", "shakespeare", corpus="climbmix") == bundled
    assert parsed(corpus="climbmix") == Source("climbmix")
    assert parsed(corpus="letters") == Source("letters")
    own = tmp_path / "own.jsonl"
    assert parsed(corpus=str(own)) == Source("own.jsonl")
    own.write_text('"x"')
    assert parsed(corpus=str(own)) == parsed("--corpus", str(own)) == Source("own.jsonl", (own,))
    both = parsed("--corpus", str(own), str(BUNDLED / "shakespeare.parquet"))
    assert (both.name, len(both.files)) == ("own.jsonl and 1 more", 2)


def test_the_base_url_comes_from_the_option_or_the_environment() -> None:
    assert parsed().base_url == CLIMBMIX_URL
    assert parsed(METARESEARCH_CLIMBMIX_URL="http://a/b/").base_url == "http://a/b"
    assert parsed("--base-url", "http://c", METARESEARCH_CLIMBMIX_URL="http://a").base_url == (
        "http://c"
    )
    assert parsed("--shards", "-1", "--workers", "3")[2:] == (-1, CLIMBMIX_URL, 3, False)
    assert parsed("--replace").replace


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--corpus", "shakespear"], "Unknown corpus 'shakespear'. Did you mean 'shakespeare'"),
        (["--corpus", "absent.txt"], r"absent\.txt: no such corpus file"),
        (["--corpus", __file__], rf"must end in {', '.join(SUFFIXES)}"),
        (["--shards", "0"], "--shards is 0; give 1 or more, or -1 for all"),
        (["--workers", "0"], "--workers is 0; give 1 or more"),
        (["--base-url", "ftp://x"], "'ftp://x' is no http:// or https:// address"),
    ],
)
def test_bad_arguments_are_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        parsed(*words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("One sentence."), 2, "One sentence.\n"),
        (OSError(28, "No space left on device"), 2, "in there (No space left on device); check"),
        (KeyboardInterrupt(), 130, "Interrupted; the same command continues"),
    ],
)
def test_what_goes_wrong_is_one_line_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    with pytest.raises(SystemExit) as end, command.sentences(Path("there")):
        raise error
    printed = capsys.readouterr().err
    assert end.value.code == code
    assert line in printed
    assert printed.count("\n") == 1


# Progress


def test_without_a_terminal_progress_is_a_line_now_and_then() -> None:
    said: list[str] = []
    now = 0.0
    plain = meter.Meters(said.append, Console(file=io.StringIO()), lambda: now)
    with plain.meter("Downloading", None) as one:
        for second in range(1, 41):
            now = float(second)
            if second == 10:
                one.expect(100_000_000)
            one.advance(1_000_000)
    assert said == [
        "Downloading: 3 MB",
        "Downloading: 18 of 100 MB, about 82 s left",
        "Downloading: 33 of 100 MB, about 67 s left",
    ]
    assert meter.progress_line("X", 10, 1000, "documents", 200.0) == (
        "X: 10 of 1,000 documents, about 5.5 h left"
    )


def test_on_a_terminal_progress_is_a_bar_that_goes_away() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    bars = meter.Meters(pytest.fail, console)
    for unit in ("bytes", "documents"):
        with bars.meter("Working", None, unit) as one:
            one.expect(100)
            one.advance(50)
    shown = screen.getvalue()
    assert "Working" in shown
    assert "50/100 bytes" in shown
    assert "50%" in shown

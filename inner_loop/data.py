"""Prepared data for a task: runs prepare.py once and names the result.

Owns: where the cache of a task lies and that it is complete before any experiment starts. A user's
own text is part of the folder's name by its content, so that no other text ever takes its place.
Does not own: what is in it (`corpora`), nor the tokenizer and packing (`prepare.py`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from inner_loop.corpora.cache import corpus_sha256, other_corpus, read_manifest, ready
from inner_loop.corpora.command import source_named
from inner_loop.corpora.source import is_text_file
from inner_loop.errors import UserError
from inner_loop.home import REPOSITORY, Home
from inner_loop.literals import with_start
from inner_loop.records import Task, Track, content_hash
from inner_loop.tracks import task_json

STDERR = 2  # what goes to standard output must stay readable by programs
INTERRUPTED = 130  # exit code, as shells use it for Ctrl-C
GOODBYE_SECONDS = 5.0


class PreparedData(NamedTuple):
    """A tokenised corpus."""

    name: str
    """Its folder under `home.cache`."""
    corpus_sha256: str
    """Hash of the file or files it was made from."""


def prepare_data(track: Track, home: Home) -> PreparedData:
    """Make sure the track's corpus is tokenised; while it is not, progress shows on stderr.

    Raises:
        UserError: the corpus is missing or unusable (prepare.py's own sentence), or the folder
            holds another one.
    """
    task, own = track.task, _own_sha256(track)
    name = folder_name(task, own)
    cache, words = home.cache / name, [task.corpus_file] if task.corpus_file else []
    fields, source = json.loads(task_json(track)), source_named(words, task.corpus)
    if not ready(fields, cache, source):
        _refuse_another(other_corpus(fields, cache, source), cache, task)
        _run_prepare(track, home, cache, words)
    manifest = read_manifest(cache)
    if manifest is None or (own and manifest["corpus_sha256"] != own):
        raise UserError(f"The data in {cache} changed meanwhile; run the command again.")
    return PreparedData(name, str(manifest["corpus_sha256"]))


def folder_name(task: Task, own_sha256: str = "") -> str:
    """The name of the folder of a task's data: equal text, equal folder, wherever its file lies.

    Args:
        task: names the corpus, the vocabulary and the context.
        own_sha256: of the user's own corpus file; empty for a corpus that is known by name.
    """
    # how a file is read follows its ending, so that is part of the corpus as its bytes are
    corpus = own_sha256 + Path(task.corpus).suffix.lower() if own_sha256 else task.corpus
    return f"{task.name}-{content_hash([corpus, task.vocab_size, task.max_seq_len], length=8)}"


def _own_sha256(track: Track) -> str:
    """The content of the user's own corpus; a track out of the ledger knows it without the file."""
    file = track.task.corpus_file
    if not file:
        return track.corpus_sha256 if is_text_file(track.task.corpus) else ""
    try:
        return corpus_sha256((Path(file),))
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"{file}: cannot read the corpus file ({why}); check the path.") from error


def _refuse_another(other: str, cache: Path, task: Task) -> None:
    if other:
        raise UserError(
            f"{cache} holds the corpus {other} and not this {task.corpus}: remove that folder, or "
            "set another METARESEARCH_HOME."
        )


def _run_prepare(track: Track, home: Home, cache: Path, words: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        task_file = Path(folder) / "task.json"
        task_file.write_text(task_json(track), encoding="utf-8")
        where = ["--task", str(task_file), "--cache", str(cache)]
        code, said = _run(
            [sys.executable, str(REPOSITORY / "prepare.py"), *where, *_corpus(words)],
            os.environ | {"METARESEARCH_HOME": str(home.root), "PYTHONUNBUFFERED": "1"},
        )
    if code != 0:
        last = (said.strip().splitlines() or [f"prepare.py ended with code {code}."])[-1]
        raise UserError(last.replace(str(task_file), f"task '{track.task.name}'"))


def _run(command: list[str], env: Mapping[str, str]) -> tuple[int, str]:
    """Exit code and standard error of a command; what it prints goes to ours."""
    with subprocess.Popen(
        command, stdout=STDERR, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        try:
            _, said = process.communicate()
        except KeyboardInterrupt:  # the terminal interrupts prepare.py too, which tidies up
            with suppress(subprocess.TimeoutExpired):
                process.wait(GOODBYE_SECONDS)
            process.kill()
            print("Stopped. The same command continues the downloads.", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
    return process.returncode, said


def _corpus(words: Sequence[str]) -> list[str]:
    return ["--corpus", *words] if words else []


def base_files(track: Track) -> dict[str, str]:
    """The starting train.py, with the track's constants, prepare.py and task.json, by name.

    Raises:
        UserError: a `[start]` table names a constant that train.py does not have.
    """
    names = ("train.py", "prepare.py")
    files = {n: (REPOSITORY / n).read_text(encoding="utf-8") for n in names}
    start = track.task.start | track.start
    files["train.py"] = with_start(files["train.py"], start)
    return files | {"task.json": task_json(track)}

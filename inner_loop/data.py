"""Prepared data for a task: runs prepare.py once and names the result.

Owns: where the cache of a task lies and that it is complete before any experiment starts.
Does not own: what is in it (`corpora`), nor the tokenizer and packing (`prepare.py`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from inner_loop.corpora.cache import read_manifest, ready
from inner_loop.corpora.command import source_named
from inner_loop.errors import UserError
from inner_loop.home import REPOSITORY, Home
from inner_loop.literals import with_start
from inner_loop.records import Track, content_hash
from inner_loop.tracks import task_json

STDERR = 2  # what goes to standard output must stay readable by programs


class PreparedData(NamedTuple):
    """A tokenised corpus."""

    name: str
    """Its folder under `home.cache`."""
    corpus_sha256: str
    """Hash of the file or files it was made from."""


def prepare_data(track: Track, home: Home) -> PreparedData:
    """Make sure the track's corpus is tokenised; while it is not, progress shows on stderr.

    Raises:
        UserError: the corpus is missing or unusable; prepare.py's own sentence.
    """
    task = track.task
    name = f"{task.name}-{content_hash([task.corpus, task.vocab_size, task.max_seq_len], length=8)}"
    words = [task.corpus_file] if task.corpus_file else []
    fields = json.loads(task_json(track))
    if not ready(fields, home.cache / name, source_named(words, task.corpus)):
        _run_prepare(track, home, home.cache / name, words)
    manifest = read_manifest(home.cache / name)
    if manifest is None:
        raise UserError(f"The data in {home.cache / name} is gone again; run the command again.")
    return PreparedData(name, str(manifest["corpus_sha256"]))


def _run_prepare(track: Track, home: Home, cache: Path, words: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        task_file = Path(folder) / "task.json"
        task_file.write_text(task_json(track), encoding="utf-8")
        where = ["--task", str(task_file), "--cache", str(cache)]
        done = subprocess.run(
            [sys.executable, str(REPOSITORY / "prepare.py"), *where, *_corpus(words)],
            stdout=STDERR,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"METARESEARCH_HOME": str(home.root), "PYTHONUNBUFFERED": "1"},
            check=False,
        )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise UserError(lines[-1] if lines else f"prepare.py ended with code {done.returncode}.")


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

"""Prepared data for a task: runs prepare.py once and names the result.

Owns: where the cache of a task lies and that it is complete before any experiment starts.
Does not own: what is in it (`prepare.py`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from inner_loop.errors import UserError
from inner_loop.home import REPOSITORY, Home
from inner_loop.records import Track, content_hash
from inner_loop.tracks import task_json


class PreparedData(NamedTuple):
    """A tokenised corpus."""

    name: str
    """Its folder under `home.cache`."""
    corpus_sha256: str
    """Hash of the file it was made from."""


def prepare_data(track: Track, home: Home) -> PreparedData:
    """Make sure the track's corpus is tokenised.

    Raises:
        UserError: the corpus is missing or unusable; prepare.py's own sentence.
    """
    task = track.task
    name = f"{task.name}-{content_hash([task.corpus, task.vocab_size, task.max_seq_len], length=8)}"
    with tempfile.TemporaryDirectory() as folder:
        task_file = Path(folder) / "task.json"
        task_file.write_text(task_json(track), encoding="utf-8")
        where = ["--task", str(task_file), "--cache", str(home.cache / name)]
        done = subprocess.run(
            [sys.executable, str(REPOSITORY / "prepare.py"), *where],
            capture_output=True,
            text=True,
            env=os.environ | {"METARESEARCH_HOME": str(home.root)},
            check=False,
        )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise UserError(lines[-1] if lines else f"prepare.py ended with code {done.returncode}.")
    manifest = json.loads((home.cache / name / "manifest.json").read_text(encoding="utf-8"))
    return PreparedData(name, str(manifest["corpus_sha256"]))


def base_files(track: Track) -> dict[str, str]:
    """The starting train.py, prepare.py and the track's task.json, by name."""
    names = ("train.py", "prepare.py")
    files = {n: (REPOSITORY / n).read_text(encoding="utf-8") for n in names}
    return files | {"task.json": task_json(track)}

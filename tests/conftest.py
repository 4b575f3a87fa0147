"""Fixtures: state always under a temporary folder; the tokenised corpus is made once a worker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import settings

from inner_loop.data import base_files, prepare_data
from inner_loop.execute import Job, Site, execute
from inner_loop.home import REPOSITORY, Home
from inner_loop.records import Measured, Track
from inner_loop.tracks import load_track

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

QUICK = Path(__file__).parent / "data" / "quick.toml"


@pytest.fixture(autouse=True)
def _state_under_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METARESEARCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("METARESEARCH_LEDGER", raising=False)


@pytest.fixture(scope="session")
def quick() -> Track:
    return load_track(str(QUICK))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, quick: Track) -> Path:
    """A cache folder with the quick task's data in it."""
    home = Home(tmp_path_factory.mktemp("prepared"))
    prepare_data(quick, home)
    return home.cache


@pytest.fixture
def home(tmp_path: Path, prepared: Path) -> Home:
    """A fresh home that has the prepared data."""
    made = Home(tmp_path / "home")
    made.make()
    made.cache.symlink_to(prepared, target_is_directory=True)
    return made


@pytest.fixture
def train(tmp_path: Path, prepared: Path, quick: Track) -> Callable[..., Measured]:
    """Run a train.py text as one job: `train(source, track=..., seed=..., files=...)`."""

    def run(
        source: str | None = None,
        track: Track = quick,
        seed: int = 1,
        files: Mapping[str, str] | None = None,
    ) -> Measured:
        texts = base_files(track) | dict(files or {})
        if source is not None:
            texts["train.py"] = source
        (data,) = [p.name for p in prepared.iterdir()]
        job = Job(
            run_id="x", index=1, files=texts, track=track, seed=seed, shards=("search",), data=data
        )
        return execute(job, Site(prepared, tmp_path / "scratch"), slot=0)

    return run


Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run the real command line in a real process."""

    def run(*words: str, env: Mapping[str, str] | None = None, timeout: float = 300) -> object:
        return subprocess.run(
            [sys.executable, "-m", "outer_loop.cli", *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "140"} | dict(env or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run  # type: ignore[return-value]

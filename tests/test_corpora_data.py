"""The data of a track: its own folder for every text, never swapped under whoever uses it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from corpora_fixture import PREPARE, ROOT, contents, some_texts
from shard_server import serving

from inner_loop.corpora import cache
from inner_loop.data import base_files, folder_name, prepare_data
from inner_loop.errors import UserError
from inner_loop.execute import Job, Site, execute
from inner_loop.faults import MachineFault
from inner_loop.home import Home
from inner_loop.records import Track
from inner_loop.tracks import load_track, task_json

QUICK = (ROOT / "tests" / "data" / "quick.toml").read_text()
TASK = """
corpus = "{corpus}"
vocab_size = 300
max_seq_len = 16
eval_tokens = {eval_tokens}
scored_tokens = 1024
"""


def write_texts(path: Path, prefix: str = "") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n\n".join(some_texts(1000, prefix)))
    return path


def track_on(corpus: str, folder: Path, eval_tokens: int = 1024) -> Track:
    """A track file and its task file in a folder, read."""
    folder.mkdir(exist_ok=True)
    (folder / "mine.toml").write_text(TASK.format(corpus=corpus, eval_tokens=eval_tokens))
    (folder / "track.toml").write_text(QUICK.replace("quick-task.toml", "mine.toml"))
    return load_track(str(folder / "track.toml"))


# A track's own corpus


def test_a_track_with_its_own_corpus_is_prepared_once(
    quick: Track, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "own.jsonl"
    corpus.write_text("".join(json.dumps(t) + "\n" for t in some_texts(400)))
    changes = {"corpus": corpus.name, "corpus_file": str(corpus), "vocab_size": 300}
    track = quick.model_copy(update={"task": quick.task.model_copy(update=changes)})
    home = Home(tmp_path / "home")
    data = prepare_data(track, home)
    assert data.corpus_sha256 == cache.file_sha256(corpus)
    assert capfd.readouterr().err.startswith("Prepared own.jsonl in ")
    assert prepare_data(track, home) == data
    stored = {"task": track.task.model_copy(update={"corpus_file": ""})}
    elsewhere = track.model_copy(update=stored | {"corpus_sha256": data.corpus_sha256})
    assert prepare_data(elsewhere, home) == data  # read back from the ledger, without the path
    assert capfd.readouterr() == ("", "")
    corpus.write_text('{"text": 1}\n')
    with pytest.raises(
        UserError, match=r"^/\S+own\.jsonl, line 1: `text` must be a string, not 1\."
    ):
        prepare_data(track, home)


def test_equal_texts_have_one_folder_and_others_another(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    home, name = Home(tmp_path / "home"), "my texts.en.TXT"
    first = write_texts(tmp_path / "a" / name)
    write_texts(tmp_path / "b" / name, "other ")
    (tmp_path / "c").mkdir()
    shutil.copy(first, tmp_path / "c" / "copy.txt")
    tracks = [track_on(name, tmp_path / "a"), track_on(name, tmp_path / "b")]
    a, b = (prepare_data(track, home) for track in tracks)
    assert a.name != b.name
    assert a.name.startswith("mine-")
    assert "Prepared my texts.en.TXT in " in capfd.readouterr().err
    before = contents(home.cache / a.name)
    assert prepare_data(tracks[0], home) == a
    assert prepare_data(track_on("copy.txt", tmp_path / "c"), home) == a
    assert capfd.readouterr().err == ""
    assert contents(home.cache / a.name) == before


def test_a_corpus_that_has_a_name_keeps_the_folder_that_prepare_py_computes(
    quick: Track, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("METARESEARCH_HOME", "METARESEARCH_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for track in (quick, load_track("gpu-5min")):
        alone = PREPARE.cache_dir(json.loads(task_json(track)))
        assert alone == f"results/cache/{folder_name(track.task)}"


def test_a_corpus_file_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    corpus = write_texts(tmp_path / "a" / "x.txt")
    track = track_on("x.txt", tmp_path / "a")
    corpus.unlink()
    with pytest.raises(UserError, match=r"x\.txt: cannot read the corpus file \(No such file"):
        prepare_data(track, Home(tmp_path / "home"))


def test_what_prepare_py_refuses_does_not_name_a_file_that_is_gone(tmp_path: Path) -> None:
    track = track_on("shakespeare", tmp_path / "a", eval_tokens=1 << 41)
    with pytest.raises(UserError, match=r"^task 'mine': eval_tokens must be"):
        prepare_data(track, Home(tmp_path / "home"))


def test_ctrl_c_says_that_the_same_command_continues(tmp_path: Path) -> None:
    track_on("climbmix", tmp_path / "a")
    code = (
        "import sys; from pathlib import Path; from inner_loop.data import prepare_data;"
        "from inner_loop.home import Home; from inner_loop.tracks import load_track;"
        "prepare_data(load_track(sys.argv[1]), Home(Path(sys.argv[2])))"
    )
    with serving() as server:
        server.pause["shard_06542.parquet"] = threading.Event()
        process = subprocess.Popen(
            [sys.executable, "-c", code, tmp_path / "a" / "track.toml", tmp_path / "home"],
            env=os.environ | {"PYTHONPATH": str(ROOT), "METARESEARCH_CLIMBMIX_URL": server.url},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        end = time.monotonic() + 60
        while len(server.asked) < 13:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error.splitlines()[-1] == "Stopped. The same command continues the downloads."
    assert "Traceback" not in error


# A folder that holds another corpus


def test_another_corpus_does_not_take_the_folder_of_the_tasks_own(
    quick: Track, prepared: Path, tmp_path: Path
) -> None:
    name = folder_name(quick.task)
    folder = tmp_path / "home" / "cache" / name
    shutil.copytree(prepared / name, folder)
    before = contents(folder)
    (tmp_path / "task.json").write_text(task_json(quick))
    corpus = write_texts(tmp_path / "mine.txt")
    words = ["--task", tmp_path / "task.json", "--corpus", corpus]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, ROOT / "prepare.py", *words, *more]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    refused = run()
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"{folder} holds the corpus shakespeare (sha256 ")
    assert refused.stderr.count("\n") == 1
    assert contents(folder) == before
    assert run("--replace").stdout.startswith("Prepared mine.txt in ")
    with pytest.raises(UserError, match=r"holds the corpus mine\.txt .*: remove that folder, or"):
        prepare_data(quick, Home(tmp_path / "home"))


@pytest.fixture
def job(quick: Track, prepared: Path, tmp_path: Path) -> tuple[Job, Site]:
    """A job whose track knows its corpus, on a copy of the data."""
    name = folder_name(quick.task)
    shutil.copytree(prepared / name, tmp_path / "cache" / name)
    sha256 = json.loads((prepared / name / cache.MANIFEST).read_text())["corpus_sha256"]
    track = quick.model_copy(update={"corpus_sha256": sha256})
    made = Job(
        run_id="x",
        index=1,
        files=base_files(track),
        track=track,
        seed=1,
        shards=("search",),
        data=name,
    )
    return made, Site(tmp_path / "cache", tmp_path / "scratch")


def swap(folder: Path) -> None:
    path = folder / cache.MANIFEST
    changes = {"corpus": "mine.txt", "corpus_sha256": "0" * 64}
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(job: Job, site: Site, cancelled: Callable[[], bool], said: str) -> None:
    with pytest.raises(MachineFault) as error:
        execute(job, site, 0, cancelled)
    assert str(error.value) == (
        f"{site.cache / job.data} {said}, not the one of this track: remove that folder. Nothing "
        "recorded is lost; mend it and run the same command again."
    )


def test_a_job_does_not_begin_on_another_corpus(job: tuple[Job, Site]) -> None:
    swap(job[1].cache / job[0].data)
    refused(*job, lambda: pytest.fail("it has begun"), "now holds the corpus mine.txt")


def test_a_job_does_not_begin_on_half_the_data(job: tuple[Job, Site]) -> None:
    os.truncate(job[1].cache / job[0].data / "train.bin", 10)
    refused(*job, lambda: pytest.fail("it has begun"), "is not whole any more")


def test_a_job_whose_data_is_swapped_meanwhile_is_no_row(job: tuple[Job, Site]) -> None:
    def swapping() -> bool:
        swap(job[1].cache / job[0].data)
        return False

    refused(*job, swapping, "now holds the corpus mine.txt")

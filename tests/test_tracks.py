from __future__ import annotations

import json
from pathlib import Path

import pytest

from inner_loop.data import base_files
from inner_loop.errors import UserError
from inner_loop.literals import literals, with_start
from inner_loop.records import Track
from inner_loop.tracks import TASKS, TRACKS, load_track, task_json

GOOD = (TRACKS / "tiny-steps.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(p.stem for p in TRACKS.glob("*.toml")))
def test_every_shipped_track_loads_and_renders_its_task(name: str) -> None:
    track = load_track(name)
    fields = json.loads(task_json(track))
    assert fields["clock"] == track.clock
    assert fields["time_budget"] == track.time_budget


def test_the_default_gpu_track_is_upstreams_protocol() -> None:
    track = load_track("gpu-5min")
    assert (track.clock, track.time_budget) == ("wall", 300)
    assert (track.task.max_seq_len, track.task.vocab_size) == (2048, 8192)
    assert track.task.eval_tokens == 40 * 524288


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("baselines = 2", "baselines = 2\nbaselinez = 3", ["unknown key 'baselinez'", "baselines"]),
        ("baselines = 2", "baselines = 'two'", ["'baselines'", "'two'"]),
        ("baselines = 2", "baselines = 0", ["'baselines'", "0", "greater"]),
        ("baselines = 2\n", "", ["'baselines' is missing"]),
        ('clock = "steps"', 'clock = "moon"', ["'clock'", "'moon'", "'cpu'"]),
        ("wall_seconds = 180.0", "wall_seconds = inf", ["'limits.wall_seconds'", "finite"]),
        ("experiments = 3", "experiments = 3\nsecs = 1", ["unknown key 'budget.secs'", "usd"]),
        ('task = "tiny"', 'task = "tinny"', ["Unknown task 'tinny'", "Did you mean 'tiny'"]),
        ('task = "tiny"', "task = 3", ["'task' must name a task"]),
        ("baselines = 2", "baselines = = 2", ["not valid TOML", "line"]),
        ("baselines = 2", 'baselines = 2\nhardware = "H100"\nx = 1', ["'hardware' is filled in"]),
    ],
)
def test_a_wrong_track_file_gets_one_sentence(
    tmp_path: Path, old: str, new: str, names: list[str]
) -> None:
    path = tmp_path / "mine.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(UserError) as raised:
        load_track(str(path))
    sentence = str(raised.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    for name in names:
        assert name in sentence


TASK = (TASKS / "tiny.toml").read_text(encoding="utf-8")


def load_task(folder: Path, text: str, name: str = "mine.toml") -> Track:
    """A track on a task file of this text."""
    (folder / name).write_text(text, encoding="utf-8")
    (folder / "track.toml").write_text(GOOD.replace('task = "tiny"', f'task = "{name}"'))
    return load_track(str(folder / "track.toml"))


def on_corpus(name: str) -> str:
    assert 'corpus = "shakespeare"' in TASK
    return TASK.replace('corpus = "shakespeare"', f'corpus = "{name}"')


@pytest.mark.parametrize(
    "name", ["my data.txt", "wiki.en.txt", "data.TXT", "ünï.JsonL", ".parquet"]
)
def test_a_corpus_file_may_have_any_base_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / name).write_text("text")
    task = load_task(tmp_path, on_corpus(f"texts/{name}")).task
    assert (task.corpus, task.corpus_file) == (name, str(tmp_path / "texts" / name))


@pytest.mark.parametrize(
    ("corpus", "complaint"),
    [
        ("data.TXT", "there is no corpus file"),
        ("my data", "Unknown corpus 'my data'"),
        ("novels.csv", "FILE.jsonl, FILE.parquet, FILE.txt, climbmix"),
        ("shakespear", "Did you mean 'shakespeare'"),
        ("", "Unknown corpus ''"),
    ],
)
def test_a_wrong_corpus_is_one_sentence_that_names_the_task_file(
    tmp_path: Path, corpus: str, complaint: str
) -> None:
    with pytest.raises(UserError) as raised:
        load_task(tmp_path, on_corpus(corpus))
    assert str(raised.value).startswith(f"{tmp_path / 'mine.toml'}: ")
    assert complaint in str(raised.value)


def test_a_task_file_whose_name_is_no_word_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"my task\.toml: a task file's name is a word"):
        load_task(tmp_path, TASK, "my task.toml")


# Constants to start from


def with_constant(text: str) -> str:
    return f"{TASK.partition('[start]')[0]}\n[start]\n{text}\n"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("SOFTCAP = nan", "nan"),
        ("SOFTCAP = -inf", "-inf"),
        ("ROPE_BASE = 1e400", "inf"),
        ("ADAM_BETAS = [0.9, nan]", "nan"),
        ('ADAM_BETAS = [0.9, "x"]', "x"),
        ("ADAM_BETAS = [[0.9]]", "0.9"),
        ("ADAM_BETAS = {a = 1}", "'a': 1"),
        ("ADAM_BETAS = 1979-05-27", "1979"),
    ],
)
@pytest.mark.parametrize("where", ["task", "track"])
def test_a_constant_that_is_none_is_one_sentence(
    tmp_path: Path, line: str, shown: str, where: str
) -> None:
    path = tmp_path / f"{where}.toml"
    (tmp_path / "track.toml").write_text(GOOD.replace('task = "tiny"', 'task = "task.toml"'))
    (tmp_path / "task.toml").write_text(with_constant(""))
    table = "" if where == "task" else "[start]\n"
    path.write_text(f"{path.read_text()}\n{table}{line}\n")
    with pytest.raises(UserError) as raised:
        load_track(str(tmp_path / "track.toml"))
    sentence = str(raised.value)
    assert sentence.startswith(f"{path}: key 'start.{line.split()[0]}' cannot be ")
    assert shown in sentence
    assert sentence.endswith("a finite number, a text or a list of numbers; correct it.")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("line", "written"),
    [
        ("ADAM_BETAS = [0.9, 0.95]", "ADAM_BETAS = (0.9, 0.95)"),
        ("ADAM_BETAS = [1, -2.50]", "ADAM_BETAS = (1, -2.5)"),
        ("ADAM_BETAS = [0.9]", "ADAM_BETAS = (0.9,)"),
        ("ADAM_BETAS = []", "ADAM_BETAS = ()"),
        ("SOFTCAP = true", "SOFTCAP = True"),
        ('SOFTCAP = "0.5"', 'SOFTCAP = "0.5"'),
    ],
)
def test_constants_are_written_into_train_py(tmp_path: Path, line: str, written: str) -> None:
    track = load_task(tmp_path, with_constant(line))
    name, _, value = written.partition(" = ")
    assert Track.model_validate_json(track.model_dump_json()).fingerprint == track.fingerprint
    assert literals(base_files(track)["train.py"])[name] == value


def test_a_constant_that_cannot_be_set_is_one_sentence(tmp_path: Path) -> None:
    track = load_task(tmp_path, with_constant("DEPTH = 1"))
    with pytest.raises(
        UserError, match=r"^\[start\] cannot set DEPTH \(the edited train\.py is not"
    ):
        with_start("DEPTH = (  # long\n    1,\n)\n", track.task.start)


def test_a_file_cannot_forge_what_is_filled_in_at_run_time(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace("baselines = 2", 'baselines = 2\nbase_commit = "0000"'))
    with pytest.raises(UserError, match="base_commit"):
        load_track(str(path))


def test_an_unknown_track_names_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'tiny-cpu'"):
        load_track("tiny-cpus")
    with pytest.raises(UserError, match="no track file"):
        load_track("nowhere/x.toml")


def test_any_changed_field_changes_the_fingerprint() -> None:
    track = load_track("tiny-cpu")
    other = track.model_copy(update={"time_budget": track.time_budget + 1})
    assert track.fingerprint != other.fingerprint
    assert track.fingerprint == load_track("tiny-cpu").fingerprint

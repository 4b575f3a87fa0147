from __future__ import annotations

import json
from pathlib import Path

import pytest

from inner_loop.errors import UserError
from inner_loop.tracks import TRACKS, load_track, task_json

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

"""`doctor`: what it says on this machine and on stand-ins, the track files, the noise floor."""

from __future__ import annotations

import asyncio
import json
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_gpu import H100, fake_machine, fake_torch
from hypothesis import assume, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from rich.console import Console
from scipy import stats

from analysis.machine_report import (
    Baseline,
    Calibration,
    DoctorReport,
    Proposal,
    drift_of,
    statistics,
)
from analysis.machine_terminal import calibration_view
from inner_loop.data import PreparedData, base_files
from inner_loop.errors import UserError
from inner_loop.execute import Site
from inner_loop.executor import LocalExecutor
from inner_loop.home import Home
from inner_loop.literals import literals, number
from inner_loop.records import Track
from inner_loop.tracks import load_track
from outer_loop.calibrate import Bench, Trial, refuse_too_few, tokens_per_step, try_out
from outer_loop.doctor import Plan, examine
from outer_loop.sizes import Kind, start_for
from outer_loop.track_file import existing, proposed, set_aside, toml, writable_path

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
QUICK = Path(__file__).parent / "data" / "quick.toml"
SMALL = "0, GPU-cccc, NVIDIA GeForce RTX 3060, 12288, 580.65.06"


def report(done: subprocess.CompletedProcess[str]) -> DoctorReport:
    Draft202012Validator(DoctorReport.model_json_schema(mode="serialization")).validate(
        json.loads(done.stdout)
    )
    return DoctorReport.model_validate_json(done.stdout)


def check(found: DoctorReport, name: str) -> str:
    return next(c.state for c in found.checks if c.name == name)


# --- the command ------------------------------------------------------------------------------


def test_without_a_gpu_it_proposes_the_tiny_task_and_ends_with_0(
    cli: Cli, home: Home, tmp_path: Path
) -> None:
    fake = fake_machine(tmp_path / "smi", gpus="NVIDIA-SMI has failed\n", code=9)
    done = cli("doctor", "--json", env={"PATH": fake.path})
    assert done.returncode == 0, done.stderr
    found = report(done)
    assert (found.proposal.track, found.can_run) == ("tiny-cpu", True)
    assert found.next_command == "metaresearch demo"
    assert check(found, "git") == "ok"
    assert check(found, "isolation") == "warning"
    assert check(found, "NVIDIA GPU") == "warning"
    assert not (home.root / "ledger.db").exists()


def test_a_sound_small_gpu_gets_a_track_of_its_size(cli: Cli, tmp_path: Path) -> None:
    fake = fake_machine(tmp_path / "smi", gpus=SMALL)
    torch = fake_torch(tmp_path / "torch", works=True, capability=(8, 6))
    env = {"PATH": fake.path, "PYTHONPATH": f"{Path(__file__).parent.parent}:{torch}"}
    found = report(cli("doctor", "--json", env=env))
    assert found.proposal.track == "cuda-12gb"
    assert found.proposal.start["DEPTH"] == 6
    assert found.proposal.memory_gb is not None
    assert "estimate" in found.proposal.why
    assert check(found, "CUDA in torch") == "ok"
    assert check(found, "GPU is free") == "ok"


def test_what_keeps_a_track_from_running_is_named_with_its_remedy_and_code_1(
    cli: Cli, tmp_path: Path
) -> None:
    fake = fake_machine(tmp_path / "smi", gpus=H100, apps="4711, vllm, 40960")
    error = "The NVIDIA driver on your system is too old (found version 12020). Update it"
    torch = fake_torch(tmp_path / "torch", works=False, error=error)
    env = {"PATH": fake.path, "PYTHONPATH": f"{Path(__file__).parent.parent}:{torch}"}
    done = cli("doctor", env=env | {"COLUMNS": "400"})
    assert done.returncode == 1, done.stderr
    assert "Proposed track: gpu-5min" in done.stdout
    assert "found version 12020" in done.stdout
    assert "Process 4711" in done.stdout
    assert "It cannot run here yet" in done.stdout


def test_a_track_that_was_asked_about_is_judged(cli: Cli, tmp_path: Path) -> None:
    fake = fake_machine(tmp_path / "smi", gpus="", code=9)
    done = cli("doctor", "--track", "gpu-5min", "--json", env={"PATH": fake.path})
    assert done.returncode == 1
    found = report(done)
    assert check(found, "NVIDIA GPU") == "problem"
    assert found.proposal.asked
    assert found.next_command == "metaresearch doctor --track gpu-5min"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--calibrate", "--baselines", "4"], ["--baselines 4", "5 or more"]),
        (["--write", "x.toml"], ["--calibrate"]),
        (["--track", "tiny-cpuu"], ["Unknown track", "tiny-cpu"]),
    ],
)
def test_bad_input_is_one_sentence(cli: Cli, words: list[str], said: list[str]) -> None:
    done = cli("doctor", *words)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert all(word in line for word in said), line


@pytest.mark.slow
def test_calibrating_measures_a_floor_and_writes_a_track_that_runs(
    cli: Cli, home: Home, tmp_path: Path
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("# precious\n")
    words = ["doctor", "--calibrate", "--track", str(QUICK), "--write", str(path)]
    done = cli(*words, "--json")
    assert done.returncode == 0, done.stderr
    found = report(done).calibration
    assert found is not None
    assert len(found.baselines) == 5
    assert all(b.steps == 6 and b.tokens_per_second for b in found.baselines)
    assert found.floor is not None
    assert found.floor.low_mbpb is not None
    assert found.floor.low_mbpb < found.floor.sd_mbpb
    assert "5 baselines x" in done.stderr
    assert (tmp_path / "mine.old-1.toml").read_text() == "# precious\n"
    assert "mine.old-1.toml" in done.stderr
    assert "mbpb" in path.read_text()
    same = load_track(str(QUICK)).model_copy(update={"name": "mine"})
    assert load_track(str(path)).fingerprint == same.fingerprint
    assert list(home.scratch.iterdir()) == []


# --- track files --------------------------------------------------------------------------------

scalars = (
    st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
keys = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,9}", fullmatch=True)
tables = st.dictionaries(keys, scalars | st.dictionaries(keys, scalars, min_size=1), max_size=6)


@given(tables, st.lists(st.text(max_size=20), max_size=3))
def test_toml_says_what_it_was_given(table: dict[str, object], remarks: list[str]) -> None:
    safe = ["".join(c for c in line if c.isprintable()) for line in remarks]
    assert tomllib.loads(toml(table, safe)) == table


@pytest.mark.parametrize("kind", ["cuda", "mps", "cpu"])
@pytest.mark.parametrize("memory", [8, 12, 24, 48, 80])
def test_every_proposed_track_can_be_loaded_and_starts_train_py_with_its_sizes(
    kind: Kind, memory: float, tmp_path: Path
) -> None:
    start = start_for(kind, memory)
    file = proposed(kind, memory, start, 32)
    written = load_track(str(file.write(tmp_path / f"{file.name}.toml", ["a remark"])))
    assert written == file.load()
    assert written.device == kind
    assert written.limits.memory_gb <= 32 or not start.literals
    known = literals(base_files(written)["train.py"])
    for name, value in start.literals.items():
        text = known[name]
        assert (number(text) if isinstance(value, int) else text.strip('"')) == value
    context = 512 if kind == "mps" else None
    assert context is None or written.task.max_seq_len == context


def test_a_task_keeps_its_name_wherever_its_track_goes(tmp_path: Path) -> None:
    """Prepared data lie under it, and climbmix takes long to prepare."""
    file = proposed("mps", 16, start_for("mps", 16), 16)
    written = load_track(str(file.write(tmp_path / "other.toml")))
    assert written.task == file.load().task
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mps-16gb-task.toml", "other.toml"]


def test_a_copied_track_is_the_same_track(quick: Track, tmp_path: Path) -> None:
    for name in ("tiny-cpu", "gpu-5min", str(QUICK)):
        file = existing(name)
        copy = load_track(str(file.write(tmp_path / f"{file.name}.toml")))
        assert copy.fingerprint == load_track(name).fingerprint


def test_tokens_per_step_are_what_train_py_trains_on(quick: Track) -> None:
    assert tokens_per_step(quick) == 512
    assert tokens_per_step(load_track("gpu-5min")) == 1 << 18
    odd = quick.model_copy(update={"start": {"TOTAL_BATCH_SIZE": 700, "DEVICE_BATCH_SIZE": 4}})
    assert tokens_per_step(odd) == 2 * 4 * 64


def test_nothing_that_was_there_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    assert set_aside(path) is None
    for text in ("one", "two"):
        path.write_text(text)
        set_aside(path)
    assert (tmp_path / "a.old-1.toml").read_text() == "one"
    assert (tmp_path / "a.old-2.toml").read_text() == "two"


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_spent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.toml").mkdir()
    for given_path in ("x.txt", str(tmp_path / "folder.toml"), str(tmp_path / "file" / "x.toml")):
        with pytest.raises(UserError, match="--write"):
            writable_path(given_path, tmp_path, "x")
    assert writable_path(None, tmp_path / "new", "x") == tmp_path / "new" / "x.toml"


# --- the statistics -----------------------------------------------------------------------------


@given(st.lists(st.integers(900_000, 3_000_000), min_size=3, max_size=20))
def test_the_drift_is_the_regression_of_scipy(thousandths: list[int]) -> None:
    assume(len(set(thousandths)) > 1)  # scipy divides by the spread
    scores = [x / 1000 for x in thousandths]
    found, known = drift_of(scores), stats.linregress(range(len(scores)), scores)
    assert found is not None
    assert found.slope_mbpb == pytest.approx(known.slope, abs=1e-6)
    width = stats.t.ppf(0.975, len(scores) - 2) * known.stderr
    assert found.high_mbpb - found.slope_mbpb == pytest.approx(width, rel=1e-6, abs=1e-5)


def test_intervals_cover_what_they_should() -> None:
    """2,000 calibrations of five: 95 % intervals of sd and slope, two standard errors of slack."""
    rng = np.random.default_rng(7)
    held = [0, 0]
    for row in rng.normal(1.0, 0.0005, size=(2000, 5)):
        floor, drift = statistics([float(x) for x in row])
        assert floor is not None
        assert floor.low_mbpb is not None
        assert floor.high_mbpb is not None
        assert drift is not None
        held[0] += floor.low_mbpb < 0.5 < floor.high_mbpb
        held[1] += drift.low_mbpb < 0 < drift.high_mbpb
    assert all(abs(h / 2000 - 0.95) < 0.01 for h in held), held


def test_fewer_than_five_baselines_are_refused() -> None:
    for number_of in (-1, 0, 4):
        with pytest.raises(UserError, match="5 or more"):
            refuse_too_few(number_of)
    refuse_too_few(5)


def test_the_view_says_the_floor_its_interval_and_the_drift() -> None:
    scores = [2.9033, 2.8723, 2.8724, 2.8979, 2.8826]
    floor, drift = statistics(scores)
    baselines = tuple(
        Baseline(
            search_bpb=s,
            steps=100,
            tokens_per_second=20_000,
            startup_seconds=2,
            wall_seconds=7,
            memory_gb=0.3,
        )
        for s in scores
    )
    found = Calibration(
        track="[red]x[/red]", hardware="cpu", baselines=baselines, floor=floor, drift=drift
    )
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(calibration_view(found))
    text = console.export_text()
    console.file.close()
    assert "[red]x[/red]" in text
    assert "14 mbpb" in text
    assert "95 % interval 8.6 to 41" in text
    assert "no drift can be seen" in text


# --- the training that is thrown away -----------------------------------------------------------


def bench_plan(start: dict[str, Any], memory_gb: float) -> Plan:
    """A proposal on the quick track, as one for a GPU would come with sizes of its own."""
    file = existing(str(QUICK)).with_start(start)
    limits = {**file.table["limits"], "memory_gb": memory_gb}
    file = file._replace(table={**file.table, "limits": limits})
    sizes = start_for("cuda", 12)._replace(literals=start)
    proposal = Proposal(track="quick", device="cpu", why="a test", budget="6 steps")
    return Plan(file, file.load(), sizes, proposal)


@pytest.mark.slow
def test_sizes_follow_the_speed_and_rows_are_halved_until_they_fit(
    home: Home, prepared: Path
) -> None:
    (name,) = (p.name for p in prepared.iterdir())
    data = PreparedData(name, "")
    console = Console(quiet=True)

    async def tried(plan: Plan) -> tuple[Plan, Trial]:
        executor = LocalExecutor(Site(home.cache, home.scratch), 1)
        try:
            return await try_out(Bench(home, executor, console), examine(home), plan, data)
        finally:
            await executor.close()

    plan, trial = asyncio.run(tried(bench_plan({"DEVICE_BATCH_SIZE": 8}, 4.0)))
    assert plan.track.name == "tiny-cpu"  # what this machine, asked again, is proposed
    assert trial.tokens_per_second > 0
    assert trial.seconds > trial.startup_seconds > 0
    with pytest.raises(UserError, match="Even small batches run out of memory"):
        asyncio.run(tried(bench_plan({"DEVICE_BATCH_SIZE": 8}, 0.05)))

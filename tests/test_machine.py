"""Asking the machine, and telling its failures from a program's: real processes throughout."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from fake_gpu import H100, RTX_3060, TOO_OLD, fake_machine, fake_torch

from inner_loop import machine
from inner_loop.errors import UserError
from inner_loop.faults import CONTINUE, MachineFault, preflight, refuse_a_busy_gpu
from inner_loop.home import REPOSITORY, Home
from inner_loop.records import Measured, Track
from outer_loop.failures import as_sentence

Train = Callable[..., Measured]
Cli = Callable[..., "subprocess.CompletedProcess[str]"]
QUICK = Path(__file__).parent / "data" / "quick.toml"
VLLM = "4711, /usr/bin/python3, vllm, 40960"


@pytest.fixture
def on_cuda(quick: Track) -> Track:
    return quick.model_copy(update={"device": "cuda"})


@pytest.fixture
def no_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with git on it and no compiler."""
    folder = tmp_path / "tools"
    folder.mkdir()
    git = shutil.which("git")
    assert git is not None
    (folder / "git").symlink_to(git)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    return folder


@pytest.fixture
def child() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process.pid
    process.kill()
    process.wait()


def put_on_path(monkeypatch: pytest.MonkeyPatch, folder: Path, **facts: object) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", fake_machine(folder, **facts).path)  # type: ignore[arg-type]


# --- asking -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["NVIDIA H100 80GB HBM3", "NVIDIA GeForce RTX 3060"]),
        ("1,0", ["NVIDIA GeForce RTX 3060", "NVIDIA H100 80GB HBM3"]),
        ("GPU-bbbb", ["NVIDIA GeForce RTX 3060"]),
        ("0,-1,1", ["NVIDIA H100 80GB HBM3"]),
        ("", []),
        ("7", []),
    ],
)
def test_gpus_are_those_cuda_would_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, names: list[str]
) -> None:
    put_on_path(monkeypatch, tmp_path / "smi", gpus=f"{H100}\n{RTX_3060}\n")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.gpus() == names


def test_a_gpu_has_its_memory_and_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(monkeypatch, tmp_path / "smi")
    (gpu,) = machine.nvidia_gpus()
    assert gpu.memory_gb == pytest.approx(79.6, abs=0.1)
    assert gpu.driver == "580.65.06"


def test_a_broken_driver_is_no_gpu_and_its_words_are_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_cuda: Track
) -> None:
    said = "Failed to initialize NVML: Driver/library version mismatch"
    put_on_path(monkeypatch, tmp_path / "smi", gpus=f"{said}\n", code=18)
    assert machine.gpus() == []
    with pytest.raises(UserError, match="version mismatch"):
        preflight(on_cuda, 1)


def test_a_hanging_nvidia_smi_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(monkeypatch, tmp_path / "smi")
    script = tmp_path / "smi" / "bin" / "nvidia-smi"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(machine, "SMI_SECONDS", 0.3)
    began = time.monotonic()
    assert machine.gpus() == []
    assert time.monotonic() - began < 5


def test_strangers_are_all_but_us_and_our_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, child: int
) -> None:
    apps = f"{os.getpid()}, us, 500\n{child}, ours, 500\n{VLLM}\n4712, /x, [N/A]\nNo processes\n"
    put_on_path(monkeypatch, tmp_path / "smi", apps=apps)
    found = machine.strangers("0")
    assert [(p.pid, p.name, p.memory_gb) for p in found] == [
        (4711, "/usr/bin/python3, vllm", 40.0),
        (4712, "/x", None),
    ]


def test_torch_is_asked_in_another_process() -> None:
    found = machine.ask_torch()
    assert found.version.startswith(machine.installed_torch().partition("+")[0])
    assert not found.error or not found.cuda
    code = "import sys; import inner_loop.machine, inner_loop.faults; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_a_torch_that_cannot_be_imported_is_an_answer(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open')\n")
    found = machine.ask_torch({"PYTHONPATH": str(tmp_path)})
    assert found.version == ""
    assert "libcudart.so.13" in found.error


def test_compilers_are_found_where_triton_looks(
    no_tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machine.c_compiler() == ""
    assert machine.cxx_compiler() == ""
    (no_tools / "clang").symlink_to(sys.executable)
    assert machine.c_compiler() == str(no_tools / "clang")
    (no_tools / "mine").symlink_to(sys.executable)
    monkeypatch.setenv("CC", "mine -O2")
    assert machine.c_compiler() == str(no_tools / "mine")


def test_a_missing_tool_is_an_answer() -> None:
    assert machine.tool_version("no-such-tool", "--version") == ""
    assert machine.tool_version("git", "--version").startswith("git version")


def test_the_hardware_key_names_device_and_torch(
    quick: Track, on_cuda: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machine.hardware(quick) == f"{machine.processor()}, torch {machine.installed_torch()}"
    put_on_path(monkeypatch, tmp_path / "smi")
    assert machine.hardware(on_cuda).startswith("NVIDIA H100 80GB HBM3, torch ")


def test_slots_are_gpus_or_cores(
    quick: Track, on_cuda: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(monkeypatch, tmp_path / "smi", gpus=f"{H100}\n{RTX_3060}\n")
    assert machine.default_slots(on_cuda) == 2
    assert machine.default_slots(quick) == machine.cores()
    machine.refuse_more_slots_than_gpus(on_cuda, 2)
    with pytest.raises(UserError, match="--slots 3 needs as many GPUs and there are 2"):
        machine.refuse_more_slots_than_gpus(on_cuda, 3)


# --- before anything is spent -------------------------------------------------------------------


def test_a_cpu_track_needs_nothing_of_a_gpu(quick: Track, no_tools: Path) -> None:
    preflight(quick, 2)


@pytest.mark.parametrize(
    ("torch", "said"),
    [
        (
            {"works": False, "error": TOO_OLD},
            ["driver", "found version 12020", "update the driver"],
        ),
        ({"works": False, "error": "No CUDA GPUs are available"}, ["cannot use the GPU"]),
        (
            {
                "works": True,
                "error": "CUDA error: no kernel image is available for execution on the device",
                "capability": (12, 0),
            },
            ["compute capability 12.0", "install a torch"],
        ),
        (None, ["build without CUDA"]),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    on_cuda: Track,
    torch: Mapping[str, object] | None,
    said: list[str],
) -> None:
    put_on_path(monkeypatch, tmp_path / "smi")
    if torch is not None:
        folder = fake_torch(tmp_path / "torch", **torch)  # type: ignore[arg-type]
        monkeypatch.setenv("PYTHONPATH", str(folder))
    elif machine.installed_torch().find("+cpu") < 0:
        pytest.skip("this torch may have CUDA")
    with pytest.raises(MachineFault) as raised:
        preflight(on_cuda, 1)
    text = str(raised.value)
    assert all(words in text for words in said), text
    assert text.endswith(CONTINUE)
    assert "\n" not in text


def test_a_sound_gpu_without_compiler_or_headers_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_cuda: Track, no_tools: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(fake_torch(tmp_path / "torch", works=True)))
    put_on_path(monkeypatch, tmp_path / "smi")
    cat = shutil.which("cat", path=os.defpath)
    assert cat is not None
    (no_tools / "cat").symlink_to(cat)
    with pytest.raises(MachineFault, match="no C compiler"):
        preflight(on_cuda, 1)
    (no_tools / "gcc").symlink_to(sys.executable)
    monkeypatch.setattr(machine, "has_python_headers", lambda: True)
    preflight(on_cuda, 1)


def test_a_stranger_on_the_gpu_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_cuda: Track
) -> None:
    put_on_path(monkeypatch, tmp_path / "smi", apps=VLLM)
    with pytest.raises(MachineFault, match=r"Process 4711 .*vllm.* 40\.0 GiB is on GPU 0"):
        refuse_a_busy_gpu(on_cuda, 0, patience=0.3)


def test_a_stranger_that_leaves_in_time_or_holds_little_is_no_stranger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_cuda: Track
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fake = fake_machine(tmp_path / "smi", apps="4711, gnome-shell, 40")
    monkeypatch.setenv("PATH", fake.path)
    refuse_a_busy_gpu(on_cuda, 0, patience=0)
    fake.apps.write_text(VLLM)
    leaves = subprocess.Popen(["sh", "-c", f"sleep 0.5; : > {fake.apps}"])
    refuse_a_busy_gpu(on_cuda, 0, patience=20)
    leaves.wait()


def test_a_tournament_on_a_busy_gpu_is_one_sentence_and_code_2(
    cli: Cli, home: Home, tmp_path: Path
) -> None:
    track = tmp_path / "cuda.toml"
    task = str(QUICK.with_name("quick-task.toml"))
    text = QUICK.read_text().replace("quick-task.toml", task)
    track.write_text(text.replace('device = "cpu"', 'device = "cuda"'))
    fake = fake_machine(tmp_path / "smi", apps=VLLM)
    done = cli("run", "stock", "--track", str(track), env={"PATH": fake.path})
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("Error: Process 4711 ")
    assert not (home.root / "ledger.db").exists()


# --- a box that died ----------------------------------------------------------------------------

DIES = "import sys\nsys.exit({words!r})"
C_COMPILER = (
    "RuntimeError: Failed to find C compiler. Please specify via CC environment variable or set "
    "triton.knobs.build.impl."
)


def dies(words: str, before: str = "") -> str:
    return before + DIES.format(words=words)


@pytest.mark.slow
def test_torch_compile_without_a_compiler_is_the_machines_fault(
    train: Train, no_tools: Path
) -> None:
    """The real message of the installed torch, on a CPU."""
    source = (
        "import torch\n"
        "double = torch.compile(lambda x: (2 * x).sin().sum())\n"
        "double(torch.ones(8))\n"
    )
    with pytest.raises(MachineFault, match=r"no C\+\+ compiler.*install one.*same command"):
        train(source)


@pytest.mark.parametrize(
    "words",
    [C_COMPILER, "FAIL: Failed to find C compiler. Install gcc or clang, or name one in CC."],
)
def test_a_missing_c_compiler_is_the_machines_fault_only_if_it_is_missing(
    train: Train, words: str, no_tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MachineFault, match="no C compiler"):
        train(dies(words))
    (no_tools / "gcc").symlink_to(sys.executable)
    measured = train(dies(words))
    assert measured.crash == "exception", measured.error


def test_old_words_and_words_after_the_data_are_the_programs_own(
    train: Train, no_tools: Path
) -> None:
    early = f"print({C_COMPILER!r})\nprint('line\\n' * 60)\n"
    assert train(dies("boom", before=early)).crash == "exception"
    late = (
        "import prepare\ntokenizer = prepare.Tokenizer.from_directory()\n"
        "next(prepare.make_dataloader(tokenizer, 2, prepare.MAX_SEQ_LEN, 'train'))\n"
    )
    assert train(dies(C_COMPILER, before=late)).crash == "exception"


def test_words_about_a_gpu_mean_nothing_on_a_cpu_track(train: Train) -> None:
    assert train(dies(f"RuntimeError: {TOO_OLD}")).crash == "exception"
    assert train(dies("Cannot find a working triton installation.")).crash == "exception"


def test_a_box_whose_gpu_is_gone_is_the_machines_fault(
    train: Train, on_cuda: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(monkeypatch, tmp_path / "smi")
    folder = fake_torch(tmp_path / "torch", works=False, error=TOO_OLD)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    with pytest.raises(MachineFault, match="driver does not fit"):
        train(dies(f"RuntimeError: {TOO_OLD}"), track=on_cuda)
    fake_torch(tmp_path / "torch", works=True)
    assert train(dies(f"RuntimeError: {TOO_OLD}"), track=on_cuda).crash == "exception"
    (tmp_path / "torch" / "triton.py").write_text("raise ImportError\n")
    with pytest.raises(MachineFault, match="Triton"):
        train(dies("TritonMissing: Cannot find a working triton installation."), track=on_cuda)


@pytest.mark.skipif(machine.installed_torch().find("+cpu") < 0, reason="torch may have CUDA")
def test_the_shipped_train_py_on_a_torch_without_cuda_is_the_machines_fault(
    train: Train, on_cuda: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(monkeypatch, tmp_path / "smi")
    with pytest.raises(MachineFault, match="build without CUDA"):
        train(track=on_cuda)


def test_out_of_memory_beside_a_stranger_is_the_machines_fault(
    train: Train, on_cuda: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fake = fake_machine(tmp_path / "smi")
    monkeypatch.setenv("PATH", fake.path)
    words = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    assert train(dies(words), track=on_cuda).crash == "oom"
    arrives = f"open({str(fake.apps)!r}, 'w').write({VLLM!r})\n"
    with pytest.raises(MachineFault, match="Process 4711"):
        train(dies(words, before=arrives), track=on_cuda)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "oom"),
        ("RuntimeError: CUDA error: out of memory", "oom"),
        (
            "RuntimeError: MPS backend out of memory (MPS allocated: 5.56 GB, other allocations: "
            "1.10 GB, max allowed: 6.80 GB). Tried to allocate 768.00 MB on private pool.",
            "oom",
        ),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling ...", "oom"),
        ("FAIL: out of memory; halve DEVICE_BATCH_SIZE (now 64). CUDA out of memory.", "oom"),
        ("FAIL: loss is nan at step 3", "nan"),
        ("FAIL: loss is 123.4 at step 3", "nan"),
        ("FAIL", "nan"),
        ("FAIL: no Apple GPU can be used: torch finds no MPS device.", "exception"),
    ],
)
def test_memory_and_numbers_are_the_experiments_own(train: Train, words: str, code: str) -> None:
    assert train(dies(words)).crash == code


def test_memory_and_files_that_have_run_out_are_the_machines_too() -> None:
    for code, what in ((errno.ENOMEM, "memory"), (errno.EMFILE, "open files")):
        said = as_sentence(OSError(code, os.strerror(code)))
        assert said is not None
        assert f"out of {what}" in said
        assert "same command" in said


# --- a whole tournament -------------------------------------------------------------------------


def test_a_machine_fault_stops_the_tournament_and_the_same_command_goes_on(
    cli: Cli, home: Home, tmp_path: Path, no_tools: Path
) -> None:
    top = "def main():\n"
    edit = {"search": top, "replace": f"{top}    sys.exit({C_COMPILER!r})\n"}
    moves = tmp_path / "moves.json"
    moves.write_text(json.dumps([{"kind": "edit", "description": "compile", "edits": [edit]}]))
    words = ["run", "stock", "--track", str(QUICK), "--experiments", "1", "--slots", "2"]
    words += ["--researcher", "replay", "--model", str(moves)]
    stopped = cli(*words)
    assert stopped.returncode == 2, stopped.stderr
    (line,) = stopped.stderr.strip().splitlines()
    assert line.startswith("Error: There is no C compiler")
    before = _rows(home)
    assert [kind for kind, *_ in before] == ["baseline"]
    (no_tools / "gcc").symlink_to(sys.executable)
    done = cli(*words)
    assert done.returncode == 0, done.stderr
    after = _rows(home)
    assert set(before) < set(after)
    assert ("edit", "exception") in {(kind, crash) for kind, crash, _ in after}


def _rows(home: Home) -> list[tuple[str, str | None, float | None]]:
    ledger = home.ledger(must_exist=True)
    rows = [
        (e.kind, e.measured.crash, e.measured.search_bpb)
        for tournament in ledger.tournaments()
        for run in ledger.runs(tournament.id)
        for e in ledger.experiments(run.id)
    ]
    ledger.close()
    return rows

"""Failures of the machine that are no program's fault: they stop the work, they are never a row.

Owns: looking before a tournament and before each training, and telling whether a box that died did
so because of the machine. Does not own: asking the machine (`machine.py`), the experiment's own
crash codes (`execute.py`), a full disk (`outer_loop/failures.py` words it).

What a box prints is under the control of the train.py in it, which may want a tournament stopped.
So its words are only a reason to look: a fault is believed if the box died before it got any data,
its last lines name the fault, AND the machine, asked from outside, has that fault. What is left: on
a machine that does lack a compiler, a train.py that asks for one stops the tournament, whether or
not the others need one; and until the box isolates, one that leaves a process on the GPU does.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from inner_loop import machine
from inner_loop.corpora.cache import read_manifest
from inner_loop.errors import UserError
from inner_loop.records import Track

LAST_LINES = 40  # inductor prints advice after its error
FOREIGN_GB = 0.25  # less is a desktop's leftovers, not a computation
LEAVE_SECONDS = 2.0  # a killed process stays on nvidia-smi's list for a moment
CONTINUE = "Nothing recorded is lost; mend it and run the same command again."


class MachineFault(UserError):
    """This machine cannot train for now; one sentence, and the same command continues later."""

    def __init__(self, sentence: str) -> None:
        super().__init__(f"{sentence} {CONTINUE}")


class Symptom(NamedTuple):
    """What a box prints when the machine fails it, and who knows whether it is so."""

    words: re.Pattern[str]
    devices: frozenset[str]
    """Devices of a track on which it can be true."""
    confirm: Callable[[str], str]
    """Given the GPU's name for CUDA: the fault as a sentence, or "" if the machine is sound."""


def gpu_of(slot: int) -> str:
    """The GPU of a slot, as CUDA_VISIBLE_DEVICES or `nvidia-smi -i` name it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[slot].strip() if visible else str(slot)


def preflight(track: Track, slots: int) -> None:
    """Refuse a track that this machine cannot train now, before anything is spent.

    Raises:
        UserError: no GPU, or a track that needs more of them than there are.
        MachineFault: driver, torch build, compiler or another process on a GPU.
    """
    if track.device == "cpu":
        return
    if track.device == "cuda" and not machine.nvidia_gpus():
        raise machine.no_gpu(track)
    machine.refuse_more_slots_than_gpus(track, slots)
    if track.device == "cuda":
        for slot in range(slots):
            refuse_a_busy_gpu(track, slot)
    _refuse_first(*_needs(track, machine.ask_torch()))


def refuse_a_busy_gpu(track: Track, slot: int, patience: float = LEAVE_SECONDS) -> None:
    """Another process on the GPU takes its time and memory, so a training there measures nothing.

    Raises:
        MachineFault: names the process.
    """
    if track.device != "cuda":
        return
    deadline = time.monotonic() + patience
    while found := [p for p in machine.strangers(gpu_of(slot)) if matters(p)]:
        if time.monotonic() > deadline:
            raise MachineFault(busy(slot, found[0]))
        time.sleep(0.25)


def refuse_other_data(folder: Path, corpus_sha256: str) -> None:
    """A number measured on another corpus than the track's would be a wrong row.

    Args:
        folder: the prepared data.
        corpus_sha256: the track's; nothing is checked if it is empty.

    Raises:
        MachineFault: the folder holds another corpus, or no whole one.
    """
    if not corpus_sha256:
        return
    manifest = read_manifest(folder) or {}
    if manifest.get("corpus_sha256") != corpus_sha256:
        now = f"now holds the corpus {manifest['corpus']}" if manifest else "is not whole any more"
        raise MachineFault(f"{folder} {now}, not the one of this track: remove that folder.")


def blame_the_machine(track: Track, slot: int, output: str) -> None:
    """Raise if a box that died before its data did so because of the machine.

    Raises:
        MachineFault: the box names a fault and the machine has it.
    """
    tail = "\n".join(output.splitlines()[-LAST_LINES:])
    for symptom in SYMPTOMS:
        if track.device in symptom.devices and symptom.words.search(tail):
            _refuse_first(symptom.confirm(gpu_of(slot) if track.device == "cuda" else ""))


def _refuse_first(*sentences: str) -> None:
    if said := [sentence for sentence in sentences if sentence]:
        raise MachineFault(said[0])


def matters(process: machine.GpuProcess) -> bool:
    """Whether a process holds enough of a GPU to be a computation; unknown counts."""
    return process.memory_gb is None or process.memory_gb >= FOREIGN_GB


# --- each fault in one sentence; empty where there is none ------------------------------------


def _needs(track: Track, torch: machine.Torch) -> list[str]:
    """The faults of what train.py needs on a GPU, worst first."""
    if track.device == "mps":
        return [no_mps(torch)]
    return [no_cuda(torch), no_triton(torch), no_compiler(), no_headers()]


def busy(slot: int, process: machine.GpuProcess) -> str:
    """A process of somebody else on a slot's GPU."""
    size = "" if process.memory_gb is None else f" with {process.memory_gb:.1f} GiB"
    return (
        f"Process {process.pid} ({process.name}){size} is on GPU {gpu_of(slot)}, which a timed "
        "training must have to itself: end it, or choose other GPUs with CUDA_VISIBLE_DEVICES."
    )


def no_torch(torch: machine.Torch) -> str:
    """Why there is no torch."""
    if torch.version:
        return ""
    return f"torch cannot be imported ({torch.error}): install it again."


def no_cuda(torch: machine.Torch) -> str:
    """Why torch cannot compute on an NVIDIA GPU."""
    if torch.cuda:
        return ""
    if not torch.version:
        return no_torch(torch)
    if not torch.cuda_build:
        return (
            f"torch {torch.version} is a build without CUDA: install one with it "
            "(https://pytorch.org)."
        )
    why = torch.error.partition(". ")[0].rstrip(".") or "it finds no GPU"
    if re.search("driver", why):
        return (
            f"The NVIDIA driver does not fit torch {torch.version} ({why}): update the driver, or "
            "install a torch built for an older CUDA (https://pytorch.org)."
        )
    if "no kernel image" in why:
        return (
            f"torch {torch.version} was not built for this GPU of compute capability "
            f"{torch.capability} ({why}): install a torch that was (https://pytorch.org)."
        )
    return f"torch {torch.version} cannot use the GPU ({why}): see whether nvidia-smi can."


def no_mps(torch: machine.Torch) -> str:
    """Why torch cannot compute on an Apple GPU."""
    if torch.mps:
        return ""
    return (
        f"torch {torch.version or torch.error} cannot use an Apple GPU here: it takes macOS on "
        "Apple silicon; use --track tiny-cpu."
    )


def no_triton(torch: machine.Torch) -> str:
    """Why torch.compile has no Triton."""
    if torch.triton:
        return ""
    return (
        "Triton, which torch.compile needs on this GPU, cannot be imported: install it "
        "(`pip install triton`; on Windows use WSL)."
    )


def no_compiler() -> str:
    """Why Triton and inductor cannot compile C."""
    if machine.c_compiler():
        return ""
    return (
        "There is no C compiler, which torch.compile needs: install one (Debian and Ubuntu: "
        "`apt install build-essential`), or set CC to one."
    )


def no_cxx_compiler() -> str:
    """Why inductor cannot compile C++."""
    if machine.cxx_compiler():
        return ""
    return (
        "There is no C++ compiler, which torch.compile needs on a CPU: install one (Debian and "
        "Ubuntu: `apt install build-essential`), or set CXX to one."
    )


def no_headers() -> str:
    """Why Triton cannot compile against Python."""
    if machine.has_python_headers():
        return ""
    return (
        "Python.h is missing, which Triton compiles against: install Python's headers (Debian and "
        "Ubuntu: `apt install python3-dev`)."
    )


def _torch_on(gpu: str) -> machine.Torch:
    return machine.ask_torch({"CUDA_VISIBLE_DEVICES": gpu})


ANY, CUDA = frozenset({"cpu", "cuda", "mps"}), frozenset({"cuda"})
SYMPTOMS = (
    Symptom(re.compile(r"Failed to find C compiler"), ANY, lambda _: no_compiler()),
    Symptom(
        re.compile(r"No working C\+\+ compiler found|InvalidCxxCompiler"),
        ANY,
        lambda _: no_cxx_compiler(),
    ),
    Symptom(re.compile(r"Python\.h: No such file"), ANY, lambda _: no_headers()),
    Symptom(
        re.compile(r"Cannot find a working triton|TritonMissing|No module named 'triton'"),
        CUDA,
        lambda gpu: no_triton(_torch_on(gpu)),
    ),
    Symptom(
        re.compile(
            r"NVIDIA driver on your system is too old|Found no NVIDIA driver"
            r"|CUDA driver version is insufficient|no kernel image is available"
            r"|No CUDA GPUs are available|CUDA initialization|CUDA unknown error"
            r"|devices are busy or unavailable|too old to be supported by the triton"
            r"|not compiled with CUDA enabled"
        ),
        CUDA,
        lambda gpu: no_cuda(_torch_on(gpu)),
    ),
)
"""Sources: torch/_inductor/exc.py, torch/_inductor/cpp_builder.py, torch/cuda/__init__.py,
c10/cuda/CUDAFunctions.cpp (all torch 2.13); triton/runtime/build.py (3.x)."""

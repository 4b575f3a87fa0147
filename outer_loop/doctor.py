"""What works on this machine, which track suits it, and what to type next.

Owns: the checks, their remedies and the proposal. Does not own: asking the machine
(`inner_loop/machine.py`), sizes (`sizes.py`), training (`calibrate.py`), layout (`analysis`).
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from analysis.machine_report import Check, DoctorReport, Proposal, State
from analysis.wording import clock_budget
from inner_loop import faults, machine
from inner_loop.data import base_files
from inner_loop.home import Home
from inner_loop.literals import literals, number
from inner_loop.machine import Gpu, GpuProcess, Torch
from inner_loop.records import Track, content_hash
from outer_loop.researchers import own_researcher, researcher_checks
from outer_loop.sizes import SHARE, Kind, Shape, Start, peak_gb, start_for
from outer_loop.track_file import TrackFile, existing, proposed

ROOM_GB = {"cpu": 0.5, "cuda": 12.0, "mps": 12.0}
"""Free disk for data, runs and scratch: the tiny corpus, or some climbmix shards and their tokens.
An estimate."""
NO_BF16 = "half of its memory counts, since it has no bfloat16 and float32 takes twice the room"


class Findings(NamedTuple):
    """What the machine answered."""

    torch: Torch
    gpus: list[Gpu]
    strangers: list[tuple[int, GpuProcess]]
    """Other people's processes, each with the slot of its GPU."""
    trouble: str
    """What nvidia-smi complains of."""
    git: str
    bubblewrap: tuple[str, bool]
    processor: str
    cores: int
    load: float
    memory_gb: tuple[float, float]
    """Total and available, GiB."""
    free_disk_gb: float
    home: Path


class Plan(NamedTuple):
    """A track for this machine and how it came about."""

    file: TrackFile
    track: Track
    start: Start | None
    """None for a track that was asked for."""
    proposal: Proposal


def examine(home: Home) -> Findings:
    """Ask the machine; everything slow at the same time."""
    with ThreadPoolExecutor() as pool:
        torch = pool.submit(machine.ask_torch)
        gpus = pool.submit(machine.nvidia_gpus)
        trouble = pool.submit(machine.nvidia_trouble)
        git = pool.submit(machine.tool_version, "git", "--version")
        bubblewrap = pool.submit(machine.bubblewrap)
        return Findings(
            torch=torch.result(),
            gpus=gpus.result(),
            strangers=_strangers(gpus.result()),
            trouble=trouble.result(),
            git=git.result(),
            bubblewrap=bubblewrap.result(),
            processor=machine.processor(),
            cores=machine.cores(),
            load=machine.load(),
            memory_gb=machine.memory_gb(),
            free_disk_gb=machine.free_disk_gb(home.root),
            home=home.root,
        )


def _strangers(gpus: list[Gpu]) -> list[tuple[int, GpuProcess]]:
    found = [(n, p) for n, gpu in enumerate(gpus) for p in machine.strangers(gpu.number)]
    return [(n, process) for n, process in found if faults.matters(process)]


def diagnose(home: Home, found: Findings, plan: Plan) -> DoctorReport:
    """The whole report for a planned track."""
    own = own_researcher(plan.track, os.environ)
    listed = (*checks(home, found, plan.track), *_room(plan), *([own] if own.remedy else []))
    can_run = not any(check.state == "problem" for check in listed)
    return DoctorReport(
        checks=listed,
        researchers=tuple(researcher_checks(os.environ)),
        proposal=plan.proposal,
        can_run=can_run,
        next_command=_next(plan, can_run),
    )


# --- the proposal -----------------------------------------------------------------------------


def propose(found: Findings, tokens_per_second: float | None = None) -> Plan:
    """The track for this machine: for a GPU if there is one, even if something keeps it from use.

    Args:
        found: what the machine answered.
        tokens_per_second: what the track proposed without it was measured to train at.
    """
    kind, memory = _device(found)
    start = start_for(kind, memory, tokens_per_second)
    file = proposed(kind, memory, start, found.memory_gb[0])
    track = file.load()
    why = start.why
    if kind == "cuda" and _no_bf16(found.torch):
        why = f"{why.rstrip('.')}; {NO_BF16}."
    proposal = Proposal(
        track=track.name,
        device=kind,
        why=why,
        start=start.literals,
        memory_gb=start.memory_gb,
        device_memory_gb=found.gpus[0].memory_gb if kind == "cuda" else found.memory_gb[0],
        tokens_per_second=start.tokens_per_second,
        steps=start.steps,
        budget=clock_budget(track),
    )
    return Plan(file, track, start, proposal)


def asked(found: Findings, name: str) -> Plan:
    """A track that was asked for, as it is.

    Raises:
        UserError: there is no such track, or its file is wrong.
    """
    file = existing(name)
    track = file.load()
    memory = found.memory_gb[0]
    if track.device == "cuda":
        memory = found.gpus[0].memory_gb if found.gpus else 0.0
    proposal = Proposal(
        track=track.name,
        device=track.device,
        why="the track you asked about.",
        start=track.task.start | track.start,
        memory_gb=_estimated_gb(track),
        device_memory_gb=memory or None,
        budget=clock_budget(track),
        asked=True,
    )
    return Plan(file, track, None, proposal)


def _estimated_gb(track: Track) -> float | None:
    if track.device == "cpu":
        return None
    known = {name: number(text) for name, text in literals(base_files(track)["train.py"]).items()}
    depth, width, rows = (known.get(n) for n in ("DEPTH", "WIDTH", "DEVICE_BATCH_SIZE"))
    if not (depth and width and rows):
        return None
    task = track.task
    shape = Shape(int(depth), int(width), int(rows), task.max_seq_len, task.vocab_size)
    return peak_gb(shape, track.device)


def _device(found: Findings) -> tuple[Kind, float]:
    if found.gpus:
        memory = found.gpus[0].memory_gb
        return "cuda", memory / 2 if _no_bf16(found.torch) else memory
    return ("mps" if found.torch.mps else "cpu"), found.memory_gb[0]


def _no_bf16(torch: Torch) -> bool:
    """Whether the GPU is older than compute capability 8.0 (Ampere)."""
    return bool(torch.capability) and int(torch.capability.partition(".")[0]) < 8


def _next(plan: Plan, can_run: bool) -> str:
    name = plan.file.argument
    if not can_run:
        return "metaresearch doctor" + (f" --track {name}" if plan.start is None else "")
    if plan.start is not None and plan.start.literals:
        return "metaresearch doctor --calibrate"
    return "metaresearch demo" if name == "tiny-cpu" else f"metaresearch tournament --track {name}"


# --- the checks -------------------------------------------------------------------------------


def checks(home: Home, found: Findings, track: Track) -> list[Check]:
    """Everything that was looked at; a problem is what keeps this track from running."""
    gpu = _gpu_checks(found, track)
    return [
        _python(),
        _torch(found.torch),
        *gpu,
        _compiler(track),
        _git(found),
        _processor(found, track),
        _memory(found, track),
        _disk(found, track),
        _writable(found.home),
        _data(home, track),
        _box(found),
    ]


def _check(name: str, found: str, state: State = "ok", remedy: str = "") -> Check:
    return Check(name=name, found=found, state=state, remedy=remedy[:1].upper() + remedy[1:])


def _python() -> Check:
    return _check("Python", f"{sys.version.split()[0]} on {sys.platform}")


def _torch(torch: Torch) -> Check:
    if not torch.version:
        return _check("torch", torch.error or "not installed", "problem", faults.no_torch(torch))
    build = f"for CUDA {torch.cuda_build}" if torch.cuda_build else "without CUDA"
    return _check("torch", f"{torch.version}, built {build}")


def _gpu_checks(found: Findings, track: Track) -> list[Check]:
    if track.device == "mps":
        return [_needed("Apple GPU", "usable", faults.no_mps(found.torch))]
    if not found.gpus and track.device == "cpu":
        remedy = "mend the driver if this machine has an NVIDIA GPU; this track does without."
        found_none = _check("NVIDIA GPU", f"nvidia-smi says '{found.trouble}'", "warning", remedy)
        return [found_none] if found.trouble else []
    if not found.gpus:
        said = found.trouble or "nvidia-smi finds none"
        return [_check("NVIDIA GPU", said, "problem", str(machine.no_gpu(track)))]
    first = found.gpus[0]
    many = f", {len(found.gpus)} of them" if len(found.gpus) > 1 else ""
    what = f"{first.name}, {first.memory_gb:.0f} GiB, driver {first.driver}{many}"
    if track.device == "cpu":
        return [_check("NVIDIA GPU", f"{what}; this track does not use it")]
    works = f"compute capability {found.torch.capability or '?'}"
    return [
        _check("NVIDIA GPU", what),
        _needed("CUDA in torch", works, faults.no_cuda(found.torch)),
        _alone(found),
        _needed("Triton", found.torch.triton, faults.no_triton(found.torch)),
        _needed("Python headers", "Python.h is there", faults.no_headers()),
    ]


def _needed(name: str, found: str, fault: str, state: State = "problem") -> Check:
    """A check whose remedy is a sentence of `faults`, empty where all is well."""
    if not fault:
        return _check(name, found)
    what, _, remedy = fault.partition(": ")
    return _check(name, what, state, remedy)


def _alone(found: Findings) -> Check:
    if not found.strangers:
        return _check("GPU is free", "no other process computes on it")
    what, _, remedy = faults.busy(*found.strangers[0]).partition(": ")
    return _check("GPU is free", what, "problem", remedy)


def _room(plan: Plan) -> list[Check]:
    need, there = plan.proposal.memory_gb, plan.proposal.device_memory_gb
    if need is None or there is None or plan.track.device == "cpu" or need <= SHARE * there:
        return []
    what = f"about {need:.0f} GiB estimated, {there:.0f} GiB there"
    remedy = "halve DEVICE_BATCH_SIZE in the track's [start] if it runs out of memory."
    return [_check("GPU memory", what, "warning", remedy)]


def _compiler(track: Track) -> Check:
    found = machine.c_compiler()
    if found or track.device == "cuda":
        return _needed("C compiler", found, faults.no_compiler())
    return _check(
        "C compiler",
        "none",
        "warning",
        "this track runs without one, but an edit that uses torch.compile would stop it: install "
        "one (Debian and Ubuntu: `apt install build-essential`).",
    )


def _git(found: Findings) -> Check:
    if found.git:
        return _check("git", found.git.removeprefix("git version "))
    return _check("git", "not installed", "problem", "install git; every experiment is a commit.")


def _processor(found: Findings, track: Track) -> Check:
    what = f"{found.processor}, {found.cores} cores, load {found.load:.1f}"
    if found.load < 0.5 * found.cores:
        return _check("processor", what)
    remedy = "other work is running, which makes timings noisier: end it before you measure."
    return _check("processor", what, "warning", remedy)


def _memory(found: Findings, track: Track) -> Check:
    total, free = found.memory_gb
    slots = found.cores if track.device == "cpu" else max(1, len(found.gpus))
    limit = min(track.limits.memory_gb, 2.0 if track.device == "cpu" else 16.0)
    what = f"{free:.0f} of {total:.0f} GiB free"
    if free >= limit * slots:
        return _check("memory", what)
    remedy = f"{slots} trainings at a time may need {limit * slots:.0f} GiB: use fewer --slots."
    return _check("memory", what, "warning", remedy)


def _disk(found: Findings, track: Track) -> Check:
    what, need = f"{found.free_disk_gb:.1f} GiB free", ROOM_GB[track.device]
    if found.free_disk_gb >= need:
        return _check("disk", what)
    state: State = "problem" if found.free_disk_gb < need / 10 else "warning"
    remedy = f"about {need:g} GiB are needed: free some, or set METARESEARCH_HOME to another disk."
    return _check("disk", what, state, remedy)


def _writable(home: Path) -> Check:
    there = next(p for p in (home, *home.parents) if p.exists())
    if there.is_dir() and os.access(there, os.W_OK):
        return _check("state folder", str(home))
    remedy = "set METARESEARCH_HOME to a folder you can write to."
    return _check("state folder", f"{home} cannot be written", "problem", remedy)


def _data(home: Home, track: Track) -> Check:
    task = track.task
    key = content_hash([task.corpus, task.vocab_size, task.max_seq_len], length=8)
    folder = home.cache / f"{task.name}-{key}"
    if (folder / "manifest.json").is_file():
        return _check("data", f"{task.corpus} is prepared")
    if task.corpus != "climbmix":
        return _check("data", f"{task.corpus}, prepared by the first command in seconds")
    remedy = "the first command downloads and tokenises it, which takes minutes to an hour."
    return _check("data", f"{task.corpus} is not prepared", "warning", remedy)


def _box(found: Findings) -> Check:
    version, works = found.bubblewrap
    what = "not installed"
    if version:
        what = f"{version} {'works' if works else 'cannot make a sandbox here'}"
    remedy = "run only programs and edits you would run yourself; results are stamped untrusted."
    return _check("isolation", f"none yet (bubblewrap: {what})", "warning", remedy)

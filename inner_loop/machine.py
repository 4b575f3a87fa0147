"""What this machine is: processor, GPUs and what is on them, torch, compiler, git.

Owns: asking (nvidia-smi, a short Python process for torch, the file system) and the hardware key.
torch is never imported here: importing it takes seconds, and CUDA must not start in the harness.
Does not own: what follows from the answers (`faults.py` refuses, `outer_loop/doctor.py` advises).
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from inner_loop.errors import UserError
from inner_loop.records import Record, Track

GIB = 1 << 30
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
NVIDIA_SMI = "nvidia-smi"
SMI_SECONDS = 20.0  # a broken driver makes nvidia-smi hang
TORCH_SECONDS = 90.0
TORCH_PROBE = """
import json, warnings
found = {}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    found["version"], found["cuda_build"] = torch.__version__, torch.version.cuda or ""
    found["cuda"], found["mps"] = torch.cuda.is_available(), torch.backends.mps.is_available()
    try:
        if found["cuda_build"]:
            found["capability"] = "%d.%d" % torch.cuda.get_device_capability()
            (torch.ones(8, device="cuda") + 1).sum().item()
    except Exception as error:
        found["cuda"], found["error"] = False, str(error).strip().splitlines()[0]
    try:
        import triton
        found["triton"] = triton.__version__
    except Exception:
        found["triton"] = ""
print(json.dumps(found))
"""


class Gpu(NamedTuple):
    """One NVIDIA GPU as nvidia-smi sees it."""

    number: str
    """What nvidia-smi and CUDA_VISIBLE_DEVICES call it."""
    uuid: str
    name: str
    memory_gb: float
    """Total memory, GiB."""
    driver: str


class GpuProcess(NamedTuple):
    """A process that computes on a GPU."""

    pid: int
    name: str
    memory_gb: float | None
    """GiB it holds there; None where the driver does not say (containers, WSL)."""


class Torch(Record):
    """What torch says about itself in a process of its own."""

    version: str = ""
    """Empty: torch cannot be imported."""
    cuda_build: str = ""
    """CUDA version it was built for; empty for a build without CUDA."""
    cuda: bool = False
    """A CUDA device answered a small calculation."""
    mps: bool = False
    capability: str = ""
    """Compute capability of the first CUDA device, for example `9.0`."""
    triton: str = ""
    """Version; empty if it cannot be imported."""
    error: str = ""
    """First line of what went wrong."""


class Run(NamedTuple):
    """What a tool answered."""

    ok: bool
    text: str
    """Standard output; where that is empty, standard error."""


# --- GPUs -------------------------------------------------------------------------------------


def nvidia_gpus() -> list[Gpu]:
    """The NVIDIA GPUs this process may use (CUDA_VISIBLE_DEVICES), in slot order."""
    fields = "index,uuid,name,memory.total,driver_version"
    done = _smi(f"--query-gpu={fields}")
    found = [_gpu(line) for line in done.text.splitlines()] if done.ok else []
    return _visible([gpu for gpu in found if gpu], os.environ.get("CUDA_VISIBLE_DEVICES"))


def nvidia_trouble() -> str:
    """What nvidia-smi complains of, one line; empty if it answers or is not installed."""
    if shutil.which(NVIDIA_SMI) is None:
        return ""
    done = _smi("--query-gpu=index")
    return "" if done.ok else (done.text.splitlines() or ["it gives no answer"])[0]


def gpus() -> list[str]:
    """Names of the NVIDIA GPUs this process may use."""
    return [gpu.name for gpu in nvidia_gpus()]


def strangers(gpu: str) -> list[GpuProcess]:
    """Processes on a GPU (index or UUID) that are neither ours nor our children."""
    done = _smi("--query-compute-apps=pid,process_name,used_memory", "-i", gpu)
    found = [_process(line) for line in done.text.splitlines()] if done.ok else []
    us = psutil.Process()
    ours = {us.pid, *(child.pid for child in us.children(recursive=True))}
    return [process for process in found if process and process.pid not in ours]


def _smi(*words: str) -> Run:
    return run_tool([NVIDIA_SMI, *words, "--format=csv,noheader,nounits"], SMI_SECONDS)


def _gpu(line: str) -> Gpu | None:
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != 5:
        return None
    number, uuid, name, memory, driver = cells
    return Gpu(number, uuid, name, (_mebibytes(memory) or 0.0) / 1024, driver)


def _process(line: str) -> GpuProcess | None:
    pid, _, rest = line.partition(",")
    name, _, memory = rest.rpartition(",")
    if not pid.strip().isdigit():
        return None
    mib = _mebibytes(memory.strip())
    return GpuProcess(int(pid), name.strip(), None if mib is None else mib / 1024)


def _mebibytes(text: str) -> float | None:
    try:
        return float(text.removesuffix("MiB"))
    except ValueError:  # [N/A], [Insufficient Permissions]
        return None


def _visible(found: list[Gpu], visible: str | None) -> list[Gpu]:
    """CUDA's rule: in the order named, up to the first name that fits none."""
    if visible is None:
        return found
    chosen: list[Gpu] = []
    for word in (part.strip() for part in visible.split(",")):
        fits = [g for g in found if word and (g.number == word or g.uuid.startswith(word))]
        if not fits:
            break
        chosen.append(fits[0])
    return chosen


# --- torch, compiler, tools -------------------------------------------------------------------


def ask_torch(env: Mapping[str, str] | None = None) -> Torch:
    """Import torch in a process of its own and let it compute; takes seconds.

    Args:
        env: variables to add, for example CUDA_VISIBLE_DEVICES.
    """
    words = [sys.executable, "-s", "-c", TORCH_PROBE]
    done = run_tool(words, TORCH_SECONDS, {**os.environ, **(env or {})})
    try:
        return Torch.model_validate(json.loads(done.text.splitlines()[-1]))
    except (ValueError, IndexError):
        return Torch(error=(done.text.strip().splitlines() or ["no answer"])[-1])


def installed_torch() -> str:
    """The torch version without importing it; empty if it is not installed."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""


def c_compiler() -> str:
    """The C compiler Triton and inductor would find: $CC, else gcc or clang; empty if none."""
    named = os.environ.get("CC", "").split()
    return next((found for c in (*named[:1], "gcc", "clang") if (found := shutil.which(c))), "")


def cxx_compiler() -> str:
    """The C++ compiler inductor would find: $CXX, else g++ or clang++; empty if none."""
    named = os.environ.get("CXX", "").split()
    return next((found for c in (*named[:1], "g++", "clang++") if (found := shutil.which(c))), "")


def has_python_headers() -> bool:
    """Whether Python.h is there, which Triton compiles against."""
    return (Path(sysconfig.get_path("include")) / "Python.h").is_file()


def tool_version(*words: str) -> str:
    """First line of what a tool answers, for example `git --version`; empty if it cannot run."""
    done = run_tool(list(words), 10.0)
    return done.text.splitlines()[0].strip() if done.ok and done.text else ""


def bubblewrap() -> tuple[str, bool]:
    """Version of bubblewrap (empty if not installed), and whether it can make a sandbox here."""
    found = tool_version("bwrap", "--version")
    works = run_tool(["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"], 10.0).ok
    return found, bool(found) and works


def run_tool(words: Sequence[str], seconds: float, env: Mapping[str, str] | None = None) -> Run:
    """Run a tool to its end; a missing or hanging one is an answer, never an exception."""
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=env,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Run(False, str(error))
    return Run(done.returncode == 0, done.stdout.strip() or done.stderr.strip())


# --- the machine ------------------------------------------------------------------------------


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        return tool_version("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return f"{platform.machine()} {platform.processor()}".strip()


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load() -> float:
    """Processes that want a core, mean of the last minute."""
    return os.getloadavg()[0]


def memory_gb() -> tuple[float, float]:
    """Total and available memory, GiB; a container's own limit counts as its total."""
    found: Any = psutil.virtual_memory()
    try:
        limit = int(CGROUP_LIMIT.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        limit = found.total
    return min(found.total, limit) / GIB, min(found.available, limit) / GIB


def free_disk_gb(path: Path) -> float:
    """Free space where `path` is or would be, GiB."""
    there = next(p for p in (path, *path.parents) if p.exists())
    return shutil.disk_usage(there).free / GIB


# --- a track on this machine ------------------------------------------------------------------


def hardware(track: Track) -> str:
    """The hardware key: device and torch build.

    Raises:
        UserError: the track needs a GPU and there is none.
    """
    found = gpus() if track.device == "cuda" else [processor()]
    if not found:
        raise no_gpu(track)
    return f"{found[0]}, torch {version('torch')}"


def no_gpu(track: Track) -> UserError:
    """What to say where a `cuda` track finds no GPU."""
    trouble = nvidia_trouble()
    says = f"nvidia-smi says '{trouble}'" if trouble else "nvidia-smi finds none"
    return UserError(
        f"Track '{track.name}' needs an NVIDIA GPU and {says}; "
        "use --track tiny-cpu, or run where there is one."
    )


def refuse_more_slots_than_gpus(track: Track, slots: int | None) -> None:
    """Two trainings on one GPU would slow each other down.

    Raises:
        UserError: more slots are asked for than there are GPUs.
    """
    if track.device == "cuda" and slots is not None and slots > len(gpus()):
        raise UserError(f"--slots {slots} needs as many GPUs and there are {len(gpus())}.")
    if track.device == "mps" and slots is not None and slots > 1:
        raise UserError(f"--slots {slots} needs as many GPUs and a Mac has one.")


def default_slots(track: Track) -> int:
    """One slot per GPU, or per core this process may use."""
    if track.device == "cuda":
        return max(1, len(gpus()))
    return 1 if track.device == "mps" else cores()

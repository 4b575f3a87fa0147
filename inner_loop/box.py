"""The run box, first version: where untrusted train.py runs; DESIGN.md section 6.1.

What is covered: its own session and process tree (killed whole, orphans included, on Linux), CPU,
wall, memory, file-size and process limits enforced from outside, a scrubbed environment, a fresh
scratch folder that is deleted afterwards, one device visible.
What is not covered: files and network are NOT hidden, other processes of the same user can be seen
and signalled, and a process that lives shorter than a poll can hide its CPU seconds.
So every result is stamped `untrusted`; step 5 replaces this file behind the same seam.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from inner_loop.channel import BrokenBox
from inner_loop.crash import Crash
from inner_loop.records import CrashCode, Track

LAUNCHER = Path(__file__).with_name("launch.py")
GIB = 1 << 30
KEPT_OUTPUT = 16_384  # bytes of the box's output that are kept
ADDRESS_SLACK_GB = 4.0  # torch maps more than it touches
CPU_BACKSTOP = 4  # RLIMIT_CPU as a multiple of the budget, should the watch ever fail


class Usage(NamedTuple):
    """What the box's process tree has used."""

    cpu_seconds: float
    memory_gb: float
    processes: int


class RunBox:
    """One process tree in one scratch folder; a context manager that leaves neither behind.

    Args:
        files: what lies in the scratch folder: train.py, prepare.py, task.json.
        tokenizer: files the box may read in its METARESEARCH_CACHE, name to source.
        track: limits, clock and device.
        seed: what every manual_seed in the box becomes.
        scratch: parent of the scratch folder.
        slot: index of the device, and of nothing else.
        cancelled: polled; true ends the box.
    """

    def __init__(
        self,
        files: Mapping[str, str],
        tokenizer: Mapping[str, Path],
        track: Track,
        *,
        seed: int,
        scratch: Path,
        slot: int,
        cancelled: Callable[[], bool],
    ) -> None:
        self.track, self.cancelled = track, cancelled
        self.used = Usage(0.0, 0.0, 0)
        self.peak_memory_gb = 0.0
        self._seen: dict[tuple[int, float], float] = {}
        self._next_check = 0.0
        self._cpu_deadline = track.limits.startup_seconds if track.clock == "cpu" else float("inf")
        self._wall_deadline = track.limits.wall_seconds
        scratch.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="box-", dir=scratch))
        try:
            self._fill(files, tokenizer)
            self._spawn(scratch, seed, slot)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _fill(self, files: Mapping[str, str], tokenizer: Mapping[str, Path]) -> None:
        for name, text in files.items():
            (self.folder / name).write_text(text, encoding="utf-8", newline="")
        for name in ("tmp", "home", "tokenizer"):
            (self.folder / name).mkdir()
        for name, source in tokenizer.items():
            shutil.copyfile(source, self.folder / "tokenizer" / name)

    def _spawn(self, scratch: Path, seed: int, slot: int) -> None:
        self._log = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115  # closed in __exit__
        self.wire, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.started = time.monotonic()
        with theirs:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.folder,
                env=self._environment(theirs.fileno(), seed, slot),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._tree = psutil.Process(self._process.pid)

    def __enter__(self) -> RunBox:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.wire.close()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def allow_cpu_until(self, cpu_seconds: float) -> None:
        """From now on the tree is killed when its CPU seconds pass this."""
        self._cpu_deadline = cpu_seconds

    def allow_wall_until(self, seconds: float) -> None:
        """From now on the tree is killed this long after its start, if not sooner."""
        self._wall_deadline = min(self.track.limits.wall_seconds, seconds)

    @property
    def age(self) -> float:
        """Wall seconds since the box was spawned."""
        return time.monotonic() - self.started

    def watch(self) -> None:
        """Check the limits; cheap to call often.

        Raises:
            Crash: a limit is passed or the work is cancelled; the tree has been killed.
            BrokenBox: the launcher is gone, so nothing watches over what may be left.
        """
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + 0.2
        used, limits = self.usage(), self.track.limits  # the one scan of the process table
        if used.memory_gb > limits.memory_gb:
            self._end("oom", f"used {used.memory_gb:.1f} GiB of memory, limit {limits.memory_gb:g}")
        if used.cpu_seconds > self._cpu_deadline:
            self._end("timeout", f"killed after {used.cpu_seconds:.1f} CPU seconds")
        if self.age > self._wall_deadline:
            self._end("timeout", f"killed after {self.age:.0f} s of wall time")
        if used.processes > limits.processes:
            self._end("exception", f"started more than {limits.processes} processes")
        if self.cancelled():
            self._end("timeout", "cancelled")
        if self._process.poll() is not None:
            raise BrokenBox("the box has ended")

    def usage(self) -> Usage:
        """CPU seconds and resident memory of the whole tree now; keeps the last reading in `used`.

        A parent that ignores SIGCHLD never inherits its children's CPU seconds, so what each
        process was last seen to use is summed too, and the larger sum counts.
        """
        inherited = memory = 0.0
        members = tree_members(self._tree)
        for process in members:
            try:
                with process.oneshot():
                    t = process.cpu_times()
                    self._seen[process.pid, process.create_time()] = t.user + t.system
                    inherited += t.user + t.system + t.children_user + t.children_system
                    memory += process.memory_info().rss / GIB
            except psutil.Error:
                continue
        self.peak_memory_gb = max(self.peak_memory_gb, memory)
        cpu = max(inherited, sum(self._seen.values()), self.used.cpu_seconds)
        self.used = Usage(cpu, memory, len(members))
        return self.used

    def wait(self, seconds: float) -> int | None:
        """Exit code once the box has ended, or None after `seconds`; negative for a signal."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            code = self._process.poll()
            if code is not None:
                return 128 - code if code > 128 else code
            time.sleep(0.01)
            with suppress(BrokenBox):
                self.watch()
        return None

    def kill(self) -> None:
        """End the whole tree, orphans included, and wait until it is gone."""
        end_tree(self._process, self._tree)

    def output(self) -> str:
        """The last `KEPT_OUTPUT` bytes the box printed."""
        size = os.fstat(self._log.fileno()).st_size
        start = max(0, size - KEPT_OUTPUT)
        return os.pread(self._log.fileno(), KEPT_OUTPUT, start).decode("utf-8", "replace")

    def _end(self, code: CrashCode, reason: str) -> None:
        self.kill()
        raise Crash(code, reason)

    def _command(self) -> list[str]:
        limits = json.dumps(self._rlimits())
        train = [sys.executable, "-s", "-B", "-u", "train.py"]
        launch = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), limits]
        return launch + train

    def _rlimits(self) -> dict[str, int]:
        caps = self.track.limits
        limits = {"RLIMIT_FSIZE": int(caps.file_mb * (1 << 20)), "RLIMIT_NOFILE": 4096}
        if self.track.clock == "cpu":
            budget = caps.startup_seconds + self.track.time_budget
            limits["RLIMIT_CPU"] = int(CPU_BACKSTOP * budget) + 60
        # CUDA maps far more than it uses
        if self.track.device == "cpu" and sys.platform == "linux":
            limits["RLIMIT_AS"] = int((caps.memory_gb + ADDRESS_SLACK_GB) * GIB)
            limits["RLIMIT_NPROC"] = own_processes() + caps.processes
        return limits

    def _environment(self, fd: int, seed: int, slot: int) -> dict[str, str]:
        passed = ("PATH", "LD_LIBRARY_PATH", "CC", "CXX")
        kept = {name: os.environ[name] for name in passed if name in os.environ}
        one_thread = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        return kept | {
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "LANG": "C.UTF-8",
            "PYTHONHASHSEED": "0",
            "METARESEARCH_FD": str(fd),
            "METARESEARCH_SEED": str(seed),
            "METARESEARCH_CACHE": str(self.folder / "tokenizer"),
            "METARESEARCH_DEVICE": self.track.device,
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # nvidia-smi's order: index and card stay together
            "CUDA_VISIBLE_DEVICES": _gpu(slot) if self.track.device == "cuda" else "",
            **(dict.fromkeys(one_thread, "1") if self.track.device == "cpu" else {}),
        }


def tree_members(tree: psutil.Process) -> list[psutil.Process]:
    """The launcher at the root of `tree` and all that lives below it; empty once it is gone."""
    try:
        return [tree, *tree.children(recursive=True)]
    except psutil.Error:
        return []


def end_tree(launcher: subprocess.Popen[bytes], tree: psutil.Process) -> None:
    """End all below a launcher that leads its own session, then itself; wait until it is gone."""
    for _ in range(100):  # each death may hand its children to the launcher
        alive = [p for p in tree_members(tree)[1:] if _is_alive(p)]
        if not alive:
            break
        for process in alive:
            with suppress(psutil.Error):
                process.kill()
        time.sleep(0.005)
    group = launcher.pid  # also reaches what outlived a launcher that was killed
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
        launcher.wait()
        for _ in range(200):
            os.killpg(group, 0)
            time.sleep(0.005)
    launcher.wait()


def _gpu(slot: int) -> str:
    """The device of a slot: of those the user lets us see, the slot's."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[slot].strip() if visible else str(slot)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def own_processes() -> int:
    """Processes and threads of this user now: RLIMIT_NPROC counts all of them, not the box's."""
    uid, count = os.getuid(), 0
    for process in psutil.process_iter(["uids", "num_threads"]):
        uids = process.info["uids"]
        if uids is not None and uids.real == uid:
            count += process.info["num_threads"] or 1
    return count

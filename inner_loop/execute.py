"""One job on one slot: run box, then scorer; the same function on every executor.

Owns: the conversation with the box (data release, hand-over, scoring), the budget clock and the
crash codes. Does not own: limits (`box.py`), arithmetic (`scorer.py`), git or the ledger.

The budget runs from the moment the training data is released, at train.py's first data request, to
the hand-over in `evaluate_bpb`. The box waits at both points, so the reading is exact.
"""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from inner_loop.box import RunBox
from inner_loop.channel import BrokenBox, Channel, WrongPayload
from inner_loop.crash import Crash
from inner_loop.faults import blame_the_machine, refuse_a_busy_gpu, refuse_other_data
from inner_loop.records import Claims, CrashCode, Measured, Record, Shard, Track
from inner_loop.scorer import Logits, Rows, bits_per_byte, load_shard

GOODBYE_SECONDS = 5.0  # for train.py to print its summary after the score; then it is killed
ERROR_CHARS = 2_000
ROOM_BYTES = 1 << 20  # less free space than this is a full disk
OUT_OF_MEMORY = re.compile(
    r"MemoryError|not enough memory|out of memory|bad_alloc|Cannot allocate"
    r"|CUBLAS_STATUS_ALLOC_FAILED"  # CUDA's and Metal's own words are "out of memory"
)
NOT_FINITE = re.compile(r"^FAIL(?:$|.*\b(?:loss|nan|inf)\b)", re.MULTILINE | re.IGNORECASE)
TOKENIZER_FILES = ("tokenizer.json", "token_bytes.npy")


class Job(Record):
    """One training to measure; JSON-able, so that it can travel to another machine."""

    run_id: str
    index: int
    files: dict[str, str]
    """train.py, prepare.py, task.json by name."""
    track: Track
    seed: int
    shards: tuple[Shard, ...]
    """What to score; train.py is told the first one's number."""
    data: str
    """Name of the prepared corpus under the site's cache."""


class Site(NamedTuple):
    """Where a machine keeps its prepared data and its scratch folders."""

    cache: Path
    scratch: Path


def execute(
    job: Job, site: Site, slot: int, cancelled: Callable[[], bool] = lambda: False
) -> Measured:
    """Train and score; every failure of the box is a crash code, never an exception.

    Raises:
        MachineFault, OSError: the machine failed, not the box; there is nothing to record.
    """
    data = site.cache / job.data
    refuse_a_busy_gpu(job.track, slot)
    refuse_other_data(data, job.track.corpus_sha256)
    with RunBox(
        job.files,
        {name: data / name for name in TOKENIZER_FILES},
        job.track,
        seed=job.seed,
        scratch=site.scratch,
        slot=slot,
        cancelled=cancelled,
    ) as box:
        session = _Session(job, data, box)
        try:
            session.converse()
            crash, reason = None, ""
        except Crash as end:
            crash, reason = end.code, str(end)
        except BrokenBox as end:
            crash, reason = _why_it_ended(box, str(end))
        measured = session.measured(crash, reason)
        refuse_other_data(data, job.track.corpus_sha256)  # nor may it have changed meanwhile
        if crash:
            _blame_a_full_disk(site.scratch)
        if crash and not cancelled():
            _blame_the_machine(session, slot, crash)
        return measured


class _Session:
    """The state of one conversation with a box."""

    def __init__(self, job: Job, data: Path, box: RunBox) -> None:
        self.job, self.data, self.box = job, data, box
        self.channel = Channel(box.wire, box.watch)
        self.clock_seconds = self.startup_seconds = 0.0
        self._released = self._cpu_at_release = math.nan
        self.scores: dict[Shard, float] = {}

    def converse(self) -> None:
        self._expect("data")
        self._release_data()
        request = self._expect("evaluate")
        self._stop_clock()
        vocab_size = self.job.track.task.vocab_size
        if request.get("vocab_size") != vocab_size:
            raise Crash("bad_logits", f"vocabulary of {request.get('vocab_size')}")
        for shard in self.job.shards:
            rows = load_shard(self.data, shard, self.job.track.task)
            self.scores[shard] = bits_per_byte(rows, self._ask, vocab_size)
        with suppress(BrokenBox, Crash):  # scored: what the box does now changes nothing
            self.channel.send({"type": "score", "val_bpb": self.scores[self.job.shards[0]]})
            self.box.wait(GOODBYE_SECONDS)

    def measured(self, crash: CrashCode | None, reason: str) -> Measured:
        output = self.box.output()
        return Measured(
            search_bpb=None if crash else self.scores.get("search"),
            audit_bpb=None if crash else self.scores.get("audit"),
            crash=crash,
            error=_error_text(reason, output) if crash else "",
            startup_seconds=self.startup_seconds,
            clock_seconds=self.clock_seconds or self._spent(),
            wall_seconds=self.box.age,
            memory_gb=self.box.peak_memory_gb,
            claims=_claims(output),
        )

    @property
    def has_data(self) -> bool:
        """Whether the training data was released."""
        return not math.isnan(self._released)

    def _expect(self, kind: str) -> dict[str, object]:
        header = self.channel.receive().header
        if header.get("type") != kind:
            raise Crash("no_result", f"expected a message '{kind}', got {header.get('type')!r}")
        return header

    def _release_data(self) -> None:
        track = self.job.track
        self.startup_seconds = self.box.age
        if track.clock != "cpu" and self.startup_seconds > track.limits.startup_seconds:
            raise Crash("timeout", f"{self.startup_seconds:.0f} s before the first data request")
        self._cpu_at_release = self.box.usage().cpu_seconds
        if track.clock == "cpu":
            self.box.allow_cpu_until(self._cpu_at_release + 2 * track.time_budget + 2)
        fd = os.open(self.data / "train.bin", os.O_RDONLY)
        try:
            self._released = time.monotonic()
            self.channel.send_file({"type": "data"}, fd)
        finally:
            os.close(fd)

    def _stop_clock(self) -> None:
        track, scoring = self.job.track, self.job.track.limits.scoring_seconds
        used = self.box.usage()
        self.clock_seconds = self._spent()
        allowed = track.time_budget * (1 + track.limits.overtime_fraction)
        if track.clock != "steps" and self.clock_seconds > allowed:
            raise Crash(
                "overtime",
                f"handed over after {self.clock_seconds:.2f} s, allowed {allowed:.2f}",
            )
        if track.clock == "cpu":
            self.box.allow_cpu_until(used.cpu_seconds + scoring)
        else:
            self.box.allow_wall_until(self.box.age + scoring)

    def _spent(self) -> float:
        """Seconds of the track's clock since the data was released, as of the last reading."""
        if not self.has_data:
            return 0.0
        if self.job.track.clock == "wall":
            return time.monotonic() - self._released
        return self.box.used.cpu_seconds - self._cpu_at_release

    def _ask(self, rows: Rows) -> Logits:
        payload = rows.astype("<u2").tobytes()
        self.channel.send({"type": "rows", "shape": rows.shape, "dtype": "uint16"}, payload)
        shape = (*rows.shape, self.job.track.task.vocab_size)
        nbytes = 4 * int(np.prod(shape))
        try:
            header, raw = self.channel.receive(nbytes)
        except WrongPayload as error:
            raise Crash("bad_logits", f"logits of {error}") from error
        if header.get("type") != "logits" or header.get("dtype") != "float32":
            raise Crash("bad_logits", f"answer of type {header.get('type')!r}")
        if header.get("shape") != list(shape) or len(raw) != nbytes:
            raise Crash("bad_logits", f"logits of shape {header.get('shape')}")
        return np.frombuffer(raw, dtype="<f4").reshape(shape)


def _why_it_ended(box: RunBox, fallback: str) -> tuple[CrashCode, str]:
    try:
        code = box.wait(GOODBYE_SECONDS)
    except Crash as end:
        return end.code, str(end)
    output = box.output()
    if re.search(OUT_OF_MEMORY, output):
        return "oom", "ran out of memory"
    if code == -9:
        return "oom", "killed from outside, most likely for memory"
    if re.search(NOT_FINITE, output):
        return "nan", "train.py stopped: its loss is not finite or exploded"
    if re.search(r"^(SyntaxError|IndentationError|TabError)", output, re.MULTILINE):
        return "syntax", "train.py does not compile"
    if code == 0:
        return "no_result", "ended without calling evaluate_bpb"
    return "exception", fallback if code is None else f"exit code {code}"


def _blame_the_machine(session: _Session, slot: int, crash: CrashCode) -> None:
    """A crash that a missing compiler, a driver or somebody else on the GPU explains is no row."""
    track, box = session.job.track, session.box
    if not session.has_data:
        blame_the_machine(track, slot, box.output())
    if crash == "oom":
        box.kill()  # what is left on the GPU then is not ours
        refuse_a_busy_gpu(track, slot)


def _error_text(reason: str, output: str) -> str:
    text = f"{reason[:ERROR_CHARS]}\n{output[-ERROR_CHARS:]}"
    return "".join(c for c in text if c.isprintable() or c in "\n\t").strip()


def _blame_a_full_disk(scratch: Path) -> None:
    """A crash on a full disk is the machine's failure, not the program's."""
    if shutil.disk_usage(scratch).free < ROOM_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(scratch))


def _claims(output: str) -> Claims:
    block = output.rpartition("---\n")[2] if "---\n" in output else ""
    found = dict(re.findall(r"^(\w+):\s+(-?[\d.]+)\s*$", block, re.MULTILINE))
    kept = {name: found[name] for name in Claims.model_fields if name in found}
    try:
        return Claims.model_validate(kept)
    except ValueError:
        return Claims()

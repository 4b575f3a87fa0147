"""What `doctor` says about a machine: checks, a proposed track, calibrated baselines.

Owns: these records (what `doctor --json` prints) and the statistics of a calibration.
Does not own: asking the machine or training (`outer_loop/doctor.py`, `outer_loop/calibrate.py`),
layout (`machine_terminal`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field
from scipy import stats

from analysis.keeps_noise import NoiseFloor, measured_floor
from analysis.leaderboard import CONFIDENCE
from inner_loop.records import SCHEMA_VERSION, Constant, Record

MBPB_PER_BPB = 1000.0
State = Literal["ok", "warning", "problem", "missing"]


class Check(Record):
    """One thing that was looked at."""

    name: str
    found: str
    state: State
    """`problem`: the proposed track cannot run; `warning`: it can, but read the remedy;
    `missing`: something the proposed track does not need."""
    remedy: str = ""
    """What to do, one sentence; empty where all is well."""


class Proposal(Record):
    """The track that suits this machine, or the one that was asked about."""

    track: str
    """Its name."""
    device: str
    why: str
    start: dict[str, Constant] = Field(default_factory=dict)
    """Constants of train.py that differ from the shipped file; the track's `[start]`."""
    memory_gb: float | None = None
    """Estimated peak of one training, GiB."""
    device_memory_gb: float | None = None
    """Memory of the GPU, or of the machine for a CPU or a Mac, GiB."""
    tokens_per_second: float | None = None
    """Measured by a calibration, else an estimate from published runs; None = not known."""
    steps: float | None = None
    """Optimizer steps expected in the budget; None = not known."""
    budget: str
    """Budget of one experiment with its unit."""
    asked: bool = False
    """A track that was asked about; otherwise the one that suits this machine."""


class Baseline(Record):
    """One unchanged training."""

    search_bpb: float
    steps: int | None
    """Optimizer steps (train.py's own count)."""
    tokens_per_second: float | None
    """Tokens of those steps per second of the track's clock."""
    startup_seconds: float
    """Wall seconds before the data was released."""
    wall_seconds: float
    """Wall seconds of the whole training with its scoring."""
    memory_gb: float
    """Peak resident memory, GiB; the GPU's is not in it."""


class Drift(Record):
    """The straight line through the baselines in their order (least squares)."""

    slope_mbpb: float
    """Change of val_bpb from one training to the next, mbpb; negative is better and better."""
    low_mbpb: float
    """Ends of its 95 % interval (Student's t, n - 2 degrees of freedom)."""
    high_mbpb: float


class Calibration(Record):
    """Baselines of a track on this machine and what they say."""

    track: str
    hardware: str
    baselines: tuple[Baseline, ...]
    floor: NoiseFloor | None
    """None where all baselines are equal (a `steps` clock and one seed)."""
    drift: Drift | None
    path: str = ""
    """The track file that was written."""


class DoctorReport(Record):
    """All of it, as `doctor --json` prints it."""

    schema_version: int = SCHEMA_VERSION
    checks: tuple[Check, ...]
    researchers: tuple[Check, ...] = ()
    """Which researchers can work here, and what is missing for the others."""
    proposal: Proposal
    can_run: bool
    """Whether the proposed track can run; the exit code is 0 or 1 accordingly."""
    next_command: str
    calibration: Calibration | None = None


class Statistics(NamedTuple):
    """What repeated unchanged trainings say about noise."""

    floor: NoiseFloor | None
    drift: Drift | None


def statistics(search_bpb: Sequence[float]) -> Statistics:
    """Noise floor and drift of unchanged trainings.

    Args:
        search_bpb: their scores in the order in which they ran, bits per byte.
    """
    scores = [MBPB_PER_BPB * score for score in search_bpb]
    return Statistics(measured_floor([scores], "baselines"), drift_of(scores))


def drift_of(scores_mbpb: Sequence[float]) -> Drift | None:
    """Slope per training with its 95 % interval; None below three trainings.

    A slope b of n points has the standard error s / sqrt(sum (i - mean)^2), s^2 the residuals' sum
    of squares over n - 2 (any textbook on linear regression).
    """
    n = len(scores_mbpb)
    if n < 3:
        return None
    y, x = np.asarray(scores_mbpb, dtype=np.float64), np.arange(n) - (n - 1) / 2
    squares = float(x @ x)
    slope = float(x @ y) / squares
    residuals = y - y.mean() - slope * x
    error = math.sqrt(float(residuals @ residuals) / (n - 2) / squares)
    width = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 2)) * error
    return Drift(slope_mbpb=slope, low_mbpb=slope - width, high_mbpb=slope + width)

"""The noise of single trainings: how large it is, and what it does to a session of keeps.

Owns: the noise floor with its origin and interval, the thresholds of the labels, and the gain that
pure noise shows when the lowest of many trainings is kept. Pure; all in mbpb or units of the floor.
Does not own: which trainings repeat each other, labels or wording (`keeps`, `keeps_terminal`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from analysis.leaderboard import CONFIDENCE, pooled_spread
from inner_loop.records import Record

FloatArray = npt.NDArray[np.float64]
Origin = Literal["given", "baselines", "reruns", "assumed"]

ASSUMED_SD_MBPB = 0.5
"""Rerun sd of the untouched train.py on H200s in 5 minutes: 204 runs in 33 groups, pooled
(derived from the plot data of ferreirafabio/autoresearch-automl)."""
FEW_MEASUREMENTS = 5
"""Below this many, a floor is too uncertain to be used unasked (dean0x/autolab asks for five)."""
REAL, NOISE = 2.0, 1.0
"""Labels change at these many sd of the difference of two trainings, if the floor were known."""

_START = np.linspace(-8, 8, 801)
_GAINS = np.linspace(0, 16, 1601)
_CHI_STEPS = 2000


class NoiseFloor(Record):
    """How far trainings of the same code scatter, and how that is known."""

    sd_mbpb: float
    """Standard deviation of one training's score, mbpb."""
    low_mbpb: float | None
    """Ends of its 95 % interval, mbpb; None where it was given or assumed."""
    high_mbpb: float | None
    df: int | None
    """Degrees of freedom behind it; None where it was given or assumed, and then taken as exact."""
    measurements: int
    """Repeated trainings behind it; 0 where it was given or assumed."""
    origin: Origin


class NoiseGain(NamedTuple):
    """What the lowest of n trainings gains over the first when no edit does anything."""

    mean: float
    low: float
    """Ends of the central 95 % range."""
    high: float


def known_floor(sd_mbpb: float, origin: Origin) -> NoiseFloor:
    """A floor somebody states: the user, or the published figure."""
    return NoiseFloor(
        sd_mbpb=sd_mbpb, low_mbpb=None, high_mbpb=None, df=None, measurements=0, origin=origin
    )


def measured_floor(groups: Sequence[Sequence[float]], origin: Origin) -> NoiseFloor | None:
    """The pooled sd within groups of repeated trainings; None without repeats that differ.

    Interval: sd * sqrt(df / chi2_df(1 - a/2)) to sd * sqrt(df / chi2_df(a/2)), the exact one for
    normal errors.

    Args:
        groups: scores of trainings of the same code under the same conditions, mbpb.
        origin: what they are.
    """
    repeated = [group for group in groups if len(group) > 1]
    spread = pooled_spread(repeated)
    if spread.sd is None:
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = (spread.df / stats.chi2.ppf([1 - tail, tail], spread.df)) ** 0.5 * spread.sd
    return NoiseFloor(
        sd_mbpb=spread.sd,
        low_mbpb=float(low),
        high_mbpb=float(high),
        df=spread.df,
        measurements=sum(len(group) for group in repeated),
        origin=origin,
    )


def threshold(sds: float, df: int | None) -> float:
    """`sds` widened for a floor with `df` degrees of freedom: T_df^-1(Phi(sds)).

    The quantile of Student's t at the probability that `sds` has under a normal; `sds` itself for
    an exact floor. With 4 degrees of freedom 2 becomes 2.9, with 20 it is 2.1.
    """
    return sds if df is None else float(stats.t.ppf(stats.norm.cdf(sds), df))


def interval_factor(df: int | None) -> float:
    """Half width of a two-sided 95 % interval in standard errors: normal, or Student's t."""
    tail = (1 + CONFIDENCE) / 2
    return float(stats.norm.ppf(tail) if df is None else stats.t.ppf(tail, df))


def standard_error(floor: NoiseFloor, trainings: int, others: int) -> float:
    """Standard error in mbpb of the difference of two means of so many trainings each."""
    return floor.sd_mbpb * math.sqrt(1 / trainings + 1 / others)


def trainings_to_settle(gain_mbpb: float, floor: NoiseFloor) -> int:
    """Fresh trainings of each of two scripts that make the half width smaller than the gain.

    t * sd * sqrt(2 / m) < gain, so m is the next whole number above 2 (t * sd / gain)^2.
    """
    return math.floor(2 * (interval_factor(floor.df) * floor.sd_mbpb / gain_mbpb) ** 2) + 1


@lru_cache(maxsize=512)
def noise_gain(experiments: int, start_trainings: int = 1, df: int | None = None) -> NoiseGain:
    """Gain of the lowest of `experiments` trainings over the start when no edit does anything.

    All trainings are then draws e_i from one normal, and the line kept last is the lowest:
    G = max(0, e_0 - min(e_1 .. e_n)), with e_0 the mean of `start_trainings` draws. Given e_0,
    P(G <= x) = Phi(x - e_0)^n, integrated over e_0 here. With one start training its mean is
    the expected maximum of n + 1 normal draws, the classic order statistic. Where the floor
    itself was estimated, the range is that of G / c, c^2 = chi2_df / df (as for Student's t).

    G also bounds what luck adds to the claim of *any* session, whatever its edits do and however it
    keeps: claim - truth = e_0 - e_last <= G.

    Returns:
        Mean and range in units of the noise floor.
    """
    if experiments == 0:
        return NoiseGain(0.0, 0.0, 0.0)
    below = _distribution(experiments, start_trainings)
    tail = (1 - CONFIDENCE) / 2
    mean = float(np.trapezoid(1 - below, _GAINS))
    return NoiseGain(mean, _quantile(below, df, tail), _quantile(below, df, 1 - tail))


def _distribution(experiments: int, start_trainings: int) -> FloatArray:
    """P(G <= x) at each of `_GAINS`."""
    weights = stats.norm.pdf(_START) * (_START[1] - _START[0])
    start = _START / math.sqrt(start_trainings)
    log_above = special.log_ndtr(_GAINS[:, None] - start[None, :])
    below: FloatArray = np.clip(np.exp(experiments * log_above) @ weights, 0, 1)
    return below


def _quantile(below: FloatArray, df: int | None, level: float) -> float:
    """Smallest q with P(G / c <= q) >= level."""
    steps = (np.arange(_CHI_STEPS) + 0.5) / _CHI_STEPS
    scale = np.ones(1) if df is None else np.sqrt(stats.chi2.ppf(steps, df) / df)

    def excess(q: float) -> float:
        return float(np.interp(q * scale, _GAINS, below, right=1.0).mean()) - level

    high = _GAINS[-1] / float(scale[0])
    return 0.0 if excess(0.0) >= 0 else float(optimize.brentq(excess, 0.0, high))

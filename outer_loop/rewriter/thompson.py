"""A Bayesian linear model of gains on instructions, and joint draws from it.

Owns: y = block + x'beta + program + noise with beta ~ N(0, tau^2 I), program ~ N(0, s^2) and a
flat prior on blocks. Linear Thompson sampling: Agrawal and Goyal, ICML 2013; the posterior: Bishop,
Pattern Recognition and Machine Learning (2006), equations 3.49 to 3.51.
Does not own: which instructions there are, or what is composed from a draw (`offline`).

A flat prior on the block effects is the same as taking block means off both sides (Frisch and
Waugh 1933): only differences within a block count. Gains and effects are in mbpb.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from inner_loop.proposal import Evidence

Array = NDArray[np.float64]

PRIOR_SHARE = 0.25
"""Prior sd of one instruction's effect over the sd of a run, where nothing else is known; the
simulations behind it had 0.8 mbpb over 4.3 mbpb."""
PRIOR_WEIGHT = 4.0
"""How many programs' worth of evidence that prior is, when the spread is estimated."""
RESIDUAL_SHARE = 1.0
"""Sd of what a program has beyond the sum of its instructions, over `tau`."""
ROUNDING = 1e-9  # what centring leaves of a column that is the same in a whole block
SMALLEST_NOISE = 1e-3  # mbpb; deterministic tracks have none
Z90 = 1.6448536269514722  # 95 % point of the normal distribution


class Belief(NamedTuple):
    """What is believed of one effect, in mbpb."""

    mean: float
    sd: float

    @property
    def p_positive(self) -> float:
        """Probability that the effect is above zero."""
        return 0.5 * math.erfc(-self.mean / (self.sd * math.sqrt(2)))

    @property
    def interval(self) -> tuple[float, float]:
        """The central 90 % of the belief."""
        return self.mean - Z90 * self.sd, self.mean + Z90 * self.sd


@dataclass(frozen=True)
class Posterior:
    """The joint belief about instructions, then programs' residuals, in that order."""

    units: tuple[str, ...]
    programs: tuple[str, ...]
    mean: Array
    """Shape (units + programs,)."""
    factor: Array
    """Times its transpose it is the covariance; shape (units + programs, units + programs)."""
    noise_sd: float
    """Sd of one run that was used."""
    tau: float
    """Prior sd of one instruction's effect that was used."""

    def unit(self, name: str) -> Belief:
        """The belief about one instruction's effect."""
        index = self.units.index(name)
        return Belief(float(self.mean[index]), float(np.linalg.norm(self.factor[index])))

    def difference(self, program: str, other: str, held: Mapping[str, Collection[str]]) -> Belief:
        """The belief about the gain of `program` minus that of `other`.

        Args:
            program: a program id; one without runs has the residual's prior.
            other: the program it is compared with.
            held: program id -> the instructions it has.
        """
        weights = self._weights(program, held) - self._weights(other, held)
        unseen = sum(p not in self.programs for p in {program, other} if program != other)
        prior = unseen * (RESIDUAL_SHARE * self.tau) ** 2
        variance = float(np.sum((weights @ self.factor) ** 2)) + prior
        return Belief(float(weights @ self.mean), math.sqrt(max(variance, 1e-18)))

    def draw(self, rng: Random) -> dict[str, float]:
        """One joint draw of all instructions' effects."""
        normal = np.array([rng.gauss(0, 1) for _ in self.mean])
        drawn = self.mean + self.factor @ normal
        return dict(zip(self.units, map(float, drawn), strict=False))

    def _weights(self, program: str, held: Mapping[str, Collection[str]]) -> Array:
        own = set(held.get(program, ()))
        units = [float(unit in own) for unit in self.units]
        return np.array(units + [float(name == program) for name in self.programs])


def fit(
    evidence: Sequence[Evidence],
    held: Mapping[str, Collection[str]],
    units: Sequence[str],
    *,
    noise_sd: float | None = None,
    tau: float | None = None,
) -> Posterior:
    """The posterior after `evidence`.

    Args:
        evidence: runs; those of programs that `held` does not know are left out.
        held: program id -> the instructions it has.
        units: the instructions whose effects are wanted.
        noise_sd: sd of one run in mbpb; None estimates it from replicates.
        tau: prior sd of one instruction's effect in mbpb; None estimates it.
    """
    rows = [row for row in evidence if row.program_id in held]
    programs = tuple(dict.fromkeys(row.program_id for row in rows))
    y, x, z = _centred(rows, held, units, programs)
    noise = max(estimated_noise(rows) if noise_sd is None else noise_sd, SMALLEST_NOISE)
    spread = _estimated_tau(y, x, z, noise, rows) if tau is None else tau
    prior = np.full(len(units) + len(programs), spread**2)
    prior[len(units) :] *= RESIDUAL_SHARE**2
    design = np.hstack([x, z])
    root = np.linalg.cholesky(design.T @ design / noise**2 + np.diag(1 / prior))
    factor: Array = np.linalg.inv(root).T  # (root root')^-1 = factor factor'
    mean = factor @ (factor.T @ (design.T @ y)) / noise**2
    return Posterior(tuple(units), programs, mean, factor, noise, spread)


def estimated_noise(rows: Sequence[Evidence]) -> float:
    """Sd of one run: what blocks and programs leave over; without replicates, of all gains."""
    if len(rows) < 2:
        return 1.0
    y = np.array([row.gain for row in rows])
    blocks, programs = _dummies([r.block for r in rows]), _dummies([r.program_id for r in rows])
    for design in (np.hstack([blocks, programs]), blocks):
        fitted, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
        free = len(y) - int(rank)
        if free > 0:
            return math.sqrt(float(np.sum((y - design @ fitted) ** 2)) / free)
    return float(np.std(y, ddof=1))


def _centred(
    rows: Sequence[Evidence],
    held: Mapping[str, Collection[str]],
    units: Sequence[str],
    programs: Sequence[str],
) -> tuple[Array, Array, Array]:
    """Gains, instruction and program indicators, each minus its mean in the row's block."""
    sets = {program: set(held[program]) for program in programs}
    x = np.array([float(u in sets[r.program_id]) for r in rows for u in units])
    z = np.array([float(p == r.program_id) for r in rows for p in programs])
    y = np.array([row.gain for row in rows], dtype=np.float64)
    blocks = _dummies([row.block for row in rows])
    share = blocks / np.maximum(blocks.sum(axis=0), 1)
    off = np.eye(len(rows)) - share @ blocks.T
    shape = len(rows), len(units)
    return off @ y, off @ x.reshape(shape), off @ z.reshape(len(rows), len(programs))


def _dummies(labels: Sequence[object]) -> Array:
    """One column per distinct label; shape (labels, distinct labels)."""
    distinct = list(dict.fromkeys(labels))
    flat = np.array([float(a == b) for a in labels for b in distinct])
    return flat.reshape(len(labels), len(distinct))


def _estimated_tau(y: Array, x: Array, z: Array, noise: float, rows: Sequence[Evidence]) -> float:
    """Prior sd of an effect by the method of moments, drawn towards the default.

    With y = x beta + z g + e, E(y'y) = tau^2 (tr x'x + s^2 tr z'z) + noise^2 (rows - blocks).
    """
    default = (PRIOR_SHARE * noise) ** 2
    weight = float(np.sum(x * x) + RESIDUAL_SHARE**2 * np.sum(z * z))
    programs = z.shape[1]
    if weight < ROUNDING or programs < 2:  # no block holds two programs that differ
        return math.sqrt(default)
    free = len(rows) - len({row.block for row in rows})
    found = max(float(y @ y) - noise**2 * free, 0.0) / weight
    seen = programs - 1
    return math.sqrt((PRIOR_WEIGHT * default + seen * found) / (PRIOR_WEIGHT + seen))

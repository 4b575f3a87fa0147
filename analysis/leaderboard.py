"""Standings of a tournament: mean gains, intervals and ranks that claim no more than the data.

Owns: this version's statistics, a one-way model of the runs' gains with one spread within programs
(the run is the noisy unit). A gain is measured against its own block's baselines; what noise those
have is shared by the block's runs and counted in the spread, which makes comparisons between
programs cautious. A mixed model with block, pedigree and instruction effects will replace it.
Does not own: what a run's gain is (`curves`) or any wording (`wording`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from statistics import fmean
from typing import NamedTuple

from scipy import stats

from analysis.curves import MBPB_PER_BPB, audit_scores, charged, run_details, status_of
from inner_loop.ledger import Ledger
from inner_loop.records import Entrant, Leaderboard, RunDetail, Standing, Tournament

CONFIDENCE = 0.95
FAMILY_ERROR = 0.05  # chance of one or more false orderings in a whole leaderboard
NO_SPREAD_MBPB = 1e-9  # below the resolution of a float64 bits-per-byte difference


class Spread(NamedTuple):
    """A pooled standard deviation and what it rests on."""

    sd: float | None
    """None where no group has two members, or where all members are equal."""
    df: int
    """Degrees of freedom: members minus groups."""


class Estimate(NamedTuple):
    """A mean and its interval; None where the data give none."""

    mean: float | None
    low: float | None
    high: float | None


def pooled_spread(groups: Iterable[Sequence[float]]) -> Spread:
    """The common sd within groups, each about its own mean."""
    filled = [group for group in groups if group]
    df = sum(len(group) - 1 for group in filled)
    squares = sum((x - fmean(group)) ** 2 for group in filled for x in group)
    sd = math.sqrt(squares / df) if df else 0.0
    return Spread(sd if sd > NO_SPREAD_MBPB else None, df)


def estimate(values: Sequence[float], spread: Spread) -> Estimate:
    """Mean and 95 % interval of a group that has the given spread."""
    if not values:
        return Estimate(None, None, None)
    mean = fmean(values)
    if spread.sd is None:
        return Estimate(mean, None, None)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, spread.df)) * spread.sd / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)


def clearly_better(a: Sequence[float], b: Sequence[float], spread: Spread, groups: int) -> bool:
    """Whether `a` beats `b` by Tukey and Kramer's test among `groups` groups."""
    if spread.sd is None or not a or not b:
        return False
    error = spread.sd * math.sqrt((1 / len(a) + 1 / len(b)) / 2)
    return (fmean(a) - fmean(b)) / error > _studentized_range(groups, spread.df)


def ranks(groups: Sequence[Sequence[float]]) -> list[int]:
    """1 + number of clearly better groups; groups without a value share the place after all."""
    spread = pooled_spread(groups)
    filled = [group for group in groups if group]
    return [
        1 + sum(clearly_better(other, group, spread, len(filled)) for other in filled)
        if group
        else len(filled) + 1
        for group in groups
    ]


def leaderboard(ledger: Ledger, tournament: Tournament) -> Leaderboard:
    """The standings of a tournament as of now; unfinished runs count for nothing but spending."""
    return standings_of(tournament, run_details(ledger, tournament))


def standings_of(tournament: Tournament, details: Sequence[RunDetail]) -> Leaderboard:
    """The same from runs already read."""
    by_program = _by_program(tournament, details)
    gains = {pid: _gains(runs) for pid, runs in by_program.items()}
    spread = pooled_spread(gains.values())
    places = dict(zip(gains, ranks(list(gains.values())), strict=True))
    entrants = {e.program_id: e for e in tournament.entrants}
    rows = [
        _standing(entrants[pid], runs, places[pid], estimate(gains[pid], spread))
        for pid, runs in by_program.items()
    ]
    blocks = _baseline_blocks(details)
    return Leaderboard(
        tournament=tournament,
        standings=tuple(sorted(rows, key=_order)),
        baseline_bpb=fmean(x for block in blocks for x in block) if blocks else None,
        baseline_sd=pooled_spread([MBPB_PER_BPB * x for x in b] for b in blocks).sd,
        run_sd=spread.sd,
        finished_runs=sum(d.run.state == "complete" for runs in by_program.values() for d in runs),
        planned_runs=len(entrants) * tournament.replicates,
    )


@lru_cache(maxsize=256)
def _studentized_range(groups: int, df: int) -> float:
    return float(stats.studentized_range.ppf(1 - FAMILY_ERROR, max(groups, 2), df))


def _by_program(
    tournament: Tournament, details: Iterable[RunDetail]
) -> Mapping[str, list[RunDetail]]:
    grouped: dict[str, list[RunDetail]] = {e.program_id: [] for e in tournament.entrants}
    for detail in details:
        if detail.run.program_id in grouped:
            grouped[detail.run.program_id].append(detail)
    return grouped


def _gains(runs: Iterable[RunDetail]) -> list[float]:
    return [d.gain for d in runs if d.gain is not None]


def _standing(entrant: Entrant, runs: Sequence[RunDetail], rank: int, gain: Estimate) -> Standing:
    paid = [e for d in runs for e in charged(d.experiments)]
    statuses = [status_of(e) for e in paid]
    return Standing(
        rank=rank,
        program_id=entrant.program_id,
        name=entrant.name,
        role=entrant.role,
        n=len(_gains(runs)),
        mean_gain=gain.mean,
        ci_low=gain.low,
        ci_high=gain.high,
        keeps=statuses.count("keep"),
        experiments=len(paid),
        crashes=statuses.count("crash"),
        gpu_seconds=sum(e.measured.clock_seconds for e in paid),
    )


def _baseline_blocks(details: Iterable[RunDetail]) -> list[list[float]]:
    blocks: dict[int, list[float]] = {}
    for detail in details:
        if detail.run.role == "baseline":
            scores = audit_scores(e for e in detail.experiments if e.kind == "baseline")
            blocks.setdefault(detail.run.replicate, []).extend(scores)
    return [block for block in blocks.values() if block]


def _order(row: Standing) -> tuple[int, float, str, str]:
    return (row.rank, -(row.mean_gain or 0.0), row.name, row.program_id)

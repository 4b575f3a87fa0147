"""The citation ledger: what the researcher said each instruction led to, and what came of it.

Owns: counts per instruction (cited, kinds of edits, kept, discarded, crashed), the keep rate and
the mean gain over the parent with the intervals the data allow. Everything here is self-report: a
citation is a claim made before the result was known, not a cause; no number here is an effect.
Does not own: measured effects of instructions (attribution, later), layout.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from scipy import stats

from analysis.curves import charged, staircase, status_of
from analysis.leaderboard import CONFIDENCE, estimate, pooled_spread
from inner_loop.records import Experiment, Instruction, Program, Record, RunDetail

PRIOR_KEPT, PRIOR_LOST = 1.0, 5.0
"""Beta prior of a keep rate: about one edit in six is kept, worth six edits of evidence."""
MIN_RUNS = 3
"""Runs from which a mean gain and its interval are shown."""
RERUN = "rerun"
UNNAMED = "not named"
EM_STEPS = 200


class Estimate(Record):
    """A number with its 95 % interval."""

    mean: float
    low: float
    high: float


class KindCount(Record):
    """How many cited experiments were of one kind."""

    kind: str
    """A category as the researcher named it, `rerun`, or `not named`."""
    count: int


class CitationRow(Record):
    """One instruction in the experiments of the runs whose program has it."""

    id: str
    text: str
    section: str
    programs: tuple[str, ...]
    """Names of the programs that have it, as the runs come."""
    runs: int
    """Runs under those programs."""
    citing_runs: int
    """Runs in which it was cited."""
    experiments: int
    """Charged experiments (edits and reruns) of those runs."""
    cited: int
    """Charged experiments that cite it."""
    kinds: tuple[KindCount, ...] = ()
    """What kinds of change these were, the most frequent first; one edit may be of several."""
    kept: int = 0
    """Of the cited edits; reruns train code that was judged before and are left out."""
    discarded: int = 0
    crashed: int = 0
    keep_rate: Estimate | None = None
    """Share of cited edits that were kept, 0 to 1; None without a judged edit."""
    gain: Estimate | None = None
    """Mean gain of cited edits over their parents, mbpb, search shard, each weighed by how
    probably it is more than noise; None for fewer than three runs or without a noise floor."""
    gain_runs: int = 0
    """Runs with a scored cited edit: the n of that mean."""


class Weighing(NamedTuple):
    """How probably a gain over a parent is real, from all edits of a tournament.

    Efron's two-groups model (Statistical Science 23, 2008): a gain is noise alone, N(0, v), or a
    real change and noise, N(0, v + t), with v = 2 s² for the difference of two single trainings.
    """

    noise_variance: float
    """v, mbpb²."""
    real_variance: float
    """t, mbpb²."""
    real_share: float
    """Share of edits that change anything."""

    def weight(self, gain: float) -> float:
        """P(real | gain), 0 to 1."""
        wide = self.noise_variance + self.real_variance
        noise = (1 - self.real_share) / math.sqrt(self.noise_variance)
        real = self.real_share / math.sqrt(wide)
        # both densities over that of the noise at its centre; the exponent is never positive
        noise *= math.exp(-(gain**2) / 2 * (1 / self.noise_variance - 1 / wide))
        return real / (real + noise)


def weighing(gains: Sequence[float], noise_sd: float | None) -> Weighing | None:
    """Fit the model to all gains over parents by EM; None without a noise floor.

    The share has a Beta(2, 2) prior and a real change is at least as wide as the noise, so that a
    handful of edits gives a sensible answer too.

    Args:
        gains: mbpb, one per scored edit.
        noise_sd: spread of a single training, mbpb.
    """
    if not noise_sd:
        return None
    noise = 2 * noise_sd**2
    fit = Weighing(noise, max(noise, _mean_square(gains) - noise), 0.5)
    for _ in range(EM_STEPS):
        weights = [fit.weight(gain) for gain in gains]
        total = sum(weights)
        square = sum(w * g**2 for w, g in zip(weights, gains, strict=True))
        wide = max(noise, square / total - noise) if total > 0 else noise
        fit = Weighing(noise, wide, (total + 1) / (len(gains) + 2))
    return fit


def edit_gains(details: Iterable[RunDetail]) -> list[float]:
    """Gains over the parent of all scored edits, mbpb, search shard."""
    return [gain for detail in details for gain in _gains(detail).values()]


def citations(
    programs: Mapping[str, Program], details: Sequence[RunDetail], weigh: Weighing | None
) -> tuple[CitationRow, ...]:
    """One row per instruction, the most cited first; never cited ones follow in program order.

    Equal instructions of several programs have one id and share a row. A citation counts only
    under a program that has the instruction.

    Args:
        programs: by id; those of the runs.
        details: the runs to count; baselines are passed over.
        weigh: from all edits of the tournament, so that every report weighs alike.
    """
    entered = [d for d in details if d.run.program_id in programs]
    having: dict[str, list[RunDetail]] = {}
    found: dict[str, Instruction] = {}
    for detail in entered:
        for unit in {u.id: u for u in programs[detail.run.program_id or ""].instructions}.values():
            having.setdefault(unit.id, []).append(detail)
            found.setdefault(unit.id, unit)
    gains = {d.run.id: _gains(d) for d in entered}
    rows = [_row(unit, having[key], gains, weigh) for key, unit in found.items()]
    return tuple(sorted(rows, key=lambda row: -row.cited))


def unknown_citations(programs: Mapping[str, Program], details: Iterable[RunDetail]) -> int:
    """How many citations name an id that the run's program does not have."""
    own = {key: {unit.id for unit in program.instructions} for key, program in programs.items()}
    return sum(
        cited not in own[d.run.program_id]
        for d in details
        if d.run.program_id in own
        for e in charged(d.experiments)
        for cited in e.cites
    )


def keep_rate(kept: int, judged: int) -> Estimate | None:
    """Posterior mean and equal-tailed 95 % interval of the share kept; None without any.

    Beta-binomial with the prior Beta(1, 5): the posterior is Beta(1 + kept, 5 + judged - kept).
    """
    if not judged:
        return None
    a, b = PRIOR_KEPT + kept, PRIOR_LOST + judged - kept
    tail = (1 - CONFIDENCE) / 2
    low, high = float(stats.beta.ppf(tail, a, b)), float(stats.beta.ppf(1 - tail, a, b))
    return Estimate(mean=a / (a + b), low=low, high=high)


def mean_gain(by_run: Sequence[float]) -> Estimate | None:
    """Mean over runs with Student's t interval; None for too few runs or equal ones.

    Args:
        by_run: each run's mean weighed gain, mbpb; runs, not experiments, are independent.
    """
    if len(by_run) < MIN_RUNS:
        return None
    mean, low, high = estimate(by_run, pooled_spread([by_run]))
    if mean is None or low is None or high is None:
        return None
    return Estimate(mean=mean, low=low, high=high)


def _row(
    unit: Instruction,
    having: Sequence[RunDetail],
    gains: Mapping[str, Mapping[int, float]],
    weigh: Weighing | None,
) -> CitationRow:
    paid = {d.run.id: charged(d.experiments) for d in having}
    cited = {key: [e for e in found if unit.id in e.cites] for key, found in paid.items()}
    together = [e for found in cited.values() for e in found]
    edits = Counter(status_of(e) for e in together if e.kind == "edit")
    by_run = _run_means(cited, gains, weigh)
    return CitationRow(
        id=unit.id,
        text=unit.text,
        section=unit.section,
        programs=tuple(dict.fromkeys(d.run.program_name for d in having)),
        runs=len(having),
        citing_runs=sum(bool(found) for found in cited.values()),
        experiments=sum(map(len, paid.values())),
        cited=len(together),
        kinds=_kinds(together),
        kept=edits["keep"],
        discarded=edits["discard"],
        crashed=edits["crash"],
        keep_rate=keep_rate(edits["keep"], edits["keep"] + edits["discard"] + edits["crash"]),
        gain=mean_gain(by_run),
        gain_runs=len(by_run),
    )


def _run_means(
    cited: Mapping[str, Sequence[Experiment]],
    gains: Mapping[str, Mapping[int, float]],
    weigh: Weighing | None,
) -> list[float]:
    """Each run's mean weighed gain, for the runs that have one."""
    if weigh is None:
        return []
    scored = (
        [gains[run][e.index] for e in found if e.index in gains[run]]
        for run, found in cited.items()
    )
    return [fmean(g * weigh.weight(g) for g in values) for values in scored if values]


def _gains(detail: RunDetail) -> dict[int, float]:
    """Experiment index -> gain over its parent, for scored edits."""
    edits = {e.index for e in detail.experiments if e.kind == "edit"}
    return {
        step.index: step.gain_over_parent
        for step in staircase(detail)
        if step.index in edits and step.gain_over_parent is not None
    }


def _kinds(experiments: Iterable[Experiment]) -> tuple[KindCount, ...]:
    counts: Counter[str] = Counter()
    for e in experiments:
        named = sorted(set(e.categories)) or [UNNAMED]
        counts.update([RERUN] if e.kind == "rerun" else named)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(KindCount(kind=kind, count=count) for kind, count in ordered)


def _mean_square(values: Sequence[float]) -> float:
    return fmean(v**2 for v in values) if values else 0.0

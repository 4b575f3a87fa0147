"""Which kept experiments of a session are more than noise, and how far its summed gains drift.

Owns: the label of each keep, the drift of summed gains and the record `keeps --json` prints.
Does not own: how large noise is (`keeps_noise`), where a session comes from, layout and wording.

A keep is chosen because its one measurement was low, so its gain is high by luck on average. The
labels take no prior and no model of edits: `real` from two sd of the difference of two trainings
(2 sqrt(2) sd for single ones, the rule that research on upstream's protocol found to remove nearly
all false keeps), `noise` below one, `unclear` between. `tests/test_keeps.py` simulates sessions
in which no edit does anything: at most 4 of 100 have a keep that its one training labels real,
however long and whatever else was trained again (6 where the floor was estimated from few
trainings); of 100 keeps that were trained again themselves, about 2 are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Literal, NamedTuple

from analysis.curves import MBPB_PER_BPB
from analysis.keeps_noise import (
    NOISE,
    REAL,
    NoiseFloor,
    interval_factor,
    noise_gain,
    standard_error,
    threshold,
    trainings_to_settle,
)
from inner_loop.records import SCHEMA_VERSION, Record

Label = Literal["real", "unclear", "noise", "not lower", "same code"]
LABELS: tuple[Label, ...] = ("real", "unclear", "noise", "not lower", "same code")
START = "start"


class Trial(Record):
    """One experiment after the start, in the session's order."""

    where: str
    """Where to find it: `line 7` of the file, `exp 3` of the run."""
    code: str
    """Trainings with the same code repeat each other; `start` is the session's first line."""
    commit: str
    bpb: float | None
    """Search-shard bits per byte; None after a crash."""
    kept: bool
    description: str


class Session(Record):
    """A session of experiments: what it started from, then all it tried."""

    start_commit: str
    start_bpb: float
    """What it started from; the mean where that was trained several times beforehand."""
    start_trainings: int = 1
    trials: tuple[Trial, ...]


class Keep(Record):
    """One kept experiment, its claimed gain and what to think of it. Gains: mbpb, higher better."""

    where: str
    commit: str
    description: str
    bpb: float
    """As measured when it was kept."""
    best_before_bpb: float
    """Lowest kept measurement before it."""
    claimed_gain_mbpb: float
    """Best before minus this one; negative if it was not lower."""
    gain_mbpb: float
    """What the label rests on. If this code was trained again: the difference of the trainings
    that decided no keep. Otherwise the claimed gain, or less if the line it beat measured lower
    when trained again (never more: see `_gain`)."""
    standard_error_mbpb: float
    """Of `gain_mbpb`: sd * sqrt(1/n + 1/m) for n and m trainings."""
    retrained: bool
    """Whether this code was trained again after it was kept, so that those trainings decide."""
    trainings: int
    """n: trainings of this code behind `gain_mbpb`."""
    reference_trainings: int
    """m: trainings of the line it beat that count: all that decided no keep if this code was
    trained again, otherwise those it was compared with when it was kept."""
    label: Label
    """`not lower`: not better than the best before; `same code`: a rerun, so all luck."""
    trainings_to_settle: int | None
    """Fresh trainings, of it and of the line it beat each, that would settle an unclear one."""


class LabelTotal(Record):
    """The keeps with one label."""

    label: Label
    count: int
    claimed_gain_mbpb: float
    """Their claimed gains summed; the totals of all labels add up to the claim."""


class Confirmation(Record):
    """The gain of the final script from trainings that no keep was chosen by."""

    gain_mbpb: float
    low_mbpb: float | None
    """Ends of the 95 % interval; None where nothing is known about the noise."""
    high_mbpb: float | None
    trainings: int
    """Fresh trainings of the final script."""
    baseline_trainings: int
    source: Literal["audit shard", "reruns"]
    shrinkage_mbpb: float
    """Claimed minus confirmed gain."""


class KeepsReport(Record):
    """What `keeps --json` prints. Scores: bits per byte; gains: mbpb (0.001 bits per byte)."""

    schema_version: int = SCHEMA_VERSION
    source: str
    """The file or the run."""
    noise_floor: NoiseFloor
    own_repeats: NoiseFloor | None
    """What the session's own repeated trainings say, where that is not the floor used."""
    real_from_mbpb: float
    """Claimed gain from which a keep of single trainings is `real`; the first keep's start may
    have been trained more often."""
    noise_below_mbpb: float
    """And below which it is `noise`."""
    start_commit: str
    start_bpb: float
    start_trainings: int
    best_bpb: float
    """Lowest kept measurement."""
    experiments: int
    """After the start."""
    scored: int
    """Those with a score; the others crashed."""
    candidates: int
    """Scored ones that could have become the best line: all but reruns that were not kept."""
    keeps: tuple[Keep, ...]
    totals: tuple[LabelTotal, ...]
    claimed_gain_mbpb: float
    """Start minus best: what the session's file says was gained."""
    noise_alone_mbpb: float
    """Expected claim of as many candidates if none of them did anything."""
    noise_alone_low_mbpb: float
    """Ends of the 95 % range of that claim."""
    noise_alone_high_mbpb: float
    true_gain_low_mbpb: float | None
    """Ends of an interval that holds the best line's true gain with 95 % or more, as far as noise
    of single trainings goes (not drift of the machine); None without a gain."""
    true_gain_high_mbpb: float | None
    trainings_to_settle: int
    """Trainings in all that would settle the unclear keeps."""
    confirmation: Confirmation | None
    notes: tuple[str, ...]
    """What a reader must know about the source: lines left out, assumptions made."""


class _Level(NamedTuple):
    mean: float
    trainings: int


class _Step(NamedTuple):
    """A keep and the code that was best before it."""

    trial: Trial
    bpb: float
    reference: str
    best_before: float
    before_trainings: int
    """Trainings that `best_before` is the mean of."""
    is_repeat: bool


def keeps_report(
    session: Session,
    floor: NoiseFloor,
    *,
    source: str,
    own_repeats: NoiseFloor | None = None,
    confirmation: Confirmation | None = None,
    notes: Sequence[str] = (),
) -> KeepsReport:
    """Label every keep of a session and say what its summed gains are worth.

    Interval of the true gain: with claim D = y_0 - y_last and noises e, the truth is
    D - (e_0 - e_last). From below, e_0 - e_last is at most e_0 - min(e), whose distribution
    (`noise_gain`) depends on no edit and no acceptance rule. From above, being kept for a low
    measurement makes e_last lower than unselected noise, so D + t * sd * sqrt(1 + 1/n_0) holds.
    """
    levels, steps = _levels(session), _steps(session)
    keeps = tuple(_keep(step, levels, floor) for step in steps)
    best = min([session.start_bpb, *(k.bpb for k in keeps)])
    candidates = _candidates(session)
    luck = noise_gain(candidates, session.start_trainings, floor.df)
    claim, sd = MBPB_PER_BPB * (session.start_bpb - best), floor.sd_mbpb
    up = interval_factor(floor.df) * standard_error(floor, 1, session.start_trainings)
    one = standard_error(floor, 1, 1)
    return KeepsReport(
        source=source,
        noise_floor=floor,
        own_repeats=own_repeats,
        real_from_mbpb=threshold(REAL, floor.df) * one,
        noise_below_mbpb=threshold(NOISE, floor.df) * one,
        start_commit=session.start_commit,
        start_bpb=session.start_bpb,
        start_trainings=session.start_trainings,
        best_bpb=best,
        experiments=len(session.trials),
        scored=sum(t.bpb is not None for t in session.trials),
        candidates=candidates,
        keeps=keeps,
        totals=tuple(_total(label, keeps) for label in LABELS),
        claimed_gain_mbpb=claim,
        noise_alone_mbpb=luck.mean * sd,
        noise_alone_low_mbpb=luck.low * sd,
        noise_alone_high_mbpb=luck.high * sd,
        true_gain_low_mbpb=claim - luck.high * sd if claim > 0 else None,
        true_gain_high_mbpb=claim + up if claim > 0 else None,
        trainings_to_settle=_to_settle(steps, keeps),
        confirmation=confirmation or _confirmed_by_reruns(steps, levels, floor, claim),
        notes=tuple(notes),
    )


def repeat_groups(session: Session) -> list[list[float]]:
    """Scores in mbpb of trainings of equal code, by code; for `measured_floor`.

    The training that a code was kept or set aside by is left out, since it was chosen for its
    value; the start was not chosen. A start that is itself a mean is left out too.
    """
    fresh = _fresh(session)
    first = [session.start_bpb] if session.start_trainings == 1 else []
    start = [*first, *fresh.pop(START)]
    return [[MBPB_PER_BPB * x for x in group] for group in (start, *fresh.values())]


def _fresh(session: Session) -> dict[str, list[float]]:
    """Scores by code without those that decided about it: all up to its first keep, if it has one.

    A code set aside, trained again and kept then was kept for that second score. All reruns of the
    start count.
    """
    fresh: dict[str, list[float]] = {START: []}
    kept = {START}
    for trial in session.trials:
        if trial.bpb is None:
            continue
        if trial.code not in fresh or (trial.kept and trial.code not in kept):
            fresh[trial.code] = []
        else:
            fresh[trial.code].append(trial.bpb)
        if trial.kept:
            kept.add(trial.code)
    return fresh


def _levels(session: Session) -> dict[str, _Level]:
    """What the start and every code trained again measure, by trainings that decided nothing."""
    fresh = _fresh(session)
    again, n = fresh.pop(START), session.start_trainings
    mean = (session.start_bpb * n + sum(again)) / (n + len(again))
    levels = {code: _Level(fmean(values), len(values)) for code, values in fresh.items() if values}
    return {START: _Level(mean, n + len(again))} | levels


def _candidates(session: Session) -> int:
    seen, found = {START}, 0
    for trial in session.trials:
        if trial.bpb is not None:
            found += trial.kept or trial.code not in seen
            seen.add(trial.code)
    return found


def _steps(session: Session) -> list[_Step]:
    best, reference, kept, n = session.start_bpb, START, {START}, session.start_trainings
    steps = []
    for trial in session.trials:
        if trial.kept and trial.bpb is not None:
            steps.append(_Step(trial, trial.bpb, reference, best, n, trial.code in kept))
            if trial.bpb < best:
                best, reference, n = trial.bpb, trial.code, 1
            kept.add(trial.code)
    return steps


def _gain(step: _Step, levels: Mapping[str, _Level]) -> tuple[float, int, int]:
    """The gain in bits per byte that the label rests on, and the trainings n and m behind it.

    A code that was trained again is judged by those trainings: nothing chose them. Without them its
    only score is one chosen for being low, and it is compared as it was when it was kept: the score
    it beat was chosen too, and most of the two lucks cancels. Reruns of the line it beat take the
    luck from that side only, so they may lower its gain and never raise it or its certainty
    (with the rerun mean in its place 7 to 20 of 100 sessions of noise had a keep labelled real).
    """
    own = levels.get(step.trial.code)
    other = levels.get(step.reference, _Level(step.best_before, step.before_trainings))
    if own is not None:
        return other.mean - own.mean, own.trainings, other.trainings
    return min(step.best_before, other.mean) - step.bpb, 1, step.before_trainings


def _keep(step: _Step, levels: Mapping[str, _Level], floor: NoiseFloor) -> Keep:
    claimed = MBPB_PER_BPB * (step.best_before - step.bpb)
    difference, trainings, others = _gain(step, levels)
    gain = MBPB_PER_BPB * difference
    label = _label(gain, standard_error(floor, trainings, others), floor)
    label = "same code" if step.is_repeat else label
    return Keep(
        where=step.trial.where,
        commit=step.trial.commit,
        description=step.trial.description,
        bpb=step.bpb,
        best_before_bpb=step.best_before,
        claimed_gain_mbpb=claimed,
        gain_mbpb=gain,
        standard_error_mbpb=standard_error(floor, trainings, others),
        retrained=step.trial.code in levels,
        trainings=trainings,
        reference_trainings=others,
        label=label,
        trainings_to_settle=trainings_to_settle(gain, floor) if label == "unclear" else None,
    )


def _label(gain: float, error: float, floor: NoiseFloor) -> Label:
    if gain <= 0:
        return "not lower"
    if gain >= threshold(REAL, floor.df) * error:
        return "real"
    return "unclear" if gain >= threshold(NOISE, floor.df) * error else "noise"


def _total(label: Label, keeps: Sequence[Keep]) -> LabelTotal:
    claimed = [k.claimed_gain_mbpb for k in keeps if k.label == label]
    gained = sum(max(0.0, c) for c in claimed)  # what was not lower moved no best line
    return LabelTotal(label=label, count=len(claimed), claimed_gain_mbpb=gained)


def _to_settle(steps: Sequence[_Step], keeps: Sequence[Keep]) -> int:
    """Each script once, as often as its most demanding comparison needs."""
    needed: dict[str, int] = {}
    for step, keep in zip(steps, keeps, strict=True):
        for code in (step.trial.code, step.reference):
            needed[code] = max(needed.get(code, 0), keep.trainings_to_settle or 0)
    return sum(needed.values())


def _confirmed_by_reruns(
    steps: Sequence[_Step], levels: Mapping[str, _Level], floor: NoiseFloor, claim: float
) -> Confirmation | None:
    """The best line's reruns against the start, if it has any."""
    lowest = min((s for s in steps if s.bpb < s.best_before), key=lambda s: s.bpb, default=None)
    if lowest is None or lowest.trial.code == START or lowest.trial.code not in levels:
        return None
    final, start = levels[lowest.trial.code], levels[START]
    gain = MBPB_PER_BPB * (start.mean - final.mean)
    half = interval_factor(floor.df) * standard_error(floor, final.trainings, start.trainings)
    return Confirmation(
        gain_mbpb=gain,
        low_mbpb=gain - half,
        high_mbpb=gain + half,
        trainings=final.trainings,
        baseline_trainings=start.trainings,
        source="reruns",
        shrinkage_mbpb=claim - gain,
    )

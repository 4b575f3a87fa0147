"""The rules of conduct the offline catalogue reads in a program, as one record.

Owns: what a program's sentences add up to: how bold its steps are, which result it keeps, what is
trained again, what is combined, what happens after losses in a row, and whether it looks around or
follows up; each with the ids of the instructions that say so.
Does not own: the patterns of a sentence (`catalog_rules.py`), topics and bans
(`catalog_reading.py`), and what a rule leads to (`catalog.py`).

A rule is only taken from a sentence that fits a pattern and forbids nothing; in doubt there is no
rule, and then upstream's hold: plain steps, one at a time, keep what is lower.
"""

from __future__ import annotations

import functools
from statistics import median
from typing import Literal, NamedTuple

from inner_loop.catalog_reading import listen
from inner_loop.catalog_rules import Action, Rule, Said, rules, sentences
from inner_loop.records import Program, Record

Ids = tuple[str, ...]

DEFAULT_PLATEAU = 3
"""Losses in a row where a program speaks of a plateau and gives no number."""


class MinGain(Record):
    """Keep only what gains more than this."""

    value: float
    unit: Literal["bpb", "share", "noise"]
    """Bits per byte, a share of the tip's bits per byte, or standard deviations of one training."""
    ids: Ids


class Confirm(Record):
    """Train again what was kept."""

    times: int
    only_small: bool
    """Only gains that noise could explain."""
    ids: Ids


class Plateau(Record):
    """What to do after so many losses in a row."""

    after: int
    same_part: bool
    """Losses on one part only."""
    actions: frozenset[Action]
    ids: Ids


class Policy(Record):
    """A program's rules of conduct; what it does not say has no ids."""

    stride: float = 1.0
    """Steps at once: 1 is the plain one, more is bolder."""
    stride_ids: Ids = ()
    single_ids: Ids = ()
    """One change at a time: no two edits in one experiment."""
    combine_ids: Ids = ()
    """Put together two edits that each lost by little."""
    min_gain: MinGain | None = None
    simpler_ids: Ids = ()
    """A simplification is kept when it is no worse."""
    worse_ids: Ids = ()
    """A worse result is sometimes accepted."""
    cooling: bool = False
    """Ever less so as the budget is used."""
    confirm: Confirm | None = None
    base_ids: Ids = ()
    """Train the unchanged script a second time, to see the noise."""
    breadth_ids: Ids = ()
    """Try each category once before any a second time."""
    follow_ids: Ids = ()
    """Stay with what was kept last."""
    plateaus: tuple[Plateau, ...] = ()


class _By(NamedTuple):
    """What was said, and by which instruction."""

    said: Said
    id: str


@functools.lru_cache(maxsize=64)
def read_policy(program: Program) -> Policy:
    """The rules `program` states; never fails, whatever the text."""
    found = [
        _By(said, spoken.id)
        for spoken in listen(program)
        if not spoken.banned
        for sentence in sentences(spoken.text)
        for said in rules(sentence)
    ]
    stride, stride_ids = _stride(found)
    return Policy(
        stride=stride,
        stride_ids=stride_ids,
        single_ids=_ids(found, "single"),
        combine_ids=_ids(found, "combine"),
        min_gain=_min_gain(found),
        simpler_ids=_ids(found, "simpler"),
        worse_ids=_ids(found, "worse"),
        cooling=any(by.said.flag for by in _of(found, "worse")),
        confirm=_confirm(found),
        base_ids=_ids(found, "base"),
        breadth_ids=_ids(found, "breadth"),
        follow_ids=_ids(found, "follow"),
        plateaus=_plateaus(found),
    )


def _of(found: list[_By], rule: Rule) -> list[_By]:
    return [by for by in found if by.said.rule == rule]


def _ids(found: list[_By], rule: Rule) -> Ids:
    return tuple(dict.fromkeys(by.id for by in _of(found, rule)))


def _stride(found: list[_By]) -> tuple[float, Ids]:
    """The side with more words decides, and its median how far; a draw changes nothing."""
    said = _of(found, "stride")
    big, small = [b for b in said if b.said.number > 1], [b for b in said if b.said.number < 1]
    if len(big) == len(small):
        return 1.0, ()
    side = max(big, small, key=len)
    return float(median(by.said.number for by in side)), _ids(side, "stride")


def _min_gain(found: list[_By]) -> MinGain | None:
    """The first one stated; an instruction that repeats it is cited beside it."""
    for first, _ in _of(found, "min_gain"):
        ids = _ids([by for by in found if by.said == first], "min_gain")
        if first.unit:
            return MinGain(value=first.number, unit=first.unit, ids=ids)
    return None


def _confirm(found: list[_By]) -> Confirm | None:
    said = [by.said for by in _of(found, "confirm")]
    if not said:
        return None
    return Confirm(
        times=int(max(s.number for s in said)),
        only_small=all(s.flag for s in said),
        ids=_ids(found, "confirm"),
    )


def _plateaus(found: list[_By]) -> tuple[Plateau, ...]:
    """Sentences with an action; a count stated elsewhere holds for those that give none."""
    said = _of(found, "plateau")
    counted = [by for by in said if by.said.number and not by.said.actions]
    default = int(counted[0].said.number) if counted else DEFAULT_PLATEAU
    return tuple(
        Plateau(
            after=int(by.said.number) or default,
            same_part=by.said.flag,
            actions=by.said.actions,
            ids=tuple(dict.fromkeys([by.id, *([] if by.said.number else [c.id for c in counted])])),
        )
        for by in said
        if by.said.actions
    )

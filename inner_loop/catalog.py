"""The offline catalogue researcher: no key, no network, no language model.

Owns: the choice of the next move from a brief, and what it cites for it.
Does not own: the edits (`catalog_edits.py`), the reading of a program (`catalog_reading.py`,
`catalog_policy.py`), its verdicts, reruns and returns (`catalog_verdict.py`).

It is a bag-of-words reader over a fixed list of edits. A category of edits weighs more when the
program's instructions speak for it or its edits were kept in this run, less when they were
discarded, and nothing when the program forbids it. It cannot invent an edit, weigh an argument,
read a trace or understand a plan; `docs/catalogue.md` says what it does read. All randomness comes
from the brief's seed: equal briefs get equal moves.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Iterable
from typing import NamedTuple

from inner_loop.catalog_edits import BY_NAME, EDITS, CatalogEdit
from inner_loop.catalog_knobs import describe, knobs, replaced
from inner_loop.catalog_policy import read_policy
from inner_loop.catalog_reading import Reading, read
from inner_loop.catalog_rules import BIG, SMALL
from inner_loop.catalog_run import (
    edit_experiments,
    edits_of,
    gain,
    half,
    topics_with,
    tried_knobs,
)
from inner_loop.catalog_verdict import MOST_CITES, plateaus, rerun, step_back, verdict
from inner_loop.catalog_weights import (
    Situation,
    conditions,
    holds,
    ids_of_category,
    is_untried,
    kept_last,
    weights,
)
from inner_loop.records import Edit, Move
from inner_loop.researcher import Brief, Setup

PAIRS, COMBINES = 0.4, 1 / 3
"""How often a bold program changes two things at once, and how often losers are combined."""


class Option(NamedTuple):
    """One edit or two that apply to a train.py, and what comes of it."""

    edits: tuple[CatalogEdit, ...]
    blocks: tuple[Edit, ...]
    source: str
    """The train.py it gives."""

    @property
    def edit(self) -> CatalogEdit:
        """The first."""
        return self.edits[0]


class Catalog:
    """The researcher registered as `catalog`; the signature is every researcher's."""

    protocol = ""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    async def next_move(self, brief: Brief) -> Move:
        """Answer a brief; a function of the brief alone."""
        return choose(brief)


def choose(brief: Brief) -> Move:
    """The program's verdict, a rerun or a step back if it asks for one, else an edit."""
    policy = read_policy(brief.program)
    if not brief.experiments_left:
        return verdict(brief, policy) or Move(kind="close")
    if not brief.repair:
        if move := verdict(brief, policy):
            return move
        if move := rerun(brief, policy):
            return move
    active = plateaus(brief, policy)
    if not brief.repair and (move := step_back(brief, active)):
        return move
    return _edit(Situation(brief, read(brief.program), policy, tuple(active)))


def _edit(now: Situation) -> Move:
    rng = random.Random(now.brief.seed)
    stride, stride_ids = _stride(now, rng)
    options = allowed_options(now.brief, now.reading, stride)
    if options:
        option, ids = _draw(now, options, stride, rng)
        if not now.brief.repair:
            return _edit_move(now, option, (*ids, *stride_ids))
        options = [o for o in options if o.edit not in option.edits]
    if options:
        return _edit_move(now, _one_of(now, options, rng), stride_ids)
    text = "nothing left to try: the program allows no catalogue edit that is new in this run"
    return Move(kind="unusable", description=text)


def _edit_move(now: Situation, option: Option, ids: tuple[str, ...]) -> Move:
    return Move(
        kind="edit",
        edits=option.blocks,
        description=describe(now.brief.train_py, option.source),
        hypothesis="; ".join(edit.why for edit in option.edits),
        cites=_cites(now, option, ids),
        categories=tuple(dict.fromkeys(c for e in option.edits for c in e.categories)),
    )


# --- what can be tried ------------------------------------------------------------------------


def allowed_options(brief: Brief, reading: Reading, stride: float = 1.0) -> list[Option]:
    """Every edit that applies to the tip, that the program permits, and whose result is new."""
    seen, banned = tried_knobs(brief), _banned(brief, reading)
    return [
        option
        for option in _options(brief.train_py, stride)
        if option.edit.topics.isdisjoint(banned) and knobs(option.source) not in seen
    ]


def _banned(brief: Brief, reading: Reading) -> set[str]:
    """The topics that the program forbids at this point of the run."""
    late, tried, kept = half(brief) == 1, topics_with(brief), topics_with(brief, kept=True)
    banned = set(reading.banned) | (set() if late else set(reading.deferred))
    for wait in reading.waits:
        over = holds(wait, tried, kept) or (late and wait.needs == "tried")
        banned |= set() if over else wait.topics
    return banned


@functools.lru_cache(maxsize=64)
def _options(train_py: str, stride: float) -> tuple[Option, ...]:
    """Every edit of the catalogue that applies; kept, since a tip is asked about many times."""
    found = (_option(train_py, edit, stride) for edit in EDITS)
    return tuple(option for option in found if option)


def _option(train_py: str, edit: CatalogEdit, stride: float) -> Option | None:
    """The edit at this stride, or at the largest whole one below it that stays within bounds."""
    for shorter in (stride, *range(math.ceil(stride) - 1, 0, -1)):
        blocks = edit.build(train_py, shorter)
        if blocks and (source := replaced(train_py, blocks)):
            return Option((edit,), tuple(blocks), source)
    return None


def _with(train_py: str, option: Option, edit: CatalogEdit, stride: float) -> Option | None:
    """`option` and another edit on top of it, in one."""
    second = _option(option.source, edit, stride)
    if second is None:
        return None
    return Option((*option.edits, edit), (*option.blocks, *second.blocks), second.source)


# --- how far, and which -----------------------------------------------------------------------


def _stride(now: Situation, rng: random.Random) -> tuple[float, tuple[str, ...]]:
    """Steps at once, and who says so; a stride between two whole ones is drawn."""
    stride, ids = now.policy.stride, now.policy.stride_ids
    for action, instead in (("jump", BIG), ("refine", SMALL)):
        if asked := now.ids_of(action):
            stride, ids = instead, asked
    if stride > 1:
        stride = float(rng.choice((math.floor(stride), math.ceil(stride))))
    return stride, ids[:1]


def _draw(
    now: Situation, options: list[Option], stride: float, rng: random.Random
) -> tuple[Option, tuple[str, ...]]:
    """A combination if one is due, else an option by weight, with a second one if bold."""
    if combined := _combination(now, rng):
        return combined
    option = _one_of(now, options, rng)
    if stride > 1 and not now.policy.single_ids and rng.random() < PAIRS:
        option = _paired(now, option, options, stride, rng) or option
    return option, ()


def _paired(
    now: Situation, first: Option, options: list[Option], stride: float, rng: random.Random
) -> Option | None:
    others = [
        o
        for o in options
        if o.edit.knob != first.edit.knob and o.edit.category != first.edit.category
    ]
    if not others:
        return None
    second = _one_of(now, others, rng)
    return _new(now, _with(now.brief.train_py, first, second.edit, stride))


def _one_of(now: Situation, options: list[Option], rng: random.Random) -> Option:
    return rng.choices(options, weights(now, [option.edit for option in options]))[0]


def _combination(now: Situation, rng: random.Random) -> tuple[Option, tuple[str, ...]] | None:
    """The two steps of this run that lost by least, together, if the program wants that now."""
    ids = now.ids_of("combine")
    if not ids and not (now.policy.combine_ids and rng.random() < COMBINES):
        return None
    banned = _banned(now.brief, now.reading)
    close = [edit for edit in _near_misses(now.brief) if edit.topics.isdisjoint(banned)]
    first = _option(now.brief.train_py, close[0], 1.0) if close else None
    for second in close[1:]:
        if first and first.edit.knob != second.knob:
            both = _new(now, _with(now.brief.train_py, first, second, 1.0))
            if both:
                return both, ids or now.policy.combine_ids
    return None


def _near_misses(brief: Brief) -> list[CatalogEdit]:
    """Single steps that were discarded, the smallest loss first."""
    lost = [e for e in edit_experiments(brief) if e.status == "discard" and len(edits_of(e)) == 1]
    losses = {edits_of(e)[0].name: gain(brief, e.commit) for e in lost}
    known = {name: value for name, value in losses.items() if value is not None}
    return [BY_NAME[name] for name in sorted(known, key=lambda n: known[n], reverse=True)]


def _new(now: Situation, option: Option | None) -> Option | None:
    """`option` unless this run has tried its train.py."""
    is_new = option is not None and knobs(option.source) not in tried_knobs(now.brief)
    return option if is_new else None


# --- citations --------------------------------------------------------------------------------


def _cites(now: Situation, option: Option, ids: Iterable[str]) -> tuple[str, ...]:
    """At most three: one for each rule of conduct that decided, then the topics, narrowest first.

    A topic's instruction always has a place among them.
    """
    topics = _topic_ids(now, option)
    conduct = list(dict.fromkeys([*ids, *_conduct_ids(now, option)]))
    first = [*conduct[: MOST_CITES - 1], *topics] if topics else conduct
    return tuple(dict.fromkeys(first))[:MOST_CITES]


def _conduct_ids(now: Situation, option: Option) -> list[str]:
    category, found = option.edit.category, list(now.ids_of("switch")[:1])
    if now.policy.breadth_ids and is_untried(now.brief, category):
        found.append(now.policy.breadth_ids[0])
    if now.policy.follow_ids and category in kept_last(now.brief):
        found.append(now.policy.follow_ids[0])
    true, _ = conditions(now)
    return found + [c.id for c in true if not option.edit.topics.isdisjoint(c.topics)]


def _topic_ids(now: Situation, option: Option) -> list[str]:
    """Instructions that raised the chosen edits, the most specific first."""
    reading, part = now.reading, half(now.brief)
    found: list[str] = []
    for edit in option.edits:
        found += [*reading.favoured.get(edit.name, ()), *reading.favoured.get(edit.knob, ())]
        found += ids_of_category(reading.favoured, edit.category)
        found += ids_of_category(reading.late if part else reading.early, edit.category)
    return sorted(dict.fromkeys(found), key=lambda i: reading.breadth[i])

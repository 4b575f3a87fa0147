"""The offline catalogue researcher: no key, no network, no language model.

Owns: the choice of the next move from a brief, and what it cites for it.
Does not own: the edits (`catalog_edits.py`) and the reading of a program (`catalog_reading.py`).

It is a bag-of-words reader over a fixed list of edits. A category of edits weighs more when the
program's instructions speak for it or its edits were kept in this run, less when they were
discarded, and nothing when the program forbids it. It cannot invent an edit, weigh an argument,
read a trace or understand a plan. All randomness comes from the brief's seed: equal briefs get
equal moves.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from typing import NamedTuple

from inner_loop.catalog_edits import CATEGORIES, EDITS, CatalogEdit
from inner_loop.catalog_knobs import describe, knobs, read_description, step_name
from inner_loop.catalog_reading import Reading, read
from inner_loop.edits import CannotApply, apply_edits
from inner_loop.records import Edit, Experiment, Move
from inner_loop.researcher import Brief

UNMENTIONED = 0.25
"""Weight of a category the program is silent about, where it speaks for any other."""
PER_MENTION, MOST_MENTIONS = 1.5, 5
"""What each instruction in favour adds to a category's weight of 1, and how many count."""
KEPT, DISCARDED, CRASHED = 1.6, 0.7, 0.4
"""Factor on a category for each of its edits in this run with that status."""
SAME_STEP_KEPT, SAME_STEP_LOST, OTHER_WAY, NAMED = 4.0, 0.25, 6.0, 3.0
"""Factors on an edit: this very step was kept, or lost, before; the same knob lost the other way;
the program names its knob."""
EARLY_NOW, EARLY_PAST, LATE_NOW, LATE_AHEAD = 3.0, 1.0, 2.0, 1 / 3
"""Factors for `first` and `later`, in the half of the run they mean and in the other."""


class Option(NamedTuple):
    """An edit that applies to a train.py, and what comes of it."""

    edit: CatalogEdit
    blocks: tuple[Edit, ...]
    description: str
    result: dict[str, str]
    """The knobs of the train.py it gives."""


class Catalog:
    """The researcher registered as `catalog`; `model` is part of the signature and unused."""

    def __init__(self, model: str | None = None) -> None:
        self.model = model

    async def next_move(self, brief: Brief) -> Move:
        """Answer a brief; a function of the brief alone."""
        return choose(brief)


def choose(brief: Brief) -> Move:
    """A rerun if the program wants its keeps confirmed, else an edit, else `unusable`."""
    reading = read(brief.program)
    if reading.reruns and _just_kept(brief.history):
        return _rerun(brief, reading)
    options = allowed_options(brief, reading)
    rng = random.Random(brief.seed)
    chosen = _draw(brief, reading, options, rng)
    if chosen and brief.repair:
        options.remove(chosen)
        chosen = _draw(brief, reading, options, rng)
    if chosen is None:
        text = "nothing left to try: the program allows no catalogue edit that is new in this run"
        return Move(kind="unusable", description=text)
    return Move(
        kind="edit",
        edits=chosen.blocks,
        description=chosen.description,
        hypothesis=chosen.edit.why,
        cites=_cites(reading, chosen.edit, _half(brief)),
        categories=chosen.edit.categories,
    )


def _just_kept(history: tuple[Experiment, ...]) -> bool:
    return bool(history) and history[-1].kind == "edit" and history[-1].status == "keep"


def _rerun(brief: Brief, reading: Reading) -> Move:
    last = brief.history[-1]
    return Move(
        kind="rerun",
        commit=brief.tip_commit,
        description=f"rerun: {last.description}",
        hypothesis="a real gain shows again on another seed",
        cites=tuple(reading.reruns[:3]),
        categories=last.categories,
    )


# --- what can be tried ------------------------------------------------------------------------


def allowed_options(brief: Brief, reading: Reading) -> list[Option]:
    """Every edit that applies to the tip, that the program permits, and whose result is new."""
    seen = tried_knobs(brief)
    half = _half(brief)
    return [
        option
        for option in _options(brief.train_py)
        if option.result not in seen and not _forbidden(option.edit, reading, half)
    ]


@functools.lru_cache(maxsize=32)
def _options(train_py: str) -> tuple[Option, ...]:
    """Every edit of the catalogue that applies; kept, since a tip is asked about many times."""
    found = []
    for edit in EDITS:
        blocks = tuple(edit.build(train_py) or ())
        try:
            after = apply_edits(train_py, blocks)
        except CannotApply:
            continue
        found.append(Option(edit, blocks, describe(train_py, after), knobs(after)))
    return tuple(found)


def tried_knobs(brief: Brief) -> list[dict[str, str]]:
    """The knobs of every train.py of this run, worked out from the tip along the descriptions."""
    known = {brief.tip_commit: knobs(brief.train_py)}
    edits = [e for e in brief.history if e.kind == "edit" and read_description(e.description)]
    for _ in edits:
        for experiment in edits:
            _follow(known, experiment)
    return list(known.values())


def _follow(known: dict[str, dict[str, str]], experiment: Experiment) -> None:
    """Learn an experiment's knobs from its parent's, or its parent's from its own."""
    changes = read_description(experiment.description)
    commit, parent = experiment.commit, experiment.parent_commit
    if parent in known:
        known.setdefault(commit, known[parent] | {c.knob: c.new for c in changes})
    elif commit in known:
        known[parent] = known[commit] | {c.knob: c.old for c in changes}


def _forbidden(edit: CatalogEdit, reading: Reading, half: int) -> bool:
    topics = {*edit.categories, edit.knob}
    return not topics.isdisjoint(reading.banned) or (
        half == 0 and not topics.isdisjoint(reading.deferred)
    )


def _half(brief: Brief) -> int:
    """0 in the first half of a run, 1 in the second."""
    done = len(brief.history)
    return int(2 * done >= done + brief.experiments_left)


# --- how much each weighs ---------------------------------------------------------------------


def _draw(
    brief: Brief, reading: Reading, options: list[Option], rng: random.Random
) -> Option | None:
    """One option, by its category's weight times its own."""
    if not options:
        return None
    categories, steps = category_weights(brief, reading), _step_statuses(brief.history)
    weights = [
        categories[o.edit.categories[0]] * _edit_weight(o.edit, reading, steps) for o in options
    ]
    return rng.choices(options, weights)[0]


def category_weights(brief: Brief, reading: Reading) -> dict[str, float]:
    """The weight of each category: the program's word times this run's evidence."""
    edits = [e for e in brief.history if e.kind == "edit"]
    statuses = Counter((c, e.status) for e in edits for c in e.categories)
    spoken_for = {c: _ids(reading.favoured, c) for c in CATEGORIES}
    silence = UNMENTIONED if any(spoken_for.values()) else 1.0
    return {
        category: (1 + PER_MENTION * min(len(ids), MOST_MENTIONS) if ids else silence)
        * _order_factor(reading, category, _half(brief))
        * KEPT ** statuses[category, "keep"]
        * DISCARDED ** statuses[category, "discard"]
        * CRASHED ** statuses[category, "crash"]
        for category, ids in spoken_for.items()
    }


def _order_factor(reading: Reading, category: str, half: int) -> float:
    early = (EARLY_NOW, EARLY_PAST)[half] if _ids(reading.early, category) else 1.0
    late = (LATE_AHEAD, LATE_NOW)[half] if _ids(reading.late, category) else 1.0
    return early * late


def _ids(where: dict[str, list[str]], category: str) -> list[str]:
    """Instructions that speak of a category or of one of its knobs."""
    topics = [category, *(e.knob for e in EDITS if e.categories[0] == category)]
    return list(dict.fromkeys(i for topic in topics for i in where.get(topic, ())))


def _edit_weight(edit: CatalogEdit, reading: Reading, steps: dict[str, str]) -> float:
    evidence = {"keep": SAME_STEP_KEPT, "discard": SAME_STEP_LOST, "crash": SAME_STEP_LOST}
    weight = NAMED if edit.knob in reading.favoured else 1.0
    if edit.name in steps:
        return weight * evidence.get(steps[edit.name], 1.0)
    return weight * (OTHER_WAY if steps.get(_opposite(edit.name)) == "discard" else 1.0)


def _opposite(step: str) -> str:
    """`DEPTH up` of `DEPTH down`, and the other way round."""
    knob, _, way = step.partition(" ")
    return f"{knob} {({'up': 'down', 'down': 'up'}).get(way, '')}"


def _step_statuses(history: tuple[Experiment, ...]) -> dict[str, str]:
    """The latest status of each step tried in this run, `EMBEDDING_LR up` -> `keep`."""
    return {
        step_name(change): experiment.status or ""
        for experiment in history
        if experiment.kind == "edit"
        for change in read_description(experiment.description)
    }


def _cites(reading: Reading, edit: CatalogEdit, half: int) -> tuple[str, ...]:
    """At most three instructions that raised the chosen category, the most specific first."""
    category = edit.categories[0]
    ids = [*reading.favoured.get(edit.knob, ()), *_ids(reading.favoured, category)]
    ids += _ids(reading.late if half else reading.early, category)
    unique = list(dict.fromkeys(ids))
    return tuple(sorted(unique, key=lambda i: reading.breadth[i])[:3])

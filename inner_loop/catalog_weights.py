"""How much each edit of the offline catalogue weighs, given a program and a run.

Owns: the factors and their product. A weight is the chance of an edit up to a common factor; every
factor is named here and explained in `docs/catalogue.md`.
Does not own: which edits are allowed, and the draw (`catalog.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from inner_loop.catalog_edits import CATEGORIES, EDITS, CatalogEdit
from inner_loop.catalog_policy import Plateau, Policy
from inner_loop.catalog_reading import Condition, Reading
from inner_loop.catalog_run import (
    categories_of,
    edit_experiments,
    half,
    losses_in_a_row,
    steps,
    topics_with,
)
from inner_loop.researcher import Brief

UNMENTIONED = 0.25
"""Weight of a category the program is silent about, where it speaks for any other."""
PER_MENTION, MOST_MENTIONS = 1.5, 5
"""What each instruction in favour adds to a category's weight of 1, and how many count."""
KEPT, DISCARDED, CRASHED = 1.6, 0.7, 0.4
"""Factor on a category for each of its edits in this run with that status."""
SAME_STEP_KEPT, SAME_STEP_LOST, OTHER_WAY, NAMED = 4.0, 0.25, 6.0, 3.0
"""Factors on an edit: this very step was kept, or lost, before; the same knob lost the other way;
the program names it or its knob."""
EARLY_NOW, EARLY_PAST, LATE_NOW, LATE_AHEAD = 3.0, 1.0, 2.0, 1 / 3
"""Factors for `first` and `later`, in the half of the run they mean and in the other."""
UNTRIED, FOLLOWED, LEFT, CONDITION_HOLDS, CONDITION_FAILS = 1000.0, 5.0, 0.02, 3.0, 1 / 3
"""Factors on a category: breadth first and it is untried; stay with what works and it was kept
last; a plateau rule leaves it; its `if` holds, or not yet."""


@dataclass(frozen=True)
class Situation:
    """A brief with all that was read in it."""

    brief: Brief
    reading: Reading
    policy: Policy
    plateaus: tuple[Plateau, ...]

    def ids_of(self, action: str) -> tuple[str, ...]:
        """The instructions whose plateau rule asks for `action` now."""
        return tuple(i for p in self.plateaus if action in p.actions for i in p.ids)


def weights(now: Situation, edits: Sequence[CatalogEdit]) -> list[float]:
    """The weight of each edit: its share of its category's, its own, and its conditions'."""
    categories, tried = category_weights(now), steps(now.brief)
    sharing = Counter(edit.category for edit in edits)
    holding, failing = conditions(now)
    return [
        categories[edit.category]
        / sharing[edit.category]
        * _edit_weight(edit, now.reading, tried)
        * CONDITION_HOLDS ** sum(not edit.topics.isdisjoint(c.topics) for c in holding)
        * CONDITION_FAILS ** sum(not edit.topics.isdisjoint(c.topics) for c in failing)
        for edit in edits
    ]


def conditions(now: Situation) -> tuple[list[Condition], list[Condition]]:
    """The program's `if A helped, try B` whose A holds now, and the others."""
    tried, kept = topics_with(now.brief), topics_with(now.brief, kept=True)
    found = [(c, holds(c, tried, kept)) for c in now.reading.follow_ups]
    return [c for c, true in found if true], [c for c, true in found if not true]


def holds(condition: Condition, tried: set[str], kept: set[str]) -> bool:
    """All that it names was tried, or any of it was kept."""
    if condition.needs == "tried":
        return condition.after <= tried
    return not condition.after.isdisjoint(kept)


def category_weights(now: Situation) -> dict[str, float]:
    """The weight of each category: the program's word times this run's evidence."""
    statuses = Counter((c, e.status) for e in edit_experiments(now.brief) for c in categories_of(e))
    spoken_for = {c: ids_of_category(now.reading.favoured, c) for c in CATEGORIES}
    silence = UNMENTIONED if any(spoken_for.values()) else 1.0
    return {
        category: (1 + PER_MENTION * min(len(ids), MOST_MENTIONS) if ids else silence)
        * _order_factor(now.reading, category, half(now.brief))
        * _conduct_factor(now, category)
        * KEPT ** statuses[category, "keep"]
        * DISCARDED ** statuses[category, "discard"]
        * CRASHED ** statuses[category, "crash"]
        for category, ids in spoken_for.items()
    }


def _order_factor(reading: Reading, category: str, part: int) -> float:
    early = (EARLY_NOW, EARLY_PAST)[part] if ids_of_category(reading.early, category) else 1.0
    late = (LATE_AHEAD, LATE_NOW)[part] if ids_of_category(reading.late, category) else 1.0
    return early * late


def _conduct_factor(now: Situation, category: str) -> float:
    """What breadth, following up and a plateau make of a category."""
    breadth = UNTRIED if now.policy.breadth_ids and is_untried(now.brief, category) else 1.0
    follow = FOLLOWED if now.policy.follow_ids and category in kept_last(now.brief) else 1.0
    left = LEFT if category in _to_leave(now) else 1.0
    return breadth * follow * left


def is_untried(brief: Brief, category: str) -> bool:
    """Whether no edit of this run was of that category."""
    return all(category not in categories_of(e) for e in edit_experiments(brief))


def kept_last(brief: Brief) -> list[str]:
    """The categories of the latest edit that was kept."""
    kept = [e for e in edit_experiments(brief) if e.status == "keep"]
    return categories_of(kept[-1]) if kept else []


def _to_leave(now: Situation) -> set[str]:
    """The categories of the losses that a plateau rule counts."""
    after = [p.after for p in now.plateaus if "switch" in p.actions]
    lost = losses_in_a_row(now.brief)[: max(after, default=0)]
    return {category for e in lost for category in categories_of(e)}


def _edit_weight(edit: CatalogEdit, reading: Reading, tried: dict[str, str]) -> float:
    evidence = {"keep": SAME_STEP_KEPT, "discard": SAME_STEP_LOST, "crash": SAME_STEP_LOST}
    weight = NAMED if {edit.knob, edit.name} & set(reading.favoured) else 1.0
    if edit.name in tried:
        return weight * evidence.get(tried[edit.name], 1.0)
    return weight * (OTHER_WAY if tried.get(_opposite(edit.name)) == "discard" else 1.0)


def _opposite(step: str) -> str:
    """`DEPTH up` of `DEPTH down`, and the other way round."""
    knob, _, way = step.partition(" ")
    return f"{knob} {({'up': 'down', 'down': 'up'}).get(way, '')}"


def ids_of_category(where: dict[str, list[str]], category: str) -> list[str]:
    """Instructions that speak of a category, of one of its knobs or of one of its edits."""
    topics = [category, *(t for e in EDITS if e.category == category for t in (e.knob, e.name))]
    return list(dict.fromkeys(i for topic in topics for i in where.get(topic, ())))

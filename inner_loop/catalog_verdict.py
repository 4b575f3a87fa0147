"""The offline catalogue's verdicts, reruns and returns: the rules of a program applied to a result.

Owns: whether the program's own rule overturns upstream's on the last experiment, what is trained
again, and when the branch goes back. Does not own: the reading of those rules
(`catalog_policy.py`), the choice of edits (`catalog.py`).

A verdict that overturns comes as a `return` to the commit it leaves at the tip: it costs no
experiment, and the next brief then shows the train.py that follows from it.
"""

from __future__ import annotations

import math
import random

from inner_loop.catalog_policy import Confirm, Plateau, Policy
from inner_loop.catalog_run import (
    edit_experiments,
    edits_of,
    gain,
    losses_in_a_row,
    losses_on_one_part,
    noise,
    parent_of,
)
from inner_loop.records import Experiment, Move
from inner_loop.researcher import Brief

MOST_CITES = 3
NO_WORSE = 0.001
"""Share of a score within which two are equal, where no rerun has shown the noise."""
SURELY = 2.0
"""A gain of so many standard deviations is not a small one."""

MOST_FOR_NOISE = 2
"""Reruns of one commit to learn the noise; crashed or equal ones show none."""


def verdict(brief: Brief, policy: Policy) -> Move | None:
    """The program's verdict on the last experiment where it is not upstream's."""
    last = brief.history[-1] if brief.history else None
    if last is None or last.status not in ("keep", "discard"):
        return None
    parent, found = parent_of(brief, last.commit), gain(brief, last.commit)
    if (
        parent is None
        or found is None
        or (last.kind == "rerun" and not _judges_reruns(last, policy))
    ):
        return None
    keep, ids, why = _judge(brief, policy, last, found)
    if not ids or keep == (last.status == "keep"):
        return None
    return Move(
        kind="return",
        commit=last.commit if keep else parent,
        verdict="keep" if keep else "discard",
        description=f"{'kept' if keep else 'discarded'} by the program's rule: {why}",
        cites=ids[:MOST_CITES],
        categories=last.categories,
    )


def _judges_reruns(last: Experiment, policy: Policy) -> bool:
    """Upstream keeps every rerun of the tip; a program that asked for it may not."""
    return last.status == "keep" and bool(policy.confirm or policy.min_gain)


def _judge(
    brief: Brief, policy: Policy, last: Experiment, found: float
) -> tuple[bool, tuple[str, ...], str]:
    """Whether the last experiment stays, the instructions that say so, and why in a few words."""
    need, said = needed_gain(brief, policy), f"gain {1000 * found:+.1f} mbpb"
    ids = policy.min_gain.ids if policy.min_gain else ()
    confirming = policy.confirm.ids if policy.confirm and last.kind == "rerun" else ()
    if found > (need or 0.0):
        return True, (), said  # upstream's rule says so as well
    if policy.simpler_ids and _is_simpler(last) and found >= -_tolerance(brief):
        return True, policy.simpler_ids, f"{said}, and simpler"
    if (
        policy.worse_ids
        and last.kind == "edit"
        and _accepts_worse(brief, policy, last, found - (need or 0.0))
    ):
        return True, policy.worse_ids, f"{said}, accepted by chance"
    wanted = f" where {1000 * need:.1f} is wanted" if need else ""
    return False, (*confirming, *ids), f"{said}{wanted}"


def needed_gain(brief: Brief, policy: Policy) -> float | None:
    """What the program's rule asks for in bits per byte; None without a rule or a known noise."""
    rule, sd = policy.min_gain, noise(brief)
    if rule is None or (rule.unit == "noise" and sd is None):
        return None
    scale = {"bpb": 1.0, "share": brief.baseline_bpb, "noise": sd or 0.0}
    return rule.value * scale[rule.unit]


def _tolerance(brief: Brief) -> float:
    sd = noise(brief)
    return NO_WORSE * brief.baseline_bpb if sd is None else sd


def _is_simpler(experiment: Experiment) -> bool:
    edits = edits_of(experiment)
    return bool(edits) and all(edit.simpler for edit in edits)


def _accepts_worse(brief: Brief, policy: Policy, last: Experiment, margin: float) -> bool:
    """Metropolis: a loss of one standard deviation is accepted once in e times.

    The coin is the experiment's own, so that asking again does not throw it again.
    """
    temperature = _tolerance(brief)
    if policy.cooling:
        total = len(brief.history) + brief.experiments_left
        temperature *= 1 - (last.index - 1) / max(1, total)
    coin = random.Random(f"{last.seed} {last.index}").random()
    return temperature > 0 and coin < math.exp(min(0.0, margin / temperature))


# --- reruns -----------------------------------------------------------------------------------


def rerun(brief: Brief, policy: Policy) -> Move | None:
    """A second training where the program asks for one: of the start, or of what was kept."""
    if policy.base_ids and not brief.history:
        why = "two trainings of one script differ by the noise"
        return _again(brief, "rerun: the unchanged script", why, policy.base_ids, ())
    tried = edit_experiments(brief)
    last = tried[-1] if tried else None
    if last is None or last.status != "keep" or last.commit != brief.tip_commit:
        return None
    ids = _why_again(brief, policy, last)
    why = "a real gain shows again on another seed"
    return _again(brief, f"rerun: {last.description}", why, ids, last.categories) if ids else None


def _why_again(brief: Brief, policy: Policy, last: Experiment) -> tuple[str, ...]:
    """The instructions that want the tip trained again; none if it was, or was kept for no gain."""
    done = sum(e.kind == "rerun" and e.commit == last.commit for e in brief.history)
    found = gain(brief, last.commit)
    if found is None or found <= (needed_gain(brief, policy) or 0.0):
        return ()
    if policy.confirm and done < policy.confirm.times and _doubtful(brief, policy.confirm, found):
        return policy.confirm.ids
    rule = policy.min_gain
    if rule is None or rule.unit != "noise" or noise(brief) or done >= MOST_FOR_NOISE:
        return ()
    return rule.ids


def _doubtful(brief: Brief, confirm: Confirm, found: float) -> bool:
    sd = noise(brief)
    return not confirm.only_small or sd is None or found < SURELY * sd


def _again(
    brief: Brief, text: str, why: str, ids: tuple[str, ...], categories: tuple[str, ...]
) -> Move:
    return Move(
        kind="rerun",
        commit=brief.tip_commit,
        description=text,
        hypothesis=why,
        cites=ids[:MOST_CITES],
        categories=categories,
    )


# --- plateaus ---------------------------------------------------------------------------------


def plateaus(brief: Brief, policy: Policy) -> list[Plateau]:
    """The plateau rules that hold now."""
    anywhere, on_one_part = len(losses_in_a_row(brief)), len(losses_on_one_part(brief))
    return [p for p in policy.plateaus if (on_one_part if p.same_part else anywhere) >= p.after]


def step_back(brief: Brief, active: list[Plateau]) -> Move | None:
    """To the commit before the tip, where a plateau rule says to go back and there is one."""
    rules = [p for p in active if "back" in p.actions]
    parent = parent_of(brief, brief.tip_commit)
    if not rules or parent is None:
        return None
    return Move(
        kind="return",
        commit=parent,
        description=f"back to before the tip, after {len(losses_in_a_row(brief))} losses in a row",
        cites=rules[0].ids[:MOST_CITES],
    )

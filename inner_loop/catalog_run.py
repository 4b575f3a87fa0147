"""What a run has shown so far, read from a brief: the offline catalogue's evidence.

Owns: gains, noise, losses in a row, what was tried and what came of it.
Does not own: what follows from it (`catalog.py`, `catalog_verdict.py`). Pure; gains are in bits per
byte, higher is better.
"""

from __future__ import annotations

from itertools import takewhile
from statistics import fmean

from inner_loop.catalog_edits import BY_NAME, CatalogEdit
from inner_loop.catalog_knobs import knobs, read_description, step_name
from inner_loop.records import Experiment
from inner_loop.researcher import Brief


def half(brief: Brief) -> int:
    """0 in the first half of a run, 1 in the second."""
    done = len(brief.history)
    return int(2 * done >= done + brief.experiments_left)


def edits_of(experiment: Experiment) -> list[CatalogEdit]:
    """The catalogue edits an experiment tried, by its description; a foreign one has none."""
    names = (step_name(change) for change in read_description(experiment.description))
    return [BY_NAME[name] for name in names if name in BY_NAME]


def categories_of(experiment: Experiment) -> list[str]:
    """What an experiment was weighed by."""
    known = [edit.category for edit in edits_of(experiment)]
    return list(dict.fromkeys(known)) or list(experiment.categories[:1])


def edit_experiments(brief: Brief) -> list[Experiment]:
    """Everything tried in this run, reruns left out."""
    return [e for e in brief.history if e.kind == "edit"]


def topics_with(brief: Brief, *, kept: bool = False) -> set[str]:
    """Topics of everything tried so far, or of what was kept."""
    tried = [e for e in edit_experiments(brief) if not kept or e.status == "keep"]
    return {t for e in tried for edit in edits_of(e) for t in edit.topics} | {
        category for e in tried for category in e.categories
    }


def steps(brief: Brief) -> dict[str, str]:
    """The latest status of each step tried in this run, `EMBEDDING_LR up` -> `keep`."""
    return {
        step_name(change): experiment.status or ""
        for experiment in edit_experiments(brief)
        for change in read_description(experiment.description)
    }


# --- numbers ----------------------------------------------------------------------------------


def scores(brief: Brief) -> dict[str, list[float]]:
    """Commit -> every number it got; the baselines' mean is one of the base commit's."""
    found = {brief.base_commit: [brief.baseline_bpb]}
    for e in brief.history:
        if e.measured.search_bpb is not None:
            found.setdefault(e.commit, []).append(e.measured.search_bpb)
    return found


def parent_of(brief: Brief, commit: str) -> str | None:
    """The commit that `commit` of this run was made from; None for the base."""
    return next((e.parent_commit for e in edit_experiments(brief) if e.commit == commit), None)


def gain(brief: Brief, commit: str) -> float | None:
    """How much lower a commit's mean is than its parent's; None where either has no number."""
    known, parent = scores(brief), parent_of(brief, commit)
    if parent is None or commit not in known or parent not in known:
        return None
    return fmean(known[parent]) - fmean(known[commit])


def noise(brief: Brief) -> float | None:
    """Standard deviation of one training, pooled over what this run trained more than once."""
    groups = [values for values in scores(brief).values() if len(values) > 1]
    squares = sum((v - fmean(values)) ** 2 for values in groups for v in values)
    freedom = sum(len(values) - 1 for values in groups)
    return (squares / freedom) ** 0.5 if freedom else None


# --- losses -----------------------------------------------------------------------------------


def losses_in_a_row(brief: Brief) -> list[Experiment]:
    """The latest edits of the tip, none of them kept, newest first."""

    def lost(e: Experiment) -> bool:
        return e.status != "keep" and e.parent_commit == brief.tip_commit

    return list(takewhile(lost, reversed(edit_experiments(brief))))


def losses_on_one_part(brief: Brief) -> list[Experiment]:
    """Those of them that share their category with the latest, without a break."""
    lost = losses_in_a_row(brief)
    same = categories_of(lost[0]) if lost else []
    return list(takewhile(lambda e: categories_of(e) == same, lost))


# --- what each train.py was -------------------------------------------------------------------


def tried_knobs(brief: Brief) -> list[dict[str, str]]:
    """The knobs of every train.py of this run, worked out from the tip along the descriptions."""
    known = {brief.tip_commit: knobs(brief.train_py)}
    readable = [e for e in edit_experiments(brief) if read_description(e.description)]
    for _ in readable:
        before = len(known)
        for experiment in readable:
            _follow(known, experiment)
        if len(known) == before:
            break
    return list(known.values())


def _follow(known: dict[str, dict[str, str]], experiment: Experiment) -> None:
    """Learn an experiment's knobs from its parent's, or its parent's from its own."""
    changes = read_description(experiment.description)
    commit, parent = experiment.commit, experiment.parent_commit
    if parent in known:
        known.setdefault(commit, known[parent] | {c.knob: c.new for c in changes})
    elif commit in known:
        known[parent] = known[commit] | {c.knob: c.old for c in changes}

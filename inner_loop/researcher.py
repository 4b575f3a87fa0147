"""The seam between a run and whatever proposes its edits; DESIGN.md section 5.

Owns: `Brief` (all a researcher may see), the `Researcher` Protocol, what one is made for (`Setup`)
and the table of known kinds.
Does not own: any kind of researcher. Nothing from the audit or locked shard ever enters a brief.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from inner_loop.errors import UserError, unknown
from inner_loop.meter import Meter
from inner_loop.records import Budget, Experiment, Move, Program, Record, Track
from inner_loop.settings import Settings

KINDS = {
    "catalog": "inner_loop.catalog:Catalog",
    "replay": "inner_loop.replay:Replay",
    "anthropic": "inner_loop.model_researcher:ModelResearcher",
    "openai": "inner_loop.model_researcher:ModelResearcher",
    "command": "inner_loop.command:CommandResearcher",
}
"""Name -> `module:class`; any other `module:class` with the same signature works too."""


class Brief(Record):
    """What a researcher is shown before each move."""

    program: Program
    train_py: str
    """train.py at the tip of the run's branch."""
    overturned_train_py: str = ""
    """train.py if the last experiment got the verdict that upstream's rule did not give it; empty
    where there is nothing to overturn."""
    base_commit: str
    tip_commit: str
    baseline_bpb: float
    """Mean of the block's opening baselines, search shard."""
    tip_bpb: float
    """What the tip measured (mean over reruns), search shard."""
    history: tuple[Experiment, ...]
    """Charged experiments so far, oldest first; the last one's status is upstream's rule until the
    move's own verdict replaces it."""
    last_diff: str = ""
    """Unified diff of the last experiment against its parent."""
    best_diff: str = ""
    """The same of the kept experiment with the lowest val_bpb; empty where that is the last."""
    notes: str = ""
    """The researcher's own notes file, as its latest move left it."""
    facts: tuple[str, ...]
    """Adapter facts, the same for every entrant: they answer what a program asks of a human."""
    last_error: str = ""
    """Trace of the last experiment if it crashed, quoted as data."""
    repair: str = ""
    """Why the previous answer to this same brief could not be applied; empty on the first try."""
    experiments_left: int
    """0: the run is over, and of the answer only a verdict on the last experiment counts."""
    move_number: int
    """Answers so far in this run plus one; a replay finds its place by it."""
    seed: int
    """The only source of randomness of this move."""


class Researcher(Protocol):
    """Proposes one move at a time; must be a function of the brief, so that a run can resume."""

    protocol: str
    """Hash of what decides its answers beside the track's settings; part of the fingerprint."""

    async def next_move(self, brief: Brief) -> Move:
        """Answer a brief. A reply that is no move is one of kind `unusable`.

        Raises:
            OutOfBudget: asking could go over a cap; the run ends there.
            UserError: no answer will ever come (no key, no such model); the tournament stops.
        """
        ...


def _no_one(_: str) -> None:
    return None


@dataclass(frozen=True)
class Setup:
    """What a researcher is made for: one run of a track."""

    kind: str
    """What it is registered as."""
    model: str | None = None
    settings: Settings = field(default_factory=Settings)
    budget: Budget | None = None
    """The run's; its token and dollar caps are held before each call."""
    run_id: str = ""
    folder: Path | None = None
    """The run's folder, where exchanges are stored; None = nothing is stored."""
    worktree: Path | None = None
    """Where train.py of the branch tip lies; the harness's, to be copied and not worked in."""
    meter: Meter = field(default_factory=Meter)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    """Where keys come from; they go nowhere else."""
    tell: Callable[[str], None] = _no_one
    """Told one line for people: a wait before another try, a service that fails."""

    @classmethod
    def of(cls, track: Track) -> Setup:
        """What a track says of its researcher, for no run yet."""
        return cls(track.researcher, track.model, track.settings, track.budget)


def make_researcher(setup: Setup) -> Researcher:
    """The researcher that `setup` names by its kind, or any `module:class`.

    Raises:
        UserError: nothing is known by that name, it cannot be loaded, or cannot work here.
    """
    module, _, name = KINDS.get(setup.kind, setup.kind).partition(":")
    if not name:
        raise unknown("researcher", setup.kind, KINDS)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"Researcher '{setup.kind}' cannot be loaded ({error}); check the module and class "
            "name."
        ) from error
    made: Researcher = found(setup)
    return made

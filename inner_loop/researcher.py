"""The seam between a run and whatever proposes its edits; DESIGN.md section 5.

Owns: `Brief` (all a researcher may see), the `Researcher` Protocol and the table of known kinds.
Does not own: any kind of researcher. Nothing from the audit or locked shard ever enters a brief.
"""

from __future__ import annotations

import importlib
from typing import Protocol

from inner_loop.errors import UserError, unknown
from inner_loop.records import Experiment, Move, Program, Record

KINDS = {
    "catalog": "inner_loop.catalog:Catalog",
    "replay": "inner_loop.replay:Replay",
}
"""Name -> `module:class`; any other `module:class` with the same signature works too."""


class Brief(Record):
    """What a researcher is shown before each move."""

    program: Program
    train_py: str
    """train.py at the tip of the run's branch."""
    base_commit: str
    tip_commit: str
    baseline_bpb: float
    """Mean of the block's opening baselines, search shard."""
    tip_bpb: float
    """What the tip measured (mean over reruns), search shard."""
    history: tuple[Experiment, ...]
    """Charged experiments so far, oldest first; the last one's status is upstream's rule until the
    move's own verdict replaces it."""
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

    async def next_move(self, brief: Brief) -> Move:
        """Answer a brief. Failures of a model or a tool are moves of kind `unusable`."""
        ...


def make_researcher(kind: str, model: str | None = None) -> Researcher:
    """The researcher registered as `kind`, or any `module:class`.

    Raises:
        UserError: nothing is known by that name, or it cannot be loaded.
    """
    module, _, name = KINDS.get(kind, kind).partition(":")
    if not name:
        raise unknown("researcher", kind, KINDS)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"Researcher '{kind}' cannot be loaded ({error}); check the module and class name."
        ) from error
    made: Researcher = found(model)
    return made

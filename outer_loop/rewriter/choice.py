"""Which rewriter a name stands for.

Owns: the names, and that what can never work is said before anything is spent.
Does not own: any rewriter.
"""

from __future__ import annotations

from dataclasses import replace

from inner_loop.correspond import correspondent_for
from inner_loop.errors import UserError, unknown
from inner_loop.meter import Meter
from inner_loop.researcher import Setup
from outer_loop.rewriter.model import ModelRewriter
from outer_loop.rewriter.offline import REWRITER, OfflineRewriter
from outer_loop.rewriter.seam import Rewriter

MODELS = ("anthropic", "openai")
ACCOUNT = "rewriter"
"""What the meter calls a rewriter's spending; as good a `run_id` of its setup as any."""


def make_rewriter(setup: Setup) -> Rewriter:
    """The rewriter that `setup` names by its kind: `offline`, `anthropic` or `openai`.

    Args:
        setup: with kind, model and settings; its meter and folder are those of the night, its
            `run_id` the account, to be opened with what is stored in the folder. A budget in it
            caps the rewriter alone.

    Raises:
        UserError: there is none of that name, no model is named, or it cannot work here.
    """
    if setup.kind == REWRITER:
        return OfflineRewriter()
    if setup.kind not in MODELS:
        raise unknown("rewriter", setup.kind, [REWRITER, *MODELS])
    if not setup.model:
        raise UserError(
            f"The rewriter '{setup.kind}' needs a model; name one with --rewriter-model."
        )
    # a missing key is told now, not after the first round; remarks wait for the real one
    correspondent_for(replace(setup, meter=Meter(setup.meter.night), tell=lambda _: None))
    return ModelRewriter(
        lambda: correspondent_for(setup, counted=True), f"{setup.kind} {setup.model}"
    )

"""The offline catalogue: the edits of train.py that are worth trying without a language model.

Owns: the list, what each edit is about and why it might help.
Does not own: how an edit is built (`catalog_knobs.py`), which one is tried when (`catalog.py`),
what a program wants (`catalog_reading.py`).
"""

from __future__ import annotations

from typing import NamedTuple

from inner_loop.catalog_knobs import (
    Build,
    constant,
    head_dim_times,
    plus,
    times,
    variant,
    width_times,
)
from inner_loop.records import Edit

CATEGORIES = (
    "learning-rate",
    "schedule",
    "batch",
    "depth",
    "width",
    "heads",
    "activation",
    "normalisation",
    "embeddings",
    "initialisation",
    "regularisation",
    "optimiser",
)


class CatalogEdit(NamedTuple):
    """One thing the catalogue can try."""

    name: str
    """Knob and direction, as `step_name` gives it; unique."""
    categories: tuple[str, ...]
    """What it is about; the first is the one it is weighed by, a ban on any of them forbids it."""
    words: tuple[str, ...]
    """Lower-case phrases by which a program means this knob in particular."""
    why: str
    """The hypothesis, one line."""
    build: Build
    """Source of train.py -> the edit's blocks, or None where it does not apply."""

    @property
    def knob(self) -> str:
        """The literal or block it turns."""
        return self.name.split()[0]


def _value_embeds_everywhere(source: str) -> list[Edit] | None:
    """Value embeddings in every layer, switched on if they were off."""
    layers = variant("VALUE_EMBED_LAYERS", "all")(source)
    on = constant("VALUE_EMBEDS", "True")(source)
    return None if layers is None else [*layers, *(on or [])]


_EMBED_LR = ("embedding learning rate", "embedding lr", "learning rate of the embeddings")
_HEAD_LR = ("unembedding learning rate", "head learning rate", "learning rate of the output head")
_MATRIX_LR = ("matrix learning rate", "muon learning rate", "muon lr", "learning rate of muon")
_WARMDOWN = ("warmdown", "warm down", "cooldown", "cool down")
_BETAS = ("beta", "betas", "beta1", "beta2", "adam betas", "adamw betas")
_VALUE_EMBEDS = ("value embedding", "value embeddings")
_SOFTCAP = ("softcap", "soft cap", "logit cap", "softcapping")

EDITS: tuple[CatalogEdit, ...] = (
    CatalogEdit(
        "EMBEDDING_LR up",
        ("learning-rate",),
        _EMBED_LR,
        "each token row gets few updates in a short run, so larger steps may learn it in time",
        times("EMBEDDING_LR", 2, low=1e-6, high=10),
    ),
    CatalogEdit(
        "EMBEDDING_LR down",
        ("learning-rate",),
        _EMBED_LR,
        "embedding noise from large steps may be what the matrices cannot follow",
        times("EMBEDDING_LR", 0.5, low=1e-6, high=10),
    ),
    CatalogEdit(
        "UNEMBEDDING_LR up",
        ("learning-rate",),
        _HEAD_LR,
        "the output head starts near zero and has few steps to grow",
        times("UNEMBEDDING_LR", 2, low=1e-6, high=10),
    ),
    CatalogEdit(
        "UNEMBEDDING_LR down",
        ("learning-rate",),
        _HEAD_LR,
        "a head that moves more slowly gives the layers below a steadier target",
        times("UNEMBEDDING_LR", 0.5, low=1e-6, high=10),
    ),
    CatalogEdit(
        "MATRIX_LR up",
        ("learning-rate",),
        _MATRIX_LR,
        "orthogonalised updates tolerate large steps, and the budget is short",
        times("MATRIX_LR", 2, low=1e-6, high=10),
    ),
    CatalogEdit(
        "MATRIX_LR down",
        ("learning-rate",),
        _MATRIX_LR,
        "smaller matrix steps may reach a lower loss at the end of the schedule",
        times("MATRIX_LR", 0.5, low=1e-6, high=10),
    ),
    CatalogEdit(
        "WARMDOWN_RATIO up",
        ("schedule",),
        _WARMDOWN,
        "a longer decay averages out more step noise before scoring",
        plus("WARMDOWN_RATIO", 0.2, low=0.05, high=1.0),
    ),
    CatalogEdit(
        "WARMDOWN_RATIO down",
        ("schedule",),
        _WARMDOWN,
        "more of the budget at the full rate covers more ground",
        plus("WARMDOWN_RATIO", -0.2, low=0.05, high=1.0),
    ),
    CatalogEdit(
        "FINAL_LR_FRAC up",
        ("schedule", "learning-rate"),
        ("final learning rate", "final lr"),
        "the last steps still learn if the rate does not fall to zero",
        plus("FINAL_LR_FRAC", 0.1, low=0.0, high=0.5),
    ),
    CatalogEdit(
        "TOTAL_BATCH_SIZE up",
        ("batch",),
        (),
        "less gradient noise per step may be worth fewer steps",
        times("TOTAL_BATCH_SIZE", 2, low=64, high=2**24),
    ),
    CatalogEdit(
        "TOTAL_BATCH_SIZE down",
        ("batch",),
        (),
        "the budget is fixed, so a smaller batch buys more optimizer steps",
        times("TOTAL_BATCH_SIZE", 0.5, low=64, high=2**24),
    ),
    CatalogEdit(
        "DEPTH up",
        ("depth",),
        (),
        "another layer adds composition the data may reward",
        plus("DEPTH", 1, low=1, high=48),
    ),
    CatalogEdit(
        "DEPTH down",
        ("depth",),
        (),
        "a shallower model takes more steps in the same budget",
        plus("DEPTH", -1, low=1, high=48),
    ),
    CatalogEdit(
        "WIDTH up",
        ("width",),
        (),
        "more channels learn more per token seen",
        width_times(1.5),
    ),
    CatalogEdit(
        "WIDTH down",
        ("width",),
        (),
        "a narrower model sees more tokens in the same budget",
        width_times(0.5),
    ),
    CatalogEdit(
        "HEAD_DIM up",
        ("heads",),
        ("fewer heads",),
        "fewer, wider heads resolve sharper attention",
        head_dim_times(2),
    ),
    CatalogEdit(
        "HEAD_DIM down",
        ("heads",),
        ("more heads",),
        "more, narrower heads attend to more places at once",
        head_dim_times(0.5),
    ),
    CatalogEdit(
        "ACTIVATION gelu",
        ("activation",),
        ("gelu", "silu", "relu", "swish"),
        "a smooth activation passes gradient where a squared ReLU gives none",
        variant("ACTIVATION", "gelu"),
    ),
    CatalogEdit(
        "NORM layer",
        ("normalisation",),
        ("layernorm", "layer norm", "rmsnorm", "rms norm"),
        "removing the mean as well may steady the residual stream",
        variant("NORM", "layer"),
    ),
    CatalogEdit(
        "VALUE_EMBEDS False",
        ("embeddings",),
        _VALUE_EMBEDS,
        "without value embeddings a step is cheaper and there is less to learn",
        constant("VALUE_EMBEDS", "False"),
    ),
    CatalogEdit(
        "VALUE_EMBED_LAYERS all",
        ("embeddings",),
        _VALUE_EMBEDS,
        "every layer may profit from reading the token itself",
        _value_embeds_everywhere,
    ),
    CatalogEdit(
        "INIT_SCALE up",
        ("initialisation",),
        (),
        "larger initial queries and keys break symmetry earlier",
        times("INIT_SCALE", 2, low=0.05, high=20),
    ),
    CatalogEdit(
        "INIT_SCALE down",
        ("initialisation",),
        (),
        "smaller initial matrices let the first updates count for more",
        times("INIT_SCALE", 0.5, low=0.05, high=20),
    ),
    CatalogEdit(
        "WEIGHT_DECAY up",
        ("regularisation",),
        ("weight decay",),
        "stronger decay keeps the matrices responsive to new updates",
        times("WEIGHT_DECAY", 2, low=1e-5, high=5),
    ),
    CatalogEdit(
        "WEIGHT_DECAY down",
        ("regularisation",),
        ("weight decay",),
        "a short run hardly overfits, so decay may only slow it",
        times("WEIGHT_DECAY", 0.5, low=1e-5, high=5),
    ),
    CatalogEdit(
        "SOFTCAP up",
        ("regularisation",),
        _SOFTCAP,
        "a wider cap lets the model be surer where it is right",
        times("SOFTCAP", 2, low=1, high=120),
    ),
    CatalogEdit(
        "ADAM_BETAS (0.9, 0.95)",
        ("optimiser",),
        _BETAS,
        "more averaging of rare tokens' gradients steadies the embedding updates",
        constant("ADAM_BETAS", "(0.9, 0.95)"),
    ),
    CatalogEdit(
        "MUON_MOMENTUM down",
        ("optimiser",),
        ("momentum", "muon momentum"),
        "a short run has no time for a long memory",
        plus("MUON_MOMENTUM", -0.05, low=0.5, high=0.99),
    ),
)
"""In the order of `CATEGORIES`; names are unique."""

"""The offline catalogue: the edits of train.py that are worth trying without a language model.

Owns: the list, what each edit is about and why it might help.
Does not own: how an edit is built (`catalog_knobs.py`), by which words a program means it
(`catalog_words.py`), which one is tried when (`catalog.py`).
"""

from __future__ import annotations

from typing import NamedTuple

from inner_loop.catalog_knobs import (
    Build,
    both,
    constant,
    head_dim_times,
    plus,
    times,
    variant,
    width_times,
)

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
    why: str
    """The hypothesis, one line."""
    build: Build
    simpler: bool = False
    """Whether it removes or shrinks something: what a program means by a simplification."""

    @property
    def knob(self) -> str:
        """The literal or block it turns."""
        return self.name.split()[0]

    @property
    def category(self) -> str:
        """The category it is weighed by."""
        return self.categories[0]

    @property
    def topics(self) -> frozenset[str]:
        """Everything by which a program can speak of it."""
        return frozenset((self.name, self.knob, *self.categories))


def _rate(knob: str, up: str, down: str) -> tuple[CatalogEdit, ...]:
    """A learning rate, doubled and halved."""
    return (
        CatalogEdit(f"{knob} up", ("learning-rate",), up, times(knob, 2, low=1e-6, high=10)),
        CatalogEdit(f"{knob} down", ("learning-rate",), down, times(knob, 0.5, low=1e-6, high=10)),
    )


_SCHEDULE = ("schedule", "learning-rate")
"""A schedule moves the learning rate: who forbids the one forbids the other."""

EDITS: tuple[CatalogEdit, ...] = (
    *_rate(
        "EMBEDDING_LR",
        "each token row gets few updates in a short run, so larger steps may learn it in time",
        "embedding noise from large steps may be what the matrices cannot follow",
    ),
    *_rate(
        "UNEMBEDDING_LR",
        "the output head starts near zero and has few steps to grow",
        "a head that moves more slowly gives the layers below a steadier target",
    ),
    *_rate(
        "MATRIX_LR",
        "orthogonalised updates tolerate large steps, and the budget is short",
        "smaller matrix steps may reach a lower loss at the end of the schedule",
    ),
    CatalogEdit(
        "SCALAR_LR up",
        ("learning-rate",),
        "the per-layer scalars are few and safe to move faster",
        times("SCALAR_LR", 2, low=1e-6, high=10),
    ),
    CatalogEdit(
        "WARMDOWN_RATIO up",
        _SCHEDULE,
        "a longer decay averages out more step noise before scoring",
        plus("WARMDOWN_RATIO", 0.2, low=0.05, high=1.0),
    ),
    CatalogEdit(
        "WARMDOWN_RATIO down",
        _SCHEDULE,
        "more of the budget at the full rate covers more ground",
        plus("WARMDOWN_RATIO", -0.2, low=0.05, high=1.0),
    ),
    CatalogEdit(
        "FINAL_LR_FRAC up",
        _SCHEDULE,
        "the last steps still learn if the rate does not fall to zero",
        plus("FINAL_LR_FRAC", 0.1, low=0.0, high=0.5),
    ),
    CatalogEdit(
        "WARMUP_RATIO up",
        _SCHEDULE,
        "the first gradients are the wildest, so a short rise may let the start waste less",
        plus("WARMUP_RATIO", 0.05, low=0.0, high=0.3),
    ),
    CatalogEdit(
        "DECAY_SHAPE cosine",
        _SCHEDULE,
        "a cosine stays high for longer and lands more softly than a straight line",
        variant("DECAY_SHAPE", "cosine"),
    ),
    CatalogEdit(
        "TOTAL_BATCH_SIZE up",
        ("batch",),
        "less gradient noise per step may be worth fewer steps",
        times("TOTAL_BATCH_SIZE", 2, low=64, high=2**24, whole=True),
    ),
    CatalogEdit(
        "TOTAL_BATCH_SIZE down",
        ("batch",),
        "the budget is fixed, so a smaller batch buys more optimizer steps",
        times("TOTAL_BATCH_SIZE", 0.5, low=64, high=2**24, whole=True),
    ),
    CatalogEdit(
        "DEPTH up",
        ("depth",),
        "another layer adds composition the data may reward",
        plus("DEPTH", 1, low=1, high=48),
    ),
    CatalogEdit(
        "DEPTH down",
        ("depth",),
        "a shallower model takes more steps in the same budget",
        plus("DEPTH", -1, low=1, high=48),
        simpler=True,
    ),
    CatalogEdit(
        "RESIDUAL_FORM parallel",
        ("depth",),
        "attention and MLP side by side make a block one step deep and save a norm",
        variant("RESIDUAL_FORM", "parallel"),
    ),
    CatalogEdit(
        "WIDTH up",
        ("width",),
        "more channels learn more per token seen",
        width_times(1.5),
    ),
    CatalogEdit(
        "WIDTH down",
        ("width",),
        "a narrower model sees more tokens in the same budget",
        width_times(0.5),
        simpler=True,
    ),
    CatalogEdit(
        "MLP_RATIO up",
        ("width",),
        "the MLP stores what the model knows, and its products are the cheapest there are",
        times("MLP_RATIO", 1.5, low=1, high=16),
    ),
    CatalogEdit(
        "MLP_RATIO down",
        ("width",),
        "a thinner MLP frees time for more steps",
        times("MLP_RATIO", 0.5, low=1, high=16),
        simpler=True,
    ),
    CatalogEdit(
        "HEAD_DIM up",
        ("heads",),
        "fewer, wider heads resolve sharper attention",
        head_dim_times(2, high=256),
    ),
    CatalogEdit(
        "HEAD_DIM down",
        ("heads",),
        "more, narrower heads attend to more places at once",
        head_dim_times(0.5, high=256),
    ),
    CatalogEdit(
        'WINDOW_PATTERN "SL"',
        ("heads",),
        "short and whole windows in turn: near context is cheap, far context is still in reach",
        constant("WINDOW_PATTERN", '"SL"'),
    ),
    CatalogEdit(
        "ACTIVATION gelu",
        ("activation",),
        "a smooth activation passes gradient where a squared ReLU gives none",
        variant("ACTIVATION", "gelu"),
    ),
    CatalogEdit(
        "ACTIVATION silu",
        ("activation",),
        "SiLU lets through a little of what is negative, so fewer channels die",
        variant("ACTIVATION", "silu"),
    ),
    CatalogEdit(
        "ACTIVATION relu",
        ("activation",),
        "without the square, large inputs are not made larger still",
        variant("ACTIVATION", "relu"),
        simpler=True,
    ),
    CatalogEdit(
        "NORM layer",
        ("normalisation",),
        "removing the mean as well may steady the residual stream",
        variant("NORM", "layer"),
    ),
    CatalogEdit(
        "QK_NORM off",
        ("normalisation",),
        "queries and keys of free length can make attention as sharp as it needs to be",
        variant("QK_NORM", "off"),
        simpler=True,
    ),
    CatalogEdit(
        "RESIDUAL_FORM post_norm",
        ("normalisation",),
        "a norm after each addition keeps the stream at one size whatever the blocks add",
        variant("RESIDUAL_FORM", "post_norm"),
    ),
    CatalogEdit(
        "VALUE_EMBEDS False",
        ("embeddings",),
        "without value embeddings a step is cheaper and there is less to learn",
        constant("VALUE_EMBEDS", "False"),
        simpler=True,
    ),
    CatalogEdit(
        "VALUE_EMBED_LAYERS all",
        ("embeddings",),
        "every layer may profit from reading the token itself",
        both(variant("VALUE_EMBED_LAYERS", "all"), constant("VALUE_EMBEDS", "True")),
    ),
    CatalogEdit(
        "EMBED_SKIP up",
        ("embeddings",),
        "more of the first embedding in each layer shortens the path to the token",
        times("EMBED_SKIP", 2, low=0.001, high=1),
    ),
    CatalogEdit(
        "ROPE_BASE down",
        ("embeddings",),
        "shorter rotary wavelengths tell neighbours apart where the context is short",
        times("ROPE_BASE", 0.1, low=100, high=10**8),
    ),
    CatalogEdit(
        "INIT_SCALE up",
        ("initialisation",),
        "larger initial queries and keys break symmetry earlier",
        times("INIT_SCALE", 2, low=0.05, high=20),
    ),
    CatalogEdit(
        "INIT_SCALE down",
        ("initialisation",),
        "smaller initial matrices let the first updates count for more",
        times("INIT_SCALE", 0.5, low=0.05, high=20),
    ),
    CatalogEdit(
        "OUTPUT_INIT small",
        ("initialisation",),
        "blocks that start slightly away from the identity pass gradient to all their matrices",
        variant("OUTPUT_INIT", "small"),
    ),
    CatalogEdit(
        "HEAD_INIT small",
        ("initialisation",),
        "a head that starts further from zero tells the layers below at once what matters",
        variant("HEAD_INIT", "small"),
    ),
    CatalogEdit(
        "WEIGHT_DECAY up",
        ("regularisation",),
        "stronger decay keeps the matrices responsive to new updates",
        times("WEIGHT_DECAY", 2, low=1e-5, high=5),
    ),
    CatalogEdit(
        "WEIGHT_DECAY down",
        ("regularisation",),
        "a short run hardly overfits, so decay may only slow it",
        times("WEIGHT_DECAY", 0.5, low=1e-5, high=5),
    ),
    CatalogEdit(
        "SOFTCAP up",
        ("regularisation",),
        "a wider cap lets the model be surer where it is right",
        times("SOFTCAP", 2, low=1, high=120),
    ),
    CatalogEdit(
        "GRAD_CLIP up",
        ("regularisation",),
        "a cap on the gradient takes the sting out of odd batches",
        constant("GRAD_CLIP", "1.0"),
    ),
    CatalogEdit(
        "ADAM_BETAS (0.9, 0.95)",
        ("optimiser",),
        "more averaging of rare tokens' gradients steadies the embedding updates",
        constant("ADAM_BETAS", "(0.9, 0.95)"),
    ),
    CatalogEdit(
        "MUON_MOMENTUM down",
        ("optimiser",),
        "a short run has no time for a long memory",
        plus("MUON_MOMENTUM", -0.05, low=0.5, high=0.99),
    ),
    CatalogEdit(
        "MOMENTUM_WARMUP down",
        ("optimiser",),
        "a short run should not spend most of its steps on raising the momentum",
        times("MOMENTUM_WARMUP", 0.25, low=1, high=10_000),
    ),
    CatalogEdit(
        "NS_STEPS down",
        ("optimiser",),
        "a rougher orthogonalisation is cheaper and may be good enough",
        plus("NS_STEPS", -1, low=2, high=5),
        simpler=True,
    ),
    CatalogEdit(
        "CAUTIOUS_DECAY off",
        ("optimiser", "regularisation"),
        "plain decay of every weight is simpler and shrinks those that went astray as well",
        variant("CAUTIOUS_DECAY", "off"),
        simpler=True,
    ),
)
"""In the order of `CATEGORIES`; names are unique."""

BY_NAME = {edit.name: edit for edit in EDITS}

"""The words by which a program speaks of the catalogue's edits.

Owns: phrase -> topics, and the text in which phrases are looked up. A topic is a category
(`depth`), a knob (`EMBEDDING_LR`) or one edit (`DEPTH up`).
Does not own: how a topic is spoken of (`catalog_reading.py`, `catalog_policy.py`).
"""

from __future__ import annotations

import re

from inner_loop.catalog_edits import CATEGORIES, EDITS

_ARCHITECTURE = ("depth", "width", "heads", "activation", "normalisation", "embeddings")
_HYPERPARAMETERS = ("learning-rate", "schedule", "batch", "regularisation")
_NO_TOPIC = (
    *("output head", "every layer", "each layer", "per layer", "the layers", "pay attention"),
    *("attention to", "in depth", "simulated annealing", "dig deeper", "look deeper"),
)
_CATEGORY_WORDS = {
    "learning-rate": (
        *("learning rate", "learning rates", "lr", "lrs", "step size", "step sizes"),
        *("learn rate", "learn rates", "rate of learning"),
    ),
    "schedule": (
        *("schedule", "schedules", "learning rate schedule", "lr schedule", "annealing"),
        *("learning rate decay", "learning rate schedules", "lr schedules"),
    ),
    "batch": ("batch", "batches", "batch size", "batch sizes", "gradient accumulation"),
    "depth": ("depth", "layer", "layers", "how deep"),
    "width": ("width", "how wide", "channels", "hidden size", "model dimension"),
    "heads": (
        *("heads", "attention", "attention head", "attention heads", "head dim", "head size"),
        *("head dimension", "head count"),
    ),
    "activation": ("activation", "activations", "nonlinearity", "non linearity"),
    "normalisation": ("normalisation", "normalization", "norm", "norms", "norm placement"),
    "embeddings": ("embedding", "embeddings", "token embeddings"),
    "initialisation": ("initialisation", "initialization", "init", "inits", "initial weights"),
    "regularisation": ("regularisation", "regularization", "regulariser", "regularizer", "dropout"),
    "optimiser": ("optimiser", "optimizer", "optimisers", "optimizers", "muon", "adam", "adamw"),
}
_GROUP_WORDS = {
    ("architecture", "architectures", "architectural", "model structure"): _ARCHITECTURE,
    ("hyperparameter", "hyperparameters", "hyper parameters"): _HYPERPARAMETERS,
    ("model size", "size of the model", "capacity"): ("depth", "width"),
    ("bigger model", "larger model", "bigger models", "larger models"): ("DEPTH up", "WIDTH up"),
    ("smaller model", "smaller models"): ("DEPTH down", "WIDTH down"),
}
_WORDS = {
    "EMBEDDING_LR": ("embedding learning rate", "embedding lr", "learning rate of the embeddings"),
    "UNEMBEDDING_LR": (
        *("unembedding learning rate", "head learning rate", "learning rate of the head"),
        "learning rate of the output head",
    ),
    "MATRIX_LR": (
        *("matrix learning rate", "muon learning rate", "muon lr", "learning rate of muon"),
        "learning rate of the matrices",
    ),
    "SCALAR_LR": ("scalar learning rate", "learning rate of the scalars"),
    "WARMDOWN_RATIO": ("warmdown", "warm down", "cooldown", "cool down"),
    "FINAL_LR_FRAC": ("final learning rate", "final lr"),
    "WARMUP_RATIO": ("warmup", "warm up", "learning rate warmup", "lr warmup"),
    "DECAY_SHAPE": ("cosine", "cosine decay", "cosine schedule", "shape of the decay"),
    "TOTAL_BATCH_SIZE up": ("larger batch", "bigger batch", "larger batches", "bigger batches"),
    "TOTAL_BATCH_SIZE down": ("smaller batch", "smaller batches"),
    "DEPTH up": ("deeper", "more layers"),
    "DEPTH down": ("shallower", "fewer layers"),
    "RESIDUAL_FORM parallel": ("parallel attention", "parallel block", "parallel blocks"),
    "WIDTH up": ("wider", "more channels"),
    "WIDTH down": ("narrower", "fewer channels"),
    "MLP_RATIO": ("feed forward", "mlp width", "width of the mlp", "hidden layer of the mlp"),
    "HEAD_DIM up": ("fewer heads", "wider heads"),
    "HEAD_DIM down": ("more heads", "narrower heads"),
    "WINDOW_PATTERN": (
        *("window", "windows", "attention window", "attention windows", "sliding window"),
        *("sliding windows", "local attention", "attention pattern"),
    ),
    "ACTIVATION gelu": ("gelu",),
    "ACTIVATION silu": ("silu", "swish"),
    "ACTIVATION relu": ("relu", "plain relu"),
    "NORM": ("layernorm", "layer norm", "rmsnorm", "rms norm"),
    "QK_NORM": ("norm of queries and keys", "queries and keys"),
    "RESIDUAL_FORM post_norm": ("post norm", "norm after the block", "after the block"),
    "VALUE_EMBEDS": ("value embedding", "value embeddings"),
    "VALUE_EMBED_LAYERS": ("value embedding", "value embeddings"),
    "EMBED_SKIP": ("embedding skip", "skip connection", "skip connections", "first embedding"),
    "ROPE_BASE": (
        *("rope", "rotary", "rotary embedding", "rotary embeddings", "positional encoding"),
        *("position encoding", "positional encodings"),
    ),
    "OUTPUT_INIT": ("zero init", "zero initialisation", "zero initialization"),
    "HEAD_INIT": ("initial head", "initial output head"),
    "WEIGHT_DECAY": ("weight decay",),
    "SOFTCAP": ("softcap", "soft cap", "logit cap", "softcapping"),
    "GRAD_CLIP": ("gradient clipping", "clip the gradient", "clipping", "gradient clip"),
    "ADAM_BETAS": ("beta", "betas", "beta1", "beta2", "adam betas", "adamw betas"),
    "MUON_MOMENTUM": ("momentum", "muon momentum"),
    "MOMENTUM_WARMUP": ("momentum warmup", "warmup of the momentum"),
    "NS_STEPS": (
        *("newton schulz", "orthogonalization", "orthogonalisation"),
        *("orthogonalization iterations", "orthogonalisation iterations"),
    ),
    "CAUTIOUS_DECAY": ("cautious weight decay",),
}


def _vocabulary() -> dict[str, tuple[str, ...]]:
    """Phrase -> topics."""
    phrases: dict[str, tuple[str, ...]] = dict.fromkeys(_NO_TOPIC, ())
    for words, topics in _GROUP_WORDS.items():
        phrases |= dict.fromkeys(words, topics)
    for category in CATEGORIES:
        phrases |= dict.fromkeys(_CATEGORY_WORDS[category], (category,))
    for topic, words in _WORDS.items():
        for phrase in words:
            phrases[phrase] = (*phrases.get(phrase, ()), topic)
    for knob in {edit.knob for edit in EDITS}:
        phrases.setdefault(knob.lower().replace("_", " "), (knob,))
    return phrases


def alternatives(*words: str) -> re.Pattern[str]:
    """Any of `words` (regular expressions), as whole words."""
    return re.compile(rf"\b(?:{'|'.join(words)})\b")


SINGLE = alternatives(
    r"one(?: single)?(?: \w+)? (?:at a time|at once|by one)",
    r"(?:one|a single) (?:change|edit|idea|knob|thing|modification|hypothesis)",
    r"(?:never|not|don't|avoid|no) (?:\w+ )?combin\w+",
    r"(?:never|not|don't) (?:\w+ )?(?:more than one|two|several|many) (?:\w+ )?at (?:once|a time)",
    "one by one",
)
"""One change an experiment."""
PHRASES = _vocabulary()
_TOPIC = alternatives(*sorted((re.escape(p) for p in PHRASES), key=len, reverse=True))
_FENCE = re.compile(r"^[ \t>]*(?:[-+*] +)?(```|~~~).*?(?:^[ \t>]*\1|\Z)", re.DOTALL | re.MULTILINE)


def topics_in(text: str) -> list[str]:
    """The topics a plain text names, in order, the longest phrase at each place."""
    return [topic for match in _TOPIC.finditer(text) for topic in PHRASES[match[0]]]


def plain(text: str) -> str:
    """`text` as one lower-case line of words: fences, emphasis, code marks and hyphens dropped."""
    prose = _FENCE.sub("", text).lower().replace("\u2019", "'")
    prose = re.sub(r"^[\s>]*(?:[-+*]|\d{1,9}[.)])\s", "", prose)
    prose = re.sub(r"\b(depth|breadth)-(?=first\b)", r"\1", prose)  # a way of searching
    prose = re.sub(r"[*`#|>\"()\[\]]", " ", prose)
    return " ".join(re.sub(r"(?<=\w)[_/-](?=\w)", " ", prose).split())

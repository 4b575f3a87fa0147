"""Knobs: the values by which the catalogue tells one train.py from another, and how to turn them.

Owns: reading a source's knobs, naming a change of one, and building the edit that makes it.
Does not own: which changes are worth trying (`catalog_edits.py`) and when (`catalog.py`).

A knob is an ALL_CAPS literal on a line of its own, or a block of code with known variants. An edit
replaces a literal's whole line, or a block's exact text, and is None where it does not apply. Its
stride says how far: 1 is the plain step, 2 the same step twice, 0.5 half of it.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from inner_loop.literals import Number, literals, number, set_literal, written
from inner_loop.records import Edit


class Build(Protocol):
    """Source of train.py and a stride -> an edit's blocks, or None where it does not apply."""

    def __call__(self, source: str, stride: float = 1.0) -> list[Edit] | None:
        """Build the blocks."""
        ...


Move = Callable[[Number, dict[str, str], float], Number | None]
"""A literal's present value, the other knobs and the stride -> its next value."""

BLOCKS = {
    "ACTIVATION": {
        "relu_square": "return self.down(F.relu(self.up(x)).square())",
        "gelu": "return self.down(F.gelu(self.up(x)))",
        "silu": "return self.down(F.silu(self.up(x)))",
        "relu": "return self.down(F.relu(self.up(x)))",
    },
    "NORM": {
        "rms": "F.rms_norm(x, (x.size(-1),))",
        "layer": "F.layer_norm(x, (x.size(-1),))",
    },
    "QK_NORM": {
        "on": "q, k = norm(rotate(q, cos, sin)).to(v.dtype), norm(rotate(k, cos, sin)).to(v.dtype)",
        "off": "q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)",
    },
    "RESIDUAL_FORM": {
        "sequential": (
            "        x = x + self.attention(norm(x), idx, cos, sin)\n"
            "        x = x + self.mlp(norm(x))\n"
        ),
        "parallel": (
            "        normed = norm(x)\n"
            "        x = x + self.attention(normed, idx, cos, sin) + self.mlp(normed)\n"
        ),
        "post_norm": (
            "        x = norm(x + self.attention(x, idx, cos, sin))\n"
            "        x = norm(x + self.mlp(x))\n"
        ),
    },
    "VALUE_EMBED_LAYERS": {
        "alternate": "return (depth - 1 - layer) % 2 == 0",
        "all": "return layer >= 0",
    },
    "OUTPUT_INIT": {
        "zero": (
            "            nn.init.zeros_(attention.out.weight)"
            "  # every block starts as the identity\n"
            "            nn.init.zeros_(mlp.down.weight)\n"
        ),
        "small": (
            "            for linear in (attention.out, mlp.down):\n"
            "                nn.init.normal_(linear.weight, std=spread / len(self.blocks))\n"
        ),
    },
    "HEAD_INIT": {
        "tiny": "nn.init.normal_(self.head.weight, std=0.001)",
        "small": "nn.init.normal_(self.head.weight, std=0.02)",
    },
    "DECAY_SHAPE": {
        "linear": "left = max(0.0, 1 - used) / WARMDOWN_RATIO",
        "cosine": "left = 0.5 - 0.5 * math.cos(math.pi * max(0.0, 1 - used) / WARMDOWN_RATIO)",
    },
    "CAUTIOUS_DECAY": {
        "on": "(U + decay * W * (U * W >= 0))",
        "off": "(U + decay * W)",
    },
}
"""Knob -> variant -> the exact text of that variant in train.py."""


class Change(NamedTuple):
    """What an edit does to one knob, as its description says it."""

    knob: str
    old: str
    new: str


# --- knobs ------------------------------------------------------------------------------------


def knobs(source: str) -> dict[str, str]:
    """Every knob of `source` and its value: equal knobs are, to the catalogue, equal files."""
    return dict(_knobs(source))


@functools.lru_cache(maxsize=256)
def _knobs(source: str) -> dict[str, str]:
    found = literals(source)
    for knob, variants in BLOCKS.items():
        present = [name for name, text in variants.items() if source.count(text) == 1]
        if len(present) == 1:
            found[knob] = present[0]
    return found


def describe(before: str, after: str) -> str:
    """The difference of two sources in knobs, `EMBEDDING_LR 0.02 -> 0.04`."""
    old, new = knobs(before), knobs(after)
    names = [name for name in new if old.get(name) != new[name]]
    return "; ".join(f"{name} {old.get(name, 'none')} -> {new[name]}" for name in names)


def read_description(description: str) -> tuple[Change, ...]:
    """The changes a description made by `describe` tells of; empty for any other text."""
    parts = [re.fullmatch(r"(\S+) (.+?) -> (.+)", part) for part in description.split("; ")]
    return tuple(Change(*part.groups()) for part in parts if part)


def step_name(change: Change) -> str:
    """The name of the edit that makes this change: the knob, and up, down or the new value."""
    old, new = number(change.old), number(change.new)
    if old is None or new is None:
        return f"{change.knob} {change.new}"
    return f"{change.knob} {'up' if new > old else 'down'}"


def replaced(source: str, blocks: Iterable[Edit]) -> str | None:
    """`source` with `blocks` in place; None where a search text is not there exactly once."""
    for block in blocks:
        if not block.search or source.count(block.search) != 1:
            return None
        source = source.replace(block.search, block.replace)
    return source


# --- building edits ---------------------------------------------------------------------------


def step(name: str, move: Move) -> Build:
    """An edit that computes a literal's next value from its present one and the other knobs."""

    def build(source: str, stride: float = 1.0) -> list[Edit] | None:
        now = knobs(source)
        value = number(now.get(name, ""))
        new = None if value is None else move(value, now, stride)
        return None if new is None else set_literal(source, name, written(_short(new), now[name]))

    return build


def _short(value: Number) -> Number:
    """Three significant digits, as people write a rate."""
    return value if isinstance(value, int) else float(f"{value:.3g}")


def times(name: str, factor: float, *, low: float, high: float, whole: bool = False) -> Build:
    """An edit that multiplies a literal, within bounds; `whole` takes whole strides only."""

    def move(value: Number, _: dict[str, str], stride: float) -> Number | None:
        new = value * factor ** (_at_least_one(stride) if whole else stride)
        same_type = round(new) if isinstance(value, int) else new
        return same_type if low <= same_type <= high else None

    return step(name, move)


def plus(name: str, amount: float, *, low: float, high: float) -> Build:
    """An edit that adds to a literal, within bounds; a whole number moves by at least 1."""

    def move(value: Number, _: dict[str, str], stride: float) -> Number | None:
        whole = isinstance(value, int) and isinstance(amount, int)
        new = value + amount * (_at_least_one(stride) if whole else stride)
        return new if low - 1e-9 <= new <= high + 1e-9 else None

    return step(name, move)


def constant(name: str, value: str) -> Build:
    """An edit to a fixed value, for a literal that exists."""

    def build(source: str, stride: float = 1.0) -> list[Edit] | None:
        return set_literal(source, name, value) if name in knobs(source) else None

    return build


def width_times(factor: float) -> Build:
    """Width in whole heads: train.py asks for a multiple of HEAD_DIM."""

    def move(value: Number, now: dict[str, str], stride: float) -> Number | None:
        head = number(now.get("HEAD_DIM", "")) or 1
        heads = round(value * factor**stride / head)
        return int(heads * head) if heads >= 1 else None

    return step("WIDTH", move)


def head_dim_times(factor: float, *, high: int) -> Build:
    """Heads as wide as divide WIDTH evenly; rotary embeddings need an even number of channels."""

    def move(value: Number, now: dict[str, str], stride: float) -> Number | None:
        new, width = int(value * factor ** _at_least_one(stride)), number(now.get("WIDTH", ""))
        fits = 4 <= new <= high and new % 2 == 0 and width is not None and width % new == 0
        return new if fits else None

    return step("HEAD_DIM", move)


def variant(block: str, name: str) -> Build:
    """An edit of a code block, from whichever known variant is there."""

    def build(source: str, stride: float = 1.0) -> list[Edit] | None:
        now = knobs(source).get(block)
        if now is None or now == name:
            return None
        return [Edit(search=BLOCKS[block][now], replace=BLOCKS[block][name])]

    return build


def both(first: Build, second: Build) -> Build:
    """Both edits where the first applies; the second may have nothing left to do."""

    def build(source: str, stride: float = 1.0) -> list[Edit] | None:
        blocks = first(source, stride)
        return None if blocks is None else [*blocks, *(second(source, stride) or [])]

    return build


def _at_least_one(stride: float) -> int:
    return max(1, math.floor(stride + 0.5))

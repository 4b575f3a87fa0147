"""Knobs: the values by which the catalogue tells one train.py from another, and how to turn them.

Owns: reading a source's knobs, naming a change of one, and building the edit that makes it.
Does not own: which changes are worth trying (`catalog_edits.py`) and when (`catalog.py`).

A knob is an ALL_CAPS literal on a line of its own, or a block of code with known variants. An edit
replaces a literal's whole line, or a block's exact text, and is None where it does not apply.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from inner_loop.literals import Number, literals, number, set_literal, written
from inner_loop.records import Edit

Build = Callable[[str], list[Edit] | None]

BLOCKS = {
    "ACTIVATION": {
        "relu_square": "F.relu(self.up(x)).square()",
        "gelu": "F.gelu(self.up(x))",
    },
    "NORM": {
        "rms": "F.rms_norm(x, (x.size(-1),))",
        "layer": "F.layer_norm(x, (x.size(-1),))",
    },
    "VALUE_EMBED_LAYERS": {
        "alternate": "return (depth - 1 - layer) % 2 == 0",
        "all": "return layer >= 0",
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


# --- building edits ---------------------------------------------------------------------------


def step(name: str, move: Callable[[Number, dict[str, str]], Number | None]) -> Build:
    """An edit that computes a literal's next value from its present one and the other knobs."""

    def build(source: str) -> list[Edit] | None:
        now = knobs(source)
        value = number(now.get(name, ""))
        new = None if value is None else move(value, now)
        return None if new is None else set_literal(source, name, written(new, now[name]))

    return build


def times(name: str, factor: float, *, low: float, high: float) -> Build:
    """An edit that multiplies a literal, within bounds."""

    def move(value: Number, _: dict[str, str]) -> Number | None:
        new = value * factor
        same_type = int(new) if isinstance(value, int) else new
        return same_type if low <= same_type <= high else None

    return step(name, move)


def plus(name: str, amount: float, *, low: float, high: float) -> Build:
    """An edit that adds to a literal, within bounds."""

    def move(value: Number, _: dict[str, str]) -> Number | None:
        new = value + amount
        return new if low - 1e-9 <= new <= high + 1e-9 else None

    return step(name, move)


def constant(name: str, value: str) -> Build:
    """An edit to a fixed value, for a literal that exists."""
    return lambda source: set_literal(source, name, value) if name in knobs(source) else None


def width_times(factor: float) -> Build:
    """Width in whole heads: train.py asks for a multiple of HEAD_DIM."""

    def move(value: Number, now: dict[str, str]) -> Number | None:
        head = number(now.get("HEAD_DIM", "")) or 1
        heads = round(value * factor / head)
        return int(heads * head) if heads >= 1 else None

    return step("WIDTH", move)


def head_dim_times(factor: float) -> Build:
    """Heads as wide as divide WIDTH evenly; rotary embeddings need an even number of channels."""

    def move(value: Number, now: dict[str, str]) -> Number | None:
        new, width = int(value * factor), number(now.get("WIDTH", ""))
        fits = new >= 4 and new % 2 == 0 and width is not None and width % new == 0
        return new if fits else None

    return step("HEAD_DIM", move)


def variant(block: str, name: str) -> Build:
    """An edit of a code block, from whichever known variant is there."""

    def build(source: str) -> list[Edit] | None:
        now = knobs(source).get(block)
        if now is None or now == name:
            return None
        return [Edit(search=BLOCKS[block][now], replace=BLOCKS[block][name])]

    return build

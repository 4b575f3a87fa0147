"""How a program's instructions hang together: headings, lists, what is nested under what.

Owns: the structure around the units, read from the same Markdown blocks as the units themselves.
Does not own: the units (`program`), what they are for (`roles`), changing them (the rewriter).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from inner_loop.program import Block, block_tokens, normalise, split_lines
from inner_loop.records import Instruction, Program


class Heading(NamedTuple):
    """One heading and its source lines."""

    level: int
    path: str
    """The headings above it and its own title, joined as in `Instruction.section`."""
    start: int
    end: int
    """First line, from 0, and one past the last."""


class Item(NamedTuple):
    """One list item, nested ones included in its lines."""

    start: int
    end: int
    list: int
    """Which list it is in; equal for siblings."""
    number: int | None
    """Of an ordered list's item."""
    parent: int | None
    """Index of the item it is nested in."""


class Outline(NamedTuple):
    """The structure of a program; the tuples `item`, `within` and `under` go by unit index."""

    headings: tuple[Heading, ...]
    items: tuple[Item, ...]
    item: tuple[int | None, ...]
    """Index of the innermost list item around the unit."""
    within: tuple[int | None, ...]
    """Index of the unit whose list item the unit is nested in."""
    under: tuple[int | None, ...]
    """The same, or the unit that introduces the list with a colon."""

    def subtree(self, unit: int) -> range:
        """The unit and all that is nested under it or introduced by it."""
        end = unit + 1
        while end < len(self.under) and (above := self.under[end]) is not None and above >= unit:
            end += 1
        return range(unit, end)

    def children(self, unit: int) -> list[int]:
        """Units directly nested under the unit or introduced by it."""
        return [index for index, above in enumerate(self.under) if above == unit]


def outline(program: Program) -> Outline:
    """The structure of `program`."""
    headings, items = _blocks(program.text)
    item = _innermost(items, program.instructions)
    within, under = _above(program.instructions, items, item)
    return Outline(headings, items, tuple(item), tuple(within), tuple(under))


def introduces(unit: Instruction) -> bool:
    """Whether the unit ends with a colon, as what introduces a list does."""
    return normalise(unit.text).endswith(":")


def source(program: Program, unit: int) -> str:
    """The unit's own source lines."""
    one = program.instructions[unit]
    return "".join(split_lines(program.text)[one.start_line : one.end_line])


@lru_cache(maxsize=64)
def _blocks(text: str) -> tuple[tuple[Heading, ...], tuple[Item, ...]]:
    """Kept for a moment: a rewriter asks many times for the structure of one text."""
    tokens = block_tokens(text)
    return tuple(_headings(tokens)), tuple(_items(tokens))


def _headings(tokens: Sequence[Block]) -> Iterator[Heading]:
    path: list[tuple[int, str]] = []
    for token, following in pairwise(tokens):
        if token.type == "heading_open":
            level = int(token.tag[1])
            title = " ".join(following.content.split())
            path = [*((depth, above) for depth, above in path if depth < level), (level, title)]
            start, end = token.map or (0, 0)
            yield Heading(level, " / ".join(t for _, t in path), start, end)


def _items(tokens: Sequence[Block]) -> list[Item]:
    items: list[Item] = []
    open_lists: list[int] = []
    open_items: list[int] = []
    lists = 0
    for token in tokens:
        match token.type:
            case "bullet_list_open" | "ordered_list_open":
                open_lists.append(lists)
                lists += 1
            case "bullet_list_close" | "ordered_list_close":
                open_lists.pop()
            case "list_item_open":
                start, end = token.map or (0, 0)
                number = int(token.info) if re.fullmatch(r"\d+", token.info) else None
                parent = open_items[-1] if open_items else None
                open_items.append(len(items))
                items.append(Item(start, end, open_lists[-1], number, parent))
            case "list_item_close":
                open_items.pop()
    return items


def _innermost(items: Sequence[Item], units: Sequence[Instruction]) -> list[int | None]:
    """For each unit the innermost item around it; items and units are in document order."""
    found: list[int | None] = []
    around: list[int] = []
    following = 0
    for unit in units:
        while following < len(items) and items[following].start <= unit.start_line:
            around.append(following)
            following += 1
        while around and items[around[-1]].end <= unit.start_line:
            around.pop()
        found.append(around[-1] if around else None)
    return found


def _above(
    units: Sequence[Instruction], items: Sequence[Item], item_of: Sequence[int | None]
) -> tuple[list[int | None], list[int | None]]:
    """For each unit: what it is nested in, and that or what introduces its list."""
    within: list[int | None] = []
    under: list[int | None] = []
    first_of: dict[int, int] = {}  # item -> its first unit
    lead_of: dict[int, int | None] = {}  # list -> the unit that introduces it
    for index, own in enumerate(item_of):
        above = own if own in first_of else _parent(items, own)
        while above is not None and above not in first_of:
            above = items[above].parent
        within.append(None if above is None else first_of[above])
        lead = None
        if own is not None:
            first_of.setdefault(own, index)
            lead = lead_of.setdefault(items[own].list, _lead(units, item_of, index))
        under.append(lead if within[-1] is None else within[-1])
    return within, under


def _parent(items: Sequence[Item], item: int | None) -> int | None:
    return None if item is None else items[item].parent


def _lead(units: Sequence[Instruction], item_of: Sequence[int | None], unit: int) -> int | None:
    """The paragraph with a colon right before `unit`, which opens a list."""
    before = unit - 1
    if before < 0 or item_of[before] is not None or not introduces(units[before]):
        return None
    return before if units[before].section == units[unit].section else None

"""Two versions of a file as SEARCH/REPLACE blocks.

Owns: finding few short blocks that are exact in the old version. Does not own: applying them
(`edits.py`). Pure.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from inner_loop.records import Edit

CONTEXTS = (1, 2, 3, 5, 8, 13)
"""Unchanged lines around a change that are tried, until every block is unique."""
MOST_LINES = 5_000
"""Longer files are replaced whole: comparing them takes too long."""


def edits_between(old: str, new: str) -> tuple[Edit, ...]:
    """Blocks that turn `old` into `new` exactly; none if they are equal.

    One block holds the whole file where shorter ones would be ambiguous.

    Raises:
        ValueError: `old` is empty, and so has nothing to search for.
    """
    if old == new:
        return ()
    if not old:
        raise ValueError("an empty file has nothing to search for")
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    if max(len(before), len(after)) <= MOST_LINES:
        matcher = difflib.SequenceMatcher(None, before, after)
        for context in CONTEXTS:
            edits = _blocks(matcher, before, after, context)
            if _apply(old, edits) == new:
                return edits
    return (Edit(search=old, replace=new),)


def _blocks(
    matcher: difflib.SequenceMatcher[str], before: list[str], after: list[str], context: int
) -> tuple[Edit, ...]:
    groups = matcher.get_grouped_opcodes(context)
    spans = [(g[0][1], g[-1][2], g[0][3], g[-1][4]) for g in groups]
    return tuple(
        Edit(search="".join(before[a:b]), replace="".join(after[c:d])) for a, b, c, d in spans
    )


def _apply(text: str, edits: Iterable[Edit]) -> str | None:
    for edit in edits:
        if not edit.search or text.count(edit.search) != 1:
            return None
        text = text.replace(edit.search, edit.replace)
    return text

"""SEARCH/REPLACE blocks applied to train.py.

Owns: exact application. Does not own: tolerant matching (the language-model researcher brings it)
and the choice of edits.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from inner_loop.records import Edit


class CannotApply(Exception):
    """The exact reason an edit does not fit; shown to the researcher in its repair turn."""


def apply_edits(source: str, edits: Iterable[Edit]) -> str:
    """`source` with `edits` applied in order.

    Raises:
        CannotApply: a search text is empty, missing or ambiguous, nothing changes, or the result
            is not Python.
    """
    changed = source
    for number, edit in enumerate(edits, start=1):
        changed = _apply_one(changed, edit, number)
    if changed == source:
        raise CannotApply("the edit changes nothing")
    try:
        ast.parse(changed)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise CannotApply(f"the edited train.py is not valid Python: {error}") from error
    return changed


def _apply_one(source: str, edit: Edit, number: int) -> str:
    count = source.count(edit.search) if edit.search else 0
    if count != 1:
        found = "is empty" if not edit.search else f"occurs {count} times, not once"
        raise CannotApply(f"the SEARCH text of block {number} {found} in train.py")
    return source.replace(edit.search, edit.replace)

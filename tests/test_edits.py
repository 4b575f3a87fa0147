from __future__ import annotations

import pytest

from inner_loop.edits import CannotApply, apply_edits
from inner_loop.records import Edit

SOURCE = "A = 1\nB = 2\nC = 1\n"


def test_blocks_apply_in_order() -> None:
    edits = [Edit(search="A = 1", replace="A = 5"), Edit(search="A = 5", replace="A = 6")]
    assert apply_edits(SOURCE, edits) == "A = 6\nB = 2\nC = 1\n"


@pytest.mark.parametrize(
    ("search", "replace", "reason"),
    [
        ("= 1", "= 2", "occurs 2 times"),
        ("Z = 1", "Z = 2", "occurs 0 times"),
        ("", "x", "is empty"),
        ("A = 1", "A = 1", "changes nothing"),
        ("A = 1", "A = (", "not valid Python"),
        ("A = 1", "A = 1\0", "not valid Python"),
    ],
)
def test_what_does_not_fit_says_exactly_why(search: str, replace: str, reason: str) -> None:
    with pytest.raises(CannotApply, match=reason):
        apply_edits(SOURCE, [Edit(search=search, replace=replace)])

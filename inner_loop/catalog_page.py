"""The list of edits in `docs/catalogue.md`, made from the catalogue itself.

Owns: the table between the page's two marks. Does not own: the edits (`catalog_edits.py`) and the
words of the page. `python -m inner_loop.catalog_page` rewrites the table; a test compares it.
"""

from __future__ import annotations

import re
from pathlib import Path

from inner_loop.catalog_edits import EDITS, CatalogEdit
from inner_loop.catalog_knobs import BLOCKS, describe, replaced

PAGE = Path(__file__).parent.parent / "docs" / "catalogue.md"
TRAIN = Path(__file__).parent.parent / "train.py"
_TABLE = re.compile(r"(?<=<!-- edits -->\n).*(?=<!-- end of edits -->)", re.DOTALL)


def edit_table(train_py: str) -> str:
    """A Markdown table of every edit: what it does to `train_py`, and why it might help."""
    head = "| category | change of the shipped train.py | why it might help |\n|---|---|---|\n"
    return head + "".join(_row(edit, train_py) for edit in EDITS)


def _row(edit: CatalogEdit, train_py: str) -> str:
    after = replaced(train_py, edit.build(train_py) or ()) or train_py
    what = f"`{describe(train_py, after)}`" + (" (code)" if edit.knob in BLOCKS else "")
    simpler = ", *simpler*" if edit.simpler else ""
    return f"| {', '.join(edit.categories)} | {what}{simpler} | {edit.why} |\n"


def with_table(page: str, table: str) -> str:
    """`page` with its table replaced."""
    return _TABLE.sub(lambda _: table, page)


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    table = edit_table(TRAIN.read_text(encoding="utf-8"))
    PAGE.write_text(with_table(text, table), encoding="utf-8")

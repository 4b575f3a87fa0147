"""Where a SEARCH text is in train.py: the exact edit, or the exact reason why there is none.

Owns: tolerance, which ends at whitespace, and the refusal of every place that is in doubt.
Does not own: the wire format (`protocol.py`), application and the syntax check (`edits.py`).

Lines come first: whole lines as they are, then without trailing whitespace, then shifted by one
indentation. What matches no line may be a part of one, cut where code may be cut. Two matches of
one kind are refused. Each edit is widened until both of its texts occur exactly once, so it can be
applied, and taken back, as text.
"""

from __future__ import annotations

import difflib
import os
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from inner_loop.edits import CannotApply
from inner_loop.protocol import in_quotes, is_marker
from inner_loop.records import Edit

_BLANK = " \t\r\f\v"
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_NEWLINE = re.compile(r"\r\n|\r|\n")
ALIKE = 0.6
"""difflib's ratio from which one line is taken for a misquotation of another."""
_WORD = re.compile(r"[a-z]{3,}")
SEARCHED_LINES = 50
"""Of a SEARCH text that is nowhere, how many lines are used to say what is nearest."""


@dataclass(frozen=True)
class _Page:
    """A source and its lines; endings are kept, so bytes outside a match stay as they are."""

    source: str

    @cached_property
    def raw(self) -> list[str]:
        return _LINE.findall(self.source)

    @cached_property
    def lines(self) -> list[str]:
        """Without their endings."""
        return [raw.removesuffix("\n").removesuffix("\r") for raw in self.raw]

    @cached_property
    def starts(self) -> list[int]:
        """Where each line begins, and where the last one ends."""
        starts = [0]
        for raw in self.raw:
            starts.append(starts[-1] + len(raw))
        return starts

    @cached_property
    def newline(self) -> str:
        """The ending that most lines have."""
        return "\r\n" if 2 * self.source.count("\r\n") > self.source.count("\n") else "\n"

    def row(self, at: int) -> int:
        """Index of the line that holds position `at`."""
        return min(bisect_right(self.starts, at), len(self.raw)) - 1


@dataclass(frozen=True)
class _Match:
    """`source[start:end]` is to become `text`."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class _Wanted:
    """A block as lines."""

    number: int
    search: list[str]
    replace: list[str]


_Way = Callable[[_Page, _Wanted], list[_Match]]


def fit(blocks: Sequence[Edit], source: str) -> tuple[Edit, ...]:
    """The exact edits that `blocks` mean; each sees the result of those before it.

    A block's texts are lines, with or without a newline at the end; `source` is the whole file.

    Raises:
        CannotApply: a block fits nowhere, in more than one place, or changes nothing.
    """
    edits = []
    for number, block in enumerate(blocks, start=1):
        wanted = _Wanted(number, _split(block.search), _split(block.replace))
        page = _Page(source)
        match = _only_match(page, wanted)
        changed = source[: match.start] + match.text + source[match.end :]
        _check(page, _Page(changed), match, number)
        edits.append(_widened(page, _Page(changed), match))
        source = changed
    return tuple(edits)


def _split(text: str) -> list[str]:
    lines = _NEWLINE.split(text)
    return lines[:-1] if lines[-1] == "" else lines


# --- which place ------------------------------------------------------------------------------


def _only_match(page: _Page, wanted: _Wanted) -> _Match:
    if not "".join(wanted.search).strip():
        raise CannotApply(f"the SEARCH text of block {wanted.number} is empty")
    if _stripped(wanted.search) == _stripped(wanted.replace):
        raise CannotApply(f"block {wanted.number} changes nothing: REPLACE is the same as SEARCH")
    ways: tuple[_Way, ...] = (_as_it_is, _but_for_trailing_space, _but_for_indentation, _in_part)
    for way in ways:
        matches = way(page, wanted)
        if len(matches) > 1:
            raise CannotApply(_ambiguous(page, matches, wanted.number))
        if matches:
            return matches[0]
    raise CannotApply(_nowhere(page, wanted))


def _as_it_is(page: _Page, wanted: _Wanted) -> list[_Match]:
    rows = _windows(page.lines, wanted.search)
    return [_whole_lines(page, row, wanted, wanted.replace) for row in rows]


def _but_for_trailing_space(page: _Page, wanted: _Wanted) -> list[_Match]:
    rows = _windows(_stripped(page.lines), _stripped(wanted.search))
    return [_whole_lines(page, row, wanted, wanted.replace) for row in rows]


def _but_for_indentation(page: _Page, wanted: _Wanted) -> list[_Match]:
    """Whole lines that become equal when one indentation is added to, or taken from, all."""
    bare = [line.lstrip(_BLANK) for line in _stripped(page.lines)]
    search = _stripped(wanted.search)
    theirs = _indentation(search)
    dedented = [line[len(theirs) :] for line in search]
    matches = []
    for row in _windows(bare, [line.lstrip(_BLANK) for line in search]):
        window = _stripped(page.lines[row : row + len(search)])
        ours = _indentation(window)
        if [line[len(ours) :] for line in window] == dedented and _is_shift(theirs, ours):
            replace = _shifted(wanted, theirs, ours, row)
            matches.append(_whole_lines(page, row, wanted, replace))
    return matches


def _is_shift(old: str, new: str) -> bool:
    return new.startswith(old) or old.startswith(new)


def _shifted(wanted: _Wanted, old: str, new: str, row: int) -> list[str]:
    """The replacement with the indentation that its SEARCH text has in the file."""
    added, taken = new[len(old) :], old[len(new) :]
    replace = [line if line.strip() else "" for line in wanted.replace]
    if not all(line.startswith(taken) for line in replace if line):
        raise CannotApply(
            f"the SEARCH text of block {wanted.number} has another indentation in train.py (line "
            f"{row + 1}), and its REPLACE text cannot be shifted alike; quote the lines exactly"
        )
    return [added + line[len(taken) :] if line else line for line in replace]


def _in_part(page: _Page, wanted: _Wanted) -> list[_Match]:
    """The exact text within lines: all of a statement, or the only one and cut where code may be.

    A comment behind a statement stays. Text that is nowhere else but cut badly is no match.
    """
    text = page.newline.join(wanted.search)
    places = [(at, at + len(text)) for at in _places(page.source, text)]
    if statements := [m for start, end in places if (m := _statement(page, wanted, start, end))]:
        return statements
    if len(places) == 1:
        piece = _piece(page, wanted, *places[0])
        return [piece] if piece else []
    return [_Match(start, end, "") for start, end in places]


def _around(page: _Page, start: int, end: int) -> tuple[str, str]:
    """What else the first line holds before, and the last line after."""
    row, last = page.row(start), page.row(end - 1)
    return page.source[page.starts[row] : start], page.lines[last][end - page.starts[last] :]


def _statement(page: _Page, wanted: _Wanted, start: int, end: int) -> _Match | None:
    """All that its lines hold but an indentation and a comment, which stay."""
    before, after = _around(page, start, end)
    if before.strip() or not _is_rest(wanted.search[-1], after):
        return None
    indent = before if len(wanted.search) == 1 else ""
    first, *others = wanted.replace or [""]
    lines = [first, *(indent + line if line.strip() else line for line in others)]
    return _Match(start, end, page.newline.join(lines))


def _piece(page: _Page, wanted: _Wanted, start: int, end: int) -> _Match | None:
    """A part of one line, for a part of one line; the rest must not end up in a comment."""
    before, after = _around(page, start, end)
    search, text = wanted.search[0], "".join(wanted.replace)
    if len(wanted.search) > 1 or len(wanted.replace) > 1 or "#" in before + text:
        return None
    ends_well = _is_clean_cut(search, after) or _is_rest(search, after)
    return _Match(start, end, text) if _is_clean_cut(before, search) and ends_well else None


def _is_rest(line: str, after: str) -> bool:
    """Whether nothing but space or a comment follows `line`, which ends outside of a string."""
    is_comment = after.lstrip().startswith("#") and not (line.count('"') % 2 or line.count("'") % 2)
    return not after.strip() or is_comment


def _is_clean_cut(left: str, right: str) -> bool:
    """Whether no word, number or expression goes on from `left` to `right`."""
    left, right = left.rstrip(), right.lstrip()
    return not left or not right or left[-1] in "([{,:;=" or right[0] in ")]},:;"


def _windows(lines: Sequence[str], search: Sequence[str]) -> list[int]:
    """Where `search` stands in `lines`; matches may overlap."""
    size = len(search)
    rows = range(len(lines) - size + 1)
    return [r for r in rows if lines[r] == search[0] and lines[r : r + size] == search]


def _places(source: str, text: str) -> Iterator[int]:
    at = source.find(text)
    while at >= 0:
        yield at
        at = source.find(text, at + 1)


def _whole_lines(page: _Page, row: int, wanted: _Wanted, replace: Sequence[str]) -> _Match:
    """Lines from `row` on; where nothing takes their place, one line ending goes with them."""
    last = row + len(wanted.search) - 1
    start, end = page.starts[row], page.starts[last] + len(page.lines[last])
    if replace:
        return _Match(start, end, page.newline.join(replace))
    if page.starts[last + 1] == end and row:
        start = page.starts[row - 1] + len(page.lines[row - 1])
    return _Match(start, page.starts[last + 1], "")


def _stripped(lines: Sequence[str]) -> list[str]:
    return [line.rstrip(_BLANK) for line in lines]


def _indentation(lines: Sequence[str]) -> str:
    """What all lines that are not blank begin with."""
    indents = [x[: len(x) - len(x.lstrip(_BLANK))] for x in lines if x.strip()]
    return os.path.commonprefix(indents)  # noqa: RUF071  # of characters, not of folders


# --- the exact edit ---------------------------------------------------------------------------


def _check(page: _Page, changed: _Page, match: _Match, number: int) -> None:
    if page.source == changed.source:
        raise CannotApply(f"block {number} changes nothing in train.py")
    if not changed.source.strip():
        raise CannotApply(f"block {number} leaves nothing of train.py")
    first, last = page.row(match.start), page.row(match.end - 1)
    for row in range(max(0, first - 1), min(len(page.lines), last + 2)):
        if is_marker(page.lines[row]):
            raise CannotApply(
                f"block {number} touches line {row + 1} of train.py, {in_quotes(page.lines[row])}, "
                "which looks like a marker of a block; change another place"
            )
    if sum(map(is_marker, changed.lines)) > sum(map(is_marker, page.lines)):
        raise CannotApply(f"block {number} would leave a line that looks like a marker of a block")


def _widened(page: _Page, changed: _Page, match: _Match) -> Edit:
    """The match as an edit, with as many lines around it as make both of its texts unique."""
    start, end = match.start, match.end
    top, bottom, margin = page.row(start), page.row(end - 1) + 1, 0
    while True:
        before, after = page.source[start : match.start], page.source[match.end : end]
        edit = Edit(search=page.source[start:end], replace=before + match.text + after)
        unique = _is_only(page.source, edit.search) and _is_only(changed.source, edit.replace)
        if unique or (start, end) == (0, len(page.source)):
            return edit
        start = page.starts[max(0, top - margin)]
        end = page.starts[min(len(page.raw), bottom + margin)]
        margin = 2 * margin or 1


def _is_only(source: str, text: str) -> bool:
    at = source.find(text) if text else -1
    return at >= 0 and source.find(text, at + 1) < 0


# --- reasons ----------------------------------------------------------------------------------


def _ambiguous(page: _Page, matches: Sequence[_Match], number: int) -> str:
    rows = [str(page.row(m.start) + 1) for m in matches]
    shown = ", ".join(rows[:8]) + (", ..." if len(rows) > 8 else "")
    return (
        f"the SEARCH text of block {number} is in train.py {len(rows)} times (lines {shown}); "
        "quote whole lines, and enough of them to name one place"
    )


def _nowhere(page: _Page, wanted: _Wanted) -> str:
    reason = f"the SEARCH text of block {wanted.number} is not in train.py"
    at = page.source.find(page.newline.join(wanted.search))
    if at >= 0:
        row = page.row(at)
        return (
            f"{reason} as whole lines, but within line {row + 1}: {in_quotes(page.lines[row])}; "
            "quote whole lines"
        )
    if not (near := _nearest(page, wanted)):
        return f"{reason}, nor anything like it; quote its lines exactly"
    row, written = near
    if row >= len(page.lines):
        return f"{reason}: the file ends before {in_quotes(written)}"
    place = f"the nearest place is line {row + 1}: {in_quotes(page.lines[row])}"
    shown = in_quotes(written) if written.strip() else "an empty line"
    return f"{reason}; {place}, where you wrote {shown}"


def _nearest(page: _Page, wanted: _Wanted) -> tuple[int, str] | None:
    """A row of the file and the line that was expected there; None if nothing is alike.

    Of all places, the one with the most characters in equal lines; where no line is equal, the line
    most like the first one (difflib), or else the one that shares its words.
    """
    lines = [line.strip() for line in page.lines]
    search = [line.strip() for line in wanted.search[:SEARCHED_LINES]]
    rows: dict[str, list[int]] = {}
    for row, line in enumerate(lines):
        rows.setdefault(line, []).append(row)
    scores: Counter[int] = Counter()
    for offset, line in enumerate(search):
        scores.update({row - offset: len(line) for row in rows.get(line, ()) if line})
    if scores:
        top = max(scores, key=lambda t: (scores[t], -t))
        return _difference(page, wanted.search, top)
    first = next(line for line in wanted.search if line.strip())
    texts = {line.partition("#")[0].rstrip()[:200]: row for row, line in _backwards(lines)}
    texts |= {line[:200]: row for row, line in _backwards(lines)}
    like = difflib.get_close_matches(first.strip()[:200], texts, 1, ALIKE)
    nearest = texts[like[0]] if like else _of_the_same_words(lines, first)
    return None if nearest is None else (nearest, first)


def _of_the_same_words(lines: Sequence[str], written: str) -> int | None:
    """The row that shares the most words with `written`, rare ones counting more; None = none."""
    rows = [set(_WORD.findall(line.lower())) for line in lines]
    count = Counter(word for words in rows for word in words)
    wanted = set(_WORD.findall(written.lower()))
    scores = [sum(1 / count[word] for word in words & wanted) for words in rows]
    best = max(scores, default=0.0)
    return scores.index(best) if best > 0 else None


def _backwards(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Rows and lines from the last to the first, so that the first of equal ones stays."""
    return ((row, lines[row]) for row in range(len(lines) - 1, -1, -1))


def _difference(page: _Page, search: Sequence[str], top: int) -> tuple[int, str]:
    """Where `search` differs from the rows from `top` on: behind its first equal line, or above."""

    def is_equal(offset: int) -> bool:
        row = top + offset
        return 0 <= row < len(page.lines) and page.lines[row].strip() == search[offset].strip()

    offsets = range(len(search))
    anchor = next(o for o in offsets if is_equal(o) and search[o].strip())
    others = [*offsets[anchor + 1 :], *reversed(offsets[:anchor])]
    offset = next((o for o in others if not is_equal(o)), anchor)
    return max(0, top + offset), search[offset]

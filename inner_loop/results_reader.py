"""Reads the results file of anybody's autoresearch session, whatever its columns.

Owns: encodings, separators and rows, and naming every line it could not read.
Does not own: which column is what (`results_columns`), what the rows mean (`analysis.keeps`), or
the file the harness writes (`results_tsv`). A row is a claim of whoever wrote the file; its text is
kept as it is and made harmless where it is shown.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from inner_loop.errors import UserError
from inner_loop.records import Record
from inner_loop.results_columns import (
    UPSTREAM,
    Columns,
    RowStatus,
    columns_by_content,
    columns_by_header,
    header_names,
    is_no_number,
    key,
    number,
    status_of,
)

MAX_BYTES = 50_000_000
MAX_WORDS = 5
MAX_SCORE = 1e6  # no bits per byte, nor any loss; a number this large is another column


class ResultRow(Record):
    """One experiment as its file tells it."""

    line: int
    """Line of the file, from 1."""
    commit: str
    """The commit as written; empty where the file has no such column."""
    name: str
    """The file's own id of the experiment (`exp-07`); empty without one."""
    bpb: float | None
    """The score, lower is better; None for a crash (also written as 0.000000, empty or nan)."""
    memory_gb: float | None
    """GiB; None where the file does not say."""
    status: RowStatus
    """`none` without a status, `unknown` where the word is in no list of `results_columns`."""
    status_word: str
    """The status as written."""
    description: str
    agent: str
    extra: dict[str, str]
    """Every other column, by its header."""


class Unreadable(Record):
    """A line that is no experiment, and why."""

    line: int
    why: str


class UnreadStatus(Record):
    """A column that should say what was kept, in words that are in no list."""

    column: str
    words: tuple[str, ...]
    """Its different cells, the first ones."""


class ResultsFile(Record):
    """A whole file: its rows in order, and what could not be read."""

    name: str
    has_header: bool
    value_column: str
    """Header of the column read as the score."""
    other_value_columns: tuple[str, ...] = ()
    """Headers of columns that could have been the score as well."""
    has_status: bool
    unread_status: UnreadStatus | None = None
    """A column named like a status that was not used, since no cell of it is understood."""
    rows: tuple[ResultRow, ...]
    unreadable: tuple[Unreadable, ...]
    repeated_headers: tuple[int, ...]
    """Lines at which the header stands again (two sessions in one file, perhaps)."""


class _Line(NamedTuple):
    number: int
    cells: list[str]


def read_results(path: Path) -> ResultsFile:
    """Read a results file.

    Raises:
        UserError: it is missing, not text, empty, or no column of it holds scores.
    """
    try:
        with path.open("rb") as file:
            body = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"Cannot read {path} ({error.strerror}); give another file.") from error
    if len(body) > MAX_BYTES:
        raise UserError(f"{path} is larger than {MAX_BYTES:,} bytes; is it a results file?")
    return parse_results(_decoded(body, path), str(path))


def parse_results(text: str, name: str) -> ResultsFile:
    """Read the text of a results file; `name` is for its error sentences.

    Raises:
        UserError: it is empty or no column of it holds scores.
    """
    lines = list(_lines(text))
    if not lines:
        raise UserError(f"{name} is empty; give a results file with a row per experiment.")
    header = header_names(lines[0].cells)
    rest = lines[1:] if header else lines
    if not rest:
        raise UserError(f"{name} has a header and no rows: nothing has been recorded in it yet.")
    cells = [line.cells for line in rest]
    columns = columns_by_header(header, cells) if header else columns_by_content(cells)
    if columns is None:
        raise _no_column(name, header)
    return _file(name, header is not None, columns, rest)


def unreadable_lines(found: Sequence[Unreadable], most: int = 3) -> str:
    """`2 lines could not be read and were left out: line 7 (...), line 9 (...).`; or nothing."""
    if not found:
        return ""
    lines = ", ".join(f"line {u.line} ({u.why})" for u in found[:most])
    more = f" and {len(found) - most} more" if len(found) > most else ""
    what = "1 line could not be read and was" if len(found) == 1 else f"{len(found)} lines "
    what += "" if len(found) == 1 else "could not be read and were"
    return f"{what} left out: {lines}{more}."


def shown(cell: str) -> str:
    """A stranger's cell in a sentence: printable and short."""
    flat = "".join(c if c.isprintable() else " " for c in cell)
    return flat if len(flat) <= 40 else f"{flat[:39]}…"


def _file(name: str, has_header: bool, columns: Columns, lines: list[_Line]) -> ResultsFile:
    title = [key(n) for n in columns.names]
    again = {x.number for x in lines if [key(c) for c in x.cells] == title}
    body = [x for x in lines if x.number not in again]
    found = [_row(columns, x) for x in body]
    rows = tuple(x for x in found if isinstance(x, ResultRow))
    unreadable = tuple(x for x in found if isinstance(x, Unreadable))
    if not any(row.bpb is not None for row in rows):
        raise _nothing_scored(name, shown(columns.names[columns.value]), rows, unreadable)
    return ResultsFile(
        name=name,
        has_header=has_header,
        value_column=columns.names[columns.value],
        other_value_columns=tuple(columns.names[c] for c in columns.other_values),
        has_status=columns.status is not None,
        unread_status=_unread_status(columns, body),
        rows=rows,
        unreadable=unreadable,
        repeated_headers=tuple(sorted(again)),
    )


def _unread_status(columns: Columns, lines: Sequence[_Line]) -> UnreadStatus | None:
    if columns.unread_status is None:
        return None
    words = dict.fromkeys(_cell(x.cells, columns.unread_status) for x in lines)
    told = tuple(word for word in words if word)
    return UnreadStatus(column=columns.names[columns.unread_status], words=told[:MAX_WORDS])


def _row(columns: Columns, line: _Line) -> ResultRow | Unreadable:
    cells = _fitted(line.cells, columns)
    if columns.value >= len(cells):
        return Unreadable(line=line.number, why=f"{len(cells)} of {len(columns.names)} cells")
    word = _cell(cells, columns.status)
    status, score = status_of(word), number(cells[columns.value])
    crashed = status == "crash" or is_no_number(cells[columns.value])
    if not crashed and (score is None or not 0 <= score <= MAX_SCORE):
        return Unreadable(line=line.number, why=f"'{shown(cells[columns.value])}' is no score")
    memory = number(_cell(cells, columns.memory))
    return ResultRow(
        line=line.number,
        commit=_cell(cells, columns.commit),
        name=_cell(cells, columns.name),
        bpb=None if crashed else score,
        memory_gb=None if memory is None else memory / columns.memory_unit,
        status="crash" if crashed else status,
        status_word=word,
        description=_cell(cells, columns.text),
        agent=_cell(cells, columns.agent),
        extra=_extra(columns, cells),
    )


def _cell(cells: Sequence[str], position: int | None) -> str:
    return cells[position] if position is not None and position < len(cells) else ""


def _extra(columns: Columns, cells: Sequence[str]) -> dict[str, str]:
    named = zip(range(len(cells)), columns.names, cells, strict=False)
    return {name: cell for i, name, cell in named if i not in columns.taken and cell}


def _fitted(cells: list[str], columns: Columns) -> list[str]:
    """The cells; surplus ones, cut at unquoted separators, go back to the description."""
    while len(cells) > len(columns.names) and not cells[-1]:
        cells = cells[:-1]
    surplus, at = len(cells) - len(columns.names), columns.text
    if surplus <= 0 or at is None:
        return cells
    return [*cells[:at], ", ".join(cells[at : at + surplus + 1]), *cells[at + surplus + 1 :]]


def _lines(text: str) -> Iterator[_Line]:
    """The lines that are neither blank nor comments, cut into cells."""
    physical = re.split(r"\r\n|\n|\r", text.removeprefix("\ufeff"))
    if "\t" not in text and text.count("\\t") > 1:  # written by `echo` without -e
        physical = [x.replace("\\t", "\t") for x in physical]
    first = next((x for x in physical if x.strip() and not _is_comment(x)), "")
    for line, cells in _cut(physical, _separator(first)):
        stripped = [c.strip() for c in cells]
        if any(stripped) and not _is_comment(physical[line - 1]):
            yield _Line(line, stripped)


def _is_comment(line: str) -> bool:
    """A line that begins with # and is neither a header (`# commit ...`) nor a row (`#12 ...`)."""
    text = line.lstrip()
    if not text.startswith("#"):
        return False
    cells = re.split(r"[\t,;]|\s{2,}", text)
    return header_names(cells) is None and not any(number(c) is not None for c in cells)


def _separator(first: str) -> str:
    """Tab wherever there is one: descriptions hold commas."""
    if "\t" in first:
        return "\t"
    if first.count(";") > max(1, first.count(",")):
        return ";"
    return "," if "," in first else " "


def _cut(lines: Sequence[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    if separator in ",;":
        return iter(_with_quotes(lines, separator))
    between = re.compile("\t" if separator == "\t" else r"\s{2,}")
    return ((n, [_unquoted(c) for c in between.split(x)]) for n, x in enumerate(lines, 1))


def _with_quotes(lines: Sequence[str], separator: str) -> list[tuple[int, list[str]]]:
    """CSV; if its quotes do not pair up, line by line, so that none swallows the rest."""
    reader = csv.reader((f"{x}\n" for x in lines), delimiter=separator, strict=True)
    rows, start = [], 1
    try:
        for cells in reader:
            rows.append((start, cells))
            start = reader.line_num + 1
    except csv.Error:
        return [(n, [_unquoted(c) for c in x.split(separator)]) for n, x in enumerate(lines, 1)]
    return rows


def _unquoted(cell: str) -> str:
    text = cell.strip()
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return text[1:-1].replace('""', '"') if quoted else text


def _decoded(body: bytes, path: Path) -> str:
    if body[:2] in (b"\xff\xfe", b"\xfe\xff"):  # PowerShell's `>` writes UTF-16
        return body.decode("utf-16", errors="replace")
    if b"\x00" in body:
        raise UserError(f"{path} is not a text file; give a results.tsv or .csv.")
    return body.decode("utf-8-sig", errors="replace")


def _no_column(name: str, header: Sequence[str] | None) -> UserError:
    if header:
        listed = ", ".join(shown(h) for h in header)
        return UserError(
            f"{name}: no column holds scores (columns: {listed}); name the one with bits per byte "
            "'val_bpb' in the header."
        )
    return UserError(
        f"{name}: it has no header and nothing in it looks like scores; put "
        f"'{' '.join(UPSTREAM)}' on its first line, separated by tabs as the rows are."
    )


def _nothing_scored(
    name: str, column: str, rows: Sequence[ResultRow], unreadable: Sequence[Unreadable]
) -> UserError:
    if unreadable and not rows:
        why = f"line {unreadable[0].line}: {unreadable[0].why}"
        return UserError(f"{name}: no line has a score in column '{column}' ({why}); check it.")
    return UserError(
        f"{name}: no row of {len(rows)} has a score in column '{column}' (crashes only), so there "
        "is nothing to judge yet."
    )

"""Documents out of .txt, .jsonl and .parquet files, one at a time.

Owns: what a document is in each kind of file, and the sentence for a file that cannot be read.
Does not own: order and splits (`spool`, `splits`). Documents of white space only are skipped.

- .txt: the whole file; above 100 kB it is cut at blank lines into documents of about 4,000
  characters (a paragraph above 16,000 is cut at a line end, a longer line anywhere).
- .jsonl: a line is an object with `text`, or a JSON string.
- .parquet: a row's `text`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from inner_loop.errors import UserError

WHOLE_FILE = 100_000
"""Largest .txt file, in bytes, that is one document."""
GOAL, MOST = 4_000, 16_000
"""Characters of a document cut from a longer .txt file: about, and at most."""
PARQUET_MARK = b"PAR1"
ROWS = 1024
"""Rows decoded at a time."""

Tick = Callable[[int], object]
"""Told of so many more bytes read."""


def read_documents(path: Path, tick: Tick = lambda _: None) -> Iterator[str]:
    """The non-empty documents of a file, in its order.

    Raises:
        UserError: missing, not UTF-8, not what its suffix says, or without texts; names the line.
    """
    readers = {".txt": _read_txt, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    try:
        for text in readers[path.suffix.lower()](path, tick):
            if text.strip():
                yield text
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        why = error.strerror or error
        raise UserError(f"{path}: cannot read the corpus file ({why}); check the path.") from error


def cut_text(lines: Iterable[str], goal: int = GOAL, most: int = MOST) -> Iterator[str]:
    """Text in pieces that together are the text: cut after a blank line once `goal` is reached.

    Args:
        lines: with their line ends, none longer than `most`.
        goal: characters after which the next blank line ends a piece.
        most: characters that no piece exceeds.
    """
    piece: list[str] = []
    size, after_blank = 0, False
    for line in lines:
        blank = not line.strip()
        if piece and (size + len(line) > most or (size >= goal and after_blank and not blank)):
            yield "".join(piece)
            piece, size = [], 0
        piece.append(line)
        size, after_blank = size + len(line), blank
    if piece:
        yield "".join(piece)


class ParquetSize(NamedTuple):
    """What a parquet file's footer tells without reading it."""

    rows: int
    text_bytes: int
    """About."""


def is_parquet(path: Path) -> bool:
    """Whether a file begins and ends as parquet does: neither another file nor a cut one.

    Source: the magic number in parquet's file format (github.com/apache/parquet-format, README).
    """
    size, mark = path.stat().st_size, len(PARQUET_MARK)
    with path.open("rb") as file:
        first = file.read(mark)
        file.seek(max(0, size - mark))
        return size > 2 * mark and first == file.read(mark) == PARQUET_MARK


def parquet_size(path: Path) -> ParquetSize:
    """The size of a parquet file's text.

    Raises:
        UserError: it cannot be read.
    """
    with _parquet(path) as parquet:
        groups = [parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups)]
        columns = [group.column(i) for group in groups for i in range(group.num_columns)]
        size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema == "text")
        return ParquetSize(parquet.metadata.num_rows, size)


def text_bytes(path: Path) -> int:
    """About how many bytes of text a file holds."""
    is_parquet = path.suffix.lower() == ".parquet"
    return parquet_size(path).text_bytes if is_parquet else path.stat().st_size


def _read_txt(path: Path, tick: Tick) -> Iterator[str]:
    whole = path.stat().st_size <= WHOLE_FILE
    with _open_text(path) as file:
        lines = (text for _, text in _lines(file, path, tick, limit=MOST))
        yield from ["".join(lines)] if whole else cut_text(lines)


def _read_jsonl(path: Path, tick: Tick) -> Iterator[str]:
    with _open_text(path) as file:
        for number, line in _lines(file, path, tick):
            if line.strip():
                yield _json_text(line, f"{path}, line {number}")


def _json_text(line: str, where: str) -> str:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else "cannot be read"
        raise UserError(f"{where}: not JSON ({why}); correct or remove that line.") from error
    if isinstance(value, dict):
        if "text" not in value:
            raise UserError(f"{where}: no field `text`; add it, it holds the document.")
        value = value["text"]
    if not isinstance(value, str):
        raise UserError(f"{where}: `text` must be a string, not {json.dumps(value)[:40]}.")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise UserError(f"{where}: half a surrogate pair (\\ud8..); correct or remove that line.")
    return value


def _read_parquet(path: Path, tick: Tick) -> Iterator[str]:
    with _parquet(path) as parquet:
        total, size = max(parquet.metadata.num_rows, 1), path.stat().st_size
        for batch in parquet.iter_batches(batch_size=ROWS, columns=["text"]):
            yield from (text for text in batch.column(0).to_pylist() if text)
            tick(size * batch.num_rows // total)


@contextmanager
def _parquet(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as parquet:
            _check_column(parquet.schema_arrow, path)
            yield parquet
    except (OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        why = str(error).split("\n")[0].rstrip(".")
        hint = "replace or remove the file"
        raise UserError(f"{path}: cannot read the corpus as parquet ({why}); {hint}.") from error


def _check_column(schema: pa.Schema, path: Path) -> None:
    if "text" not in schema.names:
        raise UserError(f"{path}: no column `text`; the corpus needs one document a row in it.")
    kind = schema.field("text").type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise UserError(f"{path}: the column `text` must hold strings, not {kind}.")


def _open_text(path: Path) -> IO[str]:
    return path.open(encoding="utf-8-sig", errors="surrogateescape")


def _lines(file: IO[str], path: Path, tick: Tick, limit: int = -1) -> Iterator[tuple[int, str]]:
    """Numbered lines; one longer than `limit` comes in parts."""
    number = 1
    while line := file.readline(limit):
        try:
            tick(len(line.encode()))
        except UnicodeEncodeError:
            hint = "save the file as UTF-8"
            raise UserError(f"{path}, line {number}: not UTF-8; {hint}.") from None
        yield number, line
        number += line.endswith("\n")

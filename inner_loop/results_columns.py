"""Which column of a stranger's results file is what, and what its cells say.

Owns: names and aliases of columns, words for a status, and how a cell becomes a number.
Does not own: separators, lines and rows (`results_reader`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

RowStatus = Literal["keep", "discard", "crash", "baseline", "rerun", "none", "unknown"]
Cells = Sequence[Sequence[str]]
MB_PER_GB = 1024.0

BPB_NAMES = ("val_bpb", "bpb", "validation_bpb")
# in order of preference; `metric` and `result` hold a word in some files, so cells decide
SCORE_NAMES = (
    *("score", "final_score", "val_loss", "validation_loss", "loss"),
    *("metric", "metric_value", "value", "result"),
)
COMMIT_NAMES = ("commit", "commit_hash", "git_commit", "git_hash", "sha", "hash", "revision", "rev")
ID_NAMES = (
    *("experiment_id", "exp_id", "run_id", "id", "experiment", "exp", "run", "run_number"),
    *("iteration", "iter", "trial", "number", "index", "n"),
)
STATUS_NAMES = (
    *("status", "verdict", "decision", "outcome", "kept", "keep", "is_kept", "accepted", "action"),
    "result",
)
MEMORY_NAMES = (
    *("memory_gb", "vram_gb", "peak_vram_gb", "peak_memory_gb", "mem_gb"),
    *("vram", "memory", "mem"),
)
MEMORY_MB_NAMES = ("peak_vram_mb", "vram_mb", "memory_mb", "peak_memory_mb", "mem_mb")
AGENT_NAMES = ("agent", "agent_id", "worker", "author")
TEXT_NAMES = (
    *("description", "desc", "note", "notes", "change", "changes", "comment", "summary"),
    *("config_summary", "idea", "title", "message", "hypothesis", "tag", "design", "axis"),
)
KNOWN_NAMES = {
    *(*BPB_NAMES, *SCORE_NAMES, *COMMIT_NAMES, *ID_NAMES, *STATUS_NAMES),
    *(*MEMORY_NAMES, *MEMORY_MB_NAMES, *AGENT_NAMES, *TEXT_NAMES),
}
UPSTREAM = ("commit", "val_bpb", "memory_gb", "status", "description")
# a column with one of these words beside `bpb` is not the score itself
NOT_A_SCORE = {
    *("delta", "gain", "best", "prev", "previous", "baseline", "change", "diff", "target", "ema"),
    *("train", "training", "std", "stdev", "sd", "sem", "se", "stderr", "err", "error", "var"),
}
VALIDATION = re.compile(r"(val|valid|validation|eval)(bpb)?")

WORDS: dict[RowStatus, tuple[str, ...]] = {
    "keep": (
        *("keep", "kept", "keeper", "strong_keep", "accept", "accepted", "improve", "improved"),
        *("improvement", "advance", "advanced", "success", "win", "merged", "best", "yes", "true"),
        *("y", "t"),
    ),
    "discard": (
        *("discard", "discarded", "reject", "rejected", "revert", "reverted", "drop", "dropped"),
        *("marginal", "near_miss", "nearmiss", "checks_failed", "no_improvement", "worse"),
        *("neutral", "no", "false", "n", "f"),
    ),
    "crash": (
        *("crash", "crashed", "fail", "failed", "failure", "error", "oom", "timeout", "killed"),
        *("nan", "invalid", "skip", "skipped"),
    ),
    "baseline": ("baseline", "base", "reference", "initial", "start"),
    "rerun": ("retest", "rerun", "re_run", "repeat", "replicate", "confirm", "confirmation"),
}
STATUS_OF: dict[str, RowStatus] = {
    word: status for status, words in WORDS.items() for word in words
}
# check and cross marks, with and without a box
MARKS: dict[str, RowStatus] = {
    **dict.fromkeys("\u2713\u2714\u2705\u2611\U0001f5f8\U0001f5f9\U0001f44d", "keep"),
    **dict.fromkeys("\u2715\u2716\u2717\u2718\u274c\u274e\u2612\u00d7\U0001f5f4", "discard"),
    **dict.fromkeys("\U0001f5f5\U0001f5f6\U0001f5f7\U0001f6ab\U0001f44e", "discard"),
}
FLAGS: dict[float, RowStatus] = {1.0: "keep", 0.0: "discard"}
NO_WORD = {"", "-", "--", "\u2013", "\u2014"}
NO_NUMBER = {"", "-", "--", "nan", "inf", "-inf", "+inf", "none", "null", "n/a", "na", "x", "?"}


class Columns(NamedTuple):
    """Positions of the columns, from 0; None for what the file lacks."""

    names: tuple[str, ...]
    value: int
    """The score."""
    commit: int | None = None
    name: int | None = None
    memory: int | None = None
    status: int | None = None
    text: int | None = None
    agent: int | None = None
    memory_unit: float = 1.0
    """What to divide the memory column by to get GiB."""
    other_values: tuple[int, ...] = ()
    """Columns that could be the score as well."""
    unread_status: int | None = None
    """A column named like a status none of whose cells is understood, where no other one is."""

    @property
    def taken(self) -> set[int | None]:
        """The positions that have a meaning."""
        return {self.value, self.commit, self.name, self.memory, self.status, self.text, self.agent}


def header_names(cells: Sequence[str]) -> tuple[str, ...] | None:
    """The first line as names if it is a header: names known here, and no number."""
    names = (cells[0].lstrip("# "), *cells[1:])
    keys = [key(n) for n in names]
    known = sum(k in KNOWN_NAMES or "bpb" in k for k in keys)
    is_header = known > 1 or any("bpb" in k for k in keys)
    return names if is_header and not any(number(n) is not None for n in names) else None


def columns_by_header(header: Sequence[str], rows: Cells) -> Columns | None:
    """Columns by their names; None if no column with a score's name holds a number."""
    keys = [key(h) for h in header]
    values = _values(keys, rows)
    if not values:
        return None
    value, *others = values
    status, unread = _status_column(keys, rows, value)
    megabytes = _first(_found(keys, MEMORY_MB_NAMES))
    gigabytes = _first(_found(keys, MEMORY_NAMES))
    return Columns(
        names=tuple(header),
        value=value,
        commit=_first(_found(keys, COMMIT_NAMES)),
        name=_first(_found(keys, ID_NAMES)),
        memory=megabytes if gigabytes is None else gigabytes,
        status=status,
        text=_first(_found(keys, TEXT_NAMES)),
        agent=_first(_found(keys, AGENT_NAMES)),
        memory_unit=MB_PER_GB if gigabytes is None else 1.0,
        other_values=tuple(others),
        unread_status=unread,
    )


def columns_by_content(rows: Cells) -> Columns | None:
    """Columns of a file without a header: upstream's five, or guessed from their cells."""
    width = max(len(row) for row in rows)
    if width >= len(UPSTREAM) and _has_number(rows, 1) and _statuses(rows, 3) > 0.5:
        return Columns(UPSTREAM, value=1, commit=0, memory=2, status=3, text=4)
    value = _first(c for c in range(width) if _has_number(rows, c, with_point=True))
    if value is None:
        return None
    status = _first(c for c in range(width) if c != value and _statuses(rows, c) > 0.5)
    words = [c for c in range(width) if c not in (value, status) and not _has_number(rows, c)]
    text = words[-1] if words else None
    names = tuple(f"column {c + 1}" for c in range(width))
    commit = _first(c for c in words if c != text)
    return Columns(names, value=value, commit=commit, status=status, text=text)


def key(name: str) -> str:
    """A header or a word in the form the lists here have: `Val BPB` -> `val_bpb`."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def status_of(word: str) -> RowStatus:
    """What a status cell says; `none` if it is empty, `unknown` if it is in no list.

    A word decides before a mark beside it; 1 and 0 are yes and no.
    """
    if word.strip() in NO_WORD:
        return "none"
    flag = number(word)
    if flag is not None:
        return FLAGS.get(flag, "unknown")
    if key(word):
        return STATUS_OF.get(key(word), "unknown")
    marks = {MARKS[c] for c in word if c in MARKS}
    return marks.pop() if len(marks) == 1 else "unknown"


def number(cell: str) -> float | None:
    """The cell as a finite number; a single comma is a decimal point (separators are cut away)."""
    try:
        value = float(cell.replace(",", ".") if cell.count(",") == 1 else cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def is_no_number(cell: str) -> bool:
    """Whether the cell says that there is no score: 0.000000, empty, nan, OOM, ..."""
    return number(cell) == 0 or cell.lower() in NO_NUMBER or status_of(cell) == "crash"


def _found(keys: Sequence[str], names: Iterable[str]) -> Iterator[int]:
    return (keys.index(name) for name in names if name in keys)


def _first(found: Iterable[int]) -> int | None:
    return next(iter(found), None)


def _values(keys: Sequence[str], rows: Cells) -> list[int]:
    """Columns that could be the score, the likeliest first: bits per byte, validation before other.

    Only if there is none, a score or a loss.
    """
    named = [k for k in keys if "bpb" in k and not _is_no_score(k)]
    likely = sorted(dict.fromkeys(named), key=_likelihood)
    for names in (likely, SCORE_NAMES):
        found = [c for c in _found(keys, names) if _has_number(rows, c)]
        if found:
            return found
    return []


def _is_no_score(name: str) -> bool:
    return any(w in NOT_A_SCORE or w.startswith("train") for w in name.split("_"))


def _likelihood(name: str) -> tuple[bool, bool, bool]:
    """Sorts `val_bpb` first, then other columns on validation text, then `bpb`, then the rest."""
    is_validation = any(VALIDATION.fullmatch(w) for w in name.split("_"))
    return name not in BPB_NAMES[:1], not is_validation, name not in BPB_NAMES


def _status_column(keys: Sequence[str], rows: Cells, value: int) -> tuple[int | None, int | None]:
    """The column that says what was kept; or else one that should but cannot be understood.

    Of several, the one understood best: `ok` and `crash` say less than 1 and 0 in `kept`.
    """
    named = [c for c in _found(keys, STATUS_NAMES) if c != value and any(_cells(rows, c))]
    read = [c for c in named if _understood(rows, c) > 0 and not _is_measured(rows, c)]
    if read:
        return max(read, key=lambda c: _understood(rows, c)), None
    return None, _first(c for c in named if keys[c] not in SCORE_NAMES or not _has_number(rows, c))


def _is_measured(rows: Cells, column: int) -> bool:
    """Whether most of it is numbers other than 1 and 0: a result, not a flag."""
    cells = _cells(rows, column)
    found = [x for x in map(number, cells) if x is not None and x not in FLAGS]
    return 2 * len(found) > len(cells)


def _understood(rows: Cells, column: int) -> float:
    """Share of what the column's cells say that is a known status."""
    told = [s for s in map(status_of, _cells(rows, column)) if s != "none"]
    return sum(s != "unknown" for s in told) / len(told) if told else 0.0


def _cells(rows: Cells, column: int) -> list[str]:
    return [row[column] for row in rows if column < len(row)]


def _has_number(rows: Cells, column: int, *, with_point: bool = False) -> bool:
    cells = (c for c in _cells(rows, column) if not with_point or "." in c or "," in c)
    return any(number(c) is not None for c in cells)


def _statuses(rows: Cells, column: int) -> float:
    """Share of the column's cells that are a known status word; 1 and 0 are no words here."""
    cells = _cells(rows, column)
    known = sum(status_of(c) not in ("none", "unknown") for c in cells if number(c) is None)
    return known / len(cells) if cells else 0.0

"""Which rows of a results file are trainings of the same code.

Owns: what names a row's code, which words speak of a rerun, and lines logged twice.
Does not own: reading the file (`inner_loop.results_reader`), or what reruns are worth
(`analysis.keeps`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from inner_loop.results_reader import ResultRow

COMMIT = re.compile(r"(?=.*\d)[0-9a-z]{6,40}", re.IGNORECASE)
HEX_COMMIT = re.compile(r"[0-9a-f]{7,40}")
REPEAT = re.compile(
    r"\b(re-?runs?|re-?tests?|replica\w+|confirm\w*|re-?measure\w*|another seed|seed #?\d+"
    r"|same (code|config|commit|script)|run again|repeat( (run|of|#?\d+).*)?$)",
    re.IGNORECASE,
)
BASELINE = re.compile(
    r"(the )?(unmodified |unchanged |stock |original )?baseline"
    r"([ ,:(-]*(again|repeat|rerun|re-run|run|check|seed|#)?[ #]*\d*\)?)",
    re.IGNORECASE,
)


class Coded(NamedTuple):
    """A row and what names its code."""

    row: ResultRow
    code: str
    is_doubtful: bool
    """Same commit and text as a row before it, and nothing says whether it is the same code."""


def coded_rows(rows: Sequence[ResultRow]) -> list[Coded]:
    """Each row with its code: a commit again is the same code only if the row says so.

    Agents log edits they have not committed under the commit before them, often under one text
    ("WIP"). Taken for reruns, those would set the noise floor; a rerun taken for an edit only
    stands for itself.
    """
    digits = _commit_digits(rows)
    told: dict[str, str] = {}
    scored: set[tuple[str, str]] = set()
    coded = []
    for row in rows:
        commit, text = _commit(row, digits), " ".join(row.description.lower().split())
        is_first = commit not in told
        is_same = bool(commit) and (is_first or _is_repeat(row, text, told[commit]))
        is_doubtful = bool(commit) and not is_same and (commit, text) in scored
        coded.append(Coded(row, commit if is_same else f"line {row.line}", is_doubtful))
        told.setdefault(commit, text)
        scored |= {(commit, text)} if row.bpb is not None else set()
    return coded


def without_duplicates(rows: Sequence[ResultRow]) -> tuple[list[ResultRow], list[int]]:
    """Rows without those that say word for word what the row before says (logged twice)."""
    kept: list[ResultRow] = []
    duplicates = []
    for row in rows:
        same = {"line": kept[-1].line} if kept else {}
        if kept and row.bpb is not None and row.commit and row.model_copy(update=same) == kept[-1]:
            duplicates.append(row.line)
        else:
            kept.append(row)
    return kept, duplicates


def _commit_digits(rows: Sequence[ResultRow]) -> int:
    """Digits of the shortest hexadecimal commit, to which a file's other ones are cut."""
    commits = (row.commit.lower() for row in rows)
    return min((len(c) for c in commits if HEX_COMMIT.fullmatch(c)), default=0)


def _commit(row: ResultRow, digits: int) -> str:
    """What names the code: the commit or its first digits, or `baseline` where the row says that.

    Only hexadecimal commits are cut: `exp00012` is not `exp00013`.
    """
    commit = row.commit.lower()
    if COMMIT.fullmatch(commit):
        return commit[:digits] if HEX_COMMIT.fullmatch(commit) else commit
    return "baseline" if BASELINE.fullmatch(row.description) else ""


def _is_repeat(row: ResultRow, text: str, told: str) -> bool:
    is_told = row.status in ("rerun", "baseline") or bool(REPEAT.search(text))
    return is_told or bool(BASELINE.fullmatch(text) and BASELINE.fullmatch(told))

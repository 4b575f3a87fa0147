"""The ALL_CAPS constants of a train.py, as text: reading them, writing one, starting from others.

Owns: what counts as a constant (`NAME = value  # comment`, a line of its own) and how a value is
written. Does not own: which values are worth trying (`catalog_edits.py`). Never runs the file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

from inner_loop.edits import CannotApply, apply_edits
from inner_loop.errors import UserError, unknown
from inner_loop.records import Constant, Edit

Number = int | float

_LITERAL = re.compile(r"^([A-Z][A-Z0-9_]*) = ([^#\r\n]*?)([ \t]*#[^\r\n]*)?\r?$", re.MULTILINE)
_NUMBER = re.compile(r"-?\d{1,18}(?:\.\d{0,18})?(?:e[-+]?\d{1,3})?")
_POWER = re.compile(r"2 ?\*\* ?(\d{1,2})")


def literals(source: str) -> dict[str, str]:
    """Every constant of `source` and its value, canonically written."""
    return {match[1]: canonical(match[2]) for match in _LITERAL.finditer(source)}


def canonical(value: str) -> str:
    """A literal's text in the one way we write it: `0.020` is `0.02`."""
    as_number = number(value)
    return " ".join(value.split()) if as_number is None else written(as_number, value)


def number(text: str) -> Number | None:
    """The number a literal's text stands for; None if it is something else."""
    if power := _POWER.fullmatch(text):
        return 1 << int(power[1])
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text) if re.search(r"[.e]", text) else int(text)
    return value if math.isfinite(value) else None


def written(value: Number, like: str) -> str:
    """`value` as Python text: rounded as people write it, a power of two where `like` is one."""
    if isinstance(value, int):
        power = _POWER.fullmatch(like) and value > 0 and value & (value - 1) == 0
        return f"2**{value.bit_length() - 1}" if power else str(value)
    return repr(float(f"{value:.6g}"))


def set_literal(source: str, name: str, value: str) -> list[Edit] | None:
    """Replace the one line of literal `name`, its comment kept in its column."""
    lines = [match for match in _LITERAL.finditer(source) if match[1] == name]
    if len(lines) != 1 or canonical(lines[0][2]) == value:
        return None
    line, comment = lines[0][0], lines[0][3] or ""
    start = f"{name} = {value}"
    column = len(line.rstrip("\r")) - len(comment.lstrip())
    end = "\r" if line.endswith("\r") else ""
    text = f"{start.ljust(column - 1)} {comment.lstrip()}" if comment else start
    return [Edit(search=line, replace=text + end)]


def with_start(source: str, start: Mapping[str, Constant]) -> str:
    """`source` with the constants of a track's `[start]` table in place of its own.

    Raises:
        UserError: a name that `source` does not have, or a value that cannot stand there.
    """
    for name, value in start.items():
        known = literals(source)
        if name not in known:
            raise unknown("constant of train.py in [start]", name, known)
        edits = set_literal(source, name, _text(value, known[name]))
        try:
            source = apply_edits(source, edits) if edits else source
        except CannotApply as error:
            raise UserError(f"[start] cannot set {name} ({error}); remove it there.") from error
    return source


def _text(value: Constant, like: str) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        items = [written(item, like) for item in value]
        return f"({', '.join(items)}{',' * (len(items) == 1)})"
    return str(value) if isinstance(value, bool) else written(value, like)

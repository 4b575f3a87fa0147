"""What a language model's reply proposes: one JSON object with declared operations.

Owns: finding that object in a reply, its shape, and the exact reason where it is not one.
Does not own: whether the operations can be carried out or may run (`apply`, `verify`, `model`).

Tolerant of what does no harm (prose or an object around it, one id where a list is asked for, a
list marker before a text, unknown keys), never of what would have to be guessed. No reply raises
anything but `Unreadable`.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple, get_args

from analysis.wording import one_line, visible
from inner_loop.proposal import Operation, OperationKind

MAX_REPLY = 100_000
"""Characters; all texts of a program of the largest size have a third of it."""
MAX_OPERATIONS = 8
MAX_TEXT = 1_500
"""Characters of one new instruction."""
MAX_LINE = 240
"""Characters of a focus or hypothesis that are kept."""
MAX_TITLE = 200
"""Characters of a section."""
MAX_NAMES = 50
"""Ids or texts of one operation."""
SHOWN = 40
"""Characters that are kept of what should be an id and is none."""
TRIES = 200
"""Places in a reply where an object is looked for, from its end."""

_KINDS: tuple[OperationKind, ...] = get_args(OperationKind)
_OPENING = re.compile(r"\{(?=\s*\")")
_THOUGHTS = re.compile(
    r"\s*<think(?:ing)?>.*?</think(?:ing)?>|.*?(?:\A|\n)[ \t]*</think(?:ing)?>",
    re.IGNORECASE | re.DOTALL,
)
_INSTRUCTION = re.compile(r"I-[0-9a-f]{8}(?![0-9a-f])", re.IGNORECASE)
_ROW = re.compile(r"(?<![A-Za-z0-9])E-\d{1,6}(?!\d)", re.IGNORECASE)
_MARKER = re.compile(r"\A\s*(?:[-*+]|\d{1,3}[.)])[ \t]+")


class Unreadable(Exception):
    """The exact reason why a reply is no proposal, in one sentence; shown in its repair turn."""


class Draft(NamedTuple):
    """A reply as it was read; nothing of it is checked against a program."""

    focus: str
    hypothesis: str
    operations: tuple[Operation, ...]
    """Their `evidence` holds row ids as the model gave them."""


def read_rewrite(text: str) -> Draft:
    """The proposal in a reply.

    Raises:
        Unreadable: there is none, or it is not of the shape that is asked for.
    """
    found = _found(text)
    operations = found["operations"]
    if not isinstance(operations, list) or not operations:
        raise Unreadable('"operations" must be a list of at least one operation.')
    if len(operations) > MAX_OPERATIONS:
        raise Unreadable(
            f"It has {len(operations)} operations and {MAX_OPERATIONS} may be; keep to one focus."
        )
    return Draft(
        _line(found, "focus", "The proposal"),
        _line(found, "hypothesis", "The proposal"),
        tuple(_operation(each, number) for number, each in enumerate(operations, start=1)),
    )


def _found(text: str) -> dict[str, Any]:
    """The one JSON object with operations, wherever it stands and whatever it is wrapped in."""
    if len(text) > MAX_REPLY:
        raise Unreadable(f"The reply has {len(text):,} characters; {MAX_REPLY:,} may be.")
    if not text.strip():
        raise Unreadable("The reply is empty.")
    thoughts = _THOUGHTS.match(text)
    answer = text[thoughts.end() :] if thoughts else text
    objects, broken = _objects(answer if _OPENING.search(answer) else text)
    if not objects and broken:
        raise Unreadable(f"The reply's JSON cannot be read ({broken}).")
    if not objects:
        raise Unreadable('The reply holds no JSON object with "operations".')
    if any(each != objects[0] for each in objects):
        raise Unreadable(
            f'The reply holds {len(objects)} different JSON objects with "operations"; send one.'
        )
    return objects[0]


def _objects(text: str) -> tuple[list[dict[str, Any]], str]:
    """The outermost objects with operations, and why the last one that should be one is none.

    They are looked for from the end: evidence that a model repeats while it thinks comes before.
    """
    found: list[tuple[int, int, dict[str, Any]]] = []
    last, broken, other = text.rfind('"operations"'), "", ""
    for opening in list(_OPENING.finditer(text))[: -TRIES - 1 : -1]:
        start = opening.start()
        try:
            value, end = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            broken = broken or (str(error) if start < last else "")
            other = str(error)
            continue
        if isinstance(value, dict) and "operations" in value:
            behind = (each for each in found if each[0] >= end)
            found = [(start, end, value), *behind]
    return [value for *_, value in found], broken or other


def _operation(value: object, number: int) -> Operation:
    where = f"Operation {number}"
    if not isinstance(value, dict):
        raise Unreadable(f"{where} is not a JSON object.")
    kind = value.get("kind")
    known = kind.strip().upper() if isinstance(kind, str) else ""
    if known not in _KINDS:
        raise Unreadable(f"{where} has no known kind; known are {', '.join(_KINDS)}.")
    after = _place(value, "after", where)
    return Operation(
        kind=known,
        instruction_ids=_names(value, "ids", _INSTRUCTION, where),
        texts=tuple(_text(each, where) for each in _strings(value, "texts", where)),
        after=_id(after) if after else "",
        section=_place(value, "section", where),
        hypothesis=_line(value, "hypothesis", where),
        evidence=_names(value, "evidence", _ROW, where),
    )


def _line(value: dict[str, Any], key: str, where: str) -> str:
    found = value.get(key)
    line = one_line(visible(found)) if isinstance(found, str) else ""
    if not line:
        raise Unreadable(f'{where} has no "{key}"; write one line.')
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 1].rstrip()}…"


def _place(value: dict[str, Any], key: str, where: str) -> str:
    found = value.get(key)
    if found is None:
        return ""
    if not isinstance(found, str) or len(found) > MAX_TITLE:
        raise Unreadable(f'"{key}" of {where.lower()} must be one line of text.')
    line = found.strip()
    if len(line.splitlines()) > 1 or line != visible(line):
        raise Unreadable(f'"{key}" of {where.lower()} must be one line without hidden characters.')
    return line


def _strings(value: dict[str, Any], key: str, where: str) -> list[str]:
    """The strings under `key`; one string stands for a list of one, nothing for none."""
    found = value.get(key)
    if found is None or found == "":
        return []
    listed = found if isinstance(found, list) else [found]
    if len(listed) > MAX_NAMES or not all(isinstance(each, str) for each in listed):
        raise Unreadable(f'"{key}" of {where.lower()} must be a short list of strings.')
    return listed


def _names(value: dict[str, Any], key: str, shape: re.Pattern[str], where: str) -> tuple[str, ...]:
    """Ids, however they are decorated; what holds none stays as it is and is refused later."""
    names: list[str] = []
    for each in _strings(value, key, where):
        names += map(_canonical, shape.findall(each))
        if not shape.search(each):
            names.append(visible(each)[:SHOWN])
    return tuple(names)


def _canonical(name: str) -> str:
    return name[0].upper() + name[1:].lower()


def _id(text: str) -> str:
    found = _INSTRUCTION.findall(text)
    return _canonical(found[0]) if len(found) == 1 else text[:SHOWN]


def _text(text: str, where: str) -> str:
    if len(text) > MAX_TEXT:
        raise Unreadable(
            f"A text of {where.lower()} has {len(text):,} characters; {MAX_TEXT:,} may be."
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unreadable(
            f"A text of {where.lower()} holds half a character ({text[error.start]!a})."
        ) from error
    return _MARKER.sub("", text, count=1).strip()

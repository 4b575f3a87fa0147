"""What the door says about a program's bytes and characters, before it reads their meaning.

Owns: `Finding`, and the checks of size, encoding, invisible characters, and texts that are no
program at all (a fence around one, somebody's error message). Pure: bytes or text in, findings out.
Does not own: what a program asks for (`door_notes`), other programs and the outcome (`door`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Literal

from inner_loop.program import MAX_PROGRAM_BYTES, split_lines
from inner_loop.records import Program, Record

SHOWN = 6
"""Lines, code points or names listed in one sentence; the JSON has all lines."""

Severity = Literal["refused", "note"]


class Finding(Record):
    """One thing the door noticed, and what to do about it."""

    code: str
    """Stable word for scripts, for example `size`, `hidden`, `duplicate`."""
    severity: Severity
    lines: tuple[int, ...] = ()
    """Lines of the file it is about, from 1; empty where it is about the whole."""
    sentence: str
    """What it is and what to do."""


def refused(code: str, sentence: str, lines: Iterable[int] = ()) -> Finding:
    """A finding that keeps the program out."""
    return Finding(code=code, severity="refused", lines=_ordered(lines), sentence=sentence)


def note(code: str, sentence: str, lines: Iterable[int] = ()) -> Finding:
    """A finding that the author should know and the program may live with."""
    return Finding(code=code, severity="note", lines=_ordered(lines), sentence=sentence)


def on_lines(lines: Iterable[int]) -> str:
    """`line 3`, `lines 3 and 7`, `lines 1, 2, 3, 4, 5, 6 and 9 more`."""
    found = _ordered(lines)
    first, more = [str(n) for n in found[:SHOWN]], len(found) - SHOWN
    if len(found) == 1:
        return f"line {first[0]}"
    last = f"{more} more" if more > 0 else first.pop()
    return f"lines {', '.join(first)} and {last}"


def _ordered(lines: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(lines)))


# --- bytes --------------------------------------------------------------------------------------


def size_findings(size: int) -> list[Finding]:
    """Whether `size` bytes are too many."""
    if size <= MAX_PROGRAM_BYTES:
        return []
    words = f"It has {size:,} bytes and a program may have {MAX_PROGRAM_BYTES:,}; shorten it."
    return [refused("size", words)]


def decoded(body: bytes) -> str | Finding:
    """The text of `body`, or where it stops being UTF-8."""
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        before = split_lines(body[: error.start].decode("utf-8") + "\x00")
        line, column = len(before), len(before[-1])
        guess = "; it looks like UTF-16" if body[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        words = (
            f"It is not UTF-8 text: byte 0x{body[error.start]:02x} on line {line}, column {column}"
            f"{guess}; save it as UTF-8."
        )
        return refused("encoding", words, [line])


# --- characters ---------------------------------------------------------------------------------

_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_BLANK_LETTERS = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
)
_JOINERS = "\u200c\u200d"
_KEYCAPS = frozenset("0123456789#*\u00a9\u00ae")
_KINDS = {
    "control": "control character",
    "direction": "character that changes the direction of the text",
    "hidden": "character that nobody can see",
}


def character_findings(text: str) -> list[Finding]:
    """Byte-order mark, and characters a reader of the file cannot see but a researcher is given.

    Joiners and variation selectors pass where they belong to the character before them, as in
    emoji and in scripts that need them.
    """
    found: list[Finding] = []
    if text.startswith("\ufeff"):
        words = "It begins with a byte-order mark; harmless, save it as UTF-8 without one."
        found.append(note("bom", words, [1]))
    suspects = _suspects(text.removeprefix("\ufeff"))
    for kind, name in _KINDS.items():
        places = [(c, line) for c, line, k in suspects if k == kind]
        if places:
            plural = name if len(places) == 1 else name.replace("character", "characters", 1)
            plural = plural.replace("that changes", "that change") if len(places) > 1 else plural
            it = "it" if len(places) == 1 else "them"
            words = f"It has {len(places)} {plural}: {_listed(places)}; delete {it}."
            found.append(refused(kind, words, (line for _, line in places)))
    return found


def invisible(character: str, before: str = "", after: str = "") -> str | None:
    """Which kind of invisible `character` is between its neighbours; None if it may stay."""
    if character in "\t\n\r" or " " <= character <= "~":
        return None
    if character in _DIRECTION:
        return "direction"
    category = unicodedata.category(character)
    if category in ("Cc", "Cs"):
        return "control"
    if character in _JOINERS and _carries(before) and _carries(after):
        return None
    if _selects(character):
        return None if _carries(before) or before in _KEYCAPS else "hidden"
    return "hidden" if category in ("Cf", "Zl", "Zp") or character in _BLANK_LETTERS else None


def _suspects(text: str) -> list[tuple[str, int, str]]:
    """(character, line, kind) of all that are invisible."""
    found = []
    for number, line in enumerate(split_lines(text), start=1):
        if line.isascii() and line.rstrip("\r\n").isprintable():
            continue
        for before, character, after in zip(f" {line}", line, f"{line[1:]} ", strict=False):
            if kind := invisible(character, before, after):
                found.append((character, number, kind))
    return found


def _selects(character: str) -> bool:
    return "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"


def _carries(character: str) -> bool:
    """Whether it is a visible character outside ASCII, or the emoji selector behind one."""
    if character == "\ufe0f":
        return True
    plain = unicodedata.category(character)[:1] in "LMNS" if character > "\x7f" else False
    return plain and character not in _BLANK_LETTERS and not _selects(character)


def _listed(places: list[tuple[str, int]]) -> str:
    """`U+200B zero width space (line 3)`, ... in order of first appearance."""
    lines: dict[str, list[int]] = {}
    for character, line in places:
        lines.setdefault(character, []).append(line)
    shown = [f"{_name(c)} ({on_lines(at)})" for c, at in list(lines.items())[:SHOWN]]
    more = len(lines) - len(shown)
    return ", ".join(shown) + (f" and {more} other kinds" if more > 0 else "")


def _name(character: str) -> str:
    name = unicodedata.name(character, "").lower()
    return f"U+{ord(character):04X}" + (f" {name}" if name else "")


# --- texts that are no program ------------------------------------------------------------------

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*([^`\s]*)[^`]*$")
_ERROR = re.compile(
    r"""\W{0,9}(?:
    (?:[\w.]{0,40}error|exception|fatal|failed)\b\s*[:(\[]   # Error: Reached max turns (3)
    | (?:api|https?|(?:internal\ )?server|runtime|value|type|key|timeout|connection|authentication)
        [ _](?:error|exception)\b(?=\s*(?:$|[:(\[\d])|\ code)
    | error\b\s*(?:code\b:?)?\s*\d{3}\b | status\ code:?\ ?\d | too\ many\ requests
    | traceback\ \(most\ recent | (?:null|none|undefined)\s*\Z
    | (?:request\ )?timed\ out\b | (?:api\ )?rate[ _]?limit | credit\ balance
    | (?:i['\u2019]m|i\ am)\ (?:(?:very|so|truly)\ )?(?:sorry|unable|not\ able)\b
    | i\ (?:cannot|can['\u2019]t|can\ not|won['\u2019]t)\b
    | sorry\b | (?:i\ |my\ )?apolog(?:i[sz]e|ies)\b | as\ an\ ai\b
    | <!doctype\ html | <html\b | "?error"?\s*:
    | (?:http[\d./]{0,5}\ )?(?:401\ unauth|403\ forb|404\ not|429\ too)
    | (?:http[\d./]{0,5}\ )?50[0-4]\ (?:int|bad|serv|gate) | http[\d./]{0,4}\ [45]\d\d\b
    )""",
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)
_REPLY = re.compile(
    r"\W{0,9}(?:here(?: is|['\u2019]s)\b|(?:sure|certainly|of course)[,!.])", re.IGNORECASE
)
FEW_INSTRUCTIONS = 3
"""An error message has no more; a longer text that begins like one is only noted."""


def shape_findings(program: Program) -> list[Finding]:
    """Whether the text holds any instruction, and is neither a wrapped text nor an error."""
    text = program.text.removeprefix("\ufeff")
    if not text.strip():
        return [refused("empty", "It is empty; write at least one line that says what to do.")]
    if wrapped := is_wrapped(program):
        words = (
            f"All of it stands inside a code fence (from line {wrapped}), as a model's reply does; "
            "take the fence away, or say in words what to do."
        )
        return [refused("fence", words, [wrapped])]
    if not program.instructions:
        words = "It has no instruction, only headings, rules or comments; say what to do."
        return [refused("no-instructions", words)]
    return _error_findings(program, text)


def is_wrapped(program: Program) -> int | None:
    """The line (from 1) of the fence that holds the whole text; None if there is none.

    A fence that only opens and closes the text may be two examples with instructions in between;
    it is one wrapper if it says that it holds Markdown, or if its end pairs with no other fence.
    """
    lines = [(n, line) for n, line in enumerate(split_lines(program.text), start=1) if line.strip()]
    if not lines:
        return None
    first, opening = lines[0][0], _FENCE.match(lines[0][1].removeprefix("\ufeff").rstrip())
    closing = _FENCE.match(lines[-1][1].rstrip()) if len(lines) > 1 else None
    if opening is None:
        return None
    only_code = len(program.instructions) <= 1
    ends = closing is not None and not closing[2]
    markdown = opening[2].lower() in ("md", "markdown")
    reply = ends and (markdown or _left_open(line for _, line in lines))
    return first if only_code or reply else None


def _left_open(lines: Iterable[str]) -> bool:
    """Whether a fence is open after the last of `lines`, pairing each with its end."""
    mark = ""
    for line in lines:
        found = _FENCE.match(line.removeprefix("\ufeff").rstrip())
        if found and not mark:
            mark = found[1]
        elif found and found[1].startswith(mark) and not found[2]:
            mark = ""
    return bool(mark)


def reads_like_an_error(text: str) -> bool:
    """Whether a text opens as an error message or a refusal does."""
    return _ERROR.match(_opening(text)) is not None


def reads_like_a_reply(text: str) -> bool:
    """Whether a text opens as a model's answer does that was asked for a text."""
    return _REPLY.match(_opening(text)) is not None


def _opening(text: str) -> str:
    return text.removeprefix("\ufeff").lstrip()


def _error_findings(program: Program, text: str) -> list[Finding]:
    number = next(n for n, s in enumerate(split_lines(text), start=1) if s.strip())
    if reads_like_a_reply(text):
        words = f"Line {number} reads like the opening of a model's reply; delete it if it is one."
        return [note("error-text", words, [number])]
    if not reads_like_an_error(text):
        return []
    if len(program.instructions) > FEW_INSTRUCTIONS:
        words = f"Line {number} reads like an error message; check that this is what you meant."
        return [note("error-text", words, [number])]
    words = (
        f"It reads like an error message or a refusal (line {number}), not like a program; look at "
        "what wrote it."
    )
    return [refused("error-text", words, [number])]

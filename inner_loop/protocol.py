"""What a language model's reply says: the wire format of a move, read strictly.

Owns: markers, keys, and the exact reason why a reply cannot be read.
Does not own: where a block fits (`matching.py`), the prompt that asks for this format, what happens
to an unreadable reply, and whether a commit or an instruction that it names exists.

A line that is a marker (`is_marker`) is one wherever it stands, also inside quoted code: a block
cannot hold one. So code that imitates the markers breaks a block that quotes it, and `matching.py`
refuses blocks beside such lines: a cut-off piece never passes for a block of its own.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from inner_loop.quoting import one_line, plain
from inner_loop.record import Record
from inner_loop.records import Edit

DESCRIPTION_CAP = 200
HYPOTHESIS_CAP = 500
NOTES_CAP = 4000
CITES_CAP = 3
QUOTE_CAP = 120
LINE_CAP = 4000
NOTES_MARK = "\n[cut here: notes have at most 4,000 characters]"

BASE = "base"
"""What stands for the commit of the baseline."""

Kind = Literal["edit", "rerun", "return", "none"]
Verdict = Literal["keep", "discard"]

_MARKER = re.compile(
    r"<{5,9}[ \t]*(?P<begin>SEARCH|NOTES)(?:[ \t]+train\.py)?|(?P<divider>={5,9})"
    r"|>{5,9}[ \t]*(?P<end>REPLACE|NOTES)",
    re.IGNORECASE | re.ASCII,
)
_OTHER_BEGIN = re.compile(r"\s*<{5,9}(?!<)")
_KEY = re.compile(
    r"[\s>*_#`+.)\d-]{0,12}(DESCRIPTION|HYPOTHESIS|CITES|VERDICT|ACTION)[\s*_`]{0,4}[:\uff1a](.*)",
    re.IGNORECASE | re.ASCII,
)
_FENCE = re.compile(r"\s*(`{3,}|~{3,})[\w+-]*\s*")
_THOUGHTS = re.compile(
    r"\s*<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)"
    r"|.*?(?:\A|\n)[ \t]*</think(?:ing)?>[ \t]*(?=\n|\Z)",
    re.IGNORECASE | re.DOTALL,
)
_NO_TEXT = re.compile(r"[\0\ud800-\udfff]")
_CITE = re.compile(r"(?<![\w-])I-[0-9a-f]{8}(?![\w-])", re.IGNORECASE | re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_WORD = re.compile(r"[0-9a-z][0-9a-z-]*")
_NOTHING = {"", "none", "n/a", "na", "null", "optional", "pending", "unknown"}
_STOPS = {"none", "nothing", "stop", "done", "quit", "end", "finish", "finished", "halt", "wait"}
_FILLERS = {"to", "the", "of", "commit"}
_TEMPLATE = re.compile(r"keep\s*(\||/|\bor\b)\s*discard\b[^\w]*(\(.*)?")


class Unreadable(Exception):
    """The exact reason, in one or two sentences; shown to the model in its repair turn."""


class Said(Record):
    """What a reply says, before anybody asks whether it can be done."""

    kind: Kind
    """`none`: there is no action in it at all (prose, a question, a refusal, "I am done")."""
    blocks: tuple[Edit, ...] = ()
    """For `edit`: SEARCH and REPLACE as written, every line ended by a newline."""
    commit: str | None = None
    """For `rerun` (None = the tip) and `return`: 7 to 40 hex digits in lower case, or `base`."""
    description: str = ""
    hypothesis: str = ""
    cites: tuple[str, ...] = ()
    """The first three distinct instruction ids, whether they exist or not."""
    verdict: Verdict | None = None
    """On the previous experiment; counts with every kind."""
    notes: str | None = None
    """The notes file from now on; None = as it was."""


@dataclass
class _Found:
    """The parts of a reply, with line numbers from 1."""

    blocks: list[Edit] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    keys: list[tuple[str, str, int]] = field(default_factory=list)

    def values(self, key: str) -> list[tuple[str, int]]:
        return [(value, line) for name, value, line in self.keys if name == key]


def read_reply(text: str) -> Said:
    """What `text` says; any text at all is read or refused.

    Raises:
        Unreadable: it means to act, but how is broken, missing or contradictory.
    """
    found = _scan(_without_thoughts(_plain_newlines(text)).split("\n"))
    kind, commit = _action(found)
    return Said(
        kind=kind,
        blocks=tuple(found.blocks),
        commit=commit,
        description=_first(found.values("DESCRIPTION"), DESCRIPTION_CAP),
        hypothesis=_first(found.values("HYPOTHESIS"), HYPOTHESIS_CAP),
        cites=_cites(found.values("CITES")),
        verdict=_verdict(found.values("VERDICT")),
        notes=_notes(found.notes),
    )


def is_marker(line: str) -> bool:
    """Whether a line (without its newline) is one of the protocol's markers."""
    return bool(_marker(line))


def in_quotes(line: str) -> str:
    """A line of somebody's text for a sentence: in backticks, with its spaces, safe and short."""
    text = plain(line[:LINE_CAP]).replace("\n", " ").replace("`", "'").rstrip()
    return f"`{text if len(text) <= QUOTE_CAP else f'{text[: QUOTE_CAP - 3]}...'}`"


# --- lines ------------------------------------------------------------------------------------


def _plain_newlines(text: str) -> str:
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _without_thoughts(text: str) -> str:
    """`text` with its hidden reasoning blanked, so that line numbers stay.

    Some servers swallow the opening tag: then everything before a line that closes it is thought.
    Reasoning that is never closed leaves nothing.
    """
    thoughts = _THOUGHTS.match(text)
    if thoughts is None:
        return text
    return "\n" * thoughts.group().count("\n") + text[thoughts.end() :]


def _marker(line: str) -> str:
    """`<SEARCH`, `<NOTES`, `=`, `>REPLACE`, `>NOTES`, or empty for any other line."""
    bare = line.strip()
    match = _MARKER.fullmatch(bare) if bare.startswith(("<", "=", ">")) else None
    if match is None:
        return ""
    if match["divider"]:
        return "="
    return f"<{match['begin'].upper()}" if match["begin"] else f">{match['end'].upper()}"


def _scan(lines: Sequence[str]) -> _Found:
    """All parts of a reply; outside blocks and notes only keys count: no fence and no prose."""
    found, at = _Found(), 0
    while at < len(lines):
        marker = _marker(lines[at])
        if marker == "<SEARCH":
            at = _read_block(lines, at, found)
        elif marker == "<NOTES":
            at = _read_notes(lines, at, found)
        else:
            _read_outside(lines[at], marker, at + 1, found)
            at += 1
    return found


def _read_outside(line: str, marker: str, number: int, found: _Found) -> None:
    if marker.startswith(">"):
        begin = "<<<<<<< NOTES" if marker == ">NOTES" else "<<<<<<< SEARCH"
        raise Unreadable(f"line {number} ({in_quotes(line)}) ends what no `{begin}` began")
    if not marker and _OTHER_BEGIN.match(line):
        raise Unreadable(
            f"line {number} ({in_quotes(line)}) is not a marker: a block begins with a line "
            "`<<<<<<< SEARCH`"
        )
    if (":" in line or "\uff1a" in line) and (match := _KEY.match(line)):
        found.keys.append((match[1].upper(), _undecorated(match[2]), number))


def _read_block(lines: Sequence[str], begin: int, found: _Found) -> int:
    """Reads the block that begins at index `begin`; returns the index after its end."""
    sides: tuple[list[str], list[str]] = ([], [])
    side = 0
    for at in range(begin + 1, len(lines)):
        marker = _marker(lines[at])
        if not marker:
            sides[side].append(lines[at])
        elif marker == "=" and side == 0:
            side = 1
        elif marker == ">REPLACE" and side == 1:
            found.blocks.append(_block(*sides, number=len(found.blocks) + 1, line=begin + 1))
            return at + 1
        else:
            raise Unreadable(_misplaced(marker, lines[at], at + 1, begin + 1))
    missing = ">>>>>>> REPLACE" if side else "======="
    raise Unreadable(f"the block that begins in line {begin + 1} has no line `{missing}`")


def _misplaced(marker: str, line: str, number: int, begin: int) -> str:
    if marker == "=":
        why = (
            "is a second divider; a line of only `=` cannot stand in a block: choose a SEARCH "
            "and a REPLACE text without it"
        )
    elif marker == ">REPLACE":
        why = "ends it before there was a line `=======` between SEARCH and REPLACE"
    else:
        why = "comes before its end; end each block with a line `>>>>>>> REPLACE`"
    return f"in the block that begins in line {begin}, line {number} ({in_quotes(line)}) {why}"


def _block(search: list[str], replace: list[str], *, number: int, line: int) -> Edit:
    search, replace = _unfenced(search, replace)
    edit = Edit(search=_joined(search), replace=_joined(replace))
    where = f"of block {number} (line {line})"
    if _says_nothing(edit.search):
        what = in_quotes(edit.search) if edit.search.strip() else "empty"
        raise Unreadable(f"the SEARCH text {where} is {what}; quote lines of train.py exactly")
    if _is_placeholder(edit.replace):
        raise Unreadable(f"the REPLACE text {where} is {in_quotes(edit.replace)}; write the code")
    if _NO_TEXT.search(edit.search + edit.replace):
        raise Unreadable(f"the text {where} holds a character that is no text (NUL or surrogate)")
    return edit


def _says_nothing(text: str) -> bool:
    return not text.strip("#.…" + string.whitespace)


def _is_placeholder(text: str) -> bool:
    return _says_nothing(text) and any(dots in text for dots in ("..", "…"))


def _unfenced(search: list[str], replace: list[str]) -> tuple[list[str], list[str]]:
    """Both sides without the code fences around each, or around both; others are content."""
    ends = (search[:1], search[-1:], replace[:1], replace[-1:])
    is_fence = [bool(e and _FENCE.fullmatch(e[0])) for e in ends]
    if len(search) > 1 and is_fence[:2] == [True, True] and (not replace or all(is_fence)):
        return search[1:-1], replace[1:-1]
    if is_fence == [True, False, False, True]:
        return search[1:], replace[:-1]
    return search, replace


def _read_notes(lines: Sequence[str], begin: int, found: _Found) -> int:
    """Reads the notes that begin at index `begin`; returns the index after their end."""
    for at in range(begin + 1, len(lines)):
        marker = _marker(lines[at])
        if marker == ">NOTES":
            found.notes.append(_joined(lines[begin + 1 : at]))
            return at + 1
        if marker not in ("", "="):
            raise Unreadable(
                f"in the NOTES that begin in line {begin + 1}, line {at + 1} "
                f"({in_quotes(lines[at])}) comes before their end `>>>>>>> NOTES`"
            )
    raise Unreadable(f"the NOTES that begin in line {begin + 1} have no line `>>>>>>> NOTES`")


def _joined(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


# --- values -----------------------------------------------------------------------------------


def _undecorated(value: str) -> str:
    """A key's value without the other half of markdown that began before it."""
    value = value.strip()
    for mark in ("**", "__", "`", "*", "_"):
        if value.count(mark) % 2:
            value = value.removeprefix(mark) if value.startswith(mark) else value.removesuffix(mark)
    return value.strip()


def _first(values: Sequence[tuple[str, int]], cap: int) -> str:
    return next((line for value, _ in values if (line := one_line(value[:LINE_CAP], cap))), "")


def _cites(values: Sequence[tuple[str, int]]) -> tuple[str, ...]:
    ids = [f"I-{c[2:].lower()}" for value, _ in values for c in _CITE.findall(value)]
    return tuple(dict.fromkeys(ids))[:CITES_CAP]


def _notes(pieces: Sequence[str]) -> str | None:
    """All notes one after another; a copied placeholder is no note, an empty one clears them."""
    written = [p for p in pieces if not _is_placeholder(p)]
    if not written:
        return None
    text = plain("".join(written)).strip("\n")
    return text if len(text) <= NOTES_CAP else text[: NOTES_CAP - len(NOTES_MARK)] + NOTES_MARK


def _verdict(values: Sequence[tuple[str, int]]) -> Verdict | None:
    read = [(_read_verdict(value), value, line) for value, line in values]
    said = {verdict for verdict, _, _ in read if verdict in ("keep", "discard")}
    if len(said) > 1 or any(verdict == "both" for verdict, _, _ in read):
        raise Unreadable("the reply gives two verdicts, keep and discard; give one VERDICT line")
    if not said:
        for verdict, value, line in read:
            if verdict == "unclear":
                raise Unreadable(
                    f"the VERDICT in line {line} is {in_quotes(value)}, neither keep nor discard; "
                    "leave the line out if you have none"
                )
        return None
    return "keep" if "keep" in said else "discard"


def _read_verdict(value: str) -> Literal["keep", "discard", "both", "unclear", ""]:
    plain = value.lower().strip(" .*_`-'\"")
    if plain in _NOTHING or _TEMPLATE.fullmatch(plain):
        return ""
    words = re.findall(r"[a-z]+", plain)
    says = {"keep" if w == "kept" else w.removesuffix("ed") for w in words}
    if {"keep", "discard"} <= says:
        return "both"
    match = re.match(r"(keep|kept|discard(?:ed)?)\b", plain)
    if match is None:
        return "unclear"
    return "discard" if match[1].startswith("discard") else "keep"


def _action(found: _Found) -> tuple[Kind, str | None]:
    """What is asked for; blocks alone ask for an edit."""
    given = [(value, line) for value, line in found.values("ACTION") if value]
    asked = dict.fromkeys(_read_action(value, line) for value, line in given)
    clear = [a for a in asked if a is not None]
    if found.blocks and ("edit", None) not in clear:
        clear.append(("edit", None))
    if len(clear) > 1:
        names = " and ".join(f"{kind} {commit or ''}".strip() for kind, commit in clear[:4])
        raise Unreadable(f"the reply asks for more than one thing ({names}); ask for one")
    if not clear and None in asked:
        value, line = given[0]
        raise Unreadable(
            f"the ACTION in line {line} is {in_quotes(value)}; write `ACTION: edit`, `ACTION: "
            "rerun COMMIT` or `ACTION: return COMMIT`"
        )
    kind, commit = clear[0] if clear else ("none", None)
    if kind == "edit" and not found.blocks:
        raise Unreadable("the reply says ACTION: edit, but there is no SEARCH/REPLACE block in it")
    return kind, commit


def _read_action(value: str, line: int) -> tuple[Kind, str | None] | None:
    """What one ACTION line asks for; None if it is none of the words."""
    words = _WORD.findall(value.lower())
    verb = words[0].replace("re-run", "rerun") if words and "|" not in value else ""
    if verb in _STOPS:
        return "none", None
    if verb == "edit":
        return "edit", None
    if verb == "rerun":
        return "rerun", _commit(verb, words[1:], line)
    if verb == "return":
        return "return", _commit(verb, words[1:], line)
    return None


def _commit(verb: str, words: list[str], line: int) -> str | None:
    """The commit named after a verb; None = the tip, which only a rerun may leave unnamed."""
    named = next((w for w in words if w not in _FILLERS), "")
    if _COMMIT.fullmatch(named):
        return named
    if named in ("base", "baseline"):
        return BASE
    if verb == "rerun" and (named in ("tip", "head") or not words):
        return None
    what = f"{in_quotes(named)} is not a commit" if named else "names no commit"
    tip = "; for the tip write only `ACTION: rerun`" if verb == "rerun" else ""
    raise Unreadable(
        f"the ACTION in line {line} ({verb}) needs the commit from the table, 7 to 40 hex digits: "
        f"{what}{tip}"
    )

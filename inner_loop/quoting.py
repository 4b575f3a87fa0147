"""Text from a run as data inside a message: it cannot end its own quotation, and it is short.

Owns: tags that the quoted text does not contain, length caps, removal of control characters.
Does not own: what is quoted and why (`briefing.py`). Pure.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Iterable

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?")
MARK_LENGTH = 8


def mark(texts: Iterable[str], salt: str = "") -> str:
    """Eight hex digits that occur in none of `texts`; the same for the same texts and salt."""
    held = "\x1f".join(texts)
    for number in itertools.count():
        digest = hashlib.sha256(f"{salt}\x1f{number}\x1f{held}".encode("utf-8", "replace"))
        found = digest.hexdigest()[:MARK_LENGTH]
        if found not in held.lower():
            return found
    raise AssertionError  # count() does not end


def quote(name: str, text: str, tag_mark: str) -> str:
    """`text` to the byte between an opening and a closing tag, which stand on their own lines."""
    return f"<{name}-{tag_mark}>\n{text}\n</{name}-{tag_mark}>"


def plain(text: str) -> str:
    """`text` without terminal escapes, control and format characters; line ends are LF."""
    lines = _ESCAPE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return "".join(c for c in lines if c in "\n\t" or not unicodedata.category(c).startswith("C"))


def one_line(text: str, most: int) -> str:
    """`text` on one line of at most `most` characters."""
    words = " ".join(plain(text).split())
    return words if len(words) <= most else words[: most - 3].rstrip() + "..."


def shortened(text: str, most: int) -> str:
    """`text` with its middle cut out where it is longer than `most` characters."""
    if len(text) <= most:
        return text
    note = f"\n[... {len(text) - most:,} characters or more are left out here ...]\n"
    room = max(0, most - len(note))
    head, tail = room - room // 2, room // 2
    return text[:head] + note + text[len(text) - tail :]

"""Whether an instruction carries the answer: values of train.py's constants, or its code.

Owns: what counts as an answer in words. Does not own: any other check of a rewrite (`verify`).

A program says how to search; one that says what the best train.py looks like would win without
its researcher. These are rules on characters: an answer spelled out in other words passes, which
is why challengers run on other text than they were found on and are read by people.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from inner_loop.literals import literals

SHORTEST_LINE = 20
"""Characters from which a line of code is told from words."""
_NUMBER = r"[-+]?(?:\d[\d_,]*\.?\d*|\.\d+)(?:e[-+]?\d+)?(?:\s*(?:\*\*|\^)\s*\d+)?"
_SET = r"(?:==?|:=?|->|→|≈|~|(?:to|at|of|is|be|as|from|near|around|about|exactly|between)\b)"
_CONSTANT = re.compile(r"(?<![A-Za-z0-9_])[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+(?![A-Za-z0-9_])")
_FENCE = re.compile(r"^[ \t>]*(?:```|~~~)", re.MULTILINE)
_DECORATION = re.compile(r"[*`\"'()\[\]]+")


def answer_in(texts: Iterable[str], base: str, answers: Sequence[str]) -> str:
    """Why a new text is answer-carrying; empty where none is.

    What the base says already is no news and passes.

    Args:
        texts: what a rewrite brings.
        base: the text of the program it rewrites.
        answers: known train.py files.
    """
    names = sorted({name for source in answers for name in literals(source)}, key=len)
    for text in texts:
        if _FENCE.search(text):
            return "A new text holds a code block; say in words how to search."
        for name, value in _assigned(text, names):
            if (name, value) not in _assigned(base, [name]):
                return (
                    f"A new text gives the constant {name} a value ({value}); a program says how "
                    "to search, not what the answer is."
                )
        if line := _code_line(text, base, answers):
            return f"A new text holds a line of train.py's code: {line[:60]!r}."
    return ""


def _assigned(text: str, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(constant, number) wherever a text gives one the other."""
    plain = _DECORATION.sub("", text)
    for name in dict.fromkeys([*names, *_CONSTANT.findall(plain)]):
        for pattern in _patterns(name):
            for found in pattern.finditer(plain):
                yield name, found[1].rstrip(".,")


@lru_cache(maxsize=1024)
def _patterns(name: str) -> tuple[re.Pattern[str], ...]:
    """Ways of giving a constant a value, which is each one's group 1."""
    words = _spelled(name)
    return (
        re.compile(rf"{words}\s*(?:{_SET}\s*){{0,3}}({_NUMBER})"),
        re.compile(rf"{words}\s*:?=\s*([^\s,;]+)"),
        re.compile(rf"{words}\s+(?:to|is|as)\s+(True|False|None)\b"),
        re.compile(rf"(?<![\w.])({_NUMBER})\s+(?:for|as)\s+(?:the\s+)?{words}"),
    )


def _spelled(name: str) -> str:
    """A pattern for a constant's name: as it is written in code, or its words in any case.

    A name of one word in small letters (depth, width) is plain English and does not count.
    """
    parts = name.split("_")
    if len(parts) == 1:
        return rf"(?<![A-Za-z0-9_]){re.escape(name)}(?![A-Za-z0-9_])"
    words = r"[ _-]?".join(map(re.escape, parts))
    return rf"(?i:(?<![A-Za-z0-9_]){words}(?![A-Za-z0-9_]))"


def _code_line(text: str, base: str, answers: Sequence[str]) -> str:
    """A line of a train.py that stands in `text`, spaces aside; empty where none does."""
    said, before = _squeezed(text), _squeezed(base)
    lines = _code_lines(tuple(answers)).items()
    return next((code for short, code in lines if short in said and short not in before), "")


@lru_cache(maxsize=2)
def _code_lines(answers: tuple[str, ...]) -> dict[str, str]:
    """Every line of these files that is long enough to be told from words, by its characters."""
    found: dict[str, str] = {}
    for line in dict.fromkeys(line for source in answers for line in source.splitlines()):
        code = line.split("  #")[0].strip()
        short = _squeezed(code)
        is_code = any(mark in code for mark in "=([") and not code.startswith("#")
        if is_code and len(short) >= SHORTEST_LINE:
            found[short] = code
    return found


def _squeezed(text: str) -> str:
    return re.sub(r"[\s`]+", "", text)

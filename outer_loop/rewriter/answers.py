"""Whether an instruction carries the answer: values of train.py's constants, or its code.

Owns: what counts as an answer in words. Does not own: any other check of a rewrite (`verify`).

A program says how to search; one that says what the best train.py looks like would win without
its researcher. These are rules on characters: an answer spelled out in other words passes, which
is why challengers run on other text than they were found on and are read by people.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from inner_loop.literals import literals

SHORTEST_LINE = 20
"""Characters from which a line of code is told from words."""
NEAR = 40
"""Characters of one sentence between a constant's name and what counts as its value."""
_NUMBER = r"[-+]?(?:\d[\d_,]*\.?\d*|\.\d+)(?:e[-+]?\d+)?(?:\s*(?:\*\*|\^)\s*\d+)?"
_IS = (
    r"(?:==?|:=?|->|→|≈|~|(?:(?:should|must|can|may|will|would)\s+)?"
    r"(?:is|be|are|was|equals?|becomes?)\b)"
)
_AT = r"(?:(?:to|at|of|as|from|near|around|about|exactly|between|up|down)\b)"
_PUT = (
    r"(?i:(?<!\w)(?:set|use|try|take|put|fix|choose|pick|make|keep|start|begin|raise|increase|lower"
    r"|reduce|decrease|drop|cut|bring|move|change|turn)(?!\w))"
)
_FOLLOWS = (
    r"(?=\s*(?:[.,;:!?|]|\Z)|\s+(?:(?:to|and|or)\b(?!\s*\d)|(?:tokens?|steps?|rows?|layers?|heads?"
    r"|channels?|percent|for|in|at|on|by|if|then|than|when|while|where|before|after|as|the|a|is|was"
    r"|from|with|first|now|once|until|but|so|it|because|since|instead)\b))"
)
_WHOLE = rf"(?<![\w.])(\d{{1,2}})(?!\w|[.,]\d){_FOLLOWS}"
"""A small number that counts nothing: of tokens or steps at most, and not of seeds or losses."""
_FINE = r"(\d*\.\d[\w.^*-]*|\d{3,}[\w.^*-]*|\d+(?:\s*(?:\*\*|\^)\s*|e-?)\d+)"
"""A number that nobody counts to in words."""
_CONSTANT = re.compile(r"(?<![A-Za-z0-9_])[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+(?![A-Za-z0-9_])")
_FENCE = re.compile(r"^[ \t>]*(?:```|~~~)", re.MULTILINE)
_DECORATION = re.compile(r"[*`\"'()\[\]]+")
_SENTENCE = re.compile(r"[.!?][\"')*`\]]*\s+(?=[A-Z`*\"(])|\n[ \t]*\n")
_VALUE = re.compile(
    rf"(?<![\w.])(?P<number>{_NUMBER})(?!\w|\.\d)|`(?P<code>[A-Za-z][A-Za-z0-9-]{{0,23}})`"
    r"|[\"\u201c](?P<double>[^\s\"\u201c\u201d]{1,24})[\"\u201d]|(?<!\w)['\u2018](?P<single>[^\s'\u2018\u2019]{1,24})['\u2019](?!\w)"
    r"|(?<!\w)(?P<letters>[A-Z]{1,24})(?!\w)"
)
_COUNT = re.compile(
    r"(?:\s+(?:or|to|and)\s+\d{1,2})?(?:\s+(?:more|other|different|further|such|new|equal))?"
    r"\s+(?:experiments?|loss(?:es)?|wins?|gains?|runs?|trainings?|discards?|keeps?|tries|attempts?"
    r"|times|seeds?|ideas?|changes?|rounds?|commits?|edits?|in a row)(?!\w)"
)
_FACTOR = re.compile(r"(?<!\w)factors? of\s*\Z")


def answer_in(texts: Iterable[str], base: str, answers: Sequence[str]) -> str:
    """Why a new text is answer-carrying; empty where none is.

    What the base says already is no news and passes.

    Args:
        texts: what a rewrite brings.
        base: the text of the program it rewrites.
        answers: known train.py files.
    """
    known = {name: value for source in answers for name, value in literals(source).items()}
    for text in texts:
        if _FENCE.search(text):
            return "A new text holds a code block; say in words how to search."
        for name, value in _assigned(text, known):
            if (name, value) not in _said(base, name, known.get(name, "")):
                return (
                    f"A new text gives the constant {name} a value ({value}); a program says how "
                    "to search, not what the answer is."
                )
        if line := _code_line(text, base, answers):
            return f"A new text holds a line of train.py's code: {line[:60]!r}."
    return ""


@lru_cache(maxsize=1024)
def _said(base: str, name: str, literal: str) -> frozenset[tuple[str, str]]:
    """The values that the base gives one constant."""
    return frozenset(_assigned(base, {name: literal}))


def _assigned(text: str, known: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(constant, value) wherever a text gives one the other.

    Around a name as code writes it any number or quoted word counts; around one in plain words
    only what is plainly given to it.
    """
    code, plain = text.replace("\\", ""), _DECORATION.sub("", text)
    names = dict.fromkeys([*sorted(known, key=len), *_CONSTANT.findall(code)])
    for before in (False, True):
        for name in names:
            yield from ((name, v) for v in _near(code, name, known, before=before))
    for name in names:
        for pattern in _patterns(name):
            yield from ((name, found[1].rstrip(".,")) for found in pattern.finditer(plain))


def _near(text: str, name: str, known: Mapping[str, str], *, before: bool) -> Iterator[str]:
    """The values that stand close behind (or before) a name, in the same sentence."""
    for found in _in_code(name).finditer(text):
        if before:
            start, end = max(found.start() - NEAR, 0), found.start()
            start = max((b.end() for b in _SENTENCE.finditer(text, start, end + 1)), default=start)
        else:
            start, end = found.end(), min(found.end() + NEAR, len(text))
            stop = _SENTENCE.search(text, start, min(end + 4, len(text)))
            end = min(stop.start(), end) if stop else end
        for each in _VALUE.finditer(text, start):
            if each.start() >= end:
                break
            value = _value(each, text, known.get(name, ""))
            if value and value not in known and not _CONSTANT.fullmatch(value):
                yield value


def _value(found: re.Match[str], text: str, literal: str) -> str:
    """What could be a constant's value; empty for a count of experiments, a factor, a word."""
    if number := found["number"]:
        is_count = re.fullmatch(r"\d{1,2}", number) and _COUNT.match(text, found.end())
        is_factor = _FACTOR.search(text[max(found.start() - NEAR, 0) : found.start()])
        return "" if is_count or is_factor else number.rstrip(".,")
    is_text = literal[:1] in ('"', "'")
    if code := found["code"]:
        return code if is_text or code.isupper() or code in ("True", "False", "None") else ""
    if letters := found["letters"]:
        return letters if is_text and set(letters) <= set(literal) else ""
    return found["double"] or found["single"]


@lru_cache(maxsize=1024)
def _in_code(name: str) -> re.Pattern[str]:
    """A name as code writes it; small letters count where an underscore tells it from words."""
    flag = re.IGNORECASE if "_" in name else re.NOFLAG
    return re.compile(rf"(?<![A-Za-z0-9_]){re.escape(name)}(?![A-Za-z0-9_])", flag)


@lru_cache(maxsize=1024)
def _patterns(name: str) -> tuple[re.Pattern[str], ...]:
    """Ways of giving a constant a value, which is each one's group 1."""
    words, code = _spelled(name), _in_code(name).pattern
    to = rf"(?:(?:{_IS}|{_AT})\s*)"
    switched = r"(?i:(?<!\w)(turn on|switch on|turn off|switch off|enable|disable)(?:\s+the)?)"
    return (
        re.compile(rf"{code}\s*{to}{{0,3}}({_NUMBER})"),
        re.compile(rf"{code}\s*{to}{{0,3}}(?i:(true|false|none|off|enabled|disabled)\b)"),
        re.compile(rf"(?i:turn|switch)\s+(?:the\s+)?{code}\s+(on|off)\b"),
        re.compile(rf"{switched}\s+{code}"),
        re.compile(rf"{words}\s*{to}{{0,3}}{_FINE}"),
        re.compile(rf"{words}\s*{_IS}\s*{to}{{0,2}}{_WHOLE}"),
        re.compile(rf"{_PUT}[^.;:!?]{{0,{NEAR}}}?{words}\s*{to}{{1,3}}{_WHOLE}"),
        re.compile(rf"{_PUT}\s+({_NUMBER})\s+(?:for|as)\s+(?:the\s+)?{words}"),
        re.compile(rf"{words}\s*:?=\s*([^\s,;]+)"),
        re.compile(rf"{words}\s+(?:to|is|as)\s+(True|False|None)\b"),
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

"""What a program asks for that a run answers in its own way, and answers that it may carry.

Owns: compatibility notes instead of refusals (DESIGN.md section 5: adapter facts), by words and
patterns, line by line; and the note on tuned settings and code. Pure.
Does not own: refusals (`door_text`, `door`). A pattern can miss and can be wrong, so nothing here
keeps a program out; the text that a researcher sees is never changed.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from inner_loop.program import Segment, segments, split_lines
from inner_loop.records import Program
from outer_loop.door_text import SHOWN, Finding, note, on_lines

MANY_SETTINGS = 4
"""Different settings with a value from which a program is noted to carry answers."""

_FLAGS = re.IGNORECASE | re.MULTILINE | re.DOTALL
_NEGATION = re.compile(
    r"\b(?:no|not|never|nothing|nobody|don't|won't|cannot|can't|without|nor|avoid|forbidden)\b"
    r"[^.!?;:\n]{0,60}$",
    re.IGNORECASE,
)
_LOOK_BACK = 90


class _Ask(NamedTuple):
    code: str
    pattern: re.Pattern[str]
    what: str
    answer: str


def _ask(code: str, pattern: str, what: str, answer: str) -> _Ask:
    return _Ask(code, re.compile(pattern, _FLAGS), what, answer)


ASKS = (
    _ask(
        "confirmation",
        r"\b(?:confirm|agree|settle|discuss|clarify|check)\b[^.!?\n]{0,40}\bwith\s+"
        r"(?:me|us|the\s+(?:user|human|person|owner|author))\b"
        r"|\b(?:ask|wait\s+for)\s+(?:(?:a|an|the|my|your|explicit)\s+){0,2}"
        r"(?:me|user|human|person|confirmation|approval|permission|go-ahead|yes|reply|answer)\b"
        r"|\bgo-ahead\b|\bget\s+(?:\w+\s+)?(?:approval|confirmation)\b",
        "asks for a person's answer",
        "the harness answers for one: the run tag is agreed and the setup is confirmed",
    ),
    _ask(
        "network",
        r"\b(?:curl|wget)\s|\bgit\s+(?:push|pull|fetch|clone)\b"
        r"|\b(?:pip3?|uv|conda|apt|apt-get)\s+(?:install|add|pip)\b"
        r"|\b(?:search|browse)\s+(?:the\s+)?(?:web|internet|literature)\b|\barxiv\b|\bwandb\b",
        "asks for the network",
        "a run has none and the researcher is told so; these steps are skipped",
    ),
    _ask(
        "links",
        r"https?://",
        "links to the web",
        "a run has no network, so only what stands here is read",
    ),
    _ask(
        "several-gpus",
        r"\bmulti-?\s?gpu|\b(?:all|several|multiple|both|two|four|eight|[2-9]|[1-9]\d)\s+"
        r"(?:\w+\s+)?gpus\b|\bnproc_per_node\b|\bcuda_visible_devices\b|\bsbatch\b|\bslurm\b",
        "asks for several GPUs or a cluster",
        "an experiment has one device",
    ),
    _ask(
        "sub-agents",
        r"\bsub-?\s?agents?\b|\b(?:spawn|launch|dispatch|delegate\s+to)\s+(?:\w+\s+){0,2}agents?\b"
        r"|\b(?:multiple|several|other|parallel|worker)\s+agents\b|\bswarm\b",
        "asks for other agents",
        "a run has one researcher, which makes one experiment after the other",
    ),
    _ask(
        "run-command",
        r"\b(?:uv|poetry)\s+run\b|\btorchrun\b|\baccelerate\s+launch\b|\bdocker\s+run\b"
        r"|\b(?:bash|sh)\s+\S{1,60}\.sh\b|\S{0,60}/python3?\s+\S{1,60}\.py\b"
        r"|\bpython3?\s+(?!train\.py\b|prepare\.py\b)[\w./-]{1,60}\.py\b",
        "names another command than `python train.py`",
        "the harness starts train.py itself, whatever the command",
    ),
    _ask(
        "own-text",
        r"\b(?:edit|update|rewrite|modify|improve|append\s+to)\s+(?:\w+\s+){0,2}`?"
        r"(?:program\.md|this\s+(?:program|document))\b",
        "asks for a change of the program itself",
        "a program stays as it is for a whole run; a rewriter changes it between tournaments",
    ),
)
_FILE = re.compile(
    r"(?<![\w./-])[\w-][\w./-]{0,60}\.(?:md|jsonl?|txt|csv|tsv|py|sh|ya?ml|toml)\b(?![/\w])"
)
_GIVEN = {"train.py", "prepare.py", "results.tsv", "program.md", "readme.md", "task.json"}
_GIVEN |= {"pyproject.toml", "requirements.txt"}  # named to say that packages stay as they are
_VALUE = r"`?(?:\s*[=:]|\s+(?:of|to|at|is))?\s*`?[-+]?\.?\d[\w.^*+-]{0,20}"
_CONSTANT = re.compile(rf"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+{_VALUE}")
_QUANTITY = re.compile(
    r"\b(?:learning\s+rate|lr|weight\s+decay|batch\s+size|depth|width|layers|heads|warm-?up"
    rf"|warm-?down|beta[12]?|momentum|softcap|dropout){_VALUE}",
    _FLAGS,
)
_FENCE = re.compile(r"^ {0,9}(?:`{3}|~{3}).*?(?:^ {0,9}(?:`{3}|~{3})[^\n]*$|\Z)", _FLAGS)
_CODE = re.compile(
    r"^[ \t+-]*(?:import\s+torch|from\s+torch|class\s+\w+\(nn\.|def\s+forward\(|<{7}\s*SEARCH"
    r"|[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\s*=\s*[\d\[('\"-])",
    re.MULTILINE,
)


def notes_on(program: Program) -> list[Finding]:
    """All notes on what `program` asks for or carries, in a fixed order."""
    found = [_asked(program, ask) for ask in ASKS]
    return [n for n in (*found, _files(program), *_answers(program), _uncovered(program)) if n]


def _asked(program: Program, ask: _Ask) -> Finding | None:
    lines = [line for line, _ in _matches(program, ask.pattern)]
    if not lines:
        return None
    words = f"It {ask.what} ({on_lines(lines)}): {ask.answer}. Nothing to do."
    return note(ask.code, words, lines)


def _matches(
    program: Program, pattern: re.Pattern[str], *, fences: bool = True
) -> Iterator[tuple[int, str]]:
    """(line from 1, matched text) in the instructions, without what a negation forbids.

    Args:
        program: where to look.
        pattern: what for.
        fences: whether code fences count too; a log shown as an example is in one.
    """
    for start, piece in _placed(program):
        if piece.unit is None:
            continue
        text = piece.text if fences else _FENCE.sub(_blanked, piece.text)
        ends = list(accumulate(len(line) for line in split_lines(text)))
        for match in pattern.finditer(text):
            before = text[max(0, match.start() - _LOOK_BACK) : match.start()]
            if not _NEGATION.search(before):
                yield start + 1 + bisect_right(ends, match.start()), match[0]


def _blanked(match: re.Match[str]) -> str:
    """As many characters and lines, but nothing in them."""
    return re.sub(r"[^\r\n]", " ", match[0])


def _placed(program: Program) -> Iterator[tuple[int, Segment]]:
    """Each stretch of the text with the number of lines before it."""
    line = 0
    for piece in segments(program):
        yield line, piece
        line += len(split_lines(piece.text))


def _files(program: Program) -> Finding | None:
    named = [
        (line, text)
        for line, text in _matches(program, _FILE)
        if text.rsplit("/", 1)[-1].lower() not in _GIVEN
    ]
    if not named:
        return None
    names = list(dict.fromkeys(text for _, text in named))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    lines = [line for line, _ in named]
    words = (
        f"It names files that a run does not have ({', '.join(names[:SHOWN])}{more}; "
        f"{on_lines(lines)}): only train.py can be changed, and the history of experiments is "
        "shown to the researcher each time. Put what matters into the text."
    )
    return note("files", words, lines)


def _answers(program: Program) -> Iterator[Finding]:
    settings = [*_matches(program, _CONSTANT), *_matches(program, _QUANTITY, fences=False)]
    if len({" ".join(text.lower().split()) for _, text in settings}) >= MANY_SETTINGS:
        lines = [line for line, _ in settings]
        words = (
            f"It gives values of settings ({on_lines(lines)}): answers for one task rather than a "
            "way to find them. A contest may judge such programs apart; say how to search instead."
        )
        yield note("settings", words, lines)
    if code := [line for line, _ in _matches(program, _CODE)]:
        words = (
            f"It holds code that looks like train.py's ({on_lines(code)}): an answer rather than a "
            "way to find one. A contest may judge such programs apart; describe the idea instead."
        )
        yield note("code", words, code)


_STRUCTURE = re.compile(r"#{1,6}(?:\s.*)?|[-=*_\s]+|>+|<!--\s*role\b.*-->")


def _uncovered(program: Program) -> Finding | None:
    """Text between instructions that is no heading: comments, front matter, link definitions."""
    titles = {title for unit in program.instructions for title in unit.section.split(" / ")}
    lines = []
    for start, piece in _placed(program):
        if piece.unit is None:
            for number, line in enumerate(split_lines(piece.text), start=start + 1):
                plain = line.removeprefix("\ufeff").strip()
                if plain and not _STRUCTURE.fullmatch(plain) and plain not in titles:
                    lines.append(number)
    if not lines:
        return None
    it = "it" if len(lines) == 1 else "them"
    words = (
        f"The researcher sees {on_lines(lines)} but no instruction covers {it} (comments, front "
        "matter, link definitions): nothing can be cited or credited there. Write what matters as "
        "a list item or a paragraph."
    )
    return note("uncovered", words, lines)

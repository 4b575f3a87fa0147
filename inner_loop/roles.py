"""What each instruction of a program is for: contract, gate or strategy, and why we think so.

Owns: the three roles, the rules on headings and words, the author's way to correct them.
Does not own: what an instruction asks for (a researcher reads that) or what a rewriter may do with
a role.

Contract instructions keep an experiment possible and honest: setup, files, output format, the
metric, logging, safety. Gate instructions keep the loop going: never stop, timeouts, crashes.
Strategy is everything else, and the only thing a rewriter composes anew. The rules are words, not
understanding; an author corrects them with a comment on the line before an instruction or a
heading, which no reader of the Markdown sees: `<!-- role: strategy -->`.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import Literal

from inner_loop.outline import Heading, Outline, introduces, outline
from inner_loop.program import normalise, split_lines
from inner_loop.records import Instruction, Program, Record

InstructionRole = Literal["contract", "gate", "strategy"]


class UnitRole(Record):
    """The role of one instruction and what it was judged by."""

    role: InstructionRole
    reason: str
    """A few words, for example `section 'Setup'` or `names prepare.py`."""


ROLE_COMMENT = re.compile(r"<!--\s*role:\s*(contract|gate|strategy)\s*-->", re.IGNORECASE)

_PROTECTION: tuple[InstructionRole, ...] = ("strategy", "gate", "contract")


def _words(*alternatives: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{'|'.join(alternatives)})(?!\w)")


_OUTPUT_TITLE = (
    r"^(?:[\d.()]+ )?(?:(?:the|its|your|expected|(?:script|run|program|training)(?:'s)?) )*"
    r"output:?$"
)
_CONTRACT_HEADING = _words(
    *("set-?up", "getting started", "install\\w*", "environment", "files?", "safety", "security"),
    *(
        "integrity",
        "output format",
        _OUTPUT_TITLE,
        "what (?:the|it|your) .{0,40}prints",
        "summary block",
    ),
    *("log(?!-)", "logs", "logging", "results? (?:file|format)", "report format", "file format"),
    *("contract", "permissions?", "cheating"),
)
_LOOP_HEADING = _words(
    *("loops?", "procedure", "housekeeping", "workflow", "(?:one|each|every) experiment"),
    *("going round", "doing it"),
)
_PERMISSION = _words(
    *("(?:open|closed) to you", "(?:you|it|agents?) (?:can|may)(?:not|n't| not)?(?: \\w+)?:$"),
    *("(?:what|things) you (?:can|may|must)(?:not|n't| not)?(?: \\w+)?", "off[- ]limits"),
    *("allowed", "forbidden", "prohibited", "read-only"),
)
_FORBID = (
    r"(?:do not|don't|never|must not|mustn't|may not|cannot|can't|can not|no|not allowed|nothing"
    r"|forbidden|prohibited|off[- ]limits|only|without)"
)
_PROTECTED = (
    r"(?:files?|(?!train\.py)\w+\.(?:py|md|toml|json|txt)|metric|evaluat\w+|validation"
    r"|test (?:set|data)|scoring|scorer|dataset|corpus|tokenizer|time (?:limit|budget)"
    r"|packages?|dependenc\w+|imports?"
    r"|(?:change|set|fix|pick|choose|tune|search) (?:the |a )?(?:random )?seeds?)"
)
_AIM = "(?:aim|goal|objective)"
_MEASURED = (
    r"(?:\w*bpb|bits?|loss\w*|metric|score|perplexity|low(?:er|est)|best|better|improv\w+"
    r"|minimi[sz]\w+|reduc\w+)"
)
_CONTRACT_WORDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("names the fixed side", _words(r"prepare\.py", "evaluate_bpb", "read-only", "the metric")),
    ("names the log", _words(r"results\.tsv", r"run\.log", "grep", "tab-separated")),
    ("names the branch", _words("dedicated branch", "git checkout", r"autoresearch/\S+")),
    ("says how to train", _words(r"python train\.py", "uv run", "torchrun", "fixed time")),
    (
        "says what may be installed",
        _words(
            *("pip install", "install", "new (?:packages?|dependencies|libraries)"),
            r"packages?\b[^.;]{0,30}\binstalled",
        ),
    ),
    (
        "is about safety",
        _words(
            *("internet", "network access", "credentials?", "secrets?", "api keys?", "passwords?"),
            *("sudo", "rm -rf", "downloads?", "cheat\\w*", "outside (?:this|the) (?:folder|repo)"),
        ),
    ),
    (
        "says what must not be edited",
        re.compile(rf"(?<!\w){_FORBID}(?!\w)[^.;!?]{{0,80}}(?<!\w){_PROTECTED}(?!\w)"),
    ),
    (
        "says what may be edited",
        _words(
            rf"{_PROTECTED} is the only",
            *(r"edit train\.py and", r"(?:only|but|except) train\.py", r"train\.py (?:only|alone)"),
        ),
    ),
    (
        "asks for a baseline",
        _words(
            r"(?:begin|start) (?:with|from) (?:a|the) (?:baseline|un(?:changed|modified)[^.]*)",
            r"(?:script|train\.py) (?:exactly )?as (?:it is|it stands|is|you found it)",
            r"(?:trains?|measures?) the (?:un(?:changed|modified) script|script un\w+)",
            *("un(?:changed|modified) script is (?:trained|measured)", "baseline first"),
            "establish (?:a|the) baseline",
        ),
    ),
    (
        "names the aim",
        _words(
            *("^minimi[sz]e", "lower (?:val_bpb )?is better", "lowest val_bpb"),
            rf"(?:the {_AIM} is|^{_AIM}|your (?:task|job) is)(?!\w).{{0,200}}(?<!\w){_MEASURED}",
        ),
    ),
)
_GATE_WORDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "keeps the loop going",
        _words(
            *("never stop", "(?:do not|don't) stop", "(?:never|do not|don't) (?:ask|wait|pause)"),
            *("until you are (?:stopped|interrupted)", "indefinitely", "without end"),
            *("until (?:the|your) budget (?:is|ends|does)\\b[^.]*", "autonomous\\w*"),
        ),
    ),
    (
        "handles timeouts",
        _words(
            *("time-?outs?", "timed out", "kill(?:s|ed)?", "hangs?", "twice (?:its|the|as long)"),
        ),
    ),
    ("handles crashes", _words("crash(?:es|ed|ing)?", "traceback", "stack trace")),
)
_ACCEPTANCE = re.compile(
    r"(?=.*(?<!\w)(?:lower\w*|higher|equal|worse|better|improv\w+|went down|gains?)(?!\w))"
    r"(?=.*(?<!\w)(?:keep|kept|stays?|moves?|accept\w*|advance|discard\w*|undone|revert|reset"
    r"|goes? back)(?!\w))",
    re.DOTALL,
)


def roles(program: Program) -> tuple[UnitRole, ...]:
    """The role of each instruction, by its index."""
    structure = outline(program)
    overrides = _overrides(program, structure)
    judge = _Judge(program, structure)
    judged = [overrides.get(u.index) or judge.judge(u) for u in program.instructions]
    for index in reversed(range(len(judged))):
        if index not in overrides and introduces(program.instructions[index]):
            judged[index] = _as_its_list(judged, structure, index)
    return tuple(judged)


def role_of_units(program: Program) -> dict[str, UnitRole]:
    """The role of each instruction id; a text that stands twice has its more protected role."""
    found: dict[str, UnitRole] = {}
    for unit, role in zip(program.instructions, roles(program), strict=True):
        known = found.get(unit.id)
        if known is None or _PROTECTION.index(role.role) > _PROTECTION.index(known.role):
            found[unit.id] = role
    return found


class _Judge:
    """The rules, with what they need to know of the whole program."""

    def __init__(self, program: Program, structure: Outline) -> None:
        self.program = program
        self.structure = structure
        tops = {unit.section.split(" / ")[0] for unit in program.instructions}
        self.titled = len(tops) == 1  # all sections share one first heading
        self.titles: dict[tuple[str, re.Pattern[str]], str] = {}

    def judge(self, unit: Instruction) -> UnitRole:
        """By section, by what introduces it, then by its own words."""
        if title := self._title(unit, _CONTRACT_HEADING):
            return UnitRole(role="contract", reason=f"section '{_short(title)}'")
        above = self.structure.under[unit.index]
        lead = "" if above is None else self.program.instructions[above].text
        if _PERMISSION.search(normalise(lead)):
            return UnitRole(role="contract", reason=f"listed under '{_short(lead)}'")
        if self._opens(unit):
            return UnitRole(role="contract", reason="introduces the program")
        return self._judge_words(unit, normalise(unit.text))

    def _judge_words(self, unit: Instruction, text: str) -> UnitRole:
        for reason, words in _CONTRACT_WORDS:
            if words.search(text):
                return UnitRole(role="contract", reason=reason)
        for reason, words in _GATE_WORDS:
            if words.search(text):
                return UnitRole(role="gate", reason=reason)
        if _ACCEPTANCE.match(text):
            return UnitRole(role="strategy", reason="says what to keep")
        is_step = self.structure.item[unit.index] is not None or introduces(unit)
        if is_step and (title := self._title(unit, _LOOP_HEADING)):
            return UnitRole(role="gate", reason=f"a step of '{_short(title)}'")
        return UnitRole(role="strategy", reason="directs the research")

    def _title(self, unit: Instruction, words: re.Pattern[str]) -> str:
        """The nearest heading above that matches; a program's title decides nothing."""
        key = (unit.section, words)
        if key not in self.titles:
            path = unit.section.split(" / ")[int(self.titled) :]
            matching = (title for title in reversed(path) if words.search(normalise(title)))
            self.titles[key] = next(matching, "")
        return self.titles[key]

    def _opens(self, unit: Instruction) -> bool:
        """A first paragraph above all sections but the title says what the file is."""
        is_top = unit.index == 0 and " / " not in unit.section
        is_paragraph = self.structure.item[unit.index] is None
        later = (heading.start >= unit.end_line for heading in self.structure.headings)
        return is_top and is_paragraph and any(later)


def _short(text: str) -> str:
    """On one line, without emphasis, at most 40 characters."""
    plain = re.sub(r"[*`_]+", "", " ".join(text.split()))
    return plain if len(plain) <= 40 else f"{plain[:39]}\N{HORIZONTAL ELLIPSIS}"


def _as_its_list(judged: list[UnitRole], structure: Outline, index: int) -> UnitRole:
    """What introduces a list is as protected as the most protected of its items."""
    children = [judged[child] for child in structure.children(index)]
    strongest = max(
        children, key=lambda child: _PROTECTION.index(child.role), default=judged[index]
    )
    if _PROTECTION.index(strongest.role) <= _PROTECTION.index(judged[index].role):
        return judged[index]
    return UnitRole(role=strongest.role, reason=f"introduces {strongest.role} instructions")


# --- the author's word ------------------------------------------------------------------------


def _overrides(program: Program, structure: Outline) -> dict[int, UnitRole]:
    """Unit index -> the role its author's comment gives it; a unit's beats its section's."""
    lines = split_lines(program.text)
    by_section = dict(_section_overrides(program, structure, lines))
    return by_section | dict(_unit_overrides(program, structure, lines))


def _unit_overrides(
    program: Program, structure: Outline, lines: list[str]
) -> Iterator[tuple[int, UnitRole]]:
    """A comment in the unit's first line, or between it and the unit or heading before."""
    ends = _ends(program, structure)
    for unit in program.instructions:
        gap = lines[_last_end(ends, unit.start_line) : unit.start_line + 1]
        if role := _comment("".join(gap)):
            yield unit.index, role


def _section_overrides(
    program: Program, structure: Outline, lines: list[str]
) -> Iterator[tuple[int, UnitRole]]:
    """A comment between a heading and the unit or heading before it, outer sections first."""
    ends = _ends(program, structure)
    for heading in structure.headings:
        if role := _comment("".join(lines[_last_end(ends, heading.start) : heading.start])):
            last = _section_end(structure, heading)
            for unit in program.instructions:
                if heading.end <= unit.start_line and (last is None or unit.start_line < last):
                    yield unit.index, role


def _ends(program: Program, structure: Outline) -> list[int]:
    """One past the last line of every heading and unit, ascending."""
    headings = [heading.end for heading in structure.headings]
    return sorted(headings + [unit.end_line for unit in program.instructions])


def _last_end(ends: list[int], line: int) -> int:
    """Where the heading or unit before `line` ends."""
    before = bisect_right(ends, line)
    return ends[before - 1] if before else 0


def _section_end(structure: Outline, heading: Heading) -> int | None:
    later = (
        other.start
        for other in structure.headings
        if other.start >= heading.end and other.level <= heading.level
    )
    return next(later, None)


def _comment(text: str) -> UnitRole | None:
    found = ROLE_COMMENT.findall(text)
    if not found:
        return None
    role: InstructionRole = found[-1].lower()
    return UnitRole(role=role, reason="override comment")

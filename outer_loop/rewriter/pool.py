"""The strategy instructions of all entrants: who has which, and which may travel.

Owns: families (one instruction in its near-equal wordings, the unit of evidence), which program
holds which, and whether a wording makes sense away from home.
Does not own: effects (`thompson`) or what is composed (`offline`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from typing import NamedTuple

from inner_loop.outline import Outline, introduces, outline
from inner_loop.program import normalise
from inner_loop.records import Instruction, Program
from inner_loop.roles import UnitRole, roles
from outer_loop.rewriter.apply import checked_text
from outer_loop.rewriter.surgery import RewriteRefused, body_of

SAME_WORDING = 0.9  # of difflib's ratio: above, two texts are one instruction
_NEGATION = re.compile(
    r"(?<!\w)(?:not|never|no|none|without|avoid|leave|only|unless|until|\w+n't|more|less|larger"
    r"|smaller|higher|lower|raise|up|down|first|last|early|late|before|after|\d[\d.,]*)(?!\w)"
)
_FORBIDS = re.compile(
    r"(?<!\w)(?:not|never|don't|avoid|forbidden|off[- ]limits|leave|closed|without)(?!\w)"
)
_DANGLES = re.compile(
    r"(?<!\w)(?:above|below|as follows|this (?:program|file)|(?:this|these|those|that)"
    r" (?:section|list|phase|points?|steps?|rules?|order)"
    r"|the (?:phase|list|order|other (?:points?|rules?|steps?)))(?!\w)"
)


class Member(NamedTuple):
    """One instruction of one program."""

    program: Program
    unit: Instruction


@dataclass(frozen=True)
class Pool:
    """The programs of a field and their strategy instructions by family."""

    programs: dict[str, Program]
    families: dict[str, tuple[Member, ...]]
    """Id of the first wording -> the instruction in all programs that hold it."""
    held: dict[str, tuple[str, ...]]
    """Program id -> families, in document order."""

    def family_of(self, instruction_id: str) -> str | None:
        """The family an instruction belongs to; None if it is no strategy."""
        for name, members in self.families.items():
            if any(member.unit.id == instruction_id for member in members):
                return name
        return None


def gather(programs: Iterable[Program]) -> Pool:
    """The pool of `programs`, to be read only; one program given twice counts once."""
    return _gather(_SameField({program.id: program for program in programs}))


class _SameField:
    """Programs that equal others with the same names and texts, for the cache below."""

    def __init__(self, programs: dict[str, Program]) -> None:
        self.programs = programs
        self.key = tuple((name, each.name, each.text) for name, each in programs.items())

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _SameField) and self.key == other.key


@lru_cache(maxsize=8)
def _gather(field: _SameField) -> Pool:
    known = dict(field.programs)
    wordings = _Wordings()
    families: dict[str, list[Member]] = {}
    held: dict[str, dict[str, None]] = {}
    for program in known.values():
        held[program.id] = {}
        for unit in strategy_units(program):
            name = unit.id if unit.id in families else wordings.family(unit)
            families.setdefault(name, []).append(Member(program, unit))
            held[program.id][name] = None
    return Pool(
        known,
        {name: tuple(members) for name, members in families.items()},
        {program: tuple(names) for program, names in held.items()},
    )


def strategy_units(program: Program) -> list[Instruction]:
    """What may be composed anew; what introduces a list stays with its list."""
    judged = reading(program).roles
    return [
        unit
        for unit in program.instructions
        if judged[unit.index].role == "strategy" and not introduces(unit)
    ]


class Reading(NamedTuple):
    """A program's structure and roles."""

    outline: Outline
    roles: tuple[UnitRole, ...]


def reading(program: Program) -> Reading:
    """The structure and roles of `program`; kept for a moment."""
    return _reading(_Same(program))


def travels(member: Member) -> list[str] | None:
    """The lines of an instruction that makes sense in another program; None for others."""
    program, unit = member
    above = reading(program).outline.under[unit.index]
    title = unit.section.rsplit(" / ", 1)[-1]
    lead = "" if above is None else program.instructions[above].text
    if forbids(title) or forbids(lead) or _DANGLES.search(normalise(unit.text)):
        return None
    try:
        return checked_text("\n".join(body_of(program, unit.index)))
    except RewriteRefused:
        return None


def forbids(text: str) -> bool:
    """Whether what stands under a heading or lead-in may mean its opposite elsewhere."""
    return _FORBIDS.search(normalise(text)) is not None


def same_wording(one: str, other: str) -> bool:
    """Whether two texts say the same in nearly the same words."""
    a, b = normalise(one), normalise(other)
    return a == b or _near(min(a, b), max(a, b))


@lru_cache(maxsize=65536)
def _near(a: str, b: str) -> bool:
    if _NEGATION.findall(a) != _NEGATION.findall(b):
        return False
    matcher = SequenceMatcher(None, a, b, autojunk=False)
    return (
        matcher.real_quick_ratio() >= SAME_WORDING
        and matcher.quick_ratio() >= SAME_WORDING
        and matcher.ratio() >= SAME_WORDING
    )


class _Wordings:
    """The first wording of each family; finds the family of a text without trying them all."""

    def __init__(self) -> None:
        self.bits: dict[tuple[str, int], int] = {}
        self.groups: dict[tuple[str, ...], list[tuple[str, str, int]]] = {}
        """Negations -> name, normalised text and characters of each family, oldest first."""

    def family(self, unit: Instruction) -> str:
        """The oldest family `same_wording` finds for `unit`, or a new one of its own."""
        text = normalise(unit.text)
        bag = self._bag(text)
        group = self.groups.setdefault(tuple(_NEGATION.findall(text)), [])
        for name, other, others in group:
            if text == other or (
                _may_be_near(text, bag, other, others) and _near(min(text, other), max(text, other))
            ):
                return name
        group.append((unit.id, text, bag))
        return unit.id

    def _bag(self, text: str) -> int:
        """The characters of `text` as a set of bits, the n-th of a kind being a kind of its own."""
        seen: Counter[str] = Counter()
        bag = 0
        for character in text:
            key = (character, seen[character])
            seen[character] += 1
            bag |= 1 << self.bits.setdefault(key, len(self.bits))
        return bag


def _may_be_near(one: str, bag: int, other: str, others: int) -> bool:
    """The two upper bounds of difflib's ratio: by length, then by characters in common."""
    length = len(one) + len(other)
    if 2.0 * min(len(one), len(other)) / length < SAME_WORDING:
        return False
    return 2.0 * (bag & others).bit_count() / length >= SAME_WORDING


class _Same:
    """A program that equals another with the same text, for the cache below."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def __hash__(self) -> int:
        return hash(self.program.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.program.text == other.program.text


@lru_cache(maxsize=256)
def _reading(same: _Same) -> Reading:
    return Reading(outline(same.program), roles(same.program))


def with_text(units: Sequence[Instruction], text: str) -> bool:
    """Whether one of `units` says `text`, nearly word for word."""
    return any(same_wording(unit.text, text) for unit in units)

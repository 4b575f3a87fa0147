"""Where an instruction from another program fits into a program.

Owns: the order in which places are tried. Does not own: whether it can stand there (`surgery`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher

from inner_loop.program import normalise
from inner_loop.records import Instruction, Program
from outer_loop.rewriter.pool import forbids, reading, strategy_units

SAME_TITLE = 0.8  # of difflib's ratio
NEW_SECTION = "Strategy"


def places(program: Program, section: str) -> Iterator[tuple[str, str]]:
    """Pairs of (instruction to stand behind, section), one of them empty; the best first.

    Args:
        program: what the instruction goes into.
        section: the headings it stood under at home.
    """
    anchors = _anchors(program)
    title = _title(section)
    alike = [s for s in anchors if s and title and _alike(_title(s), title)]
    rest = [s for s in anchors if s not in alike]
    for name in [*alike, *rest]:
        yield anchors[name].id, ""
    yield "", _new_section(program)
    if program.instructions:
        yield program.instructions[-1].id, ""


def _anchors(program: Program) -> dict[str, Instruction]:
    """Section -> its last strategy instruction.

    Sections with most strategy come first; last come those whose instructions are numbered or
    introduced, since a newcomer may not fit what their order or introduction says.
    """
    structure = reading(program).outline
    found: dict[str, Instruction] = {}
    size: Counter[str] = Counter()
    particular: set[str] = set()
    for unit in strategy_units(program):
        lead, item = structure.under[unit.index], structure.item[unit.index]
        if structure.within[unit.index] is not None:
            continue
        if lead is not None and forbids(program.instructions[lead].text):
            continue
        found[unit.section] = unit
        size[unit.section] += 1
        if lead is not None or (item is not None and structure.items[item].number is not None):
            particular.add(unit.section)
    fitting = [section for section in found if not forbids(_title(section))]
    fitting.sort(key=lambda section: (section in particular, -size[section]))
    return {section: found[section] for section in fitting}


def _new_section(program: Program) -> str:
    """A section for strategy at the program's end, under its title where it has one."""
    tops = [h for h in reading(program).outline.headings if h.level == 1]
    return f"{tops[0].path} / {NEW_SECTION}" if len(tops) == 1 else NEW_SECTION


def _title(section: str) -> str:
    return normalise(section.rsplit(" / ", 1)[-1])


def _alike(one: str, other: str) -> bool:
    return SequenceMatcher(None, one, other, autojunk=False).ratio() >= SAME_TITLE

"""Three cuts on a program's text: put in, replace, take out one instruction.

Owns: that everything else stays byte for byte, with these exceptions: the numbers of an ordered
list are put right, a heading whose last instruction goes is dropped, blank lines do not pile up,
and a role comment goes with its instruction.
Does not own: what an operation means (`apply`). After each cut the text is parsed again, and a cut
that would change any other instruction is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from inner_loop.outline import Heading, Outline, outline
from inner_loop.program import parse_program, split_lines
from inner_loop.records import Instruction, Program
from inner_loop.roles import ROLE_COMMENT

_MARKER = re.compile(r"([ \t>]*)([-+*]|\d{1,9}[.)])([ \t]+)")
_NUMBER = re.compile(r"([ \t>]*)(\d{1,9})([.)])([ \t]*)")
_BEFORE_TEXT = re.compile(r"^[ \t>]*(?:\d{1,9}[.)])?")
_HEADING = re.compile(r" {0,3}(?:#{1,6}(?:[ \t]|$)|[^\s>+*-])")


class RewriteRefused(Exception):
    """What cannot be carried out, in one sentence."""


class Place(NamedTuple):
    """Where an instruction goes: behind a unit, or (unit None) at the end of a section."""

    unit: int | None
    section: str = ""


class _Lines:
    """A program's source lines while they are cut; the last one always has its line end."""

    def __init__(self, program: Program) -> None:
        text = program.text
        self.mark = "\ufeff" if text.startswith("\ufeff") else ""
        self.lines = split_lines(text.removeprefix("\ufeff"))
        found = re.search(r"\r\n|\r|\n", text)
        self.end = found.group() if found else "\n"
        self.open_end = bool(self.lines) and not self.lines[-1].endswith(("\r", "\n"))
        if self.open_end:
            self.lines[-1] += self.end

    def text(self) -> str:
        joined = "".join(self.lines)
        return self.mark + (joined.removesuffix(self.end) if self.open_end else joined)

    def blank(self, number: int) -> bool:
        return 0 <= number < len(self.lines) and not self.lines[number].strip()

    def put(self, number: int, new: Sequence[str]) -> None:
        self.lines[number:number] = [line + self.end for line in new]

    def cut(self, start: int, end: int) -> None:
        """Take lines out, and the blank ones that would then stand twice."""
        before = after = 0
        while self.blank(start - 1 - before):
            before += 1
        while self.blank(end + after):
            after += 1
        if start - before == 0:
            end += after
        elif end + after == len(self.lines):
            start -= max(before - after, 0)
        else:
            end += min(before, after)
        del self.lines[start:end]


# --- the three cuts ---------------------------------------------------------------------------


def insert(program: Program, place: Place, body: Sequence[str]) -> tuple[Program, int]:
    """`program` with one more instruction, and its index there.

    Args:
        program: what is changed.
        place: where the instruction goes.
        body: its Markdown lines, without a list marker or line ends.

    Raises:
        RewriteRefused: it cannot stand there without changing another instruction.
    """
    structure, lines = outline(program), _Lines(program)
    anchor = _anchor(program, structure, place)
    if anchor is None:
        index = _insert_under_heading(program, structure, lines, place.section, body)
    else:
        index = structure.subtree(anchor)[-1] + 1
        _insert_behind(program, structure, lines, anchor, body)
    kept = [*range(index), None, *range(index, len(program.instructions))]
    result = _parsed(program, lines, kept)
    section = place.section if anchor is None else program.instructions[anchor].section
    _check_new(result.instructions[index], body, section)
    if anchor is not None:
        result = _renumbered(program, structure, anchor, result, kept)
    return result, index


def replace(program: Program, unit: int, body: Sequence[str]) -> Program:
    """`program` with the text of one instruction exchanged.

    Raises:
        RewriteRefused: the new text would change another instruction.
    """
    structure, lines = outline(program), _Lines(program)
    one = program.instructions[unit]
    new = list(body)
    if structure.item[unit] is not None:
        new = _as_item(_marker(structure, lines, one), body)
    del lines.lines[one.start_line : one.end_line]
    lines.put(one.start_line, new)
    kept = [None if index == unit else index for index in range(len(program.instructions))]
    result = _parsed(program, lines, kept)
    _check_new(result.instructions[unit], body, one.section)
    return result


def remove(program: Program, unit: int) -> Program:
    """`program` without one instruction, and without the headings that stood for it alone.

    Raises:
        RewriteRefused: others are nested under it, or would change.
    """
    structure, lines = outline(program), _Lines(program)
    if nested := [i for i, above in enumerate(structure.within) if above == unit]:
        name = program.instructions[nested[0]].id
        raise RewriteRefused(f"{name} is nested under it; take that out or move it first")
    one = program.instructions[unit]
    ranges = [(one.start_line, one.end_line)]
    ranges += [(h.start, h.end) for h in _headings_of_it_alone(program, structure, lines, one)]
    for start, _ in tuple(ranges):
        ranges += _role_comments(program, structure, lines, start)
    for start, end in sorted(set(ranges), reverse=True):
        lines.cut(start, end)
    kept: list[int | None] = [i for i in range(len(program.instructions)) if i != unit]
    result = _parsed(program, lines, kept)
    return _renumbered(program, structure, unit, result, kept)


def body_of(program: Program, unit: int) -> list[str]:
    """The instruction's own Markdown lines, without list marker, indentation and line ends."""
    one = program.instructions[unit]
    own = _Lines(program).lines[one.start_line : one.end_line]
    lines = [line.rstrip("\r\n") for line in own]
    found = _MARKER.match(lines[0]) if outline(program).item[unit] is not None else None
    if found is None:
        return [lines[0].lstrip(" "), *lines[1:]]
    width = found.end()
    rest = [line[len(line[:width]) - len(line[:width].lstrip(" \t>")) :] for line in lines[1:]]
    return [lines[0][width:], *rest]


def alone(body: Sequence[str]) -> Instruction:
    """The one instruction that `body` is.

    Raises:
        RewriteRefused: it is none, more than one, or brings a heading or a list marker.
    """
    program = parse_program("\n".join(_as_item("- ", body)).encode(), "text")
    if len(program.instructions) != 1:
        count = len(program.instructions)
        raise RewriteRefused(f"a new text holds {count} instructions instead of one")
    structure, one = outline(program), program.instructions[0]
    if len(structure.items) != 1 or structure.headings:
        raise RewriteRefused("a new text has a list marker or a heading")
    if (one.start_line, one.end_line) != (0, len(body)):
        raise RewriteRefused("a new text holds lines that belong to no instruction")
    return one


# --- where ------------------------------------------------------------------------------------


def _anchor(program: Program, structure: Outline, place: Place) -> int | None:
    """The unit behind which `place` is; at the end of a section that is its last top-level one."""
    if place.unit is not None:
        return place.unit
    own = [unit.index for unit in program.instructions if unit.section == place.section]
    if not own:
        return None
    last = own[-1]
    while (above := structure.within[last]) is not None:
        last = above
    return last


def _insert_behind(
    program: Program, structure: Outline, lines: _Lines, anchor: int, body: Sequence[str]
) -> None:
    end = program.instructions[structure.subtree(anchor)[-1]].end_line
    if structure.item[anchor] is None:
        after = [] if lines.blank(end) or end == len(lines.lines) else [""]
        lines.put(end, ["", *body, *after])
        return
    item = _as_item(_marker(structure, lines, program.instructions[anchor]), body)
    lines.put(end, ["", *item] if _is_loose(structure, lines, anchor) else item)


def _insert_under_heading(
    program: Program, structure: Outline, lines: _Lines, section: str, body: Sequence[str]
) -> int:
    """Put the first instruction of a section in; open the section at the end if there is none."""
    found = [heading for heading in structure.headings if heading.path == section]
    item = _as_item("- ", body)
    if found:
        end = found[-1].end
        after = [] if lines.blank(end) or end == len(lines.lines) else [""]
        lines.put(end, ["", *item, *after])
        return sum(unit.start_line < end for unit in program.instructions)
    if not section.strip():
        raise RewriteRefused("it has no place; name an instruction or a section")
    before = [] if not lines.lines or lines.blank(len(lines.lines) - 1) else [""]
    lines.put(len(lines.lines), [*before, _new_heading(structure, section), "", *item])
    return len(program.instructions)


def _new_heading(structure: Outline, section: str) -> str:
    """The line that opens `section` at the end of the program, under the heading that it names."""
    for heading in reversed(_open_at_the_end(structure.headings)):
        if section.startswith(f"{heading.path} / "):
            title = section.removeprefix(f"{heading.path} / ")
            return f"{'#' * min(heading.level + 1, 6)} {title}"
    return f"{'#' if structure.headings else '##'} {section}"


def _open_at_the_end(headings: Sequence[Heading]) -> list[Heading]:
    chain: list[Heading] = []
    for heading in headings:
        chain = [*(above for above in chain if above.level < heading.level), heading]
    return chain


# --- lists ------------------------------------------------------------------------------------


def _marker(structure: Outline, lines: _Lines, unit: Instruction) -> str:
    """Indentation, list marker and space of a unit that opens its list item."""
    item = structure.item[unit.index]
    found = _MARKER.match(lines.lines[unit.start_line])
    if found is None or item is None or structure.items[item].start != unit.start_line:
        raise RewriteRefused(f"{unit.id} is a later part of a list item; name another place")
    return found.group()


def _as_item(marker: str, body: Sequence[str]) -> list[str]:
    hanging = re.sub(r"[^>\t]", " ", marker)
    return [marker + body[0], *(hanging + line if line.strip() else line for line in body[1:])]


def _siblings(structure: Outline, unit: int) -> list[int]:
    """Indices of the items of the unit's list, its own included."""
    item = structure.item[unit]
    if item is None:
        return []
    own = structure.items[item].list
    return [index for index, other in enumerate(structure.items) if other.list == own]


def _is_loose(structure: Outline, lines: _Lines, unit: int) -> bool:
    starts = [structure.items[index].start for index in _siblings(structure, unit)]
    return any(lines.blank(start - 1) for start in starts[1:])


def _renumbered(
    old: Program, structure: Outline, unit: int, result: Program, kept: Sequence[int | None]
) -> Program:
    """`result` with the unit's list numbered as it was: one by one from the same first number."""
    siblings = _siblings(structure, unit)
    numbers = [structure.items[index].number for index in siblings]
    first = numbers[0] if numbers else None
    if first is None or numbers != list(range(first, first + len(numbers))):
        return result
    if len(numbers) == 1 and len(result.instructions) < len(old.instructions):
        return result
    lines, after = _Lines(result), outline(result)
    there = [new for new, index in enumerate(kept) if index is not None and index != unit]
    mates = [
        new
        for new in there
        if (item := structure.item[kept[new] or 0]) is not None and item in siblings
    ]
    own = kept.index(unit) if unit in kept else (mates[0] if mates else None)
    if own is None:
        return result
    for number, index in enumerate(_siblings(after, own), start=first):
        _set_number(lines, after, index, number)
    return _parsed(result, lines, list(range(len(result.instructions))))


def _set_number(lines: _Lines, structure: Outline, index: int, number: int) -> None:
    """Write an item's number; what hangs under the item keeps hanging there."""
    item = structure.items[index]
    found = _NUMBER.match(lines.lines[item.start])
    if found is None or int(found[2]) == number:
        return
    rest = range(item.start + 1, item.end)
    hangs = any(lines.lines[line].strip() for line in rest)
    grown = len(str(number)) - len(found[2])
    space = found[4]
    if hangs and grown < 0:
        space += " " * -grown
    line = lines.lines[item.start]
    lines.lines[item.start] = f"{found[1]}{number}{found[3]}{space}{line[found.end() :]}"
    for below in rest if grown > 0 else ():
        if lines.lines[below].strip():
            lines.lines[below] = " " * grown + lines.lines[below]


# --- what goes with an instruction ------------------------------------------------------------


def _headings_of_it_alone(
    program: Program, structure: Outline, lines: _Lines, unit: Instruction
) -> list[Heading]:
    """The headings above the unit that no other unit stands under."""
    above = _open_at_the_end([h for h in structure.headings if h.end <= unit.start_line])
    alone = []
    for heading in above:
        following = (
            other.start
            for other in structure.headings
            if other.start >= heading.end and other.level <= heading.level
        )
        end = next(following, len(lines.lines))
        held = [u for u in program.instructions if heading.end <= u.start_line < end]
        if len(held) == 1 and _HEADING.match(lines.lines[heading.start]):
            alone.append(heading)
    return alone


def _role_comments(
    program: Program, structure: Outline, lines: _Lines, start: int
) -> list[tuple[int, int]]:
    """Lines of nothing but a role comment, right before what starts at line `start`."""
    ends = [unit.end_line for unit in program.instructions if unit.end_line <= start]
    ends += [heading.end for heading in structure.headings if heading.end <= start]
    gap = range(max(ends, default=0), start)
    return [(n, n + 1) for n in gap if ROLE_COMMENT.fullmatch(lines.lines[n].strip())]


# --- nothing else changed ---------------------------------------------------------------------


def _check_new(unit: Instruction, body: Sequence[str], section: str) -> None:
    if alone(body).id != unit.id:
        raise RewriteRefused("its text would read differently there")
    if unit.section != section:
        raise RewriteRefused(f"it would stand in section '{unit.section}', not '{section}'")


def _parsed(program: Program, lines: _Lines, kept: Sequence[int | None]) -> Program:
    """The program after a cut.

    Args:
        program: as it was before.
        lines: its lines after the cut.
        kept: for each instruction that should now stand there, its old index; None = new.

    Raises:
        RewriteRefused: another instruction is not what it was.
    """
    result = parse_program(lines.text().encode(), program.name)
    if len(result.instructions) != len(kept):
        raise RewriteRefused(
            f"it would leave {len(result.instructions)} instructions, not {len(kept)}"
        )
    before, after = outline(program), outline(result)
    old_lines, new_lines = _Lines(program).lines, lines.lines
    for new, old in zip(result.instructions, kept, strict=True):
        if old is None:
            continue
        one = program.instructions[old]
        above = after.within[new.index]
        nested = None if above is None else kept[above]
        same = (one.id, one.section, before.within[old]) == (new.id, new.section, nested)
        if not same or _plain(old_lines, one) != _plain(new_lines, new):
            raise RewriteRefused(f"it would change {one.id}")
    return result


def _plain(lines: Sequence[str], unit: Instruction) -> list[str]:
    """The unit's source lines without what a cut may change: indentation, number, last line end."""
    own = lines[unit.start_line : unit.end_line]
    return [_BEFORE_TEXT.sub("", line).strip() for line in own]

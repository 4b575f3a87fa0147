"""Declared operations carried out on a program's text.

Owns: what each kind of operation does, and the refusal of one that cannot be done as declared.
Does not own: the cuts themselves (`surgery`), or whether the result may run (`verify`).
"""

from __future__ import annotations

from collections.abc import Sequence

from inner_loop.outline import outline
from inner_loop.program import split_lines
from inner_loop.proposal import Operation, OperationKind
from inner_loop.records import Program
from outer_loop.rewriter.surgery import (
    Place,
    RewriteRefused,
    alone,
    body_of,
    insert,
    remove,
    replace,
)

_SHAPES: dict[OperationKind, tuple[str, str]] = {
    "ADD": ("no instruction", "one text"),
    "EDIT": ("one instruction", "one text"),
    "REMOVE": ("one instruction", "no text"),
    "MOVE": ("one instruction", "no text"),
    "MERGE": ("two or more instructions", "one text"),
    "SPLIT": ("one instruction", "two or more texts"),
}


def apply(base: Program, operations: Sequence[Operation]) -> Program:
    """The program after all operations, each carried out on what the last one left.

    Raises:
        RewriteRefused: one sentence: which operation cannot be done as declared, and why.
    """
    program = base
    for number, operation in enumerate(operations, start=1):
        try:
            program = apply_one(program, operation)
        except RewriteRefused as refusal:
            raise RewriteRefused(f"operation {number}, {operation.kind}: {refusal}") from refusal
    return program


def apply_one(program: Program, operation: Operation) -> Program:
    """The program after one operation.

    Raises:
        RewriteRefused: one sentence: why it cannot be done as declared.
    """
    _check_shape(operation)
    bodies = [checked_text(text) for text in operation.texts]
    units = [index_of(program, name) for name in operation.instruction_ids]
    match operation.kind:
        case "ADD":
            return insert(program, _place(program, operation), bodies[0])[0]
        case "EDIT":
            return replace(program, units[0], bodies[0])
        case "REMOVE":
            return remove(program, units[0])
        case "MOVE":
            return _move(program, operation, units[0])
        case "MERGE":
            return _merge(program, units, bodies[0])
        case "SPLIT":
            return _split(program, units[0], bodies)


def index_of(program: Program, name: str) -> int:
    """The index of the instruction with id `name`.

    Raises:
        RewriteRefused: the program has none, or more than one.
    """
    found = [unit.index for unit in program.instructions if unit.id == name]
    if not found:
        raise RewriteRefused(f"the program has no {name}")
    if len(found) > 1:
        raise RewriteRefused(f"{name} stands {len(found)} times in the program")
    return found[0]


def checked_text(text: str) -> list[str]:
    """The lines of an instruction's new text.

    Raises:
        RewriteRefused: it is not exactly one instruction without a list marker.
    """
    if "<!--" in text:
        raise RewriteRefused("a new text holds a hidden comment")
    lines = [line.rstrip("\r\n") for line in split_lines(text.strip("\r\n"))]
    if not lines:
        raise RewriteRefused("a new text is empty")
    alone(lines)
    return lines


def _check_shape(operation: Operation) -> None:
    """Each kind has its number of instructions and texts, and a place only where it needs one."""
    many = ("no", "one", "two or more")
    ids = f"{many[min(len(operation.instruction_ids), 2)]} instruction"
    texts = f"{many[min(len(operation.texts), 2)]} text"
    wanted_ids, wanted_texts = _SHAPES[operation.kind]
    if ids != wanted_ids.removesuffix("s") or texts != wanted_texts.removesuffix("s"):
        raise RewriteRefused(f"it must have {wanted_ids} and {wanted_texts}")
    if len(set(operation.instruction_ids)) < len(operation.instruction_ids):
        raise RewriteRefused("it names the same instruction twice")
    if operation.kind not in ("ADD", "MOVE") and (operation.after or operation.section):
        raise RewriteRefused("it has a place and needs none")


def _place(program: Program, operation: Operation) -> Place:
    if operation.after and operation.section:
        raise RewriteRefused("it has two places; name an instruction or a section")
    if operation.after:
        return Place(index_of(program, operation.after))
    return Place(None, operation.section)


def _move(program: Program, operation: Operation, unit: int) -> Program:
    place = _place(program, operation)
    if place.unit is not None and place.unit in outline(program).subtree(unit):
        raise RewriteRefused("it would move an instruction behind itself")
    both, new = insert(program, place, body_of(program, unit))
    moved = remove(both, unit if unit < new else unit + 1)
    if moved.text == program.text:
        raise RewriteRefused("the instruction is already there")
    return moved


def _merge(program: Program, units: Sequence[int], body: Sequence[str]) -> Program:
    program = replace(program, units[0], body)
    for unit in sorted(units[1:], reverse=True):
        program = remove(program, unit)
    return program


def _split(program: Program, unit: int, bodies: Sequence[Sequence[str]]) -> Program:
    program = replace(program, unit, bodies[0])
    for body in bodies[1:]:
        program, unit = insert(program, Place(unit), body)
    return program

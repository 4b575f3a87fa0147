"""Whether a rewrite is what it declares, and may run.

Owns: the checks between a base program and a rewrite of it, each with the exact reason. They trust
neither the rewriter nor `apply`: the text is judged first for what it is, then its instructions are
compared with the declared operations, then every byte.
Does not own: the door that every program passes (`outer_loop.door`), or operations.

A rewriter writes strategy only. A contract instruction keeps its characters and its place, a gate
instruction keeps its words and may move, and what is written anew may read as neither. What is not
touched stays under what introduces it, and nothing moves into or out of what forbids. Roles are
words, not understanding: a strategy text that contradicts a rule in other words is not noticed.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from inner_loop.outline import outline
from inner_loop.program import MAX_PROGRAM_BYTES, parse_program, split_lines
from inner_loop.proposal import Operation, Proposal
from inner_loop.records import Instruction, Program
from inner_loop.roles import role_of_units
from outer_loop.door_text import invisible, is_wrapped, reads_like_a_reply, reads_like_an_error
from outer_loop.rewriter.apply import apply, checked_text
from outer_loop.rewriter.pool import forbids
from outer_loop.rewriter.rules import rule_in, rule_in_title
from outer_loop.rewriter.surgery import RewriteRefused, alone

_MARKER = re.compile(r"^([ \t>]*)(?:(?:\d{1,9}[.)]|[-*+])[ \t]+)+")


def verified(proposal: Proposal, base: Program, earlier: Collection[str] = ()) -> Proposal:
    """The proposal with its rejection filled in; empty where it may run.

    Args:
        proposal: what a rewriter declared, and the text it made.
        base: the program it rewrites.
        earlier: ids of the programs known so far.
    """
    reason = rejection(base, proposal.operations, proposal.text, earlier)
    wrong = _wrong_label(proposal, base)
    return proposal.model_copy(update={"rejection": reason or wrong})


def rejection(
    base: Program, operations: Sequence[Operation], text: str, earlier: Collection[str] = ()
) -> str:
    """Why `text` may not run as the rewrite of `base` by `operations`; empty where it may."""
    if reason := text_rejection(base, text, earlier):
        return reason
    result = parse_program(text.encode(), base.name)
    if reason := _lost_role(base, result) or _undeclared_units(base, operations, result):
        return reason
    if reason := _other_lead(base, operations, result) or _turned(base, operations, result):
        return reason
    try:
        declared = apply(base, operations)
    except RewriteRefused as refusal:
        return f"The operations cannot be carried out: {refusal}."
    return _undeclared_lines(declared.text, text)


def text_rejection(base: Program, text: str, earlier: Collection[str]) -> str:
    """What is wrong with a text whatever its operations were; empty where nothing is."""
    try:
        body = text.encode()
    except UnicodeEncodeError as error:
        return f"The rewrite is not UTF-8 text (character {error.start})."
    if len(body) > MAX_PROGRAM_BYTES:
        return f"The rewrite has {len(body):,} bytes; a program may have {MAX_PROGRAM_BYTES:,}."
    if not text.removeprefix("\ufeff").strip():
        return "The rewrite is empty."
    if reason := _control_character(base.text, text):
        return reason
    result = parse_program(body, base.name)
    if is_wrapped(result) and not is_wrapped(base):
        return "The rewrite is wrapped in one code fence."
    if _is_an_answer(text) and not _is_an_answer(base.text):
        return "The rewrite reads like an error message or an answer, not like a program."
    if result.id == base.id:
        return "The rewrite changes nothing."
    if result.id in earlier:
        return f"The rewrite equals an earlier program ({result.id})."
    return "" if result.instructions else "The rewrite holds no instruction."


def _is_an_answer(text: str) -> bool:
    return reads_like_an_error(text) or reads_like_a_reply(text)


def _control_character(base: str, text: str) -> str:
    """What the door would refuse, unless the base has it too."""
    for number, line in enumerate(split_lines(text), start=1):
        for before, character, after in zip(f" {line}", line, f"{line[1:]} ", strict=False):
            if character not in base and invisible(character, before, after):
                return f"Line {number} of the rewrite has the control character {character!a}."
    return ""


# --- roles ------------------------------------------------------------------------------------


def _lost_role(base: Program, result: Program) -> str:
    """A contract or gate instruction that is gone, doubled back into strategy or moved."""
    before, after = role_of_units(base), role_of_units(result)
    for unit in base.instructions:
        role, now = before[unit.id], after.get(unit.id)
        if now is None and role.role == "contract":
            return f"The rewrite loses the contract instruction {unit.id} ({role.reason})."
        if now is not None and now.role != role.role:
            return f"The rewrite turns {unit.id} from {role.role} into {now.role} ({now.reason})."
    fixed = [unit.id for unit in base.instructions if before[unit.id].role == "contract"]
    held = set(fixed)
    there = [unit.id for unit in result.instructions if unit.id in held]
    if there != fixed:
        return "The rewrite repeats or reorders contract instructions."
    return _reworded(base, result, held)


def _reworded(base: Program, result: Program, held: Collection[str]) -> str:
    """A contract instruction whose id is the same and whose characters are not.

    An id ignores case, emphasis and spacing, all of which matter to a file name or a command.
    """
    for (name, wanted), (_, found) in zip(
        _sources(base, held), _sources(result, held), strict=True
    ):
        if wanted != found:
            return f"The rewrite changes the wording of the contract instruction {name}."
    return ""


def _sources(program: Program, held: Collection[str]) -> Iterator[tuple[str, list[str]]]:
    """The id and lines of each held instruction, without list markers and indentation."""
    lines = split_lines(program.text)
    for unit in program.instructions:
        if unit.id in held:
            first, *rest = lines[unit.start_line : unit.end_line]
            yield unit.id, [_bare(_MARKER.sub(r"\1", first)), *map(_bare, rest)]


def _bare(line: str) -> str:
    """Without indentation and line end; a quote stays one."""
    body = line.lstrip(" \t>")
    return line[: len(line) - len(body)].replace(" ", "").replace("\t", "") + body.rstrip("\r\n")


def _lost_protected(base: Program, operations: Sequence[Operation]) -> str:
    before = role_of_units(base)
    for operation in operations:
        kind = operation.kind
        for name in operation.instruction_ids:
            role = before.get(name)
            may_move = role is not None and role.role == "gate" and kind == "MOVE"
            if role and role.role != "strategy" and kind != "ADD" and not may_move:
                does = "lose" if role.role == "gate" and kind == "REMOVE" else "change"
                does = "move" if kind == "MOVE" else does
                return f"{kind} would {does} the {role.role} instruction {name} ({role.reason})."
    return ""


def _wrote_a_rule(operations: Sequence[Operation], result: Program) -> str:
    """A new text that reads as contract or gate, by its own words or where it stands."""
    there = role_of_units(result)
    for operation in operations:
        for text, name in zip(operation.texts, _ids(operation.texts), strict=True):
            role = rule_in(text) or there.get(name)
            if role and role.role != "strategy":
                return (
                    f"{operation.kind} would write the {role.role} instruction {name} "
                    f"({role.reason}); a rewriter writes strategy only."
                )
    return ""


def _opened_a_rule(base: Program, result: Program) -> str:
    """A new heading that reads as contract or gate; a researcher reads headings too."""
    known = {heading.path for heading in outline(base).headings}
    lines = split_lines(result.text)
    for heading in outline(result).headings:
        title = " ".join("".join(lines[heading.start : heading.end]).strip("# \t\r\n").split())
        if heading.path not in known and (role := rule_in_title(title)):
            return (
                f"The rewrite opens the section {title[:60]!r}, which reads as {role.role} "
                f"({role.reason}); a rewriter writes strategy only."
            )
    return ""


# --- introductions ----------------------------------------------------------------------------


def _other_lead(base: Program, operations: Sequence[Operation], result: Program) -> str:
    """An untouched instruction that lost what it stood under, or stands under something else.

    What is listed under "never paid:" means its opposite without these words.
    """
    touched = set(_touched(operations))
    before, after = _leads(base), _leads(result)
    for name in before:
        if name in touched or before[name] == after.get(name):
            continue
        lost = [lead for lead in before[name] if lead]
        for operation in operations:
            for lead in (each for each in lost if each in operation.instruction_ids):
                return (
                    f"{operation.kind} would take {lead} from {name}, which stands under it; that "
                    "has to go first, or stay."
                )
        return f"Instruction {name} would stand under another introduction than before."
    return ""


def _leads(program: Program) -> dict[str, list[str]]:
    """Instruction id -> what introduces it, each place where it stands; empty for nothing."""
    under = outline(program).under
    found: dict[str, list[str]] = {}
    for unit in program.instructions:
        above = under[unit.index]
        lead = "" if above is None else program.instructions[above].id
        found.setdefault(unit.id, []).append(lead)
    return found


def _turned(base: Program, operations: Sequence[Operation], result: Program) -> str:
    """An instruction that moved into or out of a list or section that forbids."""
    moved = {n for each in operations if each.kind == "MOVE" for n in each.instruction_ids}
    there = {unit.id: unit for unit in result.instructions}
    for unit in base.instructions:
        now = there.get(unit.id)
        if unit.id not in moved or now is None:
            continue
        before, after = _forbidding(base, unit), _forbidding(result, now)
        if before != after:
            which, words = (
                ("out of", before - after) if before - after else ("into", after - before)
            )
            return (
                f"MOVE would take {unit.id} {which} {min(words)[:60]!r}, where it may mean the "
                "opposite."
            )
    return ""


def _forbidding(program: Program, unit: Instruction) -> set[str]:
    """The headings and introductions around a unit that forbid what stands under them."""
    under = outline(program).under
    around = unit.section.split(" / ")
    above = under[unit.index]
    while above is not None:
        around.append(" ".join(program.instructions[above].text.split()))
        above = under[above]
    return {text for text in around if forbids(text)}


# --- declared and done ------------------------------------------------------------------------


def _undeclared_units(base: Program, operations: Sequence[Operation], result: Program) -> str:
    """An instruction that came or went, or changed places, without an operation that says so."""
    if reason := _lost_protected(base, operations):
        return reason
    try:
        expected = _expected(base, operations)
    except RewriteRefused as refusal:
        return f"An operation is not well formed: {refusal}."
    if reason := _wrote_a_rule(operations, result) or _opened_a_rule(base, result):
        return reason
    found = Counter(unit.id for unit in result.instructions)
    for name in expected - found:
        where = "is gone" if name in {unit.id for unit in base.instructions} else "is missing"
        return f"Instruction {name} {where} and no operation takes it out."
    for name in found - expected:
        return f"Instruction {name} is new and no operation puts it in."
    touched = set(_touched(operations))
    before = [unit.id for unit in base.instructions if unit.id not in touched]
    after = [unit.id for unit in result.instructions if unit.id in set(before)]
    if len(before) == len(after) and before != after:
        name = next(a for a, b in zip(after, before, strict=True) if a != b)
        return f"Instruction {name} stands elsewhere and no operation moves it."
    return ""


def _expected(base: Program, operations: Sequence[Operation]) -> Counter[str]:
    """How often each instruction should stand in the result."""
    count = Counter(unit.id for unit in base.instructions)
    for operation in operations:
        if operation.kind in ("EDIT", "REMOVE", "MERGE", "SPLIT"):
            count.subtract(operation.instruction_ids)
        count.update(_ids(operation.texts))
    return +count


def _touched(operations: Sequence[Operation]) -> Iterator[str]:
    for operation in operations:
        yield from operation.instruction_ids
        yield from _ids(operation.texts)


def _ids(texts: Sequence[str]) -> list[str]:
    return [alone(checked_text(text)).id for text in texts]


def _undeclared_lines(declared: str, text: str) -> str:
    """The first line that is not what the operations make of the base."""
    if declared == text:
        return ""
    wanted, found = split_lines(declared), split_lines(text)
    changes = difflib.SequenceMatcher(None, wanted, found, autojunk=False).get_opcodes()
    kind, start, end, first, last = next(each for each in changes if each[0] != "equal")
    if kind == "delete":
        gone = "".join(wanted[start:end]).strip()[:60]
        return f"Lines are missing after line {first} of the rewrite: {gone!r}."
    shown = "".join(found[first:last]).strip()[:60]
    return f"Line {first + 1} of the rewrite changed and no operation says so: {shown!r}."


def _wrong_label(proposal: Proposal, base: Program) -> str:
    result = parse_program(proposal.text.encode("utf-8", "replace"), base.name)
    if proposal.base_program_id != base.id:
        return f"The proposal names the base {proposal.base_program_id}, not {base.id}."
    if proposal.program_id != result.id:
        return f"The proposal names the program {proposal.program_id}, its text is {result.id}."
    return ""

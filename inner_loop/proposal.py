"""What a rewriter writes: declared operations on instructions, and the program they make.

Owns: the shape of an operation and of a proposal, the same for the offline and the model rewriter.
Does not own: carrying operations out, judging them, or how they are thought of
(`outer_loop.rewriter`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from inner_loop.records import SCHEMA_VERSION, Record, content_hash

OperationKind = Literal["ADD", "EDIT", "REMOVE", "MOVE", "MERGE", "SPLIT"]


class Operation(Record):
    """One declared change. Operations are carried out in order, each on what the last one left.

    | kind | instruction_ids | texts | place |
    |---|---|---|---|
    | ADD | none | the new text | `after` or `section` |
    | EDIT | one | its new text | where it is |
    | REMOVE | one | none | |
    | MOVE | one | none | `after` or `section` |
    | MERGE | two or more | the text that stands for all | where the first one is |
    | SPLIT | one | two or more | where it is |
    """

    kind: OperationKind
    instruction_ids: tuple[str, ...] = ()
    """What it acts on."""
    texts: tuple[str, ...] = ()
    """New texts, each the Markdown of one instruction without a list marker."""
    after: str = ""
    """Id of the instruction behind which it goes (and behind what is nested under that one)."""
    section: str = ""
    """Where `after` is empty: the headings joined by ` / `, at the section's end; one that does
    not exist is opened at the end of the program."""
    source_program_id: str = ""
    """The program a text comes from; empty where the rewriter wrote it."""
    hypothesis: str
    """One line: why this should raise the gain."""
    evidence: tuple[str, ...] = ()
    """Rows of the evidence table that it rests on, as they were shown: `E-3 effect I-...: ...`.
    Empty for a rewriter that is not shown a table, and cites in its hypothesis."""


class Proposal(Record):
    """A program that a rewriter proposes, with all that was declared about it."""

    schema_version: int = SCHEMA_VERSION
    id: str
    """`P-` and 8 hex digits of the base program and the operations."""
    rewriter: str
    """`offline`, or the model that wrote it."""
    base_program_id: str
    parents: tuple[str, ...]
    """Program ids: the base first, then those that texts come from."""
    operations: tuple[Operation, ...]
    focus: str
    """One line: what this proposal is about."""
    hypothesis: str
    """One line: why it should beat its base."""
    text: str
    """The resulting program, whole."""
    program_id: str
    """Its id as a program."""
    rejection: str = ""
    """Why it may not run; empty where it may."""


class Evidence(Record):
    """One run's result, as a rewriter sees it."""

    program_id: str
    block: str | int
    """What the run shares its conditions with: tournament and replicate."""
    gain: float
    """In mbpb."""
    run_id: str


def proposal_id(base_program_id: str, operations: Sequence[Operation]) -> str:
    """The id of the proposal that does `operations` to a program.

    Operations without evidence hash as they did before there was that field.
    """
    declared = [operation.model_dump(mode="json") for operation in operations]
    for each in declared:
        if not each["evidence"]:
            del each["evidence"]
    return f"P-{content_hash([base_program_id, declared], length=8)}"

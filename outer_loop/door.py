"""The door: what `check` and `submit` say about one offered program.

Owns: the outcome (accepted, accepted with notes, refused), the comparison with programs that are
known already, name and card, and how the program reads: its instructions with their roles.
Does not own: byte and character checks (`door_text`), notes on what it asks for (`door_notes`),
keeping it (`pool`), what a role means (`inner_loop.roles`). No bytes raise here: a bad program is a
report. Only a path that leads nowhere is a `UserError`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from analysis.wording import count, one_line, visible
from inner_loop.errors import UserError
from inner_loop.program import (
    MAX_PROGRAM_BYTES,
    Card,
    normalise,
    parse_program,
    program_file,
    program_name,
    read_card,
)
from inner_loop.records import SCHEMA_VERSION, Program, Record
from inner_loop.roles import role_of_units
from outer_loop.door_notes import notes_on
from outer_loop.door_text import (
    SHOWN,
    Finding,
    character_findings,
    decoded,
    invisible,
    note,
    on_lines,
    refused,
    shape_findings,
    size_findings,
)
from outer_loop.plan import BASELINE_NAME, NAME

NEAR = 0.8
"""Resemblance from which another program is called a near-duplicate."""
SHINGLE = 3
"""Words in a row that are compared."""
MAX_CARD_CHARACTERS = 300
FIRST_WORDS = 60
IN_POOL = "in-pool"
"""Code of the note on a program that the pool has under the same name."""

Outcome = Literal["accepted", "accepted with notes", "refused"]
Place = Literal["shipped", "in the pool"]


class Unit(Record):
    """One instruction as the door reads it."""

    id: str
    line: int
    """First line in the file, from 1."""
    section: str
    role: str
    """contract, gate or strategy."""
    why: str
    """What made it so."""
    words: str
    """How it begins."""


class DoorReport(Record):
    """Everything the door says about one file, as `check --json` prints it."""

    schema_version: int = SCHEMA_VERSION
    file: str
    name: str
    """What it would be called in the pool."""
    program_id: str = ""
    """Empty if the bytes are too many or not text."""
    outcome: Outcome
    findings: tuple[Finding, ...]
    """Refusals first."""
    instructions: tuple[Unit, ...] = ()
    """How the text is read; empty if it is not text."""

    @property
    def refusals(self) -> tuple[Finding, ...]:
        """What keeps it out."""
        return tuple(f for f in self.findings if f.severity == "refused")

    @property
    def notes(self) -> tuple[Finding, ...]:
        """What it may live with."""
        return tuple(f for f in self.findings if f.severity == "note")


class Known(NamedTuple):
    """A program that is there already."""

    program: Program
    place: Place


class Offer(NamedTuple):
    """A file as it was read: everything `examine` looks at."""

    file: str
    body: bytes
    """At most one byte more than a program may have."""
    size: int
    name: str
    card: Card = Card()
    card_problem: str = ""
    side_files: tuple[str, ...] = ()


def read_offer(path: Path, name: str | None = None) -> Offer:
    """Read a program.md, or a folder that holds one, with what lies beside it.

    Raises:
        UserError: there is nothing to read at `path`.
    """
    file = program_file(path)
    try:
        with file.open("rb") as stream:
            body = stream.read(MAX_PROGRAM_BYTES + 1)
        size = max(file.stat().st_size, len(body))
        beside = sorted(p.name for p in path.iterdir()) if path.is_dir() else []
    except OSError as error:
        raise UserError(f"{_plain(str(file))} cannot be read ({error.strerror}).") from error
    card, problem = Card(), ""
    try:
        card = read_card(file)
    except UserError as error:
        problem = str(error)
    side = tuple(_plain(n) for n in beside if n not in (file.name, "card.toml"))
    called = program_name(file) if name is None else name
    return Offer(_plain(str(path)), body, size, called, card, problem, side)


def examine(offer: Offer, known: Sequence[Known] = ()) -> DoorReport:
    """What the door says about `offer`, given the programs that are there already."""
    findings = [*size_findings(offer.size), *_name(offer.name), *_card(offer)]
    text = None if offer.size > MAX_PROGRAM_BYTES else decoded(offer.body)
    if not isinstance(text, str):
        return _report(offer, None, findings if text is None else [*findings, text])
    program = parse_program(offer.body, offer.name)
    shape = shape_findings(program)
    findings += [*character_findings(text), *shape, *_against(program, known)]
    if not any(f.severity == "refused" for f in shape):
        findings += [*notes_on(program), *_repeated(program)]
    return _report(offer, program, findings)


def _report(offer: Offer, program: Program | None, findings: Sequence[Finding]) -> DoorReport:
    ordered = sorted(findings, key=lambda f: f.severity != "refused")
    outcome: Outcome = "accepted with notes" if ordered else "accepted"
    if ordered and ordered[0].severity == "refused":
        outcome = "refused"
    return DoorReport(
        file=offer.file,
        name=_plain(offer.name),
        program_id=program.id if program else "",
        outcome=outcome,
        findings=tuple(ordered),
        instructions=_units(program) if program else (),
    )


def _units(program: Program) -> tuple[Unit, ...]:
    roles = role_of_units(program)
    return tuple(
        Unit(
            id=unit.id,
            line=unit.start_line + 1,
            section=unit.section,
            role=roles[unit.id].role,
            why=roles[unit.id].reason,
            words=_first_words(unit.text),
        )
        for unit in program.instructions
    )


def _plain(text: str) -> str:
    """A stranger's name or sentence on one line, nothing in it invisible."""
    return one_line(visible(text))


def _first_words(text: str) -> str:
    flat = one_line(text)
    if len(flat) <= FIRST_WORDS:
        return flat
    return flat[:FIRST_WORDS].rsplit(" ", 1)[0] + " …"


# --- name, card, side files ---------------------------------------------------------------------


def _name(name: str) -> list[Finding]:
    if name == BASELINE_NAME:
        return [refused("name", f"The name '{BASELINE_NAME}' is the harness's; give --name.")]
    if not NAME.fullmatch(name):
        words = (
            f"'{_plain(name)}' becomes part of a branch name; give --name, at most 64 letters, "
            "digits, - and _, beginning with a letter or digit."
        )
        return [refused("name", words)]
    return []


def _card(offer: Offer) -> list[Finding]:
    found = [refused("card", _plain(offer.card_problem))] if offer.card_problem else []
    for key in ("author", "name", "note", "license"):
        value = str(getattr(offer.card, key))
        if len(value) > MAX_CARD_CHARACTERS:
            words = f"The card's {key} has {len(value)} characters; {MAX_CARD_CHARACTERS} may be."
            found.append(refused("card", words))
        if len(value.splitlines()) > 1 or any(map(invisible, value)):
            words = (
                f"The card's {key} has line breaks or invisible characters; write one plain line."
            )
            found.append(refused("card", words))
    if offer.card.role == "control":
        words = "Its card says it is a control: it will run as a reference arm and not compete."
        found.append(note("control-arm", words))
    if offer.side_files:
        shown = ", ".join(offer.side_files[:SHOWN])
        more = f" and {len(offer.side_files) - SHOWN} more" if offer.side_files[SHOWN:] else ""
        words = f"Files beside it are not read ({shown}{more}): put what matters into program.md."
        found.append(note("side-files", words))
    return found


# --- other programs -----------------------------------------------------------------------------


def _against(program: Program, known: Sequence[Known]) -> list[Finding]:
    for other in known:
        if other.program.id == program.id:
            return [_same_text(program, other)]
    for other in known:
        if other.program.name.casefold() == program.name.casefold():
            words = (
                f"The name '{program.name}' is taken by another program ({other.place}); "
                "give --name another one."
            )
            return [refused("name-taken", words), *_near(program, known)]
    return _near(program, known)


def _same_text(program: Program, other: Known) -> Finding:
    name = other.program.name
    if other.place == "in the pool" and name == program.name:
        return note(IN_POOL, f"The pool has exactly this program under this name, '{name}'.")
    words = (
        f"It is exactly the text of '{name}' ({other.place}); name that one where a program is "
        "named, or change the text."
    )
    return refused("duplicate", words)


def _near(program: Program, known: Sequence[Known]) -> list[Finding]:
    scored = [(resemblance(program.text, k.program.text), k) for k in known]
    score, other = max(scored, key=lambda pair: pair[0], default=(0.0, None))
    if other is None or score < NEAR:
        return []
    words = (
        f"It is nearly the text of '{other.program.name}' ({other.place}): {100 * score:.0f} % of "
        f"their sequences of {SHINGLE} words are the same. It counts as a program of its own."
    )
    return [note("near-duplicate", words)]


def resemblance(a: str, b: str) -> float:
    """Share of word sequences two texts have in common, 0 to 1; case and spacing do not count.

    The resemblance of Broder, On the resemblance and containment of documents (1997): the number
    of shingles in both over the number in either, with shingles of three words.
    """
    ours, theirs = _shingles(a), _shingles(b)
    return len(ours & theirs) / max(len(ours | theirs), 1)


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = normalise(text).split()
    return {tuple(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}


def _repeated(program: Program) -> list[Finding]:
    times = Counter(unit.id for unit in program.instructions)
    again = [u for u in program.instructions if times[u.id] > 1]
    if not again:
        return []
    lines = [u.start_line + 1 for u in again]
    several = count(len({u.id for u in again}), "instruction")
    words = (
        f"It has {several} more than once ({on_lines(lines)}); equal instructions have one id and "
        "count as one."
    )
    return [note("repeated", words, lines)]

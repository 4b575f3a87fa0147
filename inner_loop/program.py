"""A program.md as units: what an instruction is, its id, and the exact bytes around it.

Owns: the split of Markdown into instructions, the byte-exact round trip, reading a program and its
card from disk with one clear sentence when that fails.
Does not own: what an instruction means (a researcher reads that), lineage between programs, the
checks a contest adds at its door. The text a researcher sees is always the submitted text.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import tomllib
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token
from pydantic import ValidationError

from inner_loop.errors import UserError, unknown
from inner_loop.records import Instruction, Program, Record

MAX_PROGRAM_BYTES = 32_768
"""Upstream's file is 7 kB, the longest seen in public 40 kB; a contest reads all of them."""
MAX_NESTING = 60
"""Lists and quotes nested deeper than this are text of no instruction."""

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_YAML_KEY = re.compile(r"[A-Za-z_][\w.-]*[ \t]*:(?:[ \t]|$)")
_YAML_MORE = re.compile(r"[ \t]|#|-[ \t]|$|" + _YAML_KEY.pattern)


# --- parsing ----------------------------------------------------------------------------------


def parse_program(body: bytes, name: str) -> Program:
    """The program whose exact bytes are `body`.

    A program without any instruction (one heading, an empty file) is a program too.

    Raises:
        UserError: `body` is not UTF-8.
    """
    text = _decode(body, name)
    return Program(
        id=hashlib.sha256(body).hexdigest()[:12],
        name=name,
        text=text,
        instructions=tuple(_instructions(text)),
    )


def unit_id(text: str) -> str:
    """Content-addressed id of an instruction: equal wording has an equal id in every program."""
    digest = hashlib.blake2b(normalise(text).encode(), digest_size=4).hexdigest()
    return f"I-{digest}"


def normalise(text: str) -> str:
    """`text` without what does not change its meaning: case, emphasis, backticks, spacing."""
    plain = unicodedata.normalize("NFKC", text).lower()
    plain = re.sub(r"[*`]+|(?<!\w)_+|_+(?!\w)", "", plain)
    return " ".join(plain.split())


@dataclass
class _Unit:
    """An instruction being collected."""

    section: tuple[str, ...]
    section_number: int
    item: int | None  # token index of the innermost list item around it
    texts: list[str]
    start: int
    end: int


class _Collector:
    """Walks block tokens in document order and decides which unit each piece of text joins."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.units: list[_Unit] = []
        self.headings: list[tuple[int, str]] = []
        self.heading_count = 0
        self.items: list[int] = []
        self.items_with_text: set[int] = set()

    def take(self, position: int, token: Token, following: Token | None) -> None:
        """Handle one token; `following` is the inline content of a heading or a paragraph."""
        match token.type:
            case "list_item_open":
                self.items.append(position)
            case "list_item_close":
                self.items.pop()
            case "heading_open" if following is not None:
                self._open_section(int(token.tag[1]), following.content)
            case "paragraph_open" if following is not None:
                self._add(token, following.content, joins=self._same_item())
            case "fence" | "code_block":
                self._add(token, token.content, joins=self._glues())
            case "table_open":
                self._add(token, self._source(token), joins=self._glues())
            case "html_block" if _COMMENT.sub("", token.content).strip():
                self._add(token, token.content, joins=self._same_item())

    def _open_section(self, level: int, title: str) -> None:
        above = [(depth, text) for depth, text in self.headings if depth < level]
        self.headings = [*above, (level, " ".join(title.split()))]
        self.heading_count += 1

    def _same_item(self) -> bool:
        """A second paragraph of a list item, with nothing in between."""
        last = self.units[-1] if self._in_last_section() else None
        return last is not None and last.item is not None and last.item == self._item()

    def _glues(self) -> bool:
        """A block shows what the unit before it says, unless it is all that its list item has."""
        item = self._item()
        return self._in_last_section() and (item is None or item in self.items_with_text)

    def _in_last_section(self) -> bool:
        return bool(self.units) and self.units[-1].section_number == self.heading_count

    def _item(self) -> int | None:
        return self.items[-1] if self.items else None

    def _source(self, token: Token) -> str:
        start, end = token.map or (0, 0)
        return "".join(self.lines[start:end])

    def _add(self, token: Token, text: str, *, joins: bool) -> None:
        start, end = token.map or (0, 0)
        if (item := self._item()) is not None:
            self.items_with_text.add(item)
        if joins:
            self.units[-1].texts.append(text.rstrip())
            self.units[-1].end = end
        else:
            section = tuple(title for _, title in self.headings)
            self.units.append(_Unit(section, self.heading_count, item, [text.rstrip()], start, end))


def _instructions(text: str) -> Iterator[Instruction]:
    lines = _markdown_lines(text)
    tokens = block_tokens(text)
    collector = _Collector(lines)
    for position, token in enumerate(tokens):
        following = tokens[position + 1] if position + 1 < len(tokens) else None
        collector.take(position, token, following)
    for index, unit in enumerate(collector.units):
        own = "\n".join(unit.texts)
        yield Instruction(
            id=unit_id(own),
            index=index,
            section=" / ".join(unit.section),
            text=own,
            start_line=unit.start,
            end_line=unit.end,
        )


Block = Token  # the one name of markdown_it that others may use


def block_tokens(text: str) -> list[Block]:
    """The Markdown blocks of a program's text; a token's `map` counts lines of `split_lines`."""
    return _parser().parse("".join(_markdown_lines(text)))


def _parser() -> MarkdownIt:
    """Blocks only: instructions need no inline tokens, and those are slow on hostile input."""
    return MarkdownIt("commonmark", {"maxNesting": MAX_NESTING}).enable("table").disable("inline")


def _markdown_lines(text: str) -> list[str]:
    """The lines of `text` for the Markdown parser: no byte-order mark, front matter blanked."""
    lines = [_without_line_end(line) + "\n" for line in split_lines(text.removeprefix("\ufeff"))]
    for number in range(_front_matter_length(lines)):
        lines[number] = "\n"
    return lines


def _front_matter_length(lines: list[str]) -> int:
    """Number of lines of YAML front matter; 0 where a leading `---` is only a rule."""
    plain = [line.rstrip() for line in lines]
    if not plain or plain[0] != "---":
        return 0
    for number, line in enumerate(plain[1:], start=1):
        if line in ("---", "..."):
            return number + 1 if number > 1 and _YAML_KEY.match(plain[1]) else 0
        if not _YAML_MORE.match(line):
            return 0
    return 0


# --- the exact bytes --------------------------------------------------------------------------


class Segment(NamedTuple):
    """A stretch of whole source lines: one instruction, or what lies between two."""

    unit: int | None
    """Index of the instruction; None between instructions."""
    text: str


def segments(program: Program) -> tuple[Segment, ...]:
    """The program cut at its instructions; joining all texts gives the submitted text."""
    lines = split_lines(program.text)
    cut: list[Segment] = []
    line = 0
    for unit in program.instructions:
        cut.append(Segment(None, "".join(lines[line : unit.start_line])))
        cut.append(Segment(unit.index, "".join(lines[unit.start_line : unit.end_line])))
        line = unit.end_line
    cut.append(Segment(None, "".join(lines[line:])))
    return tuple(piece for piece in cut if piece.text)


def render(program: Program, keep: Collection[int] | None = None) -> bytes:
    """The program with only the instructions whose index is in `keep`; None keeps all.

    Headings and blank lines stay, nothing is re-indented or renumbered: with `keep=None` these are
    exactly the submitted bytes.
    """
    pieces = segments(program)
    wanted = (p.text for p in pieces if keep is None or p.unit is None or p.unit in keep)
    return "".join(wanted).encode()


def split_lines(text: str) -> list[str]:
    """Lines with their ends; a line ends at CRLF, CR or LF, as in Markdown, and at nothing else."""
    return _LINE.findall(text)


def _without_line_end(line: str) -> str:
    return line.rstrip("\r\n")


# --- reading from disk ------------------------------------------------------------------------


def read_program(path: Path) -> Program:
    """The program in file `path`, or in `program.md` of folder `path`.

    Raises:
        UserError: there is none, or it is too large, empty or not text.
    """
    file = program_file(path)
    body = _read_small(file)
    text = _decode(body, str(file))
    if "\0" in text:
        raise UserError(
            f"{file} is not text: byte {body.index(0)} is NUL; give a Markdown file in UTF-8."
        )
    if not text.removeprefix("\ufeff").strip():
        raise UserError(f"{file} is empty; write at least one line that says what to do.")
    return parse_program(body, program_name(file))


def program_file(path: Path) -> Path:
    """The Markdown file that `path` names: itself, or `program.md` in the folder `path`.

    Raises:
        UserError: there is none, or it is not a regular file.
    """
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
        file = path / "program.md" if is_folder else path
        if is_folder and not file.is_file():
            raise UserError(f"{path} holds no program.md; name the Markdown file itself.")
        if not is_folder and not is_file:
            what = "is not a regular file" if path.exists() else "does not exist"
            raise UserError(f"{path} {what}; give a program.md or a folder that holds one.")
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return file


def _read_small(file: Path) -> bytes:
    """The bytes of `file`, never more than one beyond the limit."""
    try:
        with file.open("rb") as stream:
            body = stream.read(MAX_PROGRAM_BYTES + 1)
        size = max(file.stat().st_size, len(body))
    except OSError as error:
        raise _unreadable(file, error) from error
    if size > MAX_PROGRAM_BYTES:
        raise UserError(
            f"{file} has {size:,} bytes and a program may have {MAX_PROGRAM_BYTES:,}; shorten it."
        )
    return body


def _decode(body: bytes, where: str) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} is not UTF-8 text: byte {error.start} is 0x{body[error.start]:02x}; "
            "save it as UTF-8."
        ) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UserError(f"{path!s} cannot be read ({cause}); check its path and permissions.")


def program_name(file: Path) -> str:
    """What a program is called by its place: its folder's name, else its file's stem."""
    if file.name == "program.md":
        return file.resolve().parent.name or "program"
    return file.stem


# --- the card ---------------------------------------------------------------------------------


class Card(Record):
    """What a program's author says about it; `card.toml` beside program.md. Every key may miss."""

    author: str = ""
    name: str = ""
    """Display name; empty = the program's own name."""
    note: str = ""
    """One line: the strategy in a few words (a claim)."""
    date: datetime.date | None = None
    license: str = ""
    role: Literal["entrant", "control"] = "entrant"
    """Whether it competes or is a reference arm."""


_WANTED = {"date": "a date such as 2026-01-31", "role": '"entrant" or "control"'}


def read_card(path: Path) -> Card:
    """The card of the program at `path` (its folder or its file); an empty one if there is none.

    Raises:
        UserError: the card is not TOML, or has an unknown key or a value of the wrong type.
    """
    file = (path if path.is_dir() else path.parent) / "card.toml"
    if not file.exists():
        return Card()
    body = _read_small(file)
    try:
        data = tomllib.loads(_decode(body, str(file)))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f'{file} is not TOML ({error}); write lines such as name = "x".') from error
    for key in data:
        if key not in Card.model_fields:
            raise UserError(f"{file}: {unknown('key', key, Card.model_fields)}")
    try:
        return Card.model_validate(data)
    except ValidationError as error:
        key = str(error.errors()[0]["loc"][0])
        wanted = _WANTED.get(key, "text in quotes")
        raise UserError(f"{file}: '{key}' must be {wanted}, not {data[key]!r}.") from error

"""What was said to a model and what it answered, stored beside the run, one file an exchange.

Owns: the record of an exchange, its file (`<run folder>/transcript/0007-2.json.gz`), finding a
stored reply again, and hiding secrets before anything reaches the disk.
Does not own: asking (`correspond.py`), how it is shown (`outer_loop`), the ledger's moves.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from urllib.parse import quote, quote_plus, urlsplit

from pydantic import ValidationError

from inner_loop.errors import UserError
from inner_loop.messages import Ask, Reply
from inner_loop.record import Record
from inner_loop.settings import Usage

FOLDER = "transcript"
SUFFIX = ".json.gz"
MAX_BYTES = 64 * 2**20
"""No exchange is read beyond this, unpacked."""
SHORTEST_SECRET = 8
"""Shorter ones are words: hiding them would spoil the text and protect nothing."""
HIDDEN = "[redacted]"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_SECRET_VARIABLE = re.compile(
    r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PAT|CREDENTIALS)$", re.IGNORECASE
)
_KEY_SHAPES = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    r"sk-(?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{20,}"  # OpenAI, Anthropic, OpenRouter
    r"|gh[oprsu]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,}"
    r"|hf_[A-Za-z0-9]{30,}|AIza[A-Za-z0-9_-]{30,}|AKIA[A-Z0-9]{16}"
    r")"
)


class Exchange(Record):
    """One request and what came of it, without secrets."""

    schema_version: int = 1
    name: str
    """What it was asked as: move number and turn, `0007-2`."""
    key: str
    """`Ask.key` of the request as it was sent, before anything was hidden in it."""
    provider: str
    model: str
    """The name that was asked for; the reply has the server's own."""
    sdk: str
    started: str
    """UTC."""
    ended: str
    ask: Ask
    reply: Reply | None = None
    """None where the service failed."""
    error: str = ""
    """How it failed."""
    usage: Usage = Usage()
    """Of a failure: what had come back by then and may be billed; a reply has its own."""

    @property
    def used(self) -> Usage:
        """What this exchange has cost, answered or not."""
        return self.reply.usage if self.reply else self.usage


class Redactor:
    """Replaces secrets in texts: by value, in the encodings that logs show, and by their shape."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        long_enough = {s for s in map(str.strip, secrets) if len(s) >= SHORTEST_SECRET}
        forms = {form for secret in long_enough for form in _forms(secret)}
        longest_first = sorted(forms, key=lambda form: (-len(form), form))
        self._values = re.compile("|".join(map(re.escape, longest_first))) if forms else None

    def __call__(self, text: str) -> str:
        """`text` with `[redacted]` in place of every secret."""
        if self._values:
            text = self._values.sub(HIDDEN, text)
        return _KEY_SHAPES.sub(HIDDEN, text)

    def ask(self, ask: Ask) -> Ask:
        """The same request without secrets; its own `key` may differ."""
        messages = tuple(
            message.model_copy(
                update={
                    "parts": tuple(
                        part.model_copy(update={"text": self(part.text)}) for part in message.parts
                    )
                }
            )
            for message in ask.messages
        )
        return Ask(system=self(ask.system), messages=messages)

    def reply(self, reply: Reply) -> Reply:
        """The same reply without secrets."""
        return reply.model_copy(update={"text": self(reply.text), "model": self(reply.model)})


def secrets_in(environ: Mapping[str, str], base_url: str = "") -> list[str]:
    """Values of variables that are named like secrets, and what a base URL has as a password."""
    found = [value for name, value in environ.items() if _SECRET_VARIABLE.search(name)]
    try:
        password = urlsplit(base_url).password
    except ValueError:
        password = None
    return [*found, *([password] if password else [])]


def _forms(secret: str) -> Iterator[str]:
    """A secret as it is and as JSON, URLs and base64 show it, also inside a longer base64 text."""
    yield secret
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    raw = secret.encode("utf-8", "surrogateescape")  # a variable's bytes need not be UTF-8
    yield quote(raw, safe="")
    yield quote(raw)
    yield quote_plus(raw)
    yield raw.decode("utf-8", "replace")
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(raw).decode().rstrip("=")
        for shift in range(3):  # only the digits that the bytes around it cannot change
            digits = encode(bytes(shift) + raw).decode().rstrip("=")
            first, last = (0, 2, 3)[shift], len(digits) - (1 if (shift + len(raw)) % 3 else 0)
            yield digits[first:last]


@dataclass(frozen=True)
class Transcript:
    """The exchanges of one run.

    Args:
        folder: the run's; files lie in `transcript` below it.
    """

    folder: Path

    def find(self, name: str, key: str, provider: str, model: str) -> tuple[Path, Exchange] | None:
        """The stored exchange that answers this very request; an unreadable file is not it."""
        for path in self._series(name):
            if not path.exists():
                return None
            try:
                stored = read_exchange(path)
            except UserError:
                continue
            if (stored.key, stored.provider, stored.model) == (key, provider, model):
                return path, stored
        return None

    def write(self, exchange: Exchange) -> Path:
        """Store an exchange, whole or not at all, beside those of the same name.

        One with a reply is `NAME.json.gz`; a different request under the same name is
        `NAME.2.json.gz`, and so on. One without a reply is `NAME.failed-1.json.gz`, and so on.
        """
        path = next(
            p for p in self._series(exchange.name, exchange.reply is None) if not p.exists()
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        packed = gzip.compress(exchange.model_dump_json().encode(), compresslevel=6, mtime=0)
        partial = path.with_name(f"{path.name}.partial")
        with partial.open("wb") as file:
            file.write(packed)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)  # noqa: PTH105  # atomic; Path.replace is the same call
        return path

    def newest_counted(self, provider: str, model: str) -> Exchange | None:
        """The last one whose reply the server counted itself."""
        for path in reversed(self.paths()):
            try:
                stored = read_exchange(path)
            except UserError:
                continue
            is_counted = stored.used.tokens_in > 0 and not stored.used.estimated
            if stored.reply and is_counted and (stored.provider, stored.model) == (provider, model):
                return stored
        return None

    def paths(self, move_number: int | None = None) -> list[Path]:
        """Files in the order of moves and turns; with `move_number`, of that move alone."""
        found = sorted((self.folder / FOLDER).glob(f"*{SUFFIX}"), key=_order)
        if move_number is None:
            return found
        return [p for p in found if re.match(rf"0*{move_number}(?!\d)", p.name)]

    def _series(self, name: str, is_failure: bool = False) -> Iterator[Path]:
        if not _NAME.fullmatch(name):
            raise ValueError(f"'{name}' is no name of an exchange")
        for number in count(1):
            tail = f".failed-{number}" if is_failure else f".{number}" if number > 1 else ""
            yield self.folder / FOLDER / f"{name}{tail}{SUFFIX}"


def read_exchange(path: Path) -> Exchange:
    """One stored exchange.

    Raises:
        UserError: the file is damaged, too large, or no exchange.
    """
    try:
        with gzip.open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}); what it held is lost.") from error
    if len(raw) > MAX_BYTES:
        raise UserError(f"{path} unpacks to more than {MAX_BYTES:,} bytes; it is not read.")
    try:
        return Exchange.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        what = first["type"] if first["loc"] else "no JSON"
        raise UserError(
            f"{path} is no exchange of this version ({what}); what it holds cannot be shown."
        ) from error


def read_all(paths: Sequence[Path]) -> tuple[list[Exchange], list[str]]:
    """Exchanges that can be read, and one sentence for each that cannot."""
    exchanges: list[Exchange] = []
    damaged: list[str] = []
    for path in paths:
        try:
            exchanges.append(read_exchange(path))
        except UserError as error:
            damaged.append(str(error))
    return exchanges, damaged


def spent_in(folder: Path) -> Usage:
    """What the stored exchanges of `folder` have cost; a damaged file's cost is lost."""
    exchanges, _ = read_all(Transcript(folder).paths())
    return sum((each.used for each in exchanges), Usage())


def _order(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Numbers as numbers, so that turn 10 comes after turn 9."""
    pieces = re.findall(r"\d+|\D+", path.name.removesuffix(SUFFIX))
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in pieces], path.name

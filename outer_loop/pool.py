"""The local pool: programs that were submitted on this machine, under `<home>/pool/<name>/`.

Owns: putting the exact bytes there with their card, whole or not at all, while others may do the
same; the submission's row in the ledger; and finding a program by name, shipped or pooled.
Does not own: whether a program may come in (`door`).
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from inner_loop.errors import UserError, unknown
from inner_loop.home import Home
from inner_loop.program import Card, read_card, read_program
from inner_loop.records import Submission, content_hash
from outer_loop.door import IN_POOL, DoorReport, Known, Offer, Place, examine, read_offer
from outer_loop.plan import SHIPPED_PROGRAMS, shipped_programs

UNKNOWN_AUTHOR = "unknown"


class Submitted(NamedTuple):
    """What became of a submission."""

    report: DoorReport
    folder: Path | None
    """Where it lies; None if it was refused."""
    new: bool
    """Whether it came in now; False if it was refused or was there already."""


def pool_folder(home: Home) -> Path:
    """Where submitted programs lie, one folder each."""
    return home.root / "pool"


def pool_programs(home: Home) -> list[Path]:
    """The pool's program folders, by name."""
    found = pool_folder(home).glob("*/program.md")
    return sorted(p.parent for p in found if not p.parent.name.startswith("."))


def program_path(text: str, home: Home) -> Path:
    """A path as given, or the folder of the shipped or pooled program of that name.

    Raises:
        UserError: `text` is a bare name that nothing has.
    """
    path = Path(text)
    if path.exists():
        return path
    named = {p.name: p for p in (*pool_programs(home), *shipped_programs())}
    if text in named:
        return named[text]
    if path.name == text and not path.suffix:
        raise unknown("program", text, named)
    return path


def known_programs(home: Home) -> list[Known]:
    """Shipped programs, then the pool's; what cannot be read is left out."""
    places: list[tuple[Place, list[Path]]] = [
        ("shipped", shipped_programs()),
        ("in the pool", pool_programs(home)),
    ]
    found = []
    for place, paths in places:
        for path in paths:
            with suppress(UserError):
                found.append(Known(read_program(path), place))
    return found


def check(text: str, home: Home, name: str | None = None) -> DoorReport:
    """What the door says about a file, a folder or a known name; nothing is written.

    A shipped or pooled program is not compared with itself.

    Raises:
        UserError: there is nothing to read.
    """
    path = program_path(text, home)
    offer = read_offer(path, name)
    known = known_programs(home)
    if name is None and _is_known(path, home):
        known = [k for k in known if k.program.name != offer.name]
    return examine(offer, known)


def _is_known(path: Path, home: Home) -> bool:
    folder = (path if path.is_dir() else path.parent).resolve()
    return folder.parent in (SHIPPED_PROGRAMS.resolve(), pool_folder(home).resolve())


def submit(
    text: str,
    home: Home,
    now: Callable[[], str],
    *,
    name: str | None = None,
    author: str | None = None,
    remark: str | None = None,
) -> Submitted:
    """Take a program into the pool if the door lets it in; the same one again changes nothing.

    Args:
        text: a file or a folder with program.md and, if there is one, card.toml.
        home: whose pool and ledger.
        now: the time, as the ledger writes it.
        name: what it is called; its folder's or file's name without it.
        author: who offers it, instead of the card's author.
        remark: one line about it, instead of the card's note.

    Raises:
        UserError: there is nothing to read, or the home or its ledger cannot be written.
    """
    offer = _with_words(read_offer(program_path(text, home), name), author, remark)
    home.make()
    with _locked(pool_folder(home)):
        report = examine(offer, known_programs(home))
        if report.refusals:
            return Submitted(report, None, new=False)
        ledger = home.ledger()
        try:
            folder = pool_folder(home) / offer.name
            new = all(f.code != IN_POOL for f in report.notes)
            if new:
                _store(folder, offer)
            submission = _submission(offer, report, folder)
            ledger.add_program(report.program_id, offer.name, offer.body)
            ledger.add_submission(submission, now())
        finally:
            ledger.close()
    return Submitted(report, folder, new=new)


def _with_words(offer: Offer, author: str | None, remark: str | None) -> Offer:
    given = {"author": author, "note": remark}
    changes = {key: value for key, value in given.items() if value is not None}
    return offer._replace(card=offer.card.model_copy(update=changes))


def _submission(offer: Offer, report: DoorReport, folder: Path) -> Submission:
    """The row that a tournament makes of the stored card as well (`plan.admit`)."""
    card = read_card(folder)
    author, name = card.author or UNKNOWN_AUTHOR, card.name or offer.name
    return Submission(
        id=f"S-{content_hash([report.program_id, author, name], length=8)}",
        program_id=report.program_id,
        author=author,
        name=name,
        note=card.note,
    )


def _store(folder: Path, offer: Offer) -> None:
    """Write program and card aside, then move the folder into place in one step."""
    aside = Path(tempfile.mkdtemp(prefix=".incoming-", dir=folder.parent))
    try:
        aside.chmod(0o755)
        _write(aside / "program.md", offer.body)
        _write(aside / "card.toml", card_toml(offer.card).encode())
        if folder.exists():
            raise UserError(f"{folder} is in the way and holds no readable program; move it away.")
        aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _write(path: Path, body: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(body)
        stream.flush()
        os.fsync(stream.fileno())


def card_toml(card: Card) -> str:
    """`card` as the text of a card.toml that reads back as the same card; empty keys are left out.

    A JSON string is a TOML string as long as it has no control character, which the door sees to.
    """
    lines = []
    for key, value in card:
        if isinstance(value, datetime.date):
            lines.append(f"{key} = {value.isoformat()}\n")
        elif value:
            lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}\n")
    return "".join(lines)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One submission at a time; the kernel frees the lock when the process dies."""
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        for left in folder.glob(".incoming-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield

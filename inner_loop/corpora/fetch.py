"""Download one file so that it is whole or not there: resumable, checked, kept.

Owns: HTTP ranges, retries, size and checksum, the `.part` file, and the sentence for a server
that does not give the file.
Does not own: which files (`climbmix`); a full disk (an OSError goes through).

Beside a finished file lies `<name>.json` with its bytes, time and sha256; beside a `.part`,
`.part.json` with what the server said of it, so that only the same file is continued. All waiting
between transfers is on `Transfers.stop`: whoever sets it is not kept waiting.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import requests
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from inner_loop.corpora.cache import file_sha256, sync_folder, write_file
from inner_loop.corpora.source import URL_VARIABLE
from inner_loop.errors import UserError

BLOCK = 1 << 16
"""Bytes asked of the connection at a time."""
BUSY = (429, 500, 502, 503, 504)
CONNECT_SECONDS, READ_SECONDS = 10, 60
FAILURES = 6
"""Broken transfers in a row, none of which brought `PROGRESS` bytes, before giving up."""
UNANSWERED = 3
"""The same while no server has answered at all."""
PROGRESS = 1 << 20
LONGEST_PAUSE = 30.0
"""Seconds between two transfers, at most; pauses start at `FIRST_PAUSE` and double."""
FIRST_PAUSE = 0.5
LONGEST_WAIT = 60.0
"""Seconds that a `Retry-After` can ask for."""
WRONG_FILES = 2
"""Whole transfers of something else than the file, before giving up."""
LATER = "check the network and try again later"
HINT = f"--base-url or {URL_VARIABLE} names another server"


SHA256 = re.compile("[0-9a-f]{64}")


class Stopped(Exception):
    """Another download failed, or the user interrupted."""


class Broken(Exception):
    """A transfer ended early, or brought what was not asked for."""


class Busy(Exception):
    """A server that may answer later."""

    def __init__(self, refusal: UserError, seconds: float) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal
        self.seconds = seconds
        """How long it asks to wait; 0 if it does not say."""


BREAKS = (
    Broken,
    Busy,
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
)
"""What another transfer may mend."""


class Offer(NamedTuple):
    """What a server says of a file."""

    etag: str
    """Strong validator, or empty."""
    size: int | None
    """Bytes."""
    sha256: str
    """Where published (Hugging Face: `X-Linked-ETag` before the redirect), else empty."""


class Transfers:
    """What the downloads of one preparation share."""

    def __init__(
        self, received: Callable[[int], object], expect: Callable[[Path, int], object]
    ) -> None:
        self.received = received
        """Told of so many more bytes on disk (fewer, if negative)."""
        self.expect = expect
        """Told of the size of a file."""
        self.stop = threading.Event()
        self.reached = False
        """Whether any server has answered: if not, waiting long is no use."""


def is_fetched(path: Path) -> bool:
    """Whether a file is whole. One put there by hand is taken as it is, and noted."""
    return path.is_file() and bool(fetched_sha256(path))


def fetched_sha256(path: Path) -> str:
    """The sha256 of a finished file, as noted; noted again if the file is not the noted one."""
    note, now = _read_note(note_path(path)), path.stat()
    same = (note.get("bytes"), note.get("mtime_ns")) == (now.st_size, now.st_mtime_ns)
    if not (same and SHA256.fullmatch(str(note.get("sha256")))):
        note = _write_note(path, path)
    return str(note["sha256"])


def note_path(path: Path) -> Path:
    """Where the note on a file lies."""
    return path.with_name(f"{path.name}.json")


def fetch(
    url: str, path: Path, transfers: Transfers, problem: Callable[[Path], str] = lambda _: ""
) -> None:
    """Download `url` to `path`; what an earlier try left in `<path>.part` is continued.

    Args:
        url: of the file.
        path: where it goes.
        transfers: shared with the other downloads.
        problem: what is wrong with a whole transfer, said of the URL ("sends ..."); "" if nothing.

    Raises:
        UserError: no connection, a refusal, or something else than the file again and again.
        Stopped: `transfers.stop` was set.
    """
    part = path.with_name(f"{path.name}.part")
    transfers.received(_size(part))
    with requests.Session() as connection:
        for left in reversed(range(WRONG_FILES)):
            offer = _transfer_all(connection, url, part, transfers)
            wrong = _wrong_checksum(part, offer) or problem(part)
            if not wrong:
                break
            _forget(part, transfers)
            if not left:
                raise UserError(f"{url} {wrong}, {WRONG_FILES} times over; {LATER} ({HINT}).")
    _write_note(part, path)
    part.replace(path)
    sync_folder(path.parent)
    note_path(part).unlink(missing_ok=True)


def _wrong_checksum(part: Path, offer: Offer) -> str:
    if not offer.sha256 or file_sha256(part) == offer.sha256:
        return ""
    return "does not have the checksum its server publishes"


def _transfer_all(
    connection: requests.Session, url: str, part: Path, transfers: Transfers
) -> Offer:
    failures, asked = 0, 0.0
    while not transfers.stop.wait(max(asked, _pause(failures))):
        before = _size(part)
        try:
            return _transfer(connection, url, part, transfers)
        except BREAKS as error:
            asked = error.seconds if isinstance(error, Busy) else 0.0
            failures = 0 if _size(part) - before >= PROGRESS else failures + 1
            if failures >= (FAILURES if transfers.reached else UNANSWERED):
                refusal = error.refusal if isinstance(error, Busy) else _unreachable(url, error)
                raise refusal from error
        except requests.RequestException as error:
            raise _unreachable(url, error) from error
    raise Stopped


def _pause(failures: int) -> float:
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2**failures) if failures else 0.0


def _transfer(connection: requests.Session, url: str, part: Path, transfers: Transfers) -> Offer:
    known = _offer_from(_read_note(note_path(part)))
    start = _size(part)
    if start and known and known.size == start:
        transfers.expect(part, start)
        return known
    if start and not (known and (known.etag or known.sha256)):
        _forget(part, transfers)  # nothing tells whether it is still the same file
        start = 0
    headers = {"Accept-Encoding": "identity"}
    if start and known:
        headers["Range"] = f"bytes={start}-"
        headers |= {"If-Range": known.etag} if known.etag else {}
    timeout = (CONNECT_SECONDS, READ_SECONDS)
    with connection.get(url, headers=headers, stream=True, timeout=timeout) as response:
        transfers.reached = True
        if transfers.stop.is_set():
            raise Stopped  # from here on files are touched
        return _receive(response, url, part, known, transfers)


def _receive(
    response: requests.Response, url: str, part: Path, known: Offer | None, transfers: Transfers
) -> Offer:
    if response.status_code in BUSY:
        raise Busy(_refused(url, response), _asked_to_wait(response))
    if response.status_code not in (200, 206, 416):
        raise _refused(url, response)
    offer = _offer_of(response)
    if response.status_code == 200:
        _forget(part, transfers)
        write_file(note_path(part), json.dumps(offer._asdict()).encode())
    elif not (_continues(offer, known) and _range_start(response) == _size(part)):
        _forget(part, transfers)
        raise Broken("the file on the server has changed")
    if offer.size is not None:
        transfers.expect(part, offer.size)
    _append(response, part, transfers)
    if offer.size is not None and _size(part) != offer.size:
        raise Broken(f"{_size(part):,} of {offer.size:,} bytes came")
    return offer


def _append(response: requests.Response, part: Path, transfers: Transfers) -> None:
    with part.open("ab") as file:
        try:
            for block in response.iter_content(BLOCK):
                if transfers.stop.is_set():
                    raise Stopped  # before writing: somebody else may be next to write here
                file.write(block)
                transfers.received(len(block))
        finally:
            file.flush()
            os.fsync(file.fileno())


def _offer_of(response: requests.Response) -> Offer:
    first = (response.history or [response])[0].headers
    etag = response.headers.get("ETag", "")
    linked = first.get("X-Linked-ETag", "").removeprefix("W/").strip('"')
    total = response.headers.get("Content-Length", "")
    if response.status_code == 206:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
    total = first.get("X-Linked-Size") or total
    return Offer(
        etag="" if etag.startswith("W/") else etag,
        size=int(total) if total.isdecimal() else None,
        sha256=linked if SHA256.fullmatch(linked) else "",
    )


def _continues(offer: Offer, known: Offer | None) -> bool:
    if known is None or offer.size != known.size:
        return False
    if offer.sha256 or known.sha256:
        return offer.sha256 == known.sha256
    return offer.etag == known.etag


def _range_start(response: requests.Response) -> int | None:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _asked_to_wait(response: requests.Response) -> float:
    try:
        asked = Retry().parse_retry_after(response.headers.get("Retry-After", "0"))
    except InvalidHeader:
        return 0.0
    return min(LONGEST_WAIT, asked)


def _refused(url: str, response: requests.Response) -> UserError:
    code = response.status_code
    if code in BUSY:
        return UserError(f"{url} answers {code} again and again; run the same command again later.")
    if code == 404:
        return UserError(f"{url} does not exist (404); check the base URL ({HINT}).")
    return UserError(f"{url} is refused ({code} {response.reason}); {HINT}.")


def _unreachable(url: str, error: Exception) -> UserError:
    why = re.sub(r"\[Errno -?\d+\] ", "", str(error).rsplit(": ", 1)[-1]).strip("'\")( ")
    return UserError(
        f"Cannot download {url} ({why}); check the network ({HINT}). The same command "
        "continues what has come."
    )


def _forget(part: Path, transfers: Transfers) -> None:
    transfers.received(-_size(part))
    part.unlink(missing_ok=True)
    note_path(part).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _offer_from(note: dict[str, Any]) -> Offer | None:
    try:
        offer = Offer(**note)
    except TypeError:
        return None
    kinds = (str, int | None, str)
    return offer if all(map(isinstance, offer, kinds)) else None


def _write_note(measured: Path, path: Path) -> dict[str, Any]:
    now = measured.stat()
    note = {"bytes": now.st_size, "mtime_ns": now.st_mtime_ns, "sha256": file_sha256(measured)}
    write_file(note_path(path), json.dumps(note).encode())
    return note


def _read_note(path: Path) -> dict[str, Any]:
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}

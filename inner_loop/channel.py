"""The wire between a run box and the harness: one Unix socket, JSON headers, raw payloads.

Owns: framing, size caps and deadlines. `prepare.py` holds the other end in its own words, since it
must not import us. Does not own: what the messages mean (`execute.py`).

A message is a 4-byte big-endian length, a JSON header of that length and, if the header says
`nbytes`, that many raw bytes.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

MAX_HEADER = 65_536
POLL_SECONDS = 0.05


class BrokenBox(Exception):
    """The box closed the wire or spoke nonsense."""


class WrongPayload(BrokenBox):
    """The box offers another number of bytes than was asked for."""


class Message(NamedTuple):
    """A received header and its payload."""

    header: dict[str, Any]
    payload: bytes


class Channel:
    """The harness's end.

    Args:
        sock: a connected stream socket.
        watch: called with every piece sent or received, and at least every `POLL_SECONDS`
            while waiting; raises to give up.
    """

    def __init__(self, sock: socket.socket, watch: Callable[[], None]) -> None:
        self._sock, self._watch = sock, watch
        sock.settimeout(POLL_SECONDS)

    def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        """Send one message."""
        head = json.dumps(header | ({"nbytes": len(payload)} if payload else {})).encode()
        self._send_all(struct.pack(">I", len(head)) + head + payload)

    def send_file(self, header: dict[str, Any], fd: int) -> None:
        """Send a header, then one byte that carries an open file descriptor."""
        self.send(header)
        try:
            socket.send_fds(self._sock, [b"D"], [fd])
        except OSError as error:
            raise BrokenBox("the box closed the wire") from error

    def receive(self, payload_bytes: int = 0) -> Message:
        """Wait for the next message, whose payload has no byte or `payload_bytes`.

        Raises:
            BrokenBox: end of stream, a malformed message or another payload.
        """
        (size,) = struct.unpack(">I", self._read(4))
        if size > MAX_HEADER:
            raise BrokenBox(f"header of {size} bytes")
        try:
            header = json.loads(self._read(size))
            nbytes = int(header.get("nbytes", 0))
        except (ValueError, AttributeError, TypeError, OverflowError, RecursionError) as error:
            raise BrokenBox("malformed header") from error
        if nbytes not in (0, payload_bytes):
            raise WrongPayload(f"{nbytes} bytes instead of {payload_bytes}")
        return Message(header, self._read(nbytes))

    def _read(self, size: int) -> bytes:
        buffer = bytearray(size)
        view, done = memoryview(buffer), 0
        while done < size:
            self._watch()
            try:
                got = self._sock.recv_into(view[done:])
            except TimeoutError:
                continue
            except OSError as error:
                raise BrokenBox("the box closed the wire") from error
            if got == 0:
                raise BrokenBox("the box closed the wire")
            done += got
        return bytes(buffer)

    def _send_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._watch()
            try:
                view = view[self._sock.send(view) :]
            except TimeoutError:
                continue
            except OSError as error:
                raise BrokenBox("the box closed the wire") from error

"""A local server of parquet shards, as Hugging Face serves them, with faults on demand."""

from __future__ import annotations

import hashlib
import io
import random
import re
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

WORDS = (
    "the",
    "a",
    "king",
    "said",
    "naïve",
    "café",
    "你好",
    "世界",
    "🦉",
    "12",
    "1605",
    ",",
    "and",
)


def shard_texts(name: str, documents: int = 60) -> list[str]:
    rng = random.Random(name)
    return [f"{name} {i}: " + " ".join(rng.choices(WORDS, k=80)) for i in range(documents)]


def shard_bytes(name: str, documents: int = 60) -> bytes:
    """A parquet shard that depends on its name only; a second column makes it some 400 kB."""
    rng = random.Random(name)
    texts = shard_texts(name, documents)
    ballast = [rng.randbytes(400_000 // documents) for _ in texts]
    file = io.BytesIO()
    pq.write_table(pa.table({"text": texts, "ballast": ballast}), file, row_group_size=16)
    return file.getvalue()


class Asked(NamedTuple):
    name: str
    start: int | None
    """First byte of the Range, if one was asked for."""
    status: int
    sent: list[int]
    """Sizes of the body's parts so far."""
    at: float


class ShardServer:
    """Answers GET /base/<name> with a redirect to /cdn/<name>, which sends the file."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[Asked] = []
        self.ranges = True
        self.lengths = True
        """Whether a body's size is told before it."""
        self.retry_after = "1"
        self.if_range = True
        self.published: Callable[[bytes], str] | None = lambda b: hashlib.sha256(b).hexdigest()
        self.statuses: dict[str, deque[int]] = defaultdict(deque)
        """Codes to answer with before the file."""
        self.cut: dict[str, deque[int]] = defaultdict(deque)
        """Bytes of the body after which the connection ends, per request."""
        self.pause: dict[str, threading.Event] = {}
        """Sent half-way, a body waits for its event."""
        self.together: threading.Barrier | None = None
        """Bodies wait for each other."""
        self.url = ""

    def of(self, name: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.name == name]

    def body(self, name: str) -> bytes | None:
        if re.fullmatch(r"shard_\d{5}\.parquet", name):
            return self.files.setdefault(name, shard_bytes(name))
        return self.files.get(name)


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that hangs up, or is killed, is what these tests are about."""


@contextmanager
def serving() -> Iterator[ShardServer]:
    shards = ShardServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            answer(self, shards)

    with Quiet(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        shards.url = f"http://127.0.0.1:{server.server_address[1]}/base"
        try:
            yield shards
        finally:
            for event in shards.pause.values():
                event.set()
            server.shutdown()
            thread.join()


def answer(request: BaseHTTPRequestHandler, shards: ShardServer) -> None:
    _, place, name = request.path.split("/")
    body = shards.body(name)
    if body is None:
        return head(request, 404)
    if place == "base":
        published = shards.published(body) if shards.published else "not-a-checksum"
        linked = {"X-Linked-ETag": f'"{published}"'}
        linked |= {"X-Linked-Size": str(len(body))} if shards.lengths else {}
        return head(request, 302, Location=f"/cdn/{name}", **linked)
    asked = request.headers.get("Range")
    start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else None
    if shards.statuses[name]:
        status = shards.statuses[name].popleft()
        shards.asked.append(Asked(name, start, status, [], time.monotonic()))
        return head(request, status, **{"Retry-After": shards.retry_after})
    return send(request, shards, name, body, start)


def send(
    request: BaseHTTPRequestHandler, shards: ShardServer, name: str, body: bytes, start: int | None
) -> None:
    etag = f'"{hashlib.md5(body).hexdigest()}"'
    same = request.headers.get("If-Range", etag) == etag or not shards.if_range
    first = start if start is not None and shards.ranges and same else 0
    headers = {"ETag": etag}
    headers |= {"Content-Length": str(len(body) - first)} if shards.lengths else {}
    status = 206 if first else 200
    if first:
        headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
    asked = Asked(name, start, status, [], time.monotonic())
    shards.asked.append(asked)
    head(request, status, length=shards.lengths, **headers)
    end = min(len(body), first + shards.cut[name].popleft()) if shards.cut[name] else len(body)
    if shards.together:
        shards.together.wait(10)
    half = (first + end) // 2
    for low, high in ((first, half), (half, end)):
        request.wfile.write(body[low:high])
        asked.sent.append(high - low)
        if name in shards.pause:
            shards.pause[name].wait(60)
    request.close_connection = end < len(body) or not shards.lengths


def head(request: BaseHTTPRequestHandler, status: int, length: bool = True, **headers: str) -> None:
    request.send_response(status)
    for name, value in (({"Content-Length": "0"} if length else {}) | headers).items():
        request.send_header(name, value)
    request.end_headers()

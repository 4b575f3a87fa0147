"""A local server that speaks the wire formats of Anthropic and OpenAI, with faults on demand.

    with model_server("first reply", error(429, after_ms=1), say("second")) as server:
        open_chat("openai", "m", Settings(base_url=server.url), {}, print)
        server.requests[0].said    # what it was asked

Behaviours answer in order, one per HTTP request (an SDK's own retries are requests too); then
`then` answers everything: a behaviour, or a function of the request, so that a test can play a
model. A plain string is `say(string)`. `server.url` ends in /v1 and is right for both providers.
Whether a reply is streamed is the request's choice.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Stop = Literal["end", "length", "refusal", "other"]
STOPS = {
    "anthropic": {"end": "end_turn", "length": "max_tokens", "refusal": "refusal"},
    "openai": {"end": "stop", "length": "length", "refusal": "content_filter"},
}
OTHER = {"anthropic": "pause_turn", "openai": "tool_calls"}


@dataclass(frozen=True)
class Asked:
    """One request as it came in."""

    path: str
    headers: dict[str, str]
    """Names in lower case."""
    raw: bytes
    at: float

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(self.raw)

    @property
    def provider(self) -> str:
        return "anthropic" if self.path.endswith("/messages") else "openai"

    @property
    def said(self) -> str:
        """All text of system and messages, in order."""
        turns = [self.body.get("system") or "", *(m["content"] for m in self.body["messages"])]
        blocks = [[t] if isinstance(t, str) else [b["text"] for b in t] for t in turns]
        return "\n\n".join(text for each in blocks for text in each)


@dataclass(frozen=True)
class Behaviour:
    """How one request is answered; made by the functions below."""

    text: str = ""
    stop: Stop = "end"
    usage: Literal["counted", "missing"] | dict[str, object] = "counted"
    """`counted`: a token per four bytes, unless said otherwise; a dictionary is sent as it is."""
    tokens_in: int | None = None
    """All input tokens, cached ones included."""
    tokens_cached: int = 0
    tokens_written: int = 0
    """Written to the provider's cache; only Anthropic tells."""
    tokens_out: int | None = None
    role: str = "assistant"
    reasoning: str = ""
    refusal: str = ""
    """OpenAI's own field for a refusal; for Anthropic it is text with that stop reason."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """Sent as it is, plain."""
    seconds: float = 0.0
    """Before the head."""
    pause: float = 0.0
    """Between the events of a stream."""
    cut: float | None = None
    """Share of the reply after which the connection is closed."""
    gently: bool = False
    """Whether a cut stream ends as a complete one would, without its last events."""
    garbled: bool = False
    """Whether the JSON (of a stream: of an event half-way) is cut off."""
    complaint: str = ""
    """Error event half-way through a stream; a plain reply is that error with status 500."""
    empty: bool = False
    """No choices, or no content."""


def say(text: str = "", **kwargs: Any) -> Behaviour:
    """A reply; `tokens_in=`, `tokens_cached=`, `tokens_out=`, `usage="missing"`, `stop=`, ..."""
    return Behaviour(text, **kwargs)


def error(
    status: int, message: str = "Something is wrong.", after_ms: float | None = None, **kwargs: Any
) -> Behaviour:
    """An HTTP error, with `retry-after-ms` if given."""
    wait = {} if after_ms is None else {"retry-after-ms": str(after_ms)}
    headers = wait | kwargs.pop("headers", {})
    body = {"type": "error", "error": {"type": "some_error", "message": message, **kwargs}}
    return Behaviour(status=status, headers=headers, body=json.dumps(body).encode())


def hang(seconds: float = 30.0) -> Behaviour:
    """Nothing for so long, or until the server closes."""
    return Behaviour("too late", seconds=seconds)


def cut(text: str = "a reply that is never complete", share: float = 0.5) -> Behaviour:
    """The connection is closed in the midst of a reply."""
    return Behaviour(text, cut=share)


def ends_early(text: str = "a reply that is never complete", share: float = 0.5) -> Behaviour:
    """A stream ends properly, but too early; a plain reply is cut off."""
    return Behaviour(text, cut=share, gently=True)


def garbled(text: str = "a reply that is cut off") -> Behaviour:
    """JSON that is cut off, in a complete HTTP response."""
    return Behaviour(text, garbled=True)


def refusal(text: str = "I can't help with that.") -> Behaviour:
    """The provider's own kind of refusal."""
    return Behaviour(refusal=text, stop="refusal")


def complains(message: str = "Overloaded") -> Behaviour:
    """An error in the midst of a stream, after HTTP 200."""
    return Behaviour("half of a reply", complaint=message)


def raw(body: bytes, kind: str = "application/json", status: int = 200) -> Behaviour:
    """Any bytes."""
    return Behaviour(body=body, status=status, headers={"content-type": kind})


Scripted = Behaviour | str
Then = Scripted | Callable[[Asked], Scripted]


class ModelServer:
    """What a test holds: where it is, what it was asked, what it will do."""

    def __init__(self, behaviours: tuple[Scripted, ...], then: Then) -> None:
        self.queue: deque[Scripted] = deque(behaviours)
        self.then = then
        self.requests: list[Asked] = []
        self.url = ""
        self.closing = threading.Event()
        self._lock = threading.Lock()

    def next(self, asked: Asked) -> Behaviour:
        with self._lock:
            self.requests.append(asked)
            found = self.queue.popleft() if self.queue else self.then
        found = found(asked) if callable(found) else found
        return say(found) if isinstance(found, str) else found


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is what these tests are about."""


@contextmanager
def model_server(*behaviours: Scripted, then: Then = "ok") -> Iterator[ModelServer]:
    state = ModelServer(behaviours, then)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            _handle(self, state)

    with _Quiet(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        try:
            yield state
        finally:
            state.closing.set()
            server.shutdown()
            thread.join()


def _handle(request: BaseHTTPRequestHandler, state: ModelServer) -> None:
    sent = request.rfile.read(int(request.headers["content-length"]))
    headers = {name.lower(): value for name, value in request.headers.items()}
    asked = Asked(request.path, headers, sent, time.monotonic())
    if request.path not in ("/v1/messages", "/v1/chat/completions"):
        return _send(request, error(404, f"No such path: {request.path}"))
    how = state.next(asked)
    state.closing.wait(how.seconds)
    if how.body is not None:
        return _send(request, how)
    if not asked.body.get("stream"):
        return _plain(request, asked, how)
    return _stream(request, state, asked, how)


def _send(request: BaseHTTPRequestHandler, how: Behaviour) -> None:
    """A whole body, or its beginning if it is to be cut."""
    body = how.body or b""
    headers = {"content-type": "application/json"} | how.headers
    request.send_response(how.status)
    for name, value in (headers | {"content-length": str(len(body))}).items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body if how.cut is None else body[: int(len(body) * how.cut)])
    request.close_connection = how.cut is not None


def _plain(request: BaseHTTPRequestHandler, asked: Asked, how: Behaviour) -> None:
    if how.complaint:
        return _send(request, error(500, how.complaint))
    body = json.dumps(WHOLE[asked.provider](asked, how)).encode()
    body = body[: len(body) // 2] if how.garbled else body
    return _send(request, replace(how, body=body))


def _stream(
    request: BaseHTTPRequestHandler, state: ModelServer, asked: Asked, how: Behaviour
) -> None:
    request.send_response(how.status)
    headers = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
    for name, value in (headers | how.headers).items():
        request.send_header(name, value)
    request.end_headers()
    events = EVENTS[asked.provider](asked, how)
    last = len(events) if how.cut is None else int(len(events) * how.cut)
    request.close_connection = how.cut is not None
    with contextlib.suppress(OSError):  # the client has had enough
        for number, event in enumerate(events[:last]):
            half = number == len(events) // 2
            if half and how.complaint:
                event = COMPLAINTS[asked.provider].format(json.dumps(how.complaint))
            _chunk(request, event[: len(event) // 2] + "\n\n" if half and how.garbled else event)
            state.closing.wait(how.pause)
        if how.cut is None or how.gently:
            request.wfile.write(b"0\r\n\r\n")


def _chunk(request: BaseHTTPRequestHandler, text: str) -> None:
    data = text.encode()
    request.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def _event(name: str, **data: object) -> str:
    return f"event: {name}\ndata: {json.dumps({'type': name} | data)}\n\n"


def _pieces(text: str) -> list[str]:
    size = max(5, len(text) // 40)
    return [text[i : i + size] for i in range(0, len(text), size)]


def _counts(asked: Asked, how: Behaviour) -> tuple[int, int]:
    heard = len((how.text + how.refusal + how.reasoning).encode("utf-8", "replace"))
    tokens_in = len(asked.said.encode()) // 4 + 1 if how.tokens_in is None else how.tokens_in
    return tokens_in, -(-heard // 4) if how.tokens_out is None else how.tokens_out


def _anthropic_usage(asked: Asked, how: Behaviour) -> dict[str, object] | None:
    if how.usage != "counted":
        return how.usage if isinstance(how.usage, dict) else None
    tokens_in, tokens_out = _counts(asked, how)
    return {
        "input_tokens": tokens_in - how.tokens_cached - how.tokens_written,
        "cache_read_input_tokens": how.tokens_cached,
        "cache_creation_input_tokens": how.tokens_written,
        "output_tokens": tokens_out,
    }


def _openai_usage(asked: Asked, how: Behaviour) -> dict[str, object] | None:
    if how.usage != "counted":
        return how.usage if isinstance(how.usage, dict) else None
    tokens_in, tokens_out = _counts(asked, how)
    return {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
        "prompt_tokens_details": {"cached_tokens": how.tokens_cached},
    }


def _stop(asked: Asked, how: Behaviour) -> str:
    if how.refusal and asked.provider == "openai":
        return "stop"
    return STOPS[asked.provider].get(how.stop, OTHER[asked.provider])


def _anthropic_whole(asked: Asked, how: Behaviour) -> dict[str, object]:
    text = how.text or how.refusal
    blocks: list[dict[str, object]] = []
    if how.reasoning:
        blocks.append({"type": "thinking", "thinking": how.reasoning, "signature": "x"})
    if text:
        blocks.append({"type": "text", "text": text})
    body: dict[str, object] = {
        "id": "msg_1",
        "type": "message",
        "role": how.role,
        "model": asked.body["model"],
        "content": blocks,
        "stop_reason": _stop(asked, how),
        "stop_sequence": None,
    }
    if how.empty:
        del body["content"]
    usage = _anthropic_usage(asked, how)
    return body | ({} if usage is None else {"usage": usage})


def _anthropic_events(asked: Asked, how: Behaviour) -> list[str]:
    whole = _anthropic_whole(asked, how)
    usage = _anthropic_usage(asked, how)
    begin = whole | {"content": [], "stop_reason": None}
    if usage is not None:
        begin["usage"] = usage | {"output_tokens": 1}
    if how.empty:
        return []
    events = [_event("message_start", message=begin), _event("ping")]
    parts = [("thinking", how.reasoning), ("text", how.text or how.refusal)]
    for index, (kind, text) in enumerate(part for part in parts if part[1]):
        block = {"type": kind, kind: ""}
        events.append(_event("content_block_start", index=index, content_block=block))
        for piece in _pieces(text):
            delta = {"type": f"{kind}_delta", kind: piece}
            events.append(_event("content_block_delta", index=index, delta=delta))
        events.append(_event("content_block_stop", index=index))
    final = {} if usage is None else {"usage": {"output_tokens": usage.get("output_tokens")}}
    stop = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    return [*events, _event("message_delta", delta=stop, **final), _event("message_stop")]


def _openai_whole(asked: Asked, how: Behaviour) -> dict[str, object]:
    message: dict[str, object] = {"role": how.role, "content": how.text or None}
    message |= {"reasoning_content": how.reasoning} if how.reasoning else {}
    message |= {"refusal": how.refusal} if how.refusal else {}
    choice = {"index": 0, "message": message, "finish_reason": _stop(asked, how), "logprobs": None}
    usage = _openai_usage(asked, how)
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": asked.body["model"],
        "choices": [] if how.empty else [choice],
    } | ({} if usage is None else {"usage": usage})


def _openai_events(asked: Asked, how: Behaviour) -> list[str]:
    deltas: list[dict[str, object]] = [{"role": how.role, "content": ""}]
    deltas += [{"reasoning_content": piece} for piece in _pieces(how.reasoning)]
    deltas += [{"content": piece} for piece in _pieces(how.text)]
    deltas += [{"refusal": piece} for piece in _pieces(how.refusal)]
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": _stop(asked, how)})
    chunks: list[dict[str, object]] = [{"choices": [choice]} for choice in choices]
    usage = _openai_usage(asked, how)
    if usage is not None and asked.body.get("stream_options", {}).get("include_usage"):
        chunks.append({"choices": [], "usage": usage})
    if how.empty:
        chunks = []
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1}
    head["model"] = asked.body["model"]
    return [*(f"data: {json.dumps(head | c)}\n\n" for c in chunks), "data: [DONE]\n\n"]


WHOLE = {"anthropic": _anthropic_whole, "openai": _openai_whole}
EVENTS = {"anthropic": _anthropic_events, "openai": _openai_events}
COMPLAINTS = {
    "anthropic": 'event: error\ndata: {{"type": "error", "error": {{"type": "overloaded_error", '
    '"message": {}}}}}\n\n',
    "openai": 'data: {{"error": {{"message": {}, "code": 500}}}}\n\n',
}

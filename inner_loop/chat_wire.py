"""The two wire formats: what is sent for an `Ask`, and how a reply is read; plain dictionaries.

Owns: Anthropic's Messages and OpenAI's Chat Completions as far as a researcher needs them, where
the provider's cache is marked, how a reply stops, and what it used.
Does not own: the clients, retries and errors (`chat.py`). Nothing here touches a network.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal

from inner_loop.messages import Ask, Part, Reply
from inner_loop.settings import Settings, Usage

LONGEST_REPLY = 1_000_000
"""Bytes of a reply that are kept; the rest is cut."""
MOST_TOKENS = 1_000_000_000
"""A count above this is no count."""
BREAKPOINTS = 4
"""Places in one request that Anthropic lets be marked for its cache."""

_STOPS: dict[str, Literal["end", "length", "refusal"]] = {
    "end_turn": "end",
    "stop": "end",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "length": "length",
    "refusal": "refusal",
    "content_filter": "refusal",
}
# local models often write their reasoning into the reply, some without the opening tag
_THOUGHTS = re.compile(r"\A\s*<think>.*?(?:</think>\s*|\Z)|\A(?:(?!<think>).)*?</think>\s*", re.S)


class WrongShape(Exception):
    """What came back is not a reply of this wire format; the text says what is wrong."""


def clean(text: str) -> str:
    """`text` with lone surrogates replaced, so that it can be sent and stored as UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def size(ask: Ask) -> int:
    """UTF-8 bytes of everything that is said."""
    texts = [ask.system, *(part.text for each in ask.messages for part in each.parts)]
    return sum(len(clean(text).encode()) + 2 for text in texts)


def estimate(n_bytes: int) -> int:
    """Tokens that so many bytes are, roughly: a quarter, rounded up."""
    return math.ceil(n_bytes / 4)


def turns(ask: Ask) -> list[tuple[str, list[Part]]]:
    """Role and parts of each turn: no blank text, never the same role twice in a row."""
    found: list[tuple[str, list[Part]]] = []
    for message in ask.messages:
        parts = [part for part in message.parts if part.text.strip()]
        if parts and found and found[-1][0] == message.role:
            found[-1][1].extend(parts)
        elif parts:
            found.append((message.role, parts))
    return found


def anthropic_request(model: str, ask: Ask, settings: Settings) -> dict[str, Any]:
    """Arguments of the SDK's `messages.create`; the system and the last stable parts are marked."""
    said = turns(ask)
    system = clean(ask.system) if ask.system.strip() else ""
    stable = [(i, j) for i, (_, parts) in enumerate(said) for j, p in enumerate(parts) if p.stable]
    marked = set(stable[-(BREAKPOINTS - bool(system)) :])
    request: dict[str, Any] = {
        "model": model,
        "max_tokens": settings.max_output_tokens,
        "messages": [
            {
                "role": role,
                "content": [_block(p.text, (i, j) in marked) for j, p in enumerate(parts)],
            }
            for i, (role, parts) in enumerate(said)
        ],
    }
    if system:
        request["system"] = [_block(system, True)]
    if settings.effort is not None:
        request["output_config"] = {"effort": settings.effort}
    # the SDK has no argument for these; servers that know them take them from the body
    sampling = {"temperature": settings.temperature, "top_p": settings.top_p}
    if body := {name: value for name, value in sampling.items() if value is not None}:
        request["extra_body"] = body
    return request | ({"stream": True} if settings.stream else {})


def _block(text: str, marked: bool) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "text", "text": clean(text)}
    return block | ({"cache_control": {"type": "ephemeral"}} if marked else {})


def openai_request(model: str, ask: Ask, settings: Settings, own: bool) -> dict[str, Any]:
    """Arguments of the SDK's `chat.completions.create`.

    Args:
        model: as the server knows it.
        ask: what is said.
        settings: the track's.
        own: whether it goes to OpenAI itself; other servers know the output limit by its older name
            only.
    """
    said = [("system", ask.system)] if ask.system.strip() else []
    said += [(role, "\n\n".join(part.text for part in parts)) for role, parts in turns(ask)]
    request: dict[str, Any] = {
        "model": model,
        "messages": [{"role": role, "content": clean(text)} for role, text in said],
        "max_completion_tokens" if own else "max_tokens": settings.max_output_tokens,
    }
    optional = {
        "reasoning_effort": settings.effort,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
    }
    request |= {name: value for name, value in optional.items() if value is not None}
    if settings.stream:
        request |= {"stream": True, "stream_options": {"include_usage": True}}
    return request


class Hearing:
    """A reply as it comes in; `whole` for a plain one, or `event` for each piece of a stream."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._bytes = 0
        self._unseen = 0
        self._refusal = ""
        self._stop: object = None
        self._model = ""
        self._usage: dict[str, object] = {}
        self.ended = False
        """Whether the stream said that it is complete."""

    @property
    def full(self) -> bool:
        """Whether there is more than is kept."""
        return self._bytes > LONGEST_REPLY

    @property
    def began(self) -> bool:
        """Whether the model has begun to answer: what it has used may be billed."""
        return bool(self._bytes or self._unseen or self._usage)

    def whole(self, body: object) -> None:
        """Read a plain reply. Raises `WrongShape`."""
        raise NotImplementedError

    def event(self, event: object) -> None:
        """Read one event of a stream. Raises `WrongShape`."""
        raise NotImplementedError

    def tokens(self) -> tuple[object, object, object, object]:
        """In, of these read from the cache and written to it, and out, as the server put it."""
        raise NotImplementedError

    def reply(self, asked_bytes: int) -> Reply:
        """All that was heard.

        Args:
            asked_bytes: size of what was asked, for an estimate where the server does not count.
        """
        heard = clean("".join(self._pieces) or self._refusal)
        text = heard.encode()[:LONGEST_REPLY].decode(errors="ignore") if self.full else heard
        stop = "length" if self.full else _STOPS.get(str(self._stop), "other")
        return Reply(
            text=text[thoughts.end() :] if (thoughts := _THOUGHTS.match(text)) else text,
            stop="refusal" if self._refusal and not self._pieces else stop,
            model="".join(c for c in self._model if c.isprintable())[:200],
            usage=self._used(asked_bytes, len(heard.encode())),
        )

    def _used(self, asked: int, heard: int) -> Usage:
        """The server's own count, or ours of what it left out or got wrong."""
        raw_in, raw_cached, raw_written, raw_out = self.tokens()
        tokens_in, tokens_out = _count(raw_in), _count(raw_out)
        if (tokens_out == 0 and heard) or (self.full and not self.ended):
            tokens_out = None
        ours = not tokens_in or tokens_out is None
        tokens_in = tokens_in or estimate(asked)
        cached = min(_count(raw_cached) or 0, tokens_in)
        return Usage(
            calls=1,
            tokens_in=tokens_in,
            tokens_cached=cached,
            tokens_written=min(_count(raw_written) or 0, tokens_in - cached),
            tokens_out=estimate(heard + self._unseen) if tokens_out is None else tokens_out,
            estimated=int(ours),
        )

    def _add(self, text: object, shown: bool = True) -> None:
        if not isinstance(text, str) or not text:
            return
        n_bytes = len(text.encode("utf-8", "replace"))
        if not shown:
            self._unseen += n_bytes
            return
        self._bytes += n_bytes
        self._pieces.append(text)

    def _header(self, body: dict[str, Any]) -> None:
        """Model and usage: the latest count of each kind stands, for counts are running totals."""
        self._model = self._model or str(body.get("model") or "")
        usage = _dict(body.get("usage"))
        self._usage |= {name: value for name, value in usage.items() if value is not None}


class AnthropicHearing(Hearing):
    """Messages."""

    def whole(self, body: object) -> None:
        """Read a plain reply. Raises `WrongShape`."""
        message = _must_be_dict(body)
        self._begin(message)
        if not isinstance(blocks := message.get("content"), list):
            raise WrongShape("it has no content")
        for block in map(_dict, blocks):
            self._add(block.get("text"), shown=block.get("type") == "text")
            self._add(block.get("thinking"), shown=False)
        self._stop = message.get("stop_reason")
        self.ended = True

    def event(self, event: object) -> None:
        """Read one event of a stream. Raises `WrongShape`."""
        body = _must_be_dict(event)
        delta = _dict(body.get("delta"))
        match body.get("type"):
            case "message_start":
                self._begin(_must_be_dict(body.get("message")))
                self._usage.pop("output_tokens", None)  # what was written before it began
            case "content_block_start":
                self._add(_dict(body.get("content_block")).get("text"))
            case "content_block_delta":
                self._add(delta.get("text"), shown=delta.get("type") == "text_delta")
                self._add(delta.get("thinking"), shown=False)
            case "message_delta":
                self._header(body)
                self._stop = delta.get("stop_reason") or self._stop
            case "message_stop":
                self.ended = True

    def _begin(self, message: dict[str, Any]) -> None:
        self._header(message)
        _must_be_assistant(message.get("role"))

    def tokens(self) -> tuple[object, object, object, object]:
        """Input tokens are told in three parts: new, read from the cache, written to it."""
        read = self._usage.get("cache_read_input_tokens")
        written = self._usage.get("cache_creation_input_tokens")
        new = _count(self._usage.get("input_tokens"))
        total = None if new is None else new + (_count(read) or 0) + (_count(written) or 0)
        return total, read, written, self._usage.get("output_tokens")


class OpenAIHearing(Hearing):
    """Chat Completions; only the first choice, for no more are asked for."""

    def whole(self, body: object) -> None:
        """Read a plain reply. Raises `WrongShape`."""
        completion = _must_be_dict(body)
        self._header(completion)
        choice = _first_choice(completion)
        if choice is None or not isinstance(message := choice.get("message"), dict):
            raise WrongShape("it has no choices")
        self._said(message)
        self._stop = choice.get("finish_reason")
        self.ended = True

    def event(self, event: object) -> None:
        """Read one event of a stream. Raises `WrongShape`."""
        chunk = _must_be_dict(event)
        self._header(chunk)
        choice = _first_choice(chunk)
        if choice is None:
            return
        self._said(_dict(choice.get("delta")))
        if choice.get("finish_reason"):
            self._stop = choice["finish_reason"]
            self.ended = True

    def _said(self, message: dict[str, Any]) -> None:
        _must_be_assistant(message.get("role"))
        self._add(message.get("content"))
        # two names for it among compatible servers
        self._add(message.get("reasoning_content") or message.get("reasoning"), shown=False)
        if isinstance(refusal := message.get("refusal"), str) and not self.full:
            self._refusal += refusal
            self._bytes += len(refusal)

    def tokens(self) -> tuple[object, object, object, object]:
        """Cached tokens are part of the input tokens."""
        details = _dict(self._usage.get("prompt_tokens_details"))
        return (
            self._usage.get("prompt_tokens"),
            details.get("cached_tokens"),
            details.get("cache_write_tokens"),
            self._usage.get("completion_tokens"),
        )


def _first_choice(body: dict[str, Any]) -> dict[str, Any] | None:
    choices = body.get("choices")
    return _dict(choices[0]) or None if isinstance(choices, list) and choices else None


def _count(value: object) -> int | None:
    """A count of tokens, or None for what cannot be one."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MOST_TOKENS:
        return None
    return value


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _must_be_dict(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WrongShape("it is not a JSON object")
    return value


def _must_be_assistant(role: object) -> None:
    if role and role != "assistant":
        raise WrongShape(f"its role is {str(role)[:40]!r} and not 'assistant'")

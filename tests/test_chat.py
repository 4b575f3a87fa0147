"""The real SDKs, talking to a local server that speaks their wire formats and misbehaves."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_server import (
    Asked,
    Behaviour,
    ModelServer,
    complains,
    cut,
    ends_early,
    error,
    garbled,
    hang,
    model_server,
    raw,
    refusal,
    say,
)

from inner_loop.chat import _certificates, open_chat
from inner_loop.chat_wire import (
    AnthropicHearing,
    Hearing,
    OpenAIHearing,
    WrongShape,
    anthropic_request,
    openai_request,
    size,
    turns,
)
from inner_loop.errors import UserError
from inner_loop.messages import Ask, Message, NoReply, Part, Reply, TooLong
from inner_loop.settings import Settings, Usage

KEY = "sk-very-secret-0123456789"
KEYS = {"ANTHROPIC_API_KEY": KEY, "OPENAI_API_KEY": KEY}
PROVIDERS = ("anthropic", "openai")


def user(*texts: str, stable: int = 0) -> Message:
    return Message(
        role="user", parts=tuple(Part(text=t, stable=i < stable) for i, t in enumerate(texts))
    )


def assistant(text: str) -> Message:
    return Message(role="assistant", parts=(Part(text=text),))


ASK = Ask(system="You do research.", messages=(user("the program", "the history", stable=1),))


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[True, False], ids=["stream", "plain"])
def stream(request: pytest.FixtureRequest) -> bool:
    return request.param


class Line:
    """One provider, streaming or not: asks once and gives the reply, the requests, the waits."""

    def __init__(self, provider: str, stream: bool) -> None:
        self.provider, self.stream = provider, stream
        self.told: list[str] = []
        self.requests: list[Asked] = []

    def open(self, url: str, **settings: Any) -> Any:
        own = {"timeout_seconds": 5.0, "max_retries": 0, "stream": self.stream, "base_url": url}
        return open_chat(self.provider, "m-1", Settings(**own | settings), KEYS, self.told.append)

    def ask(self, *behaviours: Behaviour | str, ask: Ask = ASK, **settings: Any) -> Reply:
        with model_server(*behaviours, then=error(400, "unexpected")) as server:
            self.requests = server.requests
            return asyncio.run(self.open(server.url, **settings).ask(ask))


@pytest.fixture
def line(provider: str, stream: bool) -> Line:
    return Line(provider, stream)


def test_a_reply_with_the_servers_own_counts(line: Line) -> None:
    reply = line.ask(say("ünïcode 🦉", tokens_in=100, tokens_cached=60, tokens_out=7))
    assert (reply.text, reply.stop, reply.model) == ("ünïcode 🦉", "end", "m-1")
    assert reply.usage == Usage(calls=1, tokens_in=100, tokens_cached=60, tokens_out=7)
    assert len(line.requests) == 1
    assert line.told == []


def test_cache_writes_are_input_too(stream: bool) -> None:
    reply = Line("anthropic", stream).ask(
        say("x", tokens_in=100, tokens_cached=60, tokens_written=30, tokens_out=1)
    )
    assert (reply.usage.tokens_in, reply.usage.tokens_cached) == (100, 60)


@pytest.mark.parametrize(
    ("behaviour", "text", "stop"),
    [
        (say(""), "", "end"),
        (say("cut here", stop="length"), "cut here", "length"),
        (say("odd", stop="other"), "odd", "other"),
        (say("", stop="refusal"), "", "refusal"),
        (refusal("I can't."), "I can't.", "refusal"),
        (say("answer", reasoning="let me think"), "answer", "end"),
        (say("<think>let me\nthink</think>\n\nanswer"), "answer", "end"),
        (say("let me\nthink</think>\nanswer"), "answer", "end"),
        (say("<think>never done", stop="length"), "", "length"),
        (say("x" * 200_000), "x" * 200_000, "end"),
        (say("bad \ud800 surrogate"), "bad ? surrogate", "end"),
    ],
)
def test_what_a_reply_says_and_why_it_stops(
    line: Line, behaviour: Behaviour, text: str, stop: str
) -> None:
    reply = line.ask(behaviour)
    assert (reply.text, reply.stop) == (text, stop)
    assert (reply.usage.calls, reply.usage.estimated) == (1, 0)


def test_reasoning_is_counted_and_not_shown(line: Line) -> None:
    counted = line.ask(say("answer", reasoning="t" * 400))
    guessed = line.ask(say("answer", reasoning="t" * 400, usage="missing"))
    assert counted.text == guessed.text == "answer"
    assert counted.usage.tokens_out == guessed.usage.tokens_out == 102


def test_more_than_a_megabyte_is_cut(line: Line) -> None:
    reply = line.ask(say("ä" * 600_000))
    assert reply.text == "ä" * 500_000
    assert reply.stop == "length"
    # a stream is left before its count comes
    assert reply.usage.estimated == line.stream
    assert reply.usage.tokens_out > 240_000


@pytest.mark.parametrize(
    "usage",
    [
        "missing",
        {},
        {"input_tokens": -5, "output_tokens": "x", "prompt_tokens": -5, "completion_tokens": "x"},
        {"input_tokens": 10**12, "output_tokens": 2.5, "prompt_tokens": True},
        {"input_tokens": 0, "output_tokens": 0, "prompt_tokens": 0, "completion_tokens": 0},
    ],
)
def test_without_a_count_there_is_an_estimate(line: Line, usage: Any) -> None:
    reply = line.ask(say("abcde", usage=usage))
    asked = math.ceil(size(ASK) / 4)
    assert reply.usage == Usage(calls=1, tokens_in=asked, tokens_out=2, estimated=1)


def test_more_cached_than_sent_is_not_believed(line: Line) -> None:
    usage = {"input_tokens": 9, "output_tokens": 1, "cache_read_input_tokens": -4}
    usage |= {"prompt_tokens": 9, "completion_tokens": 1}
    reply = line.ask(say("x", usage=usage | {"prompt_tokens_details": {"cached_tokens": 99}}))
    assert reply.usage.tokens_in == 9
    assert reply.usage.tokens_cached == (0 if line.provider == "anthropic" else 9)


PASSING = {
    "cut": (cut(), "the connection was lost"),
    "cut at once": (cut(share=0.0), "the connection was lost"),
    "truncated JSON": (garbled(), "no valid JSON"),
    "server error": (error(500, "Out of order.\nDetails"), "HTTP 500: Out of order."),
    "overloaded": (error(529, "Overloaded"), "HTTP 529: Overloaded"),
    "rate limit": (error(429, "Slow down", after_ms=1), "HTTP 429: Slow down"),
    "timeout": (hang(), "no answer within 0.3 s"),
    "wrong role": (say("x", role="user"), "its role is 'user'"),
    "no choices": (say("x", empty=True), "the answer is no reply"),
    "error midway": (complains("Overloaded"), "Overloaded"),
    "ends early": (ends_early(), ""),
    "a page": (raw(b"<html>hello</html>", "text/html"), "the answer is no reply"),
    "a list": (raw(b"[1, 2]"), "the answer is no reply"),
    "nothing": (raw(b""), ""),
    "deep": (raw(b'{"a":' * 100_000), ""),
}


@pytest.mark.parametrize("name", PASSING)
def test_a_failure_that_may_pass_is_no_reply(line: Line, name: str) -> None:
    behaviour, words = PASSING[name]
    with pytest.raises(NoReply) as caught:
        line.ask(behaviour, timeout_seconds=0.3 if name == "timeout" else 5.0)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(line.requests) == 1


HOPELESS = {
    "wrong key": (error(401, f"Incorrect API key provided: {KEY}"), "does not accept the key in"),
    "no right": (error(403, f"Not with {KEY}."), "may not use 'm-1'"),
    "no model": (error(404, "The model m-1 does not exist"), "knows no model 'm-1'"),
    "too large": (error(413, "a" * 1000), "HTTP 413"),
    "control": (error(422, "\x1b[31mred\x07"), "HTTP 422"),
    "no credit": (error(402, "Pay first."), "Pay first."),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_a_failure_that_stays_is_the_users_to_mend(line: Line, name: str) -> None:
    behaviour, words = HOPELESS[name]
    with pytest.raises(UserError) as caught:
        line.ask(behaviour, max_retries=3)
    told = str(caught.value)
    assert words in told
    assert told.isprintable()
    assert len(told) < 500
    assert len(line.requests) == 1
    shown = "".join(traceback.format_exception(caught.value))
    assert KEY not in shown
    assert name not in ("wrong key", "no right") or line.provider.upper() in told


@pytest.mark.parametrize(
    "behaviour",
    [
        error(400, "prompt is too long: 300000 tokens > 200000 maximum\nmore"),
        error(400, "It does not fit.", code="context_length_exceeded"),
        error(400, "This model's maximum context length is 8192 tokens."),
        error(422, "the request exceeds the available context size"),
    ],
)
def test_a_request_too_long_for_the_model_says_so(line: Line, behaviour: Behaviour) -> None:
    with pytest.raises(TooLong, match="too long for the model") as caught:
        line.ask(behaviour, max_retries=3)
    assert len(line.requests) == 1
    assert str(caught.value).isprintable()
    assert caught.value.usage == Usage()


FILTERED = {
    "Anthropic": error(400, "Output blocked by content filtering policy"),
    "OpenAI": error(400, "It was flagged as potentially violating it.", code="invalid_prompt"),
    "Azure": error(400, "The response was filtered due to the prompt.", code="content_filter"),
    "OpenRouter": error(403, "Moderation is required and your input was flagged for violence."),
    "mid-stream": complains("Output blocked by content filtering policy"),
}


@pytest.mark.parametrize("name", FILTERED)
def test_a_filters_refusal_of_a_text_is_a_reply_that_refuses(line: Line, name: str) -> None:
    if name == "mid-stream" and not line.stream:
        pytest.skip("there is no stream")
    reply = line.ask(FILTERED[name], max_retries=3)
    assert (reply.text, reply.stop, reply.usage.calls) == ("", "refusal", 1)
    assert len(line.requests) == 1
    assert len(line.told) == 1
    assert f"{line.provider} 'm-1' at http" in line.told[0]
    assert "refuses this text: " in line.told[0]
    assert line.told[0].isprintable()
    assert (reply.usage.tokens_in > 0) == (name == "mid-stream")


@pytest.mark.parametrize(
    "behaviour",
    [
        error(401, "Your account was closed for breaking our content policy."),
        error(403, "You may not use this model under our usage policies."),
        error(400, "Unknown parameter: 'policy'."),
    ],
)
def test_no_access_is_no_filter(line: Line, behaviour: Behaviour) -> None:
    with pytest.raises(UserError):
        line.ask(behaviour)


def test_what_a_cut_stream_has_used_is_told(provider: str) -> None:
    with pytest.raises(NoReply) as caught:
        Line(provider, stream=True).ask(cut("a long reply " * 50))
    assert caught.value.usage.calls == 1
    assert caught.value.usage.tokens_in > 0
    assert caught.value.usage.tokens_out > 0
    with pytest.raises(NoReply) as caught:
        Line(provider, stream=True).ask(error(500))
    assert caught.value.usage == Usage()


def test_tokens_written_to_the_cache_are_told_apart() -> None:
    hearing = AnthropicHearing()
    usage = {"input_tokens": 10, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 30}
    message = {"role": "assistant", "content": [], "usage": usage | {"output_tokens": 1}}
    hearing.whole(message)
    used = hearing.reply(100).usage
    assert (used.tokens_in, used.tokens_cached, used.tokens_written) == (60, 20, 30)


def test_a_spent_account_is_not_waited_for(stream: bool) -> None:
    with pytest.raises(UserError, match="nothing left to spend: You exceeded"):
        Line("openai", stream).ask(error(429, "You exceeded it", code="insufficient_quota"))


def test_the_sdk_tries_again_and_the_wait_is_shown(line: Line) -> None:
    troubles = (error(429, after_ms=20), error(500, after_ms=10), error(503, after_ms=10))
    reply = line.ask(*troubles, say("at last", tokens_in=50, tokens_out=5), max_retries=3)
    assert reply.text == "at last"
    assert reply.usage == Usage(calls=1, tokens_in=50, tokens_out=5)
    assert len(line.requests) == 4
    assert len({asked.raw for asked in line.requests}) == 1
    assert [told.split(": ")[-1] for told in line.told] == [
        "HTTP 429; next try in 0.0 s (1 of 3).",
        "HTTP 500; next try in 0.0 s (2 of 3).",
        "HTTP 503; next try in 0.0 s (3 of 3).",
    ]
    assert all(told.startswith(f"{line.provider} 'm-1' at http://") for told in line.told)


def test_retry_after_in_seconds_is_waited_for(provider: str) -> None:
    line = Line(provider, True)
    line.ask(error(429, headers={"retry-after": "0.3"}), "ok", max_retries=1)
    first, second = line.requests
    assert second.at - first.at >= 0.3
    assert "HTTP 429; next try in 0.3 s" in line.told[0]


def test_a_timeout_is_tried_again(line: Line) -> None:
    # further tries only for a machine so busy that 0.4 s are short
    ok = say("ok", tokens_in=9)
    reply = line.ask(hang(), ok, ok, ok, max_retries=3, timeout_seconds=0.4)
    assert reply.text == "ok"
    assert reply.usage.tokens_in == 9
    assert "no answer; next try in" in line.told[0]


def test_tries_end(line: Line) -> None:
    with pytest.raises(NoReply, match="HTTP 500: third"):
        line.ask(*(error(500, n, after_ms=1) for n in ("one", "two", "third")), max_retries=2)
    assert len(line.requests) == 3


def test_a_stream_that_was_cut_is_not_asked_for_again(provider: str) -> None:
    line = Line(provider, True)
    with pytest.raises(NoReply, match="connection was lost"):
        line.ask(cut(), max_retries=3)
    assert len(line.requests) == 1


def test_a_stream_that_drips_forever_is_left(provider: str) -> None:
    with model_server(say("drip " * 100, pause=0.2)) as server:
        chat = Line(provider, True).open(server.url)
        chat.patience_seconds = 0.5
        with pytest.raises(NoReply, match=r"no complete answer within 0\.5 s"):
            asyncio.run(chat.ask(ASK))


def test_requests_at_the_same_time_tell_their_own_lines(provider: str) -> None:
    def trouble_for_b(asked: Asked) -> Behaviour:
        tried = sum(each.body["model"] == "b" for each in server.requests)
        bad = asked.body["model"] == "b" and tried <= 3
        return error(429, after_ms=30) if bad else say(asked.body["model"], pause=0.01)

    told: dict[str, list[str]] = {"a": [], "b": []}
    with model_server(then=trouble_for_b) as server:
        settings = Settings(base_url=server.url)
        chats = [open_chat(provider, m, settings, {}, told[m].append) for m in told]

        async def both() -> list[Reply]:
            return await asyncio.gather(*(chat.ask(ASK) for chat in [*chats, chats[0]]))

        replies = asyncio.run(both())
    assert [reply.text for reply in replies] == ["a", "b", "a"]
    assert told["a"] == []
    assert ["HTTP 429" in each for each in told["b"]] == [True] * 3


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_refused_connection_names_the_address(line: Line, host: str) -> None:
    url = f"http://{host}:{free_port()}/v1"
    with pytest.raises(UserError) as caught:
        asyncio.run(line.open(url).ask(ASK))
    assert str(caught.value) == (
        f"{url} cannot be reached (connection refused); is a server running there?"
    )


def test_an_unknown_host_names_the_address(provider: str) -> None:
    with pytest.raises(UserError, match=r"no-such-host\.invalid.*no such host"):
        asyncio.run(Line(provider, True).open("http://no-such-host.invalid/v1").ask(ASK))


def test_https_to_a_plain_server_says_so(provider: str) -> None:
    with model_server() as server:
        chat = Line(provider, True).open(server.url.replace("http:", "https:"))
        with pytest.raises(UserError, match="no secure connection"):
            asyncio.run(chat.ask(ASK))


def test_a_server_that_answered_before_may_come_back(line: Line) -> None:
    with model_server("here") as server:
        chat = line.open(server.url)
        assert asyncio.run(chat.ask(ASK)).text == "here"
    with pytest.raises(NoReply, match="connection refused"):
        asyncio.run(chat.ask(ASK))


def test_what_anthropic_is_sent(stream: bool) -> None:
    line = Line("anthropic", stream)
    ask = Ask(
        system="rules",
        messages=(
            user("a", "b", "c", "d", "  ", "e", stable=4),
            user("f"),
            assistant("g"),
            user("h"),
        ),
    )
    line.ask("ok", ask=ask, effort="high", temperature=0.5, max_output_tokens=300)
    body = line.requests[0].body
    mark = {"cache_control": {"type": "ephemeral"}}
    plain = [{"type": "text", "text": text} for text in "abcdefgh"]
    marked = [block | mark for block in plain]
    assert body == {
        "model": "m-1",
        "max_tokens": 300,
        "system": [{"type": "text", "text": "rules"} | mark],
        "messages": [
            {"role": "user", "content": [plain[0], *marked[1:4], *plain[4:6]]},
            {"role": "assistant", "content": [plain[6]]},
            {"role": "user", "content": [plain[7]]},
        ],
        "output_config": {"effort": "high"},
        "temperature": 0.5,
    } | ({"stream": True} if stream else {})
    assert line.requests[0].path == "/v1/messages"


def test_what_openai_is_sent(stream: bool) -> None:
    line = Line("openai", stream)
    ask = Ask(system="rules", messages=(user("a", "b", stable=1), assistant("c"), user("d")))
    line.ask("ok", ask=ask, effort="low", temperature=0.0, top_p=0.9, max_output_tokens=300)
    assert line.requests[0].body == {
        "model": "m-1",
        "max_tokens": 300,
        "messages": [
            {"role": "system", "content": "rules"},
            {"role": "user", "content": "a\n\nb"},
            {"role": "assistant", "content": "c"},
            {"role": "user", "content": "d"},
        ],
        "reasoning_effort": "low",
        "temperature": 0.0,
        "top_p": 0.9,
    } | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})


def test_openai_itself_knows_the_limit_by_its_newer_name() -> None:
    assert "max_completion_tokens" in openai_request("m", ASK, Settings(), own=True)
    assert "max_tokens" not in openai_request("m", ASK, Settings(), own=True)


def test_nothing_is_sent_that_was_not_asked_for(line: Line) -> None:
    line.ask("ok")
    assert not set(line.requests[0].body) & {"temperature", "top_p", "reasoning_effort"}
    assert "output_config" not in line.requests[0].body


def test_a_long_plain_reply_with_default_patience_is_allowed(provider: str) -> None:
    reply = Line(provider, False).ask("ok", max_output_tokens=64_000, timeout_seconds=600.0)
    assert reply.text == "ok"


def test_only_the_key_of_the_environ_is_sent(
    line: Line, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "ambient")
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "ANTHROPIC_PROFILE"):
        monkeypatch.setenv(name, "ambient")
    for name in ("ANTHROPIC", "OPENAI"):
        monkeypatch.setenv(f"{name}_BASE_URL", "http://ambient.invalid")
        monkeypatch.setenv(f"{name}_CUSTOM_HEADERS", "X-Ambient: ambient\nAuthorization: ambient")
    line.ask("ok")
    (asked,) = line.requests
    assert "ambient" not in json.dumps(asked.headers)
    assert KEY not in asked.raw.decode()
    holding = [name for name, value in asked.headers.items() if KEY in value]
    assert holding in (["authorization"], ["x-api-key"])


def test_a_server_of_ones_own_needs_no_key(provider: str) -> None:
    with model_server("ok") as server:
        chat = open_chat(provider, "m", Settings(base_url=server.url), {}, print)
        assert asyncio.run(chat.ask(ASK)).text == "ok"
    with model_server(error(401)) as server:
        chat = open_chat(provider, "m", Settings(base_url=server.url), {}, print)
        with pytest.raises(UserError, match="needs a key; set"):
            asyncio.run(chat.ask(ASK))


@pytest.mark.parametrize(
    "address", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"]
)
def test_anthropic_addresses_with_or_without_v1(address: str) -> None:
    with model_server("ok") as server:
        root = server.url.removesuffix("/v1")
        settings = Settings(base_url=address.replace("http://h:1", root))
        assert asyncio.run(open_chat("anthropic", "m", settings, {}, print).ask(ASK)).text == "ok"


@pytest.mark.parametrize(
    ("provider", "model", "settings", "environ", "words"),
    [
        ("anthropic", "m", {}, {}, "ANTHROPIC_API_KEY is not set"),
        ("openai", "m", {}, {"ANTHROPIC_API_KEY": "x"}, "OPENAI_API_KEY is not set"),
        ("openai", "m", {"base_url": "https://api.openai.com/v1"}, {}, "OPENAI_API_KEY is not"),
        ("openai", " ", {}, KEYS, "needs a model's name"),
        ("opneai", "m", {}, KEYS, "Did you mean 'openai'?"),
        ("openai", "m", {"base_url": "localhost:8000/v1"}, KEYS, "write it with its scheme"),
        ("openai", "m", {"base_url": "ftp://localhost"}, KEYS, "write it with its scheme"),
        ("openai", "m", {"base_url": "http://"}, KEYS, "write it with its scheme"),
        ("openai", "m", {"base_url": "http://[::1"}, KEYS, "write it with its scheme"),
        ("openai", "m", {"base_url": f"http://{KEY}@h/v1"}, KEYS, "from the environment only"),
        ("openai", "m", {"base_url": f"http://h/v1?key={KEY}"}, KEYS, "from the environment only"),
        ("openai", "m", {}, {"OPENAI_API_KEY": f"{KEY}\nX: y"}, "characters that no key has"),
        ("openai", "m", {}, {"OPENAI_API_KEY": f"“{KEY}”"}, "characters that no key has"),
    ],
)
def test_what_can_never_work_is_said_before_anything_is_sent(
    provider: str, model: str, settings: Any, environ: dict[str, str], words: str
) -> None:
    with pytest.raises(UserError) as caught:
        open_chat(provider, model, Settings(**settings), environ, print)
    assert words in str(caught.value)
    assert KEY not in str(caught.value)


def test_the_key_is_not_to_be_seen(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    chat = line.open("http://127.0.0.1:1/v1")
    assert KEY not in repr(chat) + str(chat) + repr(chat._place)
    with caplog.at_level(logging.DEBUG), pytest.raises(UserError):
        line.ask(error(500, f"echo {KEY}", after_ms=1), error(403, KEY), max_retries=2)
    assert caplog.records
    assert KEY not in caplog.text + "".join(line.told)


def test_the_sdks_stay_quiet(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    line.ask(error(500, after_ms=1), "ok", max_retries=1)
    assert len(line.told) == 1
    assert [r for r in caplog.records if r.name.startswith(("openai", "anthropic"))] == []


def test_whoever_wants_the_sdks_own_lines_gets_them(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        line.ask(error(500, after_ms=1), "ok", max_retries=1)
    assert any(r.getMessage().startswith("Retrying request") for r in caplog.records)
    assert len(line.told) == 1


def test_the_sdk_is_named_with_its_version(provider: str) -> None:
    name, version = Line(provider, True).open("http://h/v1").sdk.split()
    assert name == provider
    assert int(version.split(".")[0]) >= 1


def test_the_bound_learns_and_never_grows(line: Line) -> None:
    long = Ask(system="s" * 10_000, messages=(user("u" * 30_000), assistant("a"), user("b")))
    # the 2 more per text are the blank line between parts
    most = 40_002 + 2 * 4 + 64 * 4
    with model_server(
        say("x", tokens_in=size(ASK) // 5),
        say("x", usage="missing"),
        say("x", tokens_in=size(ASK) // 10),
        say("x", tokens_in=size(ASK) * 3),
    ) as server:
        chat = line.open(server.url, max_output_tokens=500)
        assert chat.bound(long) == Usage(calls=1, tokens_in=most, tokens_out=500)
        for _ in range(3):
            asyncio.run(chat.ask(ASK))
            ratio = (size(ASK) // 5) / size(ASK)
            assert chat.bound(long).tokens_in == math.ceil(1.25 * ratio * size(long)) + 64 * 4
        asyncio.run(chat.ask(ASK))
        assert chat.bound(long).tokens_in == most


def test_the_bound_learns_from_what_another_process_counted(provider: str) -> None:
    first, resumed = (Line(provider, True).open("http://h/v1") for _ in range(2))
    counted = Usage(calls=1, tokens_in=size(ASK) // 4, tokens_out=1)
    unknown = resumed.bound(ASK)
    resumed.learn(ASK, counted.model_copy(update={"tokens_in": 1, "estimated": 1}))
    assert resumed.bound(ASK) == unknown
    for chat in (first, resumed):
        chat.learn(ASK, counted)
    assert resumed.bound(ASK) == first.bound(ASK)
    assert resumed.bound(ASK).tokens_in < unknown.tokens_in


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("ALL_PROXY", "socks5://localhost:1", "SOCKS"),
        ("ALL_PROXY", "socks4://me:geheim99@localhost:1", "a proxy that is no HTTP address"),
        ("HTTPS_PROXY", "http://me:geheim99#1@localhost:1", "a proxy that is no HTTP address"),
        ("SSL_CERT_FILE", "/nonexistent.pem", "certificates: No such file"),
        ("SSL_CERT_FILE", __file__, "certificates: "),
    ],
)
def test_an_environment_that_no_client_can_work_in_is_told_at_once(
    provider: str, variable: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _certificates.cache_clear()
    monkeypatch.setenv(variable, value)
    try:
        with pytest.raises(UserError) as caught:
            Line(provider, True).open("https://example.invalid/v1")
    finally:
        _certificates.cache_clear()
    assert words in str(caught.value)
    assert variable in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value))
    assert "geheim" not in shown
    assert len(shown.splitlines()) < 20


def test_importing_the_seam_loads_no_sdk() -> None:
    code = (
        "import sys, inner_loop.chat; print({'openai', 'anthropic', 'httpx2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_cancelled_request_leaves_nothing_open(line: Line) -> None:
    async def give_up(server: ModelServer) -> None:
        task = asyncio.create_task(line.open(server.url).ask(ASK))
        while not server.requests:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with model_server(hang()) as server:
        asyncio.run(give_up(server))
        assert len(server.requests) == 1


texts = st.text(max_size=12)
parts = st.builds(Part, text=texts, stable=st.booleans())
messages = st.builds(
    Message,
    role=st.sampled_from(["user", "assistant"]),
    parts=st.lists(parts, max_size=4).map(tuple),
)
asks = st.builds(Ask, system=texts, messages=st.lists(messages, max_size=6).map(tuple))
VOCABULARY = """role content choices delta message type text usage model finish_reason refusal
message_start message_delta content_block_delta text_delta message_stop assistant"""
words = st.sampled_from(VOCABULARY.split())
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words
shapes = st.recursive(
    scalars, lambda s: st.lists(s, max_size=3) | st.dictionaries(words, s, max_size=4)
)


@given(ask=asks)
def test_turns_alternate_and_lose_nothing_but_blanks(ask: Ask) -> None:
    found = turns(ask)
    roles = [role for role, _ in found]
    assert all(a != b for a, b in pairwise(roles))
    said = [p for m in ask.messages for p in m.parts if p.text.strip()]
    assert [p for _, each in found for p in each] == said


@given(ask=asks)
def test_anthropic_gets_at_most_four_marks_on_the_last_stable_parts(ask: Ask) -> None:
    request = anthropic_request("m", ask, Settings())
    blocks = [b for m in request["messages"] for b in m["content"]]
    marked = ["cache_control" in block for block in blocks]
    stable = [p.stable for _, each in turns(ask) for p in each]
    assert sum(marked) + len(request.get("system", [])) <= 4
    assert all(s for s, m in zip(stable, marked, strict=True) if m)
    last = max((i for i, s in enumerate(stable) if s), default=None)
    assert last is None or marked[last]
    assert all(block["text"].strip() for block in blocks)


@given(ask=asks)
def test_no_request_is_larger_than_its_size_and_framing(ask: Ask) -> None:
    said = openai_request("m", ask, Settings(), own=False)["messages"]
    assert sum(len(m["content"].encode()) for m in said) <= size(ask)


@pytest.mark.parametrize("kind", [AnthropicHearing, OpenAIHearing])
@given(body=shapes, events=st.lists(shapes, max_size=5))
def test_any_shape_is_a_reply_or_a_wrong_one(
    kind: Callable[[], Hearing], body: object, events: list[object]
) -> None:
    for feed in ([lambda h: h.whole(body)], [lambda h, e=e: h.event(e) for e in events]):
        hearing = kind()
        try:
            for each in feed:
                each(hearing)
        except WrongShape:
            continue
        usage = hearing.reply(100).usage
        assert usage.tokens_in > 0
        assert 0 <= usage.tokens_cached <= usage.tokens_in

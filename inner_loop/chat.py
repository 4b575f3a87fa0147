"""One way to ask a language model, over the official clients of Anthropic and OpenAI.

Owns: the only imports of the two SDKs, a client per request, and the most that a request can use.
Any server that speaks one of the two wire formats will do (vLLM, Ollama, llama.cpp, OpenRouter).
Does not own: the wire formats (`chat_wire.py`), what an error means to a user (`chat_errors.py`),
showing the SDKs' own tries and waits (`chat_waits.py`), caps, prices and records (`correspond.py`).

Keys come from the `environ` that is handed in and go nowhere but to the client. The clients' own
environment variables (addresses, organisations, tokens, headers) have no effect.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import json
import math
import ssl
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any, ClassVar
from urllib.parse import urlsplit

from inner_loop.chat_errors import Blocked, Place, first_line
from inner_loop.chat_waits import Retries, Waiting, current
from inner_loop.chat_wire import (
    AnthropicHearing,
    Hearing,
    OpenAIHearing,
    WrongShape,
    anthropic_request,
    openai_request,
    size,
)
from inner_loop.errors import UserError, unknown
from inner_loop.messages import Ask, Chat, NoReply, Reply
from inner_loop.settings import Settings, Usage

CONNECT_SECONDS = 10.0
"""To reach a server at all."""
MESSAGE_TOKENS = 64
"""What a server's chat template may add to a message, at most."""
MARGIN = 1.25
"""Over the most tokens per byte seen so far."""
_NO_KEY = "no-key"


def open_chat(
    provider: str,
    model: str,
    settings: Settings,
    environ: Mapping[str, str],
    tell: Callable[[str], None],
) -> Chat:
    """A model that can be asked. Nothing is sent yet.

    Args:
        provider: whose wire format, `anthropic` or `openai`.
        model: as the server knows it.
        settings: the track's.
        environ: where the key is: `ANTHROPIC_API_KEY` or `OPENAI_API_KEY`. A server of one's own
            (`base_url`) may need none.
        tell: told one line before each wait for another try.

    Raises:
        UserError: no model, no key, an address that cannot be one, or a proxy or certificates
            that the client cannot use.
    """
    kind = _KINDS.get(provider)
    if kind is None:
        raise unknown("provider of models", provider, _KINDS)
    if not model.strip():
        raise UserError(f"Researcher '{provider}' needs a model's name; set `model` of the track.")
    address = _address(settings.base_url)
    key = environ.get(kind.variable, "").strip()
    if not key and (not address or kind.owns(address)):
        raise UserError(
            f"{kind.variable} is not set; export a key, or set `base_url` to a server that needs "
            "none."
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise UserError(f"{kind.variable} holds characters that no key has; check it for typos.")
    return kind(model.strip(), settings, address or kind.home, key, tell)


def _address(base_url: str) -> str:
    """`base_url` without a final slash. Raises `UserError` where it cannot be an address."""
    address = base_url.strip().rstrip("/")
    try:
        parts = urlsplit(address)
        bad = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
    except ValueError:
        bad = True
    if address and (bad or not address.isprintable() or " " in address):
        raise UserError(
            f"base_url '{first_line(base_url)}' is no address; write it with its scheme, such as "
            "http://localhost:8000/v1."
        )
    if address and ("@" in parts.netloc or parts.query):
        raise UserError(
            "base_url holds a name, a password or a query; keys come from the environment only."
        )
    return address


class _SdkChat(ABC):
    """What both providers share."""

    name: ClassVar[str]
    variable: ClassVar[str]
    home: ClassVar[str]
    domain: ClassVar[str]

    def __init__(
        self, model: str, settings: Settings, address: str, key: str, tell: Callable[[str], None]
    ) -> None:
        self._model, self._settings, self._address = model, settings, address
        self._key = key
        self._place = Place(self.name, model, address, self.variable, key)
        self._tell = tell
        self._module = self._load()
        self._answered = False
        self._tokens_per_byte = 0.0
        self.sdk = f"{self.name} {importlib.metadata.version(self.name)}"
        self.patience_seconds = (settings.max_retries + 6) * settings.timeout_seconds
        """For one request with all its tries: every try may time out, or a reply come slowly."""
        Retries.listen(self.name)
        self._http()  # what its proxy variables and certificates forbid is told before it matters

    @classmethod
    def owns(cls, address: str) -> bool:
        """Whether an address is the provider's own."""
        host = urlsplit(address).hostname or ""
        return host == cls.domain or host.endswith(f".{cls.domain}")

    @abstractmethod
    def _load(self) -> ModuleType:
        """The SDK."""

    @abstractmethod
    def _client(self, http: Any) -> Any:
        """A client that has read nothing from the environment."""

    @abstractmethod
    def _request(self, ask: Ask) -> dict[str, Any]:
        """Arguments of `_create`."""

    @abstractmethod
    def _create(self, client: Any) -> Any:
        """The client's method."""

    @abstractmethod
    def _hearing(self) -> Hearing:
        """A reader of this wire format."""

    def bound(self, ask: Ask) -> Usage:
        """The most one `ask` can use.

        A token is a byte at least; once the server has counted, 1.25 times the most tokens per byte
        that it has counted so far.
        """
        n_bytes = size(ask)
        tokens = n_bytes
        if self._tokens_per_byte:
            tokens = min(tokens, math.ceil(MARGIN * self._tokens_per_byte * n_bytes))
        framing = MESSAGE_TOKENS * (1 + len(ask.messages))
        return Usage(
            calls=1, tokens_in=tokens + framing, tokens_out=self._settings.max_output_tokens
        )

    async def ask(self, ask: Ask) -> Reply:
        """One request and its reply.

        Raises:
            NoReply: the service failed for now.
            UserError: it can never work as it is set up (key, model name, address).
        """
        waiting = Waiting(str(self), self._settings.max_retries, self._tell)
        token, hearing = current.set(waiting), self._hearing()
        try:
            async with asyncio.timeout(self.patience_seconds):
                await self._exchange(ask, waiting, hearing)
            reply = hearing.reply(size(ask))
            self._answered = True
            self.learn(ask, reply.usage)
            return reply
        except Exception as error:
            told = self._told(error)
            if told is None:
                raise
            if isinstance(told, Blocked):
                return self._blocked(told, ask, hearing)
            if isinstance(told, NoReply) and hearing.began:
                told.usage = hearing.reply(size(ask)).usage
            # the SDK's errors carry the request and the server's words, which may hold the key
            raise told from None
        finally:
            current.reset(token)

    def learn(self, ask: Ask, usage: Usage) -> None:
        """Take what the server once counted for an `ask`; an estimate teaches nothing."""
        if not usage.estimated:
            self._tokens_per_byte = max(self._tokens_per_byte, usage.tokens_in / size(ask))

    def _blocked(self, told: Blocked, ask: Ask, hearing: Hearing) -> Reply:
        """A filter's refusal as a reply: it is about what was said, and not about the set-up."""
        self._answered = True
        self._tell(f"{told}")
        usage = hearing.reply(size(ask)).usage if hearing.began else Usage(calls=1)
        return Reply(text="", stop="refusal", usage=usage)

    async def _exchange(self, ask: Ask, waiting: Waiting, hearing: Hearing) -> None:
        async with self._connected(waiting) as client:
            create, request = self._create(client), self._request(ask)
            if not self._settings.stream:
                hearing.whole(_plain(await create(**request)))
                return
            async with await create(**request) as events:
                async for event in events:
                    hearing.event(_plain(event))
                    if hearing.full:
                        return
        if not hearing.ended:
            raise WrongShape("the stream ended before the reply did")

    @asynccontextmanager
    async def _connected(self, waiting: Waiting) -> AsyncIterator[Any]:
        http = self._http()
        http.event_hooks = {"request": [waiting.sent], "response": [waiting.answered]}
        async with self._client(http) as client:
            # the SDKs take further headers from a variable and offer no way to decline them
            client._custom_headers = {}
            yield client

    def _http(self) -> Any:
        """An HTTP client. Raises `UserError` where the environment asks for what it cannot do."""
        import httpx2

        seconds = self._settings.timeout_seconds
        try:
            return self._module.DefaultAsyncHttpxClient(
                verify=_certificates(),
                timeout=self._module.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS)),
            )
        except (ImportError, OSError, ValueError, httpx2.InvalidURL) as error:
            why = _environment(error)
        # outside of the block: an error about an address may hold a piece of a proxy's password
        raise UserError(
            f"The client for {self.name} cannot be set up ({why}); look at the variables for "
            "proxies and certificates: ALL_PROXY, HTTP_PROXY, HTTPS_PROXY, SSL_CERT_FILE."
        )

    def _told(self, error: Exception) -> Exception | None:
        """What an error of the exchange means; None for a bug."""
        import httpx2

        sdk, place = self._module, self._place
        seconds = self._settings.timeout_seconds
        if isinstance(error, WrongShape):
            return NoReply(f"{place}: the answer is no reply: {first_line(str(error))}.")
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError):
            return NoReply(f"{place}: the answer is no valid JSON; it may have been cut off.")
        if isinstance(error, sdk.APIStatusError):
            return place.refused(error.status_code, error.body, str(error.message))
        if isinstance(error, sdk.APITimeoutError | httpx2.TimeoutException):
            return NoReply(f"{place}: no answer within {seconds:g} s.")
        if isinstance(error, TimeoutError):
            return NoReply(f"{place}: no complete answer within {self.patience_seconds:g} s.")
        if isinstance(error, sdk.APIConnectionError | httpx2.HTTPError | httpx2.StreamError):
            return place.unreachable(error, self._answered)
        if isinstance(error, sdk.APIError):
            return place.refused(0, error.body, str(error.message))
        return None

    def __str__(self) -> str:
        return str(self._place)

    def __repr__(self) -> str:
        return f"<{self}>"


class _Anthropic(_SdkChat):
    name = "anthropic"
    variable = "ANTHROPIC_API_KEY"
    home = "https://api.anthropic.com"
    domain = "anthropic.com"

    def _load(self) -> ModuleType:
        import anthropic

        return anthropic

    def _client(self, http: Any) -> Any:
        return self._module.AsyncAnthropic(
            api_key=self._key or _NO_KEY,
            base_url=self._address.removesuffix("/v1"),  # the SDK adds it
            max_retries=self._settings.max_retries,
            timeout=http.timeout,
            http_client=http,
            open_telemetry=False,
        )

    def _create(self, client: Any) -> Any:
        return client.messages.create

    def _request(self, ask: Ask) -> dict[str, Any]:
        return anthropic_request(self._model, ask, self._settings)

    def _hearing(self) -> Hearing:
        return AnthropicHearing()


class _OpenAI(_SdkChat):
    name = "openai"
    variable = "OPENAI_API_KEY"
    home = "https://api.openai.com/v1"
    domain = "openai.com"

    def _load(self) -> ModuleType:
        import openai

        return openai

    def _client(self, http: Any) -> Any:
        client = self._module.AsyncOpenAI(
            api_key=self._key or _NO_KEY,
            base_url=self._address,
            max_retries=self._settings.max_retries,
            timeout=http.timeout,
            http_client=http,
        )
        client.organization = client.project = client.admin_api_key = None
        return client

    def _create(self, client: Any) -> Any:
        return client.chat.completions.create

    def _request(self, ask: Ask) -> dict[str, Any]:
        return openai_request(self._model, ask, self._settings, self.owns(self._address))

    def _hearing(self) -> Hearing:
        return OpenAIHearing()


_KINDS: dict[str, type[_SdkChat]] = {"anthropic": _Anthropic, "openai": _OpenAI}


@functools.cache
def _certificates() -> ssl.SSLContext:
    """The usual ones, read once and not per request (some 50 ms)."""
    import httpx2

    return httpx2.create_ssl_context()


def _environment(error: Exception) -> str:
    """What of the environment an HTTP client cannot be made with."""
    if isinstance(error, ImportError):
        return f"a SOCKS proxy: {first_line(str(error)).split('. ')[0].rstrip('.')}"
    if isinstance(error, OSError):
        return f"certificates: {first_line(error.strerror or str(error))}"
    return "a proxy that is no HTTP address"


def _plain(answer: Any) -> object:
    """An SDK's object as the dictionary that came over the wire; anything else as it is."""
    return answer.to_dict(warnings=False) if hasattr(answer, "to_dict") else answer

"""A language model with a purse and a memory: caps before each call, every exchange on disk.

Owns: the order of effects of one request (held back, asked, priced, stored, returned), and that a
request which was answered before is not paid for again.
Does not own: the wire (`chat.py`), the caps' rule (`meter.py`), prices, files (`transcript.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from inner_loop.errors import UserError, unknown
from inner_loop.messages import Ask, Chat, NoReply, Reply
from inner_loop.meter import Cap, Meter
from inner_loop.prices import HOSTS, Prices, unknown_price
from inner_loop.researcher import Setup
from inner_loop.settings import Usage
from inner_loop.transcript import Exchange, Redactor, Transcript, secrets_in


def utc_clock() -> str:
    """The time to a millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Correspondent:
    """One account's way to a language model.

    Args:
        chat: the model.
        provider: `anthropic` or `openai`; with `model` and `base_url` it decides the price.
        model: the name that is asked for.
        meter: shared by all of a night.
        account: whose money it is: a run's id, or the rewriter's.
        cap: that account's own.
        prices: what models cost.
        folder: the run's, where exchanges are stored; None = nothing is stored.
        secrets: texts that must not reach the disk.
        base_url: where requests go; empty = the provider's own address.
        clock: the time, UTC.
        counted: whether the account was opened with what is stored here.
    """

    def __init__(
        self,
        chat: Chat,
        *,
        provider: str,
        model: str,
        meter: Meter,
        account: str,
        cap: Cap,
        prices: Prices,
        folder: Path | None,
        secrets: Sequence[str] = (),
        base_url: str = "",
        clock: Callable[[], str] = utc_clock,
        counted: bool = False,
    ) -> None:
        self.sdk = chat.sdk
        self._chat, self._meter, self._account, self._cap = chat, meter, account, cap
        self._whom, self._prices = (provider, base_url, model), prices
        self._transcript = Transcript(folder) if folder else None
        self._hide, self._clock = Redactor(secrets), clock
        self._counted: set[Path] = set()  # files whose tokens the meter knows
        if self._transcript and counted:
            self._counted.update(self._transcript.paths())
        self._has_taught = False

    async def ask(self, name: str, ask: Ask) -> Reply:
        """The reply to a request: the stored one if it was asked before under this name.

        Args:
            name: what it is stored as: move number and turn, `0007-2`.
            ask: what is said.

        Returns:
            The reply with its dollars, and with `[redacted]` where it repeats a secret.

        Raises:
            OutOfBudget: it could go over a cap; nothing was sent.
            NoReply: the service failed; that is stored too, and the same name may be tried again.
            UserError: it can never work as it is set up, or a dollar cap meets an unknown price.
        """
        stored = self._stored(name, ask)
        if stored is not None:
            return stored
        self._teach()
        bound = self._chat.bound(ask)
        bound = bound.model_copy(update={"usd": self._prices.most(*self._whom, bound)})
        async with self._meter.call(self._account, self._cap, bound) as call:
            started = self._clock()
            try:
                reply = await self._chat.ask(ask)
            except (NoReply, UserError) as error:
                if isinstance(error, NoReply):
                    error.usage = call.used = self._with_dollars(error.usage)
                self._write(name, ask, started, error=str(error), usage=call.used)
                raise
            reply = self._hide.reply(self._priced(reply))
            call.used = reply.usage
            self._write(name, ask, started, reply=reply)
        return reply

    def _teach(self) -> None:
        """Once: what the server counted before this process began; its bounds go on from there."""
        if self._transcript is None or self._has_taught:
            return
        self._has_taught = True
        provider, _, model = self._whom
        if (last := self._transcript.newest_counted(provider, model)) is not None:
            self._chat.learn(last.ask, last.used)

    def _stored(self, name: str, ask: Ask) -> Reply | None:
        provider, _, model = self._whom
        found = self._transcript and self._transcript.find(name, ask.key, provider, model)
        if not found or found[1].reply is None:
            return None
        path, reply = found[0], found[1].reply
        if reply.usage.usd is None:  # the price may have been added since
            reply = self._priced(reply)
        if path not in self._counted:
            self._counted.add(path)
            self._meter.note(self._account, reply.usage)
        return reply

    def _priced(self, reply: Reply) -> Reply:
        return reply.model_copy(update={"usage": self._with_dollars(reply.usage)})

    def _with_dollars(self, usage: Usage) -> Usage:
        return usage.model_copy(update={"usd": self._prices.cost(*self._whom, usage)})

    def _write(
        self,
        name: str,
        ask: Ask,
        started: str,
        *,
        reply: Reply | None = None,
        error: str = "",
        usage: Usage | None = None,
    ) -> None:
        if self._transcript is None:
            return
        provider, _, model = self._whom
        exchange = Exchange(
            name=name,
            key=ask.key,
            provider=provider,
            model=model,
            sdk=self.sdk,
            started=started,
            ended=self._clock(),
            ask=self._hide.ask(ask),
            reply=reply,
            error=self._hide(error),
            usage=usage or Usage(),
        )
        path = self._transcript.write(exchange)
        if reply is not None:
            self._counted.add(path)


def correspondent_for(
    setup: Setup, chat: Chat | None = None, *, counted: bool = False
) -> Correspondent:
    """The correspondent of a run's researcher; what it lacks to count dollars is told.

    Args:
        setup: the researcher's; its kind is the provider.
        chat: the model, if it is not to be opened from `setup`.
        counted: whether the account was opened with what is stored in the setup's folder.

    Raises:
        UserError: no model is named, it cannot be opened, a price table is wrong, or dollars are
            capped and its price is not known.
    """
    if not setup.model:
        raise UserError(f"Researcher '{setup.kind}' needs a model; name one with --model.")
    prices = Prices.load(setup.environ)
    base_url = setup.settings.base_url.strip()
    if chat is None:
        chat = _opened(setup, setup.model)
    budget = setup.budget
    cap = Cap("run", budget.tokens, budget.usd) if budget else Cap("run")
    if remark := prices.remark(setup.kind, base_url, setup.model):
        for usd in (cap.usd, setup.meter.night.usd):
            if usd is not None:
                raise unknown_price(usd)
        if setup.meter.is_news(remark):
            setup.tell(remark)
    return Correspondent(
        chat,
        provider=setup.kind,
        model=setup.model,
        meter=setup.meter,
        account=setup.run_id,
        cap=cap,
        prices=prices,
        folder=setup.folder,
        secrets=secrets_in(setup.environ, base_url),
        base_url=base_url,
        counted=counted,
    )


def _opened(setup: Setup, model: str) -> Chat:
    from inner_loop.chat import open_chat  # the SDKs: not before they are needed

    if setup.kind == "anthropic":
        return open_chat("anthropic", model, setup.settings, setup.environ, setup.tell)
    if setup.kind == "openai":
        return open_chat("openai", model, setup.settings, setup.environ, setup.tell)
    raise unknown("provider", setup.kind, HOSTS)

"""One request at a time: capped, priced, stored, and never paid for twice."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_server import error, model_server, say

from inner_loop.correspond import Correspondent, correspondent_for
from inner_loop.errors import UserError
from inner_loop.messages import Ask, Message, NoReply, Part, Reply
from inner_loop.meter import Cap, Meter, OutOfBudget
from inner_loop.prices import Price, Prices
from inner_loop.records import Budget
from inner_loop.researcher import Setup
from inner_loop.settings import Settings, Usage
from inner_loop.transcript import HIDDEN, Transcript, read_all, spent_in
from outer_loop.rewriter.choice import make_rewriter
from outer_loop.rewriter.model import ModelRewriter

KEY = "sk-live-0123456789abcdefghij"
PRICES = Prices(own={"openai": {"m": Price(input=1, cached=0.5, cache_write=2, output=10)}})


def ask(text: str) -> Ask:
    return Ask(system="s", messages=(Message(role="user", parts=(Part(text=text),)),))


class Echo:
    """Answers what it was asked; counts calls."""

    sdk = "echo 1"

    def __init__(self, answer: Callable[[Ask], Reply] | None = None) -> None:
        self.asks: list[Ask] = []
        self.learned: list[tuple[Ask, Usage]] = []
        self.answer = answer or echoed
        self.gate: asyncio.Event | None = None

    async def ask(self, ask: Ask) -> Reply:
        self.asks.append(ask)
        await asyncio.sleep(0)
        if self.gate:
            await self.gate.wait()
        return self.answer(ask)

    def bound(self, ask: Ask) -> Usage:
        return Usage(calls=1, tokens_in=100, tokens_out=50)

    def learn(self, ask: Ask, usage: Usage) -> None:
        self.learned.append((ask, usage))


def echoed(ask: Ask) -> Reply:
    usage = Usage(calls=1, tokens_in=100, tokens_cached=40, tokens_written=10, tokens_out=5)
    return Reply(text=ask.messages[0].parts[0].text, stop="end", model="m-1", usage=usage)


DOLLARS = (50 * 1 + 40 * 0.5 + 10 * 2 + 5 * 10) / 1e6
MOST = (100 * 2 + 50 * 10) / 1e6


def correspondent(
    chat: Echo,
    folder: Path | None = None,
    *,
    meter: Meter | None = None,
    cap: Cap | None = None,
    prices: Prices = PRICES,
    model: str = "m",
    account: str = "r",
) -> Correspondent:
    return Correspondent(
        chat,
        provider="openai",
        model=model,
        meter=meter or Meter(),
        account=account,
        cap=cap or Cap("run"),
        prices=prices,
        folder=folder,
        secrets=[KEY],
    )


def stored(folder: Path) -> list[str]:
    return [p.name.removesuffix(".json.gz") for p in Transcript(folder).paths()]


def test_a_reply_has_its_dollars_and_is_stored_before_it_is_returned(tmp_path: Path) -> None:
    chat, meter = Echo(), Meter()
    whom = correspondent(chat, tmp_path, meter=meter)
    assert whom.sdk == "echo 1"
    reply = asyncio.run(whom.ask("0001-1", ask("hello")))
    assert (reply.text, reply.model) == ("hello", "m-1")
    assert reply.usage.usd == pytest.approx(DOLLARS)
    assert meter.spent("r") == reply.usage
    (exchange,), damaged = read_all(Transcript(tmp_path).paths())
    assert exchange.reply == reply
    assert (exchange.name, exchange.key, exchange.ask) == ("0001-1", ask("hello").key, ask("hello"))
    assert (exchange.provider, exchange.model, exchange.sdk) == ("openai", "m", "echo 1")
    assert exchange.started <= exchange.ended
    assert exchange.ended.endswith("+00:00")
    assert not damaged


def test_a_stored_reply_is_neither_asked_nor_counted_again(tmp_path: Path) -> None:
    first = Echo()
    reply = asyncio.run(correspondent(first, tmp_path).ask("0001-1", ask("hello")))
    # another process, whose ledger knows nothing of that move
    second, meter = Echo(), Meter()
    whom = correspondent(second, tmp_path, meter=meter, cap=Cap("run", tokens=1, usd=0))
    for _ in range(3):
        assert asyncio.run(whom.ask("0001-1", ask("hello"))) == reply
    assert second.asks == []
    assert meter.spent("r") == reply.usage


def test_within_one_process_the_same_request_is_counted_once(tmp_path: Path) -> None:
    chat, meter = Echo(), Meter()
    whom = correspondent(chat, tmp_path, meter=meter)
    for _ in range(3):
        asyncio.run(whom.ask("0001-1", ask("hello")))
    assert len(chat.asks) == 1
    assert meter.spent("r").calls == 1


def test_another_request_under_the_same_name_is_asked_and_both_are_kept(tmp_path: Path) -> None:
    chat = Echo()
    whom = correspondent(chat, tmp_path)
    for text in ("one", "two", "one", "two"):
        assert asyncio.run(whom.ask("0001-1", ask(text))).text == text
    assert len(chat.asks) == 2
    assert stored(tmp_path) == ["0001-1", "0001-1.2"]


def test_another_model_is_not_answered_from_the_first_ones_replies(tmp_path: Path) -> None:
    chat = Echo()
    asyncio.run(correspondent(chat, tmp_path).ask("0001-1", ask("x")))
    asyncio.run(correspondent(chat, tmp_path, model="m2").ask("0001-1", ask("x")))
    assert len(chat.asks) == 2


def test_a_damaged_file_is_asked_anew_and_kept(tmp_path: Path) -> None:
    chat = Echo()
    asyncio.run(correspondent(chat, tmp_path).ask("0001-1", ask("x")))
    (path,) = Transcript(tmp_path).paths()
    path.write_bytes(path.read_bytes()[:20])
    assert asyncio.run(correspondent(chat, tmp_path).ask("0001-1", ask("x"))).text == "x"
    assert len(chat.asks) == 2
    assert stored(tmp_path) == ["0001-1", "0001-1.2"]


@pytest.mark.parametrize("kind", [NoReply, UserError])
def test_a_failure_is_stored_and_the_next_try_is_free_to_succeed(
    tmp_path: Path, kind: type[Exception]
) -> None:
    def fails(_: Ask) -> Reply:
        raise kind(f"The server said no to {KEY}.")

    chat, meter = Echo(fails), Meter()
    whom = correspondent(chat, tmp_path, meter=meter, cap=Cap("run", tokens=150))
    for _ in range(2):
        with pytest.raises(kind):
            asyncio.run(whom.ask("0001-1", ask("x")))
    assert meter.spent("r") == Usage()
    chat.answer = echoed
    assert asyncio.run(whom.ask("0001-1", ask("x"))).text == "x"
    assert stored(tmp_path) == ["0001-1", "0001-1.failed-1", "0001-1.failed-2"]
    failed = read_all(Transcript(tmp_path).paths())[0][1]
    assert failed.reply is None
    assert failed.error == f"The server said no to {HIDDEN}."


def test_no_secret_reaches_the_disk_or_the_reply_and_replay_still_works(tmp_path: Path) -> None:
    chat = Echo()
    whom = correspondent(chat, tmp_path)
    reply = asyncio.run(whom.ask("0001-1", ask(f"print {KEY}")))
    assert reply.text == f"print {HIDDEN}"
    raw = b"".join(gzip.decompress(p.read_bytes()) for p in tmp_path.rglob("*.gz"))
    assert b"print" in raw
    assert KEY.encode() not in raw
    again = correspondent(chat, tmp_path)
    assert asyncio.run(again.ask("0001-1", ask(f"print {KEY}"))) == reply
    assert len(chat.asks) == 1
    assert KEY in chat.asks[0].messages[0].parts[0].text  # the model is sent what was meant


def test_the_newest_count_on_disk_is_taught_once(tmp_path: Path) -> None:
    first = Echo()
    whom = correspondent(first, tmp_path)
    for number, text in enumerate(("one", "two"), start=1):
        asyncio.run(whom.ask(f"{number:04d}-1", ask(text)))
    assert first.learned == []
    first.answer = lambda _: Reply(
        text="", stop="end", usage=Usage(calls=1, tokens_in=9, tokens_out=9, estimated=1)
    )
    asyncio.run(whom.ask("0003-1", ask("a guess teaches nothing")))
    first.answer = lambda _: Reply(text="", stop="refusal", usage=Usage(calls=1))
    asyncio.run(whom.ask("0004-1", ask("nor does what was never counted")))
    Transcript(tmp_path).paths()[-1].write_bytes(b"damaged")
    second = Echo()
    resumed = correspondent(second, tmp_path)
    for text in ("three", "four"):
        asyncio.run(resumed.ask("0005-1", ask(text)))
    assert [(asked, usage.tokens_in) for asked, usage in second.learned] == [(ask("two"), 100)]
    other = Echo()
    asyncio.run(correspondent(other, tmp_path, model="m2").ask("0006-1", ask("x")))
    assert other.learned == []


def test_what_a_failed_call_used_is_stored_and_counted_on_resume(tmp_path: Path) -> None:
    def fails(_: Ask) -> Reply:
        raise NoReply("It was cut.", Usage(calls=1, tokens_in=100, tokens_out=3, estimated=1))

    meter = Meter()
    whom = correspondent(Echo(fails), tmp_path, meter=meter)
    with pytest.raises(NoReply):
        asyncio.run(whom.ask("0001-1", ask("x")))
    asyncio.run(correspondent(Echo(), tmp_path, meter=meter).ask("0001-1", ask("x")))
    (_, failed), _ = read_all(Transcript(tmp_path).paths())
    assert failed.used.tokens == 103
    assert failed.used.usd == pytest.approx((100 * 1 + 3 * 10) / 1e6)
    assert spent_in(tmp_path) == meter.spent("r")


def test_an_account_that_knows_the_folder_counts_nothing_twice(tmp_path: Path) -> None:
    asyncio.run(correspondent(Echo(), tmp_path).ask("0001-1", ask("x")))
    meter = Meter()
    meter.open("r", spent_in(tmp_path))
    made = setup(tmp_path, [], model="m", budget=None, meter=meter)
    whom = correspondent_for(made, Echo(), counted=True)
    assert asyncio.run(whom.ask("0001-1", ask("x"))).text == "x"
    assert meter.spent("r").calls == 1
    asyncio.run(whom.ask("0002-1", ask("y")))
    assert meter.spent("r").calls == 2


def test_without_a_folder_nothing_is_stored(tmp_path: Path) -> None:
    chat = Echo()
    whom = correspondent(chat)
    for _ in range(2):
        asyncio.run(whom.ask("0001-1", ask("x")))
    assert len(chat.asks) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_dollar_cap_meets_an_unknown_price_before_the_call(tmp_path: Path) -> None:
    chat = Echo()
    whom = correspondent(chat, tmp_path, cap=Cap("run", usd=5), prices=Prices())
    with pytest.raises(UserError, match="price is not known"):
        asyncio.run(whom.ask("0001-1", ask("x")))
    assert chat.asks == []
    assert stored(tmp_path) == []
    tokens_only = correspondent(chat, tmp_path, prices=Prices())
    assert asyncio.run(tokens_only.ask("0001-1", ask("x"))).usage.usd is None
    # the price is added later: what was stored without dollars has them now
    later = asyncio.run(correspondent(chat, tmp_path).ask("0001-1", ask("x")))
    assert later.usage.usd == pytest.approx(DOLLARS)
    assert len(chat.asks) == 1


@pytest.mark.parametrize(
    ("cap", "name"),
    [
        (Cap("run", tokens=254), "run cap of 254 tokens"),
        (Cap("run", usd=DOLLARS + MOST * 0.999), r"run cap of \$"),
    ],
)
def test_a_call_that_could_go_over_a_cap_is_not_begun(tmp_path: Path, cap: Cap, name: str) -> None:
    chat = Echo()
    whom = correspondent(chat, tmp_path, cap=cap)
    asyncio.run(whom.ask("0001-1", ask("x")))
    with pytest.raises(OutOfBudget, match=name):
        asyncio.run(whom.ask("0001-2", ask("y")))
    assert len(chat.asks) == 1
    assert stored(tmp_path) == ["0001-1"]


@pytest.mark.parametrize("cap", [Cap("run", tokens=149), Cap("run", usd=MOST * 0.999)])
def test_a_cap_below_a_single_call_is_the_users_to_mend(tmp_path: Path, cap: Cap) -> None:
    chat = Echo()
    with pytest.raises(UserError, match="does not allow a single call"):
        asyncio.run(correspondent(chat, tmp_path, cap=cap).ask("0001-1", ask("x")))
    assert chat.asks == []
    assert stored(tmp_path) == []


def test_the_last_cent_can_be_spent(tmp_path: Path) -> None:
    cap = Cap("run", tokens=150, usd=MOST)
    assert asyncio.run(correspondent(Echo(), tmp_path, cap=cap).ask("0001-1", ask("x"))).text


@settings(max_examples=40)
@given(
    cap=st.integers(0, 1_500),
    night=st.integers(0, 2_500),
    used=st.lists(st.tuples(st.integers(0, 100), st.integers(0, 50)), min_size=12, max_size=12),
    places=st.integers(1, 4),
)
def test_no_cap_is_passed_by_asks_at_the_same_time(
    cap: int, night: int, used: list[tuple[int, int]], places: int
) -> None:
    def answer(asked: Ask) -> Reply:
        tokens_in, tokens_out = used[int(asked.messages[0].parts[0].text)]
        usage = Usage(calls=1, tokens_in=tokens_in, tokens_out=tokens_out)
        return Reply(text="", stop="end", usage=usage)

    chats = [Echo(answer), Echo(answer)]
    meter = Meter(Cap("night", tokens=night, usd=night * 1e-5), places)
    limit = Cap("run", tokens=cap, usd=cap * 1e-5)
    whom = [
        correspondent(chat, meter=meter, cap=limit, account=f"r{n}") for n, chat in enumerate(chats)
    ]

    async def all_at_once() -> list[Reply | BaseException]:
        jobs = [whom[i % 2].ask(f"{i:04d}-1", ask(str(i))) for i in range(len(used))]
        return await asyncio.gather(*jobs, return_exceptions=True)

    results = asyncio.run(all_at_once())
    assert {type(r) for r in results} <= {Reply, OutOfBudget, UserError}
    spent = [meter.spent("r0"), meter.spent("r1")]
    assert all(s.tokens <= cap and (s.usd or 0) <= cap * 1e-5 + 1e-12 for s in spent)
    assert sum(s.tokens for s in spent) <= night
    # a refused ask never reached the model, an answered one was counted
    answered = sum(isinstance(r, Reply) for r in results)
    assert len(chats[0].asks) + len(chats[1].asks) == answered == sum(s.calls for s in spent)


def test_a_cancelled_ask_gives_back_what_it_held(tmp_path: Path) -> None:
    async def scene() -> None:
        chat, meter = Echo(), Meter(concurrency=1)
        chat.gate = asyncio.Event()
        whom = correspondent(chat, tmp_path, meter=meter, cap=Cap("run", tokens=150))
        task = asyncio.create_task(whom.ask("0001-1", ask("x")))
        while not chat.asks:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert meter.spent("r") == Usage()
        assert stored(tmp_path) == []
        chat.gate.set()
        assert (await whom.ask("0001-1", ask("x"))).text == "x"

    asyncio.run(scene())


def test_a_reply_is_counted_even_where_it_cannot_be_stored(tmp_path: Path) -> None:
    (tmp_path / "transcript").write_text("a file in the way")
    meter = Meter()
    with pytest.raises(OSError, match="transcript"):
        asyncio.run(correspondent(Echo(), tmp_path, meter=meter).ask("0001-1", ask("x")))
    assert meter.spent("r").calls == 1


# --- from a researcher's setup --------------------------------------------------------------------


def setup(tmp_path: Path, told: list[str], **changes: object) -> Setup:
    fields: dict[str, object] = {
        "kind": "openai",
        "model": "gpt-4.1",
        "budget": Budget(experiments=1, tokens=150),
        "run_id": "r",
        "folder": tmp_path,
        "meter": Meter(),
        "environ": {"METARESEARCH_HOME": str(tmp_path), "OPENAI_API_KEY": "anything-0123"},
        "tell": told.append,
    }
    return Setup(**(fields | changes))  # type: ignore[arg-type]


def test_a_setup_gives_caps_prices_secrets_and_account(tmp_path: Path) -> None:
    told: list[str] = []
    made = setup(tmp_path, told)
    whom = correspondent_for(made, Echo())
    reply = asyncio.run(whom.ask("0001-1", ask("anything-0123")))
    assert reply.text == HIDDEN
    assert reply.usage.usd == pytest.approx((50 * 2 + 40 * 0.5 + 10 * 2 + 5 * 8) / 1e6)
    assert made.meter.spent("r") == reply.usage
    assert stored(tmp_path) == ["0001-1"]
    assert told == []
    with pytest.raises(OutOfBudget, match="run cap of 150 tokens"):
        asyncio.run(whom.ask("0001-2", ask("y")))


def test_a_server_of_ones_own_counts_tokens_only_and_says_so(tmp_path: Path) -> None:
    told: list[str] = []
    local = Settings(base_url="http://localhost:8000/v1")
    whom = correspondent_for(setup(tmp_path, told, settings=local), Echo())
    assert asyncio.run(whom.ask("0001-1", ask("x"))).usage.usd is None
    assert len(told) == 1
    assert "gpt-4.1 at localhost is not known" in told[0]


@pytest.mark.parametrize(
    "caps",
    [
        {"budget": Budget(experiments=1, usd=2.0)},
        {"meter": Meter(Cap("night", usd=2.0))},
    ],
)
def test_dollars_cannot_be_capped_where_the_price_is_unknown(
    tmp_path: Path, caps: dict[str, object]
) -> None:
    told: list[str] = []
    with pytest.raises(UserError, match=r"A cap of \$2 cannot be held.*price is not known"):
        correspondent_for(setup(tmp_path, told, model="nobody's", **caps), Echo())
    assert told == []
    correspondent_for(setup(tmp_path, told, **caps), Echo())  # gpt-4.1 has one


def test_the_trial_of_a_rewriter_neither_counts_nor_tells(tmp_path: Path) -> None:
    asyncio.run(correspondent(Echo(), tmp_path, model="gpt-0").ask("0001-1", ask("x")))
    told: list[str] = []
    made = setup(tmp_path, told, model="gpt-0", budget=None)
    made.meter.open("r", spent_in(tmp_path))
    rewriter = make_rewriter(made)
    assert told == []
    assert isinstance(rewriter, ModelRewriter)
    whom = rewriter.connect()
    assert len(told) == 1
    assert "price of gpt-0 is not known" in told[0]
    asyncio.run(whom.ask("0001-1", ask("x")))  # from disk: no server is asked here
    assert made.meter.spent("r").calls == 1
    capped = replace(made, meter=Meter(Cap("night", usd=1)))
    with pytest.raises(UserError, match="price is not known"):
        make_rewriter(capped)


def test_a_setup_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs a model"):
        correspondent_for(setup(tmp_path, [], model=None), Echo())


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_over_the_real_wire_each_reply_is_paid_once(tmp_path: Path, kind: str) -> None:
    prices = tmp_path / "mine.toml"
    prices.write_text(f'[{kind}."local"]\ninput = 1\ncached = 0.5\noutput = 10\n')
    environ = {"METARESEARCH_PRICES": str(prices), f"{kind.upper()}_API_KEY": KEY}
    told: list[str] = []

    def anew() -> tuple[Correspondent, Meter]:
        own = Settings(base_url=server.url, max_retries=0, timeout_seconds=5)
        changes = {"kind": kind, "model": "local", "environ": environ, "settings": own}
        made = setup(tmp_path, told, **changes, meter=Meter(), budget=Budget(experiments=1, usd=1))
        return correspondent_for(made), made.meter

    reply = say(f"an edit with {KEY}", tokens_in=1_000, tokens_cached=400, tokens_out=30)
    with model_server(error(500, f"key {KEY} is fine, we are not"), reply) as server:
        whom, meter = anew()
        with pytest.raises(NoReply):
            asyncio.run(whom.ask("0001-1", ask("x")))
        first = asyncio.run(whom.ask("0001-1", ask("x")))
        assert first.usage.usd == pytest.approx((600 + 200 + 300) / 1e6)
        assert meter.spent("r") == first.usage
        resumed, meter = anew()
        assert asyncio.run(resumed.ask("0001-1", ask("x"))) == first
        assert meter.spent("r") == first.usage
        assert len(server.requests) == 2
    assert stored(tmp_path) == ["0001-1", "0001-1.failed-1"]
    assert whom.sdk.startswith(kind)
    assert first.text == f"an edit with {HIDDEN}"
    raw = b"".join(gzip.decompress(p.read_bytes()) for p in tmp_path.rglob("*.gz"))
    assert KEY.encode() not in raw
    assert told == []

"""Caps: no call begins that could go over one, however many run at a time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inner_loop.errors import UserError
from inner_loop.meter import Cap, Meter, OutOfBudget
from inner_loop.settings import Usage


def usage(tokens: int, usd: float | None = 0.0) -> Usage:
    return Usage(calls=1, tokens_in=tokens, usd=usd)


async def spend(
    meter: Meter, account: str, cap: Cap, bound: Usage, used: Usage, yields: int = 1
) -> bool:
    """Whether the call was allowed; it takes as many turns of the event loop as `yields`."""
    try:
        async with meter.call(account, cap, bound) as call:
            for _ in range(yields):
                await asyncio.sleep(0)
            call.used = used
    except OutOfBudget:
        return False
    return True


async def spend_or_stop(*words: Any) -> bool:
    """The same where a night's cap, or one too small for any call, says no as well."""
    try:
        return await spend(*words)
    except UserError:
        return False


calls = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.integers(0, 50),  # bound, tokens
        st.integers(0, 100),  # of that is used, per cent
        st.integers(0, 4),  # how long it takes
    ),
    max_size=30,
)


@settings(max_examples=60)
@given(plan=calls, run=st.integers(0, 200), night=st.integers(0, 300), places=st.integers(1, 5))
def test_no_cap_is_ever_passed(
    plan: list[tuple[str, int, int, int]], run: int, night: int, places: int
) -> None:
    meter = Meter(Cap("night", tokens=night, usd=night / 100), concurrency=places)
    cap = Cap("run", tokens=run, usd=run / 100)

    async def all_at_once() -> list[bool]:
        jobs = []
        for account, most, percent, turns in plan:
            used = most * percent // 100
            bound, real = usage(most, most / 100), usage(used, used / 100)
            jobs.append(spend_or_stop(meter, account, cap, bound, real, turns))
        return await asyncio.gather(*jobs)

    allowed = asyncio.run(all_at_once())
    spent = [meter.spent(name) for name in "abc"]
    assert all(s.tokens <= run and (s.usd or 0) <= run / 100 + 1e-9 for s in spent)
    assert sum(s.tokens for s in spent) <= night
    assert sum(s.calls for s in spent) == sum(allowed)


def test_what_calls_on_the_way_may_use_is_held_back() -> None:
    meter = Meter(concurrency=9)
    cap = Cap("run", tokens=100)

    async def three() -> list[bool]:
        jobs = [spend(meter, "r", cap, usage(60), usage(1), yields=5) for _ in range(3)]
        return await asyncio.gather(*jobs)

    assert asyncio.run(three()) == [True, False, False]
    assert meter.spent("r").tokens == 1
    assert asyncio.run(spend(meter, "r", cap, usage(99), usage(99)))
    assert not asyncio.run(spend(meter, "r", cap, usage(1), usage(1)))


def test_a_call_that_fails_or_is_cancelled_gives_back_what_it_held() -> None:
    meter = Meter(concurrency=1)
    cap = Cap("run", tokens=100)

    async def cancelled() -> None:
        begun = asyncio.Event()

        async def endless() -> None:
            async with meter.call("r", cap, usage(100)):
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(endless())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(ZeroDivisionError):
            async with meter.call("r", cap, usage(100)):
                raise ZeroDivisionError
        assert await spend(meter, "r", cap, usage(100), usage(100))

    asyncio.run(cancelled())
    assert meter.spent("r").tokens == 100


def test_the_nights_cap_is_shared_and_named() -> None:
    meter = Meter(Cap("night", tokens=10))
    assert asyncio.run(spend(meter, "a", Cap("run"), usage(6), usage(6)))

    async def over() -> None:
        async with meter.call("b", Cap("run", tokens=1_000), usage(5)):
            pytest.fail("it may not begin")

    with pytest.raises(UserError, match=r"night cap of 10 tokens leaves no room.*6 tokens spent"):
        asyncio.run(over())


def test_at_the_nights_cap_a_call_waits_for_what_others_really_use() -> None:
    meter = Meter(Cap("night", tokens=100), concurrency=9)

    async def two() -> list[bool]:
        first = spend(meter, "a", Cap("run"), usage(90), usage(1), yields=5)
        return await asyncio.gather(first, spend(meter, "b", Cap("run"), usage(90), usage(90)))

    assert asyncio.run(two()) == [True, True]
    assert meter.spent("b").tokens == 90


def test_a_cap_that_allows_no_call_says_so_before_anything_is_spent() -> None:
    meter = Meter()
    with pytest.raises(UserError, match="run cap of 5 tokens does not allow a single call"):
        asyncio.run(spend(meter, "r", Cap("run", tokens=5), usage(6), usage(6)))
    with pytest.raises(UserError, match="is none"):
        Cap("night", usd=float("nan"))


def test_one_meter_serves_one_event_loop_after_the_other() -> None:
    meter = Meter(concurrency=1)

    async def crowd() -> list[bool]:
        jobs = [spend(meter, "r", Cap("run"), usage(1), usage(1), yields=3) for _ in range(3)]
        return await asyncio.gather(*jobs)

    assert asyncio.run(crowd()) == asyncio.run(crowd()) == [True] * 3


def test_an_account_begins_with_what_the_ledger_says_and_only_once() -> None:
    meter = Meter()
    meter.open("r", usage(40))
    meter.open("r", usage(99))
    meter.note("r", usage(2))
    assert meter.spent("r").tokens == 42
    assert not asyncio.run(spend(meter, "r", Cap("run", tokens=50), usage(9), usage(9)))


@pytest.mark.parametrize("where", ["run", "night"])
def test_dollars_of_no_known_price_cannot_be_capped(where: str) -> None:
    capped = Cap(where, usd=1.0)
    meter = Meter(capped if where == "night" else None)
    cap = capped if where == "run" else Cap("run")
    with pytest.raises(UserError, match="price is not known"):
        asyncio.run(spend(meter, "r", cap, usage(1, None), usage(1, None)))
    assert asyncio.run(spend(Meter(), "r", Cap("run", tokens=9), usage(1, None), usage(1, None)))


def test_no_more_calls_at_a_time_than_places() -> None:
    meter = Meter(concurrency=2)
    running: list[int] = []
    now = 0

    async def one() -> None:
        nonlocal now
        async with meter.call("r", Cap("run"), usage(1)):
            now += 1
            running.append(now)
            await asyncio.sleep(0.001)
            now -= 1

    async def seven() -> None:
        await asyncio.gather(*(one() for _ in range(7)))

    asyncio.run(seven())
    assert len(running) == 7
    assert max(running) == 2


def test_usage_adds_up_and_an_unknown_price_stays_unknown() -> None:
    one = Usage(
        calls=1, tokens_in=10, tokens_cached=3, tokens_written=4, tokens_out=2, usd=0.5, estimated=1
    )
    assert one + one == Usage(
        calls=2, tokens_in=20, tokens_cached=6, tokens_written=8, tokens_out=4, usd=1, estimated=2
    )
    assert (one + one.model_copy(update={"usd": None})).usd is None
    assert one.tokens == 12

"""Whole runs with the real clients of both providers, over a server that misbehaves.

The loop, the ledger, git, the researcher, the correspondent and the SDKs are real; only the slot is
an instant one (`test_loop.InstantSlot`). Whatever the server does, a run ends well, what failed is
a row, what was paid is counted once, no cap is overshot and no key is written anywhere.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import pytest
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
    refusal,
    say,
)
from model_world import BASELINE, World, edit, queue

from inner_loop.errors import UserError
from inner_loop.loop import Session
from inner_loop.meter import Cap, Meter
from inner_loop.model_researcher import ModelResearcher
from inner_loop.records import Budget, Track
from inner_loop.settings import Settings, Usage
from inner_loop.transcript import Transcript, read_all
from outer_loop.tournament import together

KEY = "sk-very-secret-0123456789-abcdef"
PRICES = "".join(f'[{who}."m"]\ninput = 1.0\noutput = 2.0\n' for who in ("anthropic", "openai"))
GOOD = (edit("A = 1", "A = 222"), edit("B = 1", "B = 2"))
CLOSING = "VERDICT: none"
OUTPUT = 500
"""`max_output_tokens` here."""


class Line(NamedTuple):
    """A wire format, and whether it is streamed."""

    provider: str
    stream: bool


LINES = [Line(provider, stream) for provider in ("anthropic", "openai") for stream in (True, False)]


TWO = [LINES[0], LINES[3]]
"""One line for each provider, one streamed: where only what follows the wire is tested."""


def shown(line: Line) -> str:
    return f"{line.provider}-{'stream' if line.stream else 'plain'}"


@pytest.fixture(params=TWO, ids=shown)
def line(request: pytest.FixtureRequest) -> Line:
    return request.param


class Served(World):
    """A run whose model is served over HTTP; made again in the same folder, it is a new driver."""

    def __init__(
        self,
        folder: Path,
        track: Track,
        line: Line,
        url: str,
        *,
        meter: Meter | None = None,
        tokens: int | None = None,
        usd: float | None = None,
        experiments: int = 2,
        settings: dict[str, Any] | None = None,
    ) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "prices.toml").write_text(PRICES)
        super().__init__(folder, track, queue(), experiments=experiments)
        budget = Budget(experiments=experiments, tokens=tokens, usd=usd)
        self.told: list[str] = []
        self.meter = meter or Meter()
        self.meter.open(folder.name, sum((move.usage for move in self.moves), Usage()))
        patience = {"max_retries": 0, "timeout_seconds": 20.0, "max_output_tokens": OUTPUT}
        own = {"base_url": url, "stream": line.stream}
        self.setup = replace(
            self.setup,
            kind=line.provider,
            model="m",
            settings=Settings(**(patience | own | (settings or {}))),
            budget=budget,
            run_id=folder.name,
            meter=self.meter,
            environ={
                "METARESEARCH_HOME": str(folder),
                "ANTHROPIC_API_KEY": KEY,
                "OPENAI_API_KEY": KEY,
            },
            tell=self.told.append,
        )
        self.desk = replace(self.desk, track=self.track.model_copy(update={"budget": budget}))
        self.researcher = ModelResearcher(self.setup)
        self.session = Session(self.desk, self.session.run, self.program, self.researcher, BASELINE)

    @property
    def kinds(self) -> list[str]:
        return [move.kind for move in self.moves]

    @property
    def used(self) -> Usage:
        """What the ledger's moves say was used."""
        return sum((move.usage for move in self.moves), Usage())

    @property
    def retries(self) -> int:
        return sum("next try in" in each for each in self.told)

    @property
    def exchanges(self) -> int:
        """What is stored of requests, failed ones included."""
        found, damaged = read_all(Transcript(self.setup.folder or Path()).paths())
        assert not damaged
        return len(found)


@dataclass
class Till:
    """A server's behaviours in order, each with counts of its own; knows what it handed out."""

    script: list[Behaviour | str]
    handed: list[int] = field(default_factory=list)
    """Tokens of each reply that the server sent whole, with its usage."""

    def __call__(self, _: Asked) -> Behaviour:
        how = self.script.pop(0) if self.script else CLOSING
        how = say(how) if isinstance(how, str) else how
        number = len(self.handed)
        if how.usage == "counted" and how.tokens_in is None:
            how = replace(how, tokens_in=3000 + 7 * number, tokens_out=60 + number)
        self.handed.append((how.tokens_in or 0) + (how.tokens_out or 0) if is_whole(how) else 0)
        return how


def is_whole(how: Behaviour) -> bool:
    """Whether it arrives as a reply that says what it used."""
    harmed = how.cut is not None or how.garbled or how.complaint or how.empty
    odd = how.status != 200 or how.seconds or how.role != "assistant" or how.usage != "counted"
    return not (harmed or odd)


Make = Callable[..., Served]


@pytest.fixture
def make(tmp_path: Path, quick: Track, line: Line) -> Make:
    def world(server: ModelServer, name: str = "run", **more: Any) -> Served:
        return Served(tmp_path / name, quick, line, server.url, **more)

    return world


@pytest.fixture(autouse=True)
def _nothing_leaks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """After every test: the key is in no file, no output and no log, however detailed."""
    caplog.set_level(logging.DEBUG)
    yield
    out, err = capsys.readouterr()
    assert KEY not in out + err + caplog.text
    assert leaks(tmp_path, KEY) == []


def leaks(folder: Path, secret: str) -> list[Path]:
    """Files that hold a secret, packed ones unpacked."""
    return [p for p in folder.rglob("*") if p.is_file() and secret.encode() in unpacked(p)]


def unpacked(path: Path) -> bytes:
    raw = path.read_bytes()
    for unpack in (gzip.decompress, zlib.decompress):
        try:
            return raw + unpack(raw)
        except (OSError, EOFError, zlib.error):
            continue
    return raw


def ends_well(world: Served, server: ModelServer, till: Till) -> None:
    """What holds after every run, whatever happened in it."""
    assert world.ledger.run(world.session.run.id).state == "complete"
    budget = world.desk.track.budget.experiments
    assert [status for _, status in world.outcomes] == ["keep"] * budget
    assert len(server.requests) == world.exchanges + world.retries
    spent, used = world.ledger.spent(world.session.run.id), world.used
    assert spent.tokens == used.tokens == world.meter.spent(world.setup.run_id).tokens
    assert spent.usd == pytest.approx(used.tokens_in / 1e6 + used.tokens_out * 2 / 1e6)
    answered = [m for m in world.moves if m.kind != "failed" and not m.usage.estimated]
    assert sum(m.usage.tokens for m in answered) == sum(till.handed)
    assert sum(m.usage.calls for m in world.moves) <= world.exchanges


# --- one fault in each run ------------------------------------------------------------------------

LONG = "Thinking aloud. " * 13_000


class Case(NamedTuple):
    """A fault before the first good answer, and what the ledger says of it."""

    faults: list[Behaviour | str]
    first: str | None = None
    """Kind of the row that the fault alone makes; None: the first edit carries it."""
    repaired: int = 0
    continued: int = 0
    retries: int = 0
    settings: dict[str, Any] = {}  # noqa: RUF012  # read only
    instead: bool = False
    """Whether the faulty answer is itself the first good one."""


CASES = {
    "429 with retry-after": Case(
        [error(429, headers={"retry-after": "0.05"})], retries=1, settings={"max_retries": 2}
    ),
    "500s that pass": Case(
        [error(500, after_ms=1), error(503, after_ms=1)], retries=2, settings={"max_retries": 2}
    ),
    "500s beyond all tries": Case(
        [error(500, after_ms=1)] * 3, "failed", retries=2, settings={"max_retries": 2}
    ),
    "a timeout": Case([hang()], "failed", settings={"timeout_seconds": 1.0}),
    "truncated JSON": Case([garbled(GOOD[0])], "failed"),
    "a cut connection": Case([cut(GOOD[0])], "failed"),
    "a stream that ends too early": Case([ends_early(GOOD[0], share=0.6)], "failed"),
    "an error in mid-stream": Case([complains()], "failed"),
    "a wrong role": Case([say(GOOD[0], role="user")], "failed"),
    "no choices": Case([say(GOOD[0], empty=True)], "failed"),
    "a refusal": Case([refusal()], continued=1),
    "two refusals": Case([refusal(), refusal()], "unusable", continued=1),
    "an empty reply": Case([""], continued=1),
    "two empty replies": Case(["", ""], "unusable", continued=1),
    "a max-tokens stop": Case([say(GOOD[0][:-30], stop="length")], repaired=1),
    "two max-tokens stops": Case([say(GOOD[0][:-30], stop="length")] * 2, "unusable", repaired=1),
    "200 kB without a move": Case([LONG], continued=1),
    "200 kB and a move": Case([f"{LONG}\n{GOOD[0]}"], instead=True),
    "usage missing": Case([say(GOOD[0], usage="missing")], instead=True),
    "usage that cannot be": Case(
        [say(GOOD[0], usage={"prompt_tokens": -4, "input_tokens": "many"})], instead=True
    ),
}
WIRE = ("JSON", "cut", "early", "mid-stream", "role", "choices", "usage", "200 kB and", "a refusal")
"""Words of cases that each wire format reads in its own way, streamed or not."""
FAULTS = [(n, line) for n in CASES for line in (LINES if any(w in n for w in WIRE) else TWO)]


@pytest.mark.parametrize(
    ("name", "line"), FAULTS, ids=lambda each: each if isinstance(each, str) else shown(each)
)
def test_a_fault_is_a_row_the_run_ends_well_and_nothing_counts_twice(
    make: Make, line: Line, name: str
) -> None:
    case = CASES[name]
    till = Till([*case.faults, *GOOD[:1][case.instead :]])
    with model_server(then=till) as server:
        world = make(server, settings=case.settings, experiments=1).work()
    assert world.kinds == [*([case.first] if case.first else []), "edit", "close"]
    faulty = world.moves[0]
    assert (faulty.repaired, faulty.continued) == (case.repaired, case.continued)
    assert world.retries == case.retries
    assert all((m.repaired, m.continued) == (0, 0) for m in world.moves[1:])
    if case.first:
        assert faulty.description
    ends_well(world, server, till)
    is_ours = "usage" in name
    assert sum(m.usage.estimated for m in world.moves if m.kind != "failed") == is_ours


def test_a_wait_for_another_try_is_told_before_it_begins(make: Make) -> None:
    till = Till([error(429, headers={"retry-after": "0.3"}), *GOOD])
    with model_server(then=till) as server:
        world = make(server, settings={"max_retries": 1}).work()
    first, second, *_ = server.requests
    assert second.at - first.at >= 0.3
    assert "HTTP 429; next try in 0.3 s (1 of 1)." in world.told[0]


def test_a_reply_of_another_role_is_counted_if_its_usage_came_with_it(
    quick: Track, tmp_path: Path
) -> None:
    for provider in ("anthropic", "openai"):
        wrong = say(GOOD[0], role="user", tokens_in=900, tokens_out=90)
        with model_server(wrong, then=Till([*GOOD])) as server:
            line = Line(provider, stream=False)
            world = Served(tmp_path / provider, quick, line, server.url).work()
        assert world.kinds[0] == "failed"
        assert world.moves[0].usage.tokens == 990


# --- what never passes ----------------------------------------------------------------------------


def test_a_service_that_is_down_stops_with_one_sentence_and_another_driver_goes_on(
    make: Make,
) -> None:
    till = Till([GOOD[0], *[error(500, "Down.")] * 3, GOOD[1]])
    with model_server(then=till) as server:
        first = make(server)
        with pytest.raises(UserError, match=r"3 times in a row .*HTTP 500: Down.*same command"):
            first.work()
        assert first.kinds == ["edit", "failed", "failed"]
        assert len(server.requests) == 4
        again = make(server).work()
    assert again.kinds == ["edit", "failed", "failed", "edit", "close"]
    ends_well(again, server, till)


def test_a_service_that_is_down_at_the_closing_question_is_asked_again(make: Make) -> None:
    till = Till([*GOOD, *[error(500, "Down.")] * 3])
    with model_server(then=till) as server:
        with pytest.raises(UserError, match="3 times in a row"):
            make(server).work()
        again = make(server).work()
    assert again.kinds == ["edit", "edit", "close"]
    ends_well(again, server, till)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (error(401, f"Incorrect API key provided: {KEY}."), "does not accept the key in"),
        (error(404, f"No model m for {KEY}."), "knows no model 'm'"),
        (error(400, f"Bad {KEY} request."), "refuses the request"),
    ],
)
def test_what_can_never_work_stops_at_once_and_goes_on_when_it_can(
    make: Make, fault: Behaviour, sentence: str
) -> None:
    till = Till([GOOD[0], fault, GOOD[1]])
    with model_server(then=till) as server:
        with pytest.raises(UserError, match=sentence) as caught:
            make(server).work()
        assert KEY not in str(caught.value)
        assert len(server.requests) == 2
        again = make(server).work()
    assert again.kinds == ["edit", "edit", "close"]
    ends_well(again, server, till)


def test_a_server_that_is_not_there_stops_at_once(make: Make) -> None:
    with model_server() as gone:
        pass
    with pytest.raises(UserError, match="is a server running there"):
        make(gone).work()
    till = Till([*GOOD])
    with model_server(then=till) as server:
        world = make(server).work()
    assert world.kinds == ["edit", "edit", "close"]


def test_a_key_that_server_and_model_repeat_is_written_nowhere(make: Make) -> None:
    chatty = (
        f"DESCRIPTION: use {KEY}\nHYPOTHESIS: {KEY}\n<<<<<<< SEARCH\nA = 1\n=======\n"
        f"A = 222  # {KEY}\n>>>>>>> REPLACE\n<<<<<<< NOTES\n{KEY}\n>>>>>>> NOTES\n"
    )
    till = Till([error(500, f"{KEY} is overloaded"), chatty, GOOD[1]])
    with model_server(then=till) as server:
        world = make(server).work()
    sent = server.requests[0].headers
    assert KEY in sent.get("x-api-key", "") + sent.get("authorization", "")
    assert world.kinds == ["failed", "edit", "edit", "close"]
    assert world.outcomes[0] == ("use [redacted]", "keep")
    ends_well(world, server, till)


# --- drivers that are killed ----------------------------------------------------------------------


class Killed(BaseException):
    """A driver's end."""


def test_a_driver_killed_between_a_reply_and_its_row_pays_once(make: Make) -> None:
    till = Till([refusal(), *GOOD])
    with model_server(then=till) as server:
        first = make(server)

        def die(*_: object) -> None:
            raise Killed

        first.ledger.add_move = die  # type: ignore[method-assign]
        with pytest.raises(Killed):
            first.work()
        assert (len(server.requests), first.kinds) == (2, [])
        again = make(server).work()
    assert again.kinds == ["edit", "edit", "close"]
    assert again.moves[0].continued == 1
    assert len(server.requests) == 4
    ends_well(again, server, till)


def test_a_driver_killed_while_it_waits_keeps_what_was_said_before(make: Make) -> None:
    till = Till([refusal(), hang(), *GOOD])
    with model_server(then=till) as server:
        first = make(server)
        with pytest.raises(TimeoutError):
            asyncio.run(asyncio.wait_for(first.session.work(), 1.5))
        assert (len(server.requests), first.kinds) == (2, [])
        again = make(server).work()
    assert again.kinds == ["edit", "edit", "close"]
    assert len(server.requests) == 2 + 3
    assert again.used.tokens == sum(till.handed)


# --- caps -----------------------------------------------------------------------------------------


class Greedy:
    """Charges the most that each request can cost, by its own reckoning of the bytes it got."""

    def __init__(self) -> None:
        self.charged: list[int] = []

    def __call__(self, asked: Asked) -> Behaviour:
        n_messages = len(asked.body["messages"]) + (asked.provider == "anthropic")
        n_bytes = len(asked.said.removeprefix("\n\n").encode())  # no system turn of its own
        tokens_in = n_bytes + 2 + 64 * n_messages
        self.charged.append(tokens_in + OUTPUT)
        tips = ("\nA = 222\nB = 2\n", "\nA = 222\nB = 1\n", "")
        said = next(
            s for tip, s in zip(tips, (CLOSING, *GOOD[::-1]), strict=True) if tip in asked.said
        )
        return say(said, tokens_in=tokens_in, tokens_out=OUTPUT)


@pytest.fixture(scope="module")
def full_price(tmp_path_factory: pytest.TempPathFactory, quick: Track) -> dict[Line, list[int]]:
    """What the requests of a run without caps cost, one after the other."""
    found = {}
    for line in LINES[1:3]:
        till = Greedy()
        with model_server(then=till) as server:
            Served(tmp_path_factory.mktemp("uncapped"), quick, line, server.url).work()
        assert len(till.charged) == 3
        found[line] = till.charged
    return found


CAPPED = pytest.mark.parametrize("line", LINES[1:3], ids=shown)


@CAPPED
@pytest.mark.parametrize("allowed", [1, 2])
@pytest.mark.parametrize("unit", ["tokens", "usd"])
def test_no_request_is_sent_that_could_go_over_a_runs_cap(
    tmp_path: Path,
    quick: Track,
    full_price: dict[Line, list[int]],
    line: Line,
    allowed: int,
    unit: str,
) -> None:
    costs = list(accumulate(dollars(c) if unit == "usd" else c for c in full_price[line]))
    a_little = 1e-9 if unit == "usd" else 1
    cap = costs[allowed] - a_little  # the next request would go over by that
    till = Greedy()
    with model_server(then=till) as server:
        world = Served(tmp_path / "run", quick, line, server.url, **{unit: cap}).work()
    assert len(server.requests) == allowed
    spent = getattr(world.ledger.spent(world.session.run.id), unit)
    assert spent == pytest.approx(costs[allowed - 1])
    assert spent <= cap
    named = f"{cap:,} tokens" if unit == "tokens" else f"${cap:g}"
    why = f"run cap of {named}" if allowed < 2 else "experiments"  # only the last verdict lacks
    assert world.exit_reason == f"budget ({why})"
    assert world.ledger.run(world.session.run.id).state == "complete"
    assert len(world.experiments) == allowed
    assert world.confirmed == world.experiments[-1].commit


@CAPPED
def test_a_request_that_just_fits_is_sent(
    tmp_path: Path, quick: Track, full_price: dict[Line, list[int]], line: Line
) -> None:
    cap = sum(full_price[line][:2])
    with model_server(then=Greedy()) as server:
        world = Served(tmp_path / "run", quick, line, server.url, tokens=cap).work()
    assert len(server.requests) == 2
    assert world.ledger.spent(world.session.run.id).tokens == cap


@CAPPED
@pytest.mark.parametrize("unit", ["tokens", "usd"])
def test_a_cap_below_a_single_request_is_refused_and_nothing_is_sent(
    tmp_path: Path, quick: Track, full_price: dict[Line, list[int]], line: Line, unit: str
) -> None:
    first = full_price[line][0]
    cap = dollars(first) - 1e-9 if unit == "usd" else first - 1
    with model_server() as server:
        world = Served(tmp_path / "run", quick, line, server.url, **{unit: cap})
        with pytest.raises(UserError, match=r"run cap of .* does not allow a single call"):
            world.work()
    assert server.requests == []


@pytest.mark.parametrize("unit", ["tokens", "usd"])
def test_a_nights_cap_holds_for_runs_side_by_side_and_a_higher_one_goes_on(
    tmp_path: Path, quick: Track, full_price: dict[Line, list[int]], unit: str
) -> None:
    line = LINES[1]
    most = sum(full_price[line]) + full_price[line][0] // 2  # of six requests that two runs make
    cap = dollars_of(most, 4) if unit == "usd" else most
    till = Greedy()

    def night(cap: Cap) -> list[Served]:
        meter = Meter(cap)
        return [Served(tmp_path / n, quick, line, server.url, meter=meter) for n in ("a", "b")]

    with model_server(then=till) as server:
        stopped = night(Cap("night", **{unit: cap}))
        with pytest.raises(UserError, match=r"night cap of .* leaves no room for another call"):
            asyncio.run(side_by_side(stopped))
        sent = len(server.requests)
        spent = sum(till.charged) if unit == "tokens" else sum(map(dollars, till.charged))
        assert sent == len(till.charged) == 3
        assert spent <= cap
        assert sum(each.used.tokens for each in stopped) <= sum(till.charged)
        done = night(Cap("night"))
        asyncio.run(side_by_side(done))
    assert [each.kinds for each in done] == [["edit", "edit", "close"]] * 2
    assert len(server.requests) == 6  # what the first driver paid for was not asked again
    assert sum(each.used.tokens for each in done) == sum(till.charged)


async def side_by_side(runs: list[Served]) -> None:
    """As a tournament does: the first failure stops the others."""
    await together([each.session.work() for each in runs])


@pytest.mark.parametrize("whose", ["run", "night"])
def test_a_cap_holds_over_a_killed_driver_too(
    tmp_path: Path, quick: Track, full_price: dict[Line, list[int]], whose: str
) -> None:
    line, cap = LINES[1], sum(full_price[LINES[1]][:2]) - 1
    night = Cap("night", tokens=cap) if whose == "night" else None
    own = cap if whose == "run" else None

    def driver() -> Served:
        return Served(tmp_path / "run", quick, line, server.url, meter=Meter(night), tokens=own)

    with model_server(then=Greedy()) as server:
        first = driver()

        def die(*_: object) -> None:
            raise Killed

        first.ledger.add_move = die  # type: ignore[method-assign]
        with pytest.raises(Killed):
            first.work()
        again = driver()
        if whose == "night":
            with pytest.raises(UserError, match="night cap"):
                again.work()
        else:
            again.work()
            assert again.exit_reason == f"budget (run cap of {cap:,} tokens)"
    assert len(server.requests) == 1
    assert again.kinds == ["edit"]


def test_tries_that_fail_are_not_charged_to_a_cap(
    tmp_path: Path, quick: Track, full_price: dict[Line, list[int]]
) -> None:
    line, till = LINES[1], Greedy()
    faults = [error(status, after_ms=1) for status in (500, 500, 429)]
    with model_server(*faults, then=till) as server:
        tight, patience = sum(full_price[line]), {"max_retries": 1}
        world = Served(
            tmp_path / "run", quick, line, server.url, tokens=tight, settings=patience
        ).work()
    assert world.kinds == ["failed", "edit", "edit", "close"]
    assert world.used.tokens == sum(till.charged) == sum(full_price[line])


def test_a_cap_in_dollars_without_a_price_is_refused_before_anything_is_sent(
    tmp_path: Path, quick: Track
) -> None:
    with model_server() as server:
        world = Served(tmp_path / "run", quick, LINES[1], server.url, usd=5.0)
        (tmp_path / "run" / "prices.toml").write_text("")
        with pytest.raises(UserError, match="price is not known"):
            ModelResearcher(world.setup)
    assert server.requests == []


def dollars_of(tokens: int, requests: int) -> float:
    """The same of several together."""
    return (tokens + OUTPUT * requests) / 1e6


def dollars(tokens: int) -> float:
    """At `PRICES`, of a greedy request: `OUTPUT` tokens of it are the reply."""
    return (tokens + OUTPUT) / 1e6

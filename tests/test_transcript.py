"""Exchanges on disk: whole, in order, without secrets; and how people see them."""

from __future__ import annotations

import base64
import gzip
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_fixture import AT, Plan, Try, write_tournament

from inner_loop import transcript
from inner_loop.errors import UserError
from inner_loop.home import Home
from inner_loop.messages import Ask, Message, Part, Reply
from inner_loop.records import Experiment, Measured, Move, Run
from inner_loop.settings import Usage
from inner_loop.transcript import (
    HIDDEN,
    Exchange,
    Redactor,
    Transcript,
    read_all,
    read_exchange,
    secrets_in,
    spent_in,
)
from outer_loop.transcript_view import plain, transcript_of, transcript_text

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
KEY = 'sk-ant-api03-"Zq/7+x=é'  # characters that JSON, URLs and base64 all write differently
USED = Usage(calls=1, tokens_in=12_345, tokens_cached=10_000, tokens_out=678, usd=0.0123)


def ask(text: str = "Improve it.", system: str = "You are a researcher.") -> Ask:
    parts = (Part(text="The program.", stable=True), Part(text=text))
    return Ask(system=system, messages=(Message(role="user", parts=parts),))


def exchange(
    name: str = "0001-1", asked: Ask | None = None, text: str | None = "An edit.", **more: object
) -> Exchange:
    asked = asked or ask()
    reply = None if text is None else Reply(text=text, stop="end", model="m-1", usage=USED)
    fields: dict[str, object] = {
        "name": name,
        "key": asked.key,
        "provider": "openai",
        "model": "m",
        "sdk": "openai 3",
        "started": "2026-11-23T20:00:00.000+00:00",
        "ended": "2026-11-23T20:00:04.200+00:00",
        "ask": asked,
        "reply": reply,
        "error": "" if reply else "The server is busy.",
    }
    return Exchange.model_validate(fields | more)


# --- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shown",
    [
        KEY,
        json.dumps(KEY),
        json.dumps(KEY, ensure_ascii=False),
        json.dumps({"message": f"bad key {KEY}"}),
        quote(KEY),
        quote(KEY, safe=""),
        quote_plus(f"key={KEY}&x=1"),
        base64.b64encode(KEY.encode()).decode(),
        base64.urlsafe_b64encode(KEY.encode()).decode(),
        *(base64.b64encode(f"{'user'[:n]}:{KEY}:".encode()).decode() for n in range(5)),
        f"Authorization: Bearer {KEY}\n",
    ],
)
def test_a_secret_is_hidden_however_it_is_written(shown: str) -> None:
    hidden = Redactor([KEY])(f"before {shown} after")
    assert HIDDEN in hidden
    assert hidden.startswith("before ")
    assert hidden.endswith(" after")
    forms = [KEY, *(base64.b64encode(b"x" * n + KEY.encode()).decode() for n in range(3))]
    for form in forms:
        middle = form[4:-4]
        assert not any(middle[at : at + 6] in hidden for at in range(len(middle) - 5)), form


@given(
    secret=st.text(min_size=8, max_size=40).filter(lambda s: len(s.strip()) >= 8),
    around=st.tuples(st.binary(max_size=9), st.binary(max_size=9)),
)
def test_no_base64_around_a_secret_gives_it_back(secret: str, around: tuple[bytes, bytes]) -> None:
    secret = secret.strip()
    text = base64.b64encode(around[0] + secret.encode("utf-8", "surrogateescape") + around[1])
    hidden = Redactor([secret])(text.decode())
    assert HIDDEN in hidden


def test_short_values_and_ordinary_text_stay() -> None:
    text = (
        "EMPTY sk-learn-based-on-features task-0123456789012345678901234 sk-short1 and [redacted]"
    )
    assert Redactor(["EMPTY", "", " short "])(text) == text


@pytest.mark.parametrize(
    "key",
    [
        "sk-proj-abcDEF0123456789_-abcDEF",
        "sk-ant-api03-abcDEF0123456789_-abcDEF",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "hf_abcdefghijklmnopqrstuvwxyz01234567",
        "AKIAABCDEFGHIJKLMNOP",
    ],
)
def test_what_is_shaped_like_a_key_is_hidden_without_being_known(key: str) -> None:
    assert Redactor()(f'headers = {{"x": "{key}"}}') == f'headers = {{"x": "{HIDDEN}"}}'


def test_a_secret_that_is_not_utf_8_is_hidden_too() -> None:
    raw = b"gr\xfcn & geheim-1"
    hide = Redactor(secrets_in({"DB_PASSWORD": os.fsdecode(raw)}))
    shown = [os.fsdecode(raw), raw.decode("utf-8", "replace"), quote(raw), quote_plus(raw)]
    shown.append(base64.b64encode(raw).decode())
    assert [hide(f"a {each} b") for each in shown] == [f"a {HIDDEN} b"] * len(shown)


def test_secrets_are_found_by_the_names_of_variables() -> None:
    environ = {
        "ANTHROPIC_API_KEY": "a" * 9,
        "HF_TOKEN": "b" * 9,
        "AWS_SECRET_ACCESS_KEY": "c" * 9,
        "DB_PASSWORD": "d" * 9,
        "KEYBOARD": "e" * 9,
        "TOKENIZERS_PARALLELISM": "false and so on",
        "PATH": "/usr/bin:/bin",
    }
    found = secrets_in(environ, "http://me:f%2Fffffffff@host/v1")
    assert [f[0] for f in found] == ["a", "b", "c", "d", "f"]
    assert secrets_in({}, "http://[broken") == []


def test_nothing_that_is_stored_has_a_secret_but_the_key_of_the_request_stays() -> None:
    asked, hide = ask(f"use {KEY}", system=KEY), Redactor([KEY])
    hidden = hide.ask(asked)
    assert KEY not in hidden.model_dump_json()
    assert hidden.messages[0].parts[0].stable
    assert hidden.key != asked.key
    reply = hide.reply(Reply(text=f"it is {KEY}", stop="end", model=KEY, usage=USED))
    assert (reply.text, reply.model, reply.usage) == (f"it is {HIDDEN}", HIDDEN, USED)


# --- files ----------------------------------------------------------------------------------------


def test_an_exchange_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = Transcript(tmp_path).write(exchange())
    assert path == tmp_path / "transcript" / "0001-1.json.gz"
    assert read_exchange(path) == exchange()
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_only_the_same_request_to_the_same_model_is_found(tmp_path: Path) -> None:
    stored, first, second = Transcript(tmp_path), ask("first"), ask("second")
    stored.write(exchange(asked=first, text=None))
    stored.write(exchange(asked=first, text="one"))
    stored.write(exchange(asked=first, text=None))
    stored.write(exchange(asked=second, text="two"))
    names = ["0001-1", "0001-1.2", "0001-1.failed-1", "0001-1.failed-2"]
    assert sorted(p.name.removesuffix(".json.gz") for p in stored.paths()) == names

    def found(asked: Ask, name: str = "0001-1", model: str = "m") -> str | None:
        hit = stored.find(name, asked.key, "openai", model)
        return hit[1].reply.text if hit and hit[1].reply else None

    assert [found(first), found(second), found(ask("third"))] == ["one", "two", None]
    assert found(first, name="0001-2") is None
    assert found(first, model="other") is None


def test_a_damaged_file_is_one_sentence_and_hides_no_other(tmp_path: Path) -> None:
    stored = Transcript(tmp_path)
    good = stored.write(exchange("0002-1"))
    broken = [stored.write(exchange(f"0001-{n}")) for n in range(1, 7)]
    whole = broken[0].read_bytes()
    broken[0].write_bytes(whole[: len(whole) // 2])
    broken[1].write_bytes(b"")
    broken[2].write_bytes(b"no gzip at all")
    broken[3].write_bytes(gzip.compress(b"{not json"))
    broken[4].write_bytes(gzip.compress(b'{"name": 3}'))
    broken[5].write_bytes(whole[:40] + bytes([whole[40] ^ 0xFF]) + whole[41:])
    exchanges, damaged = read_all(stored.paths())
    assert [e.name for e in exchanges] == ["0002-1"]
    assert len(damaged) == len(broken)
    for path, sentence in zip(broken, damaged, strict=True):
        assert str(path) in sentence
        assert "\n" not in sentence
    assert stored.find("0001-1", ask().key, "openai", "m") is None
    assert stored.write(exchange("0001-1")).name == "0001-1.2.json.gz"
    assert stored.find("0001-1", ask().key, "openai", "m") is not None
    assert good.exists()


def test_a_file_that_unpacks_to_too_much_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Transcript(tmp_path).write(exchange(text="x" * 50_000))
    monkeypatch.setattr(transcript, "MAX_BYTES", 40_000)
    with pytest.raises(UserError, match="unpacks to more than 40,000 bytes"):
        read_exchange(path)


def test_what_a_killed_process_left_half_written_is_no_exchange(tmp_path: Path) -> None:
    stored = Transcript(tmp_path)
    path = stored.write(exchange())
    os.replace(path, path.with_name(f"{path.name}.partial"))  # noqa: PTH105
    assert stored.paths() == []
    assert stored.find("0001-1", ask().key, "openai", "m") is None
    assert stored.write(exchange()) == path


def test_moves_and_turns_come_in_their_order(tmp_path: Path) -> None:
    stored = Transcript(tmp_path)
    for name in ("0010-1", "0002-10", "0002-9", "0001-1", "0021-1", "10002-1"):
        stored.write(exchange(name))
    names = [p.name.removesuffix(".json.gz") for p in stored.paths()]
    assert names == ["0001-1", "0002-9", "0002-10", "0010-1", "0021-1", "10002-1"]
    assert [p.name[:6] for p in stored.paths(2)] == ["0002-9", "0002-1"]
    assert [p.name[:6] for p in stored.paths(1)] == ["0001-1"]
    assert stored.paths(3) == []


@pytest.mark.parametrize("name", ["", "../0001", "a/b", ".hidden", "0001-1.2", "x" * 200])
def test_a_name_cannot_lead_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no name of an exchange"):
        Transcript(tmp_path).write(exchange(name))


# --- for people -----------------------------------------------------------------------------------


@pytest.fixture
def seen(tmp_path: Path) -> tuple[Home, Run]:
    """A home with a run whose experiments 2 and 3 came of moves 1 and 3; experiment 1 of none."""
    home = Home(tmp_path / "home")
    home.make()
    ledger = home.ledger()
    write_tournament(ledger, [Plan("stock", 0, [Try(2.9)])], [[3.0]])
    (tournament,) = ledger.tournaments()
    run = next(r for r in ledger.runs(tournament.id) if r.role != "baseline")
    for number in (1, 2, 3):
        ledger.add_move(run.id, number, Move(kind="edit"), AT)
    first = ledger.experiments(run.id)[0]
    for index, number in ((2, 1), (3, 3)):
        made = first.model_copy(update={"index": index, "measured": Measured(search_bpb=2.9)})
        ledger.add_experiment(Experiment.model_validate(made.model_dump()), AT, number)
    return home, run


def store(home: Home, run: Run, *exchanges: Exchange) -> None:
    for each in exchanges:
        Transcript(home.run(run.tournament_id, run.id)).write(each)


def test_an_experiment_has_the_exchanges_of_its_move(seen: tuple[Home, Run]) -> None:
    home, run = seen
    store(home, run, *(exchange(n) for n in ("0001-1", "0002-1", "0003-1", "0003-2")))
    ledger = home.ledger()
    assert len(transcript_of(home, ledger, run).exchanges) == 4
    third = transcript_of(home, ledger, run, 3)
    assert [e.name for e in third.exchanges] == ["0003-1", "0003-2"]
    with pytest.raises(UserError, match="the harness's own"):
        transcript_of(home, ledger, run, 1)
    with pytest.raises(UserError, match="Unknown experiment '9'"):
        transcript_of(home, ledger, run, 9)


def test_a_run_without_a_transcript_is_one_sentence(seen: tuple[Home, Run]) -> None:
    home, run = seen
    with pytest.raises(UserError, match=rf"{run.id} has no transcript"):
        transcript_of(home, home.ledger(), run)
    store(home, run, exchange("0001-1"))
    with pytest.raises(UserError, match=r"Experiment 3 of run .* has no stored exchange"):
        transcript_of(home, home.ledger(), run, 3)


def test_what_was_shown_before_is_shortened_and_the_rest_is_whole(
    seen: tuple[Home, Run],
) -> None:
    home, run = seen
    long = "A rule of the harness.\n" * 100
    asks = [ask(f"Move {n}, please.", system=long) for n in (1, 2)]
    store(home, run, exchange("0001-1", asks[0]), exchange("0002-1", asks[1], text=None))
    text = transcript_text(transcript_of(home, home.ledger(), run)).plain
    assert 100 < text.count("A rule of the harness.") < 120
    assert "[2,300 characters, whole in 0001-1 or with --json]" in text
    assert "Move 1, please." in text
    assert "Move 2, please." in text
    assert "An edit." in text
    assert "no reply: The server is busy." in text
    assert "--- 0001-1: openai m (m-1), 2026-11-23T20:00:00.000+00:00, 4.2 s" in text
    assert "12,345 tokens in (10,000 from the cache), 678 out, $0.0123" in text
    assert text.endswith(
        "2 exchanges: 12,345 tokens in (10,000 from the cache), 678 out, $0.0123\n"
    )


def test_what_a_failed_exchange_used_is_shown_and_counted(seen: tuple[Home, Run]) -> None:
    home, run = seen
    store(home, run, exchange("0001-1"), exchange("0001-2", text=None, usage=USED))
    said = transcript_of(home, home.ledger(), run)
    text = transcript_text(said).plain
    assert "no reply: The server is busy.\n12,345 tokens in" in text
    assert text.endswith(
        "2 exchanges: 24,690 tokens in (20,000 from the cache), 1,356 out, $0.0246\n"
    )
    assert spent_in(home.run(run.tournament_id, run.id)) == USED + USED


def test_unknown_prices_and_estimates_are_said(seen: tuple[Home, Run]) -> None:
    home, run = seen
    usage = Usage(calls=1, tokens_in=5, tokens_out=6, usd=None, estimated=1)
    reply = Reply(text="x", stop="length", usage=usage)
    store(home, run, exchange(text=None, reply=reply, error=""))
    text = transcript_text(transcript_of(home, home.ledger(), run)).plain
    assert "reply (stopped by: length)" in text
    assert "5 tokens in, 6 out, price not known (the server did not count; estimated)" in text


NASTY = (
    "[bold red]markup[/] \x1b[31mred\x1b[0m \x9b2J \x1b]0;title\x07 \x08\x00 \u202egnp.exe\r\nend"
)


def test_a_strangers_text_neither_colours_nor_hides_anything(seen: tuple[Home, Run]) -> None:
    home, run = seen
    nasty = exchange(asked=ask(NASTY, system=NASTY), text=NASTY, model="m\x1b[5m", sdk=NASTY)
    store(home, run, nasty, exchange("0002-1", text=None, error=NASTY))
    shown = transcript_text(transcript_of(home, home.ledger(), run))
    assert not set(shown.plain) & set("\x1b\x9b\x07\x08\x00\u202e\r")
    assert shown.plain.count("[bold red]markup[/] red ") == 4
    assert shown.plain.count("0;title") == 4  # what a sequence holds as text is not hidden
    assert {str(span.style) for span in shown.spans} <= {
        *("bold", "bold cyan", "bold green", "bold red", "dim")
    }


@given(st.text())
def test_plain_text_has_no_control_characters(text: str) -> None:
    assert not any(ord(c) < 32 and c not in "\n\t" for c in plain(text))
    assert not any(0x7F <= ord(c) < 0xA0 for c in plain(text))


def test_show_prints_a_transcript(seen: tuple[Home, Run], cli: Cli) -> None:
    home, run = seen
    without = cli("show", run.id, "--transcript")
    assert without.returncode == 2
    assert "has no transcript" in without.stderr
    store(home, run, exchange("0001-1", asked=ask(NASTY)), exchange("0003-1"))
    path = Transcript(home.run(run.tournament_id, run.id)).write(exchange("0003-2"))
    path.write_bytes(b"\x1f\x8bcut")
    done = cli("show", run.id, "--transcript")
    assert done.returncode == 0, done.stderr
    assert "[bold red]markup[/]" in done.stdout
    assert "\x1b" not in done.stdout
    assert "is damaged" in done.stdout.replace("\n", " ")
    one = cli("show", run.id, "--transcript", "--experiment", "3", "--json")
    said = json.loads(one.stdout)
    assert [e["name"] for e in said["exchanges"]] == ["0003-1"]
    assert said["exchanges"][0]["ask"]["messages"][0]["parts"][0]["text"] == "The program."
    assert len(said["damaged"]) == 1

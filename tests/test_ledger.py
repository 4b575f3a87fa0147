from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from inner_loop.errors import UserError
from inner_loop.home import REPOSITORY, Home
from inner_loop.ledger import Ledger
from inner_loop.loop import exhausted
from inner_loop.records import (
    Budget,
    Entrant,
    Experiment,
    Measured,
    Move,
    Run,
    Tournament,
    Track,
)
from inner_loop.settings import Usage

AT = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def ledger(tmp_path: Path, quick: Track) -> Ledger:
    made = Ledger.at(tmp_path / "ledger.db")
    made.add_program("p1", "one", b"\xef\xbb\xbfhello\r\n")
    entrant = Entrant(program_id="p1", name="one", role="entrant")
    made.add_tournament(
        Tournament(id="T-1", track=quick, entrants=(entrant,), replicates=1, seed=0), AT
    )
    made.add_run(a_run())
    return made


def a_run() -> Run:
    return Run(
        id="T-1-one-r0",
        tournament_id="T-1",
        program_id="p1",
        program_name="one",
        role="entrant",
        replicate=0,
        seed=5,
        branch="autoresearch/x",
    )


def an_experiment(index: int) -> Experiment:
    return Experiment(
        run_id="T-1-one-r0",
        index=index,
        kind="edit",
        commit="c",
        tree="t",
        parent_commit="p",
        seed=1,
        measured=Measured(search_bpb=2.5, clock_seconds=3.5),
    )


def test_a_programs_exact_bytes_come_back(ledger: Ledger) -> None:
    assert ledger.program("p1") == ("one", b"\xef\xbb\xbfhello\r\n")


def test_planning_the_same_again_changes_nothing(ledger: Ledger) -> None:
    ledger.set_run("T-1-one-r0", state="complete", tip="abc")
    ledger.add_run(a_run())
    assert ledger.run("T-1-one-r0").state == "complete"
    assert ledger.run("T-1-one-r0").tip == "abc"


def test_an_experiment_cannot_be_recorded_twice(ledger: Ledger) -> None:
    ledger.add_experiment(an_experiment(1), AT, 1)
    with pytest.raises(Exception, match="UNIQUE"):
        ledger.add_experiment(an_experiment(1), AT, 1)
    assert len(ledger.experiments("T-1-one-r0")) == 1


def test_a_verdict_is_a_second_row_and_the_first_one_stands(ledger: Ledger) -> None:
    ledger.add_experiment(an_experiment(1), AT, 1)
    assert ledger.experiments("T-1-one-r0")[0].status is None
    ledger.add_verdict("T-1-one-r0", 1, "keep", "lower", AT)
    ledger.add_verdict("T-1-one-r0", 1, "discard", "changed my mind", AT)
    (found,) = ledger.experiments("T-1-one-r0")
    assert (found.status, found.reason) == ("keep", "lower")


def test_spending_is_summed_from_moves_and_experiments(ledger: Ledger) -> None:
    for number in (1, 2):
        move = Move(kind="edit", usage=Usage(calls=1, tokens_in=7, tokens_out=3, usd=0.25))
        ledger.add_move("T-1-one-r0", number, move, AT)
        ledger.add_experiment(an_experiment(number), AT, number)
    spent = ledger.run("T-1-one-r0").spent
    assert (spent.experiments, spent.gpu_seconds, spent.tokens, spent.usd) == (2, 7.0, 20, 0.5)


def test_one_call_of_unknown_price_leaves_the_dollars_of_a_run_unknown(ledger: Ledger) -> None:
    for number, usd in enumerate((0.25, None, 0.25), start=1):
        move = Move(kind="edit", usage=Usage(calls=1, tokens_in=7, tokens_out=3, usd=usd))
        ledger.add_move("T-1-one-r0", number, move, AT)
    spent = ledger.run("T-1-one-r0").spent
    assert (spent.tokens, spent.usd) == (30, None)
    assert exhausted(Budget(experiments=5, usd=0.1), spent) == ""
    assert exhausted(Budget(experiments=5, tokens=30, usd=0.1), spent) == "budget (tokens)"


def test_the_durable_settings_are_on(ledger: Ledger) -> None:
    with ledger.engine.connect() as db:
        assert db.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert db.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_a_damaged_ledger_is_one_sentence_and_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"this is no database" * 100)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"is damaged .*restore a copy"):
        Ledger.at(path)
    assert path.read_bytes() == before


def test_a_ledger_with_a_torn_page_is_damaged(tmp_path: Path, ledger: Ledger) -> None:
    for number in range(1, 200):
        ledger.add_move("T-1-one-r0", number, Move(kind="edit", description="x" * 500), AT)
    ledger.close()
    path = tmp_path / "ledger.db"
    body = bytearray(path.read_bytes())
    body[len(body) // 2 : len(body) // 2 + 8192] = b"\xff" * 8192
    path.write_bytes(body)
    with pytest.raises(UserError, match="damaged"):
        Ledger.at(path)


def test_a_newer_ledger_is_refused_by_name(tmp_path: Path, ledger: Ledger) -> None:
    ledger.close()
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        db.execute("UPDATE meta SET schema_version = 99")
    db.close()
    with pytest.raises(UserError, match="schema version 99"):
        Ledger.at(tmp_path / "ledger.db")


def test_unknown_names_are_answered_with_the_known_ones(ledger: Ledger) -> None:
    with pytest.raises(UserError, match="T-1-one-r0"):
        ledger.run("T-1-one-r1")
    with pytest.raises(UserError, match="T-1"):
        ledger.tournament("T-2")


def test_one_driver_at_a_time_and_a_dead_one_does_not_block(tmp_path: Path) -> None:
    home = Home(tmp_path)
    code = (
        "import sys, time; from pathlib import Path; from inner_loop.home import Home\n"
        "with Home(Path(sys.argv[1])).driver_lock():\n"
        "    print('held', flush=True); time.sleep(100)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"Process {holder.pid} is already"), home.driver_lock():
            pass
        holder.kill()
        holder.wait()
    with home.driver_lock():
        pass


def test_a_home_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="METARESEARCH_HOME"):
        Home(tmp_path / "file" / "home").make()


@pytest.mark.parametrize("url", ["nonsense", "warehouse://user:secret@host/x"])
def test_an_address_that_is_no_database_is_one_sentence(url: str) -> None:
    with pytest.raises(UserError, match="METARESEARCH_LEDGER") as raised:
        Ledger(url)
    assert "secret" not in str(raised.value)

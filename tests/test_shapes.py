"""Program.md files of every shape people write, each run to its end by a queue of replies.

`shapes/NAME.md` is a program; `shapes/NAME.replies` is what a model would answer under it: a table
of what must come of it, then the replies, each after a line `%%%%`.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from answered_run import (
    AT,
    BASELINE,
    CONFIRMED,
    TRAIN,
    Place,
    all_text,
    in_turn,
    read_quotes,
    text_of,
    work,
)
from reply_queue import ReplyQueue, refusal

from inner_loop.loop import Session
from inner_loop.messages import Ask
from inner_loop.program import parse_program, read_program
from inner_loop.records import Move, Track
from outer_loop.door import DoorReport, Known, Offer, examine
from outer_loop.plan import shipped_programs

SHAPES = sorted((Path(__file__).parent / "shapes").glob("*.md"))
SHIPPED = [Known(read_program(path), "shipped") for path in shipped_programs()]
DEFAULTS = {
    "bpb": [2.79, 2.81],
    "statuses": ["keep", "discard"],
    "moves": ["edit", "edit", "close"],
    "continued": 0,
    "repaired": 0,
    "crlf": False,
}
each_shape = pytest.mark.parametrize("path", SHAPES, ids=lambda path: path.stem)


class Script:
    """What a model answers under a shape, and what must come of it."""

    def __init__(self, path: Path) -> None:
        head, *replies = path.with_suffix(".replies").read_text(encoding="utf-8").split("%%%%\n")
        given = tomllib.loads(head)
        assert given.keys() <= DEFAULTS.keys()
        self.wanted: dict[str, Any] = DEFAULTS | given
        end = "\r\n" if self.wanted["crlf"] else "\n"
        self.replies = [reply.replace("\n", end) for reply in replies]

    def queue(self) -> ReplyQueue:
        return ReplyQueue(*(_refusal(r) if r.startswith("!refusal") else r for r in self.replies))


def _refusal(text: str) -> object:
    return refusal(text.partition("\n")[2])


def look(path: Path) -> DoorReport:
    body = path.read_bytes()
    return examine(Offer(path.name, body, len(body), path.stem), SHIPPED)


# --- the files themselves -----------------------------------------------------------------------


def test_the_shapes_are_as_varied_as_what_people_write() -> None:
    bodies = {path.stem: path.read_bytes() for path in SHAPES}
    lengths = {name: len(body.splitlines()) for name, body in bodies.items()}
    assert len(SHAPES) >= 30
    assert min(lengths.values()) == 1
    assert lengths["mission"] > 300
    assert b"\r\n" in bodies["crlf"]
    assert bodies["front-matter"].startswith(b"---\n")
    assert sum(not body.isascii() for body in bodies.values()) >= 3
    assert not bodies["single-sentence"].endswith(b"\n")


def test_each_kind_of_answer_is_given_under_several_shapes() -> None:
    given: Counter[str] = Counter()
    for script in map(Script, SHAPES):
        text = "\n".join(script.replies)
        given["continuation"] += script.wanted["continued"] > 0
        given["repair"] += script.wanted["repaired"] > 0
        given["rerun"] += "rerun" in script.wanted["moves"]
        given["return"] += "return" in script.wanted["moves"]
        given["verdict"] += "VERDICT: " in text
        given["notes"] += "<<<<<<< NOTES" in text
        given["citation"] += "CITES: {I" in text
        given["crash"] += "crash" in script.wanted["statuses"]
    assert all(number >= 2 for number in given.values()), given
    assert min(given["continuation"], given["repair"], given["rerun"], given["notes"]) >= 5


def test_no_shape_is_another_one_or_a_shipped_program() -> None:
    known = [Known(parse_program(p.read_bytes(), p.stem), "in the pool") for p in SHAPES]
    for number, path in enumerate(SHAPES):
        body = path.read_bytes()
        others = [*SHIPPED, *known[:number], *known[number + 1 :]]
        report = examine(Offer(path.name, body, len(body), path.stem), others)
        assert "near-duplicate" not in {f.code for f in report.findings}


# --- the door -----------------------------------------------------------------------------------


@each_shape
def test_it_parses_to_the_byte_and_the_door_refuses_nothing(path: Path) -> None:
    body = path.read_bytes()
    program = parse_program(body, path.stem)
    assert program.text.encode("utf-8") == body
    assert program.instructions
    report = look(path)
    assert report.outcome != "refused", report.refusals


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("stock-like", "confirmation"),
        ("stock-like", "run-command"),
        ("questions", "confirmation"),
        ("hub-rest", "network"),
        ("rest-service", "links"),
        ("async-gpus", "several-gpus"),
        ("master-subagents", "sub-agents"),
        ("venv-command", "run-command"),
        ("self-edit", "own-text"),
        ("tree-search", "files"),
        ("tables-and-fences", "code"),
        ("front-matter", "uncovered"),
    ],
)
def test_what_a_run_answers_in_its_own_way_is_noted_at_the_door(name: str, code: str) -> None:
    report = look(next(path for path in SHAPES if path.stem == name))
    assert code in {finding.code for finding in report.notes}


# --- two experiments each -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, quick: Track) -> Place:
    return Place(tmp_path_factory.mktemp("shapes"), quick)


@each_shape
def test_two_experiments_under_it_end_well(path: Path, place: Place) -> None:
    script = Script(path)
    wanted, queue = script.wanted, script.queue()
    session = place.session(path.stem, path.read_bytes(), queue, in_turn(*wanted["bpb"]))
    run, moves, charged, confirmed = work(session)
    assert (run.state, run.exit_reason) == ("complete", "budget (experiments)")
    assert [e.status for e in charged] == wanted["statuses"]
    assert [e.measured.search_bpb for e in charged] == [
        bpb if isinstance(bpb, float) else None for bpb in wanted["bpb"]
    ]
    assert [m.kind for m in moves] == wanted["moves"][: len(moves)]
    assert len(moves) == len(wanted["moves"]) - (wanted["statuses"][-1] == "crash")
    assert sum(m.continued for m in moves) == wanted["continued"]
    assert sum(m.repaired for m in moves) == wanted["repaired"]
    assert queue.answers == []
    assert len(queue.asks) == len(moves) + wanted["continued"] + wanted["repaired"]
    assert sum(m.usage.calls for m in moves) >= len(queue.asks) - 1  # a refusal here counts none
    assert confirmed[-1].measured.audit_bpb == CONFIRMED
    check_asks(session, queue.asks)
    check_words(session, moves, queue.asks)


def check_asks(session: Session, asks: Sequence[Ask]) -> None:
    """The program to the byte in each, in a message of its own; facts elsewhere, for all alike."""
    text = session.program.text
    for ask in asks:
        quotes, _ = read_quotes(text_of(ask.messages[0]))
        shown = {quote.name: quote.text for quote in quotes}
        assert shown["program"].encode() == text.encode()
        holding = [n for n, part in enumerate(ask.messages[0].parts) if text in part.text]
        telling = [n for n, part in enumerate(ask.messages[0].parts) if shown["facts"] in part.text]
        assert holding[0] not in telling
        assert text not in ask.system
        assert "experiments are left" in shown["facts"]
        assert "Nobody is here to answer" in shown["facts"]
        for unit in session.program.instructions:
            assert unit.id in shown["instructions"]
    assert len({ask.system for ask in asks}) == 1


def check_words(session: Session, moves: Sequence[Move], asks: Sequence[Ask]) -> None:
    """Descriptions, notes and citations are what was said; the worktree is the tip's train.py."""
    known = {unit.id for unit in session.program.instructions}
    assert all(set(move.cites) <= known for move in moves)
    assert all(m.description for m in moves if m.kind in ("edit", "rerun", "return"))
    last = next((m.notes for m in reversed(moves[:-1]) if m.notes is not None), None)
    if last:
        assert last.strip() in all_text(asks[-1])
    folder = session.desk.folder(session.run)
    assert (folder / "program.md").read_bytes() == session.program.text.encode()
    tip = session.desk.ledger.run(session.run.id).tip
    files = session.desk.repository.files(tip)
    assert (folder / "worktree" / "train.py").read_text(encoding="utf-8") == files["train.py"]


def test_what_is_kept_is_what_the_model_wrote(place: Place) -> None:
    path = next(path for path in SHAPES if path.stem == "crlf")
    session = place.session(
        "crlf-again", path.read_bytes(), Script(path).queue(), in_turn(2.7, 2.9)
    )
    run, *_ = work(session)
    changed = session.desk.repository.files(run.tip)["train.py"]
    assert changed == TRAIN.replace("MUON_BETA2 = 0.95        #", "MUON_BETA2 = 0.9         #")
    assert (session.baseline_bpb, session.desk.now()) == (BASELINE, AT)

"""The replay researcher: recorded moves come back by number."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from inner_loop.errors import UserError
from inner_loop.program import parse_program
from inner_loop.records import Edit, Move
from inner_loop.replay import Replay
from inner_loop.researcher import Brief, Setup, make_researcher

MOVES = [
    Move(kind="edit", edits=(Edit(search="a", replace="b"),), description="a -> b"),
    Move(kind="rerun", commit="c0ffee", cites=("I-00000000",)),
]


def recording(tmp_path: Path) -> Path:
    path = tmp_path / "moves.json"
    path.write_text(json.dumps([move.model_dump(mode="json") for move in MOVES]))
    return path


def brief(move_number: int) -> Brief:
    return Brief(
        program=parse_program(b"Go.", "p"),
        train_py="a",
        base_commit="b",
        tip_commit="b",
        baseline_bpb=2.8,
        tip_bpb=2.8,
        history=(),
        facts=(),
        experiments_left=5,
        move_number=move_number,
        seed=0,
    )


def setup(model: Path | str | None) -> Setup:
    return Setup("replay", None if model is None else str(model))


def test_moves_come_back_by_number_in_any_order(tmp_path: Path) -> None:
    replay = Replay(setup(recording(tmp_path)))
    for number in (2, 1, 2):
        assert asyncio.run(replay.next_move(brief(number))) == MOVES[number - 1]


def test_past_the_end_is_unusable(tmp_path: Path) -> None:
    move = asyncio.run(Replay(setup(recording(tmp_path))).next_move(brief(3)))
    assert move.kind == "unusable"
    assert "ends after 2 moves" in move.description


def test_replay_is_a_registered_researcher(tmp_path: Path) -> None:
    assert isinstance(make_researcher(setup(recording(tmp_path))), Replay)


@pytest.mark.parametrize(
    "body", ["", "{}", "[1]", '[{"kind": "dance"}]', '[{"kind": "edit", "speed": 1}]', "\0", "é"]
)
def test_a_bad_recording_is_one_sentence(tmp_path: Path, body: str) -> None:
    path = tmp_path / "moves.json"
    path.write_bytes(body.encode("latin-1"))
    with pytest.raises(UserError, match="not a JSON list of moves") as caught:
        Replay(setup(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", [None, "", "no/such/file.json", ".", "a\0b"])
def test_a_missing_recording_is_one_sentence(model: str | None) -> None:
    with pytest.raises(UserError, match=r"name (it|a file)"):
        Replay(setup(model))

from __future__ import annotations

import json
import math
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from inner_loop.channel import MAX_HEADER, BrokenBox, Channel
from inner_loop.crash import Crash
from inner_loop.records import Task
from inner_loop.scorer import Logits, Rows, bits_per_byte, load_shard, token_nats

TASK = Task(name="t", corpus="c", vocab_size=300, max_seq_len=8, eval_tokens=400, scored_tokens=400)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    rng.integers(0, 300, (60, 9)).astype("<u2").tofile(tmp_path / "search.bin")
    table = rng.integers(1, 5, 300)
    table[7] = 0
    np.save(tmp_path / "token_bytes.npy", table)
    return tmp_path


def logits_for(rows: Rows) -> Logits:
    """Some deterministic logits that depend on the input."""
    grid = np.arange(300)[None, None, :] * (1 + rows[..., None].astype(np.float64))
    return (5 * np.sin(grid)).astype(np.float32)


@given(st.integers(0, 2**31), st.floats(0.1, 80))
def test_token_nats_is_minus_log_softmax(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    logits = (scale * rng.standard_normal((2, 3, 11))).astype(np.float32)
    targets = rng.integers(0, 11, (2, 3)).astype(np.uint16)
    reference = log_softmax(logits.astype(np.float64), axis=-1)
    expected = -np.take_along_axis(reference, targets.astype(int)[..., None], -1)[..., 0]
    assert np.allclose(token_nats(logits, targets), expected, atol=1e-4 * max(1, scale))


def test_bits_per_byte_is_the_formula_over_targets_that_stand_for_bytes(cache: Path) -> None:
    shard = load_shard(cache, "search", TASK)
    score = bits_per_byte(shard, logits_for, 300)
    tokens = np.fromfile(cache / "search.bin", dtype="<u2").reshape(-1, 9)[:50]
    table = np.load(cache / "token_bytes.npy")
    nats = total = 0.0
    for token, following in zip(tokens[:, :-1].ravel(), tokens[:, 1:].ravel(), strict=True):
        target = int(following)
        row = log_softmax(logits_for(token[None, None])[0, 0].astype(np.float64))
        if table[target]:
            nats -= row[target]
            total += table[target]
    assert score == pytest.approx(nats / math.log(2) / total, rel=1e-6)


def test_targets_are_the_next_inputs_of_whole_rows(cache: Path) -> None:
    shard = load_shard(cache, "search", TASK)
    rows = np.fromfile(cache / "search.bin", dtype="<u2").reshape(-1, 9)
    assert np.array_equal(shard.inputs, rows[:50, :8])
    assert np.array_equal(shard.targets, rows[:50, 1:])
    assert shard.nbytes.sum() == np.load(cache / "token_bytes.npy")[rows[:50, 1:]].sum()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_no_score(cache: Path, value: float) -> None:
    def ask(rows: Rows) -> Logits:
        logits = logits_for(rows)
        logits[0, 0, 0] = value
        return logits

    with pytest.raises(Crash) as raised:
        bits_per_byte(load_shard(cache, "search", TASK), ask, 300)
    assert raised.value.code == "nan"


def test_logits_over_another_vocabulary_are_no_score(cache: Path) -> None:
    with pytest.raises(Crash) as raised:
        bits_per_byte(load_shard(cache, "search", TASK), lambda r: logits_for(r)[..., :299], 300)
    assert raised.value.code == "bad_logits"


# --- the wire ---------------------------------------------------------------------------------


class GaveUp(Exception):
    pass


def give_up() -> None:
    raise GaveUp


def calm() -> None:
    """A watch that never ends anything."""


def test_a_message_crosses_the_wire_whole() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Channel(ours, calm).send({"type": "rows"}, b"x" * 10)
        got = Channel(theirs, calm).receive(10)
        assert got.header == {"type": "rows", "nbytes": 10}
        assert got.payload == b"x" * 10


def frame(header: bytes) -> bytes:
    return struct.pack(">I", len(header)) + header


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">I", MAX_HEADER + 1),
        frame(b"not json"),
        frame(b"[1]"),
        frame(b'{"nbytes": -1}'),
        frame(json.dumps({"nbytes": 1 << 40}).encode()),
        frame(b'{"nbytes": "many"}'),
        frame(b'{"nbytes": Infinity}'),
        frame(b"[" * 60_000),
        b"\0\0",
    ],
)
def test_nonsense_on_the_wire_is_a_broken_box_not_a_bug(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(data)
        theirs.close()
        with pytest.raises(BrokenBox):
            Channel(ours, calm).receive(8)


def test_a_silent_box_is_watched_while_waiting() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(GaveUp):
        Channel(ours, give_up).receive()


def test_a_box_that_dribbles_is_watched_too() -> None:
    ours, theirs = socket.socketpair()
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1
        theirs.send(b" ")
        if calls == 20:
            raise GaveUp

    with ours, theirs:
        theirs.sendall(struct.pack(">I", 60_000))
        with pytest.raises(GaveUp):
            Channel(ours, count).receive()

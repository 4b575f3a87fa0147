"""Packing: every token of text once, rows that begin with a BOS, the longest piece that fits."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import prepare  # noqa: E402

BOS = 65_000
SIZES = st.lists(st.integers(1, 120), min_size=1, max_size=60)
LENGTHS = st.integers(2, 40)


def stream(sizes):
    """Documents whose text tokens are all different: 0, 1, 2, ..."""
    tokens, at = [], 0
    for size in sizes:
        tokens += [BOS, *range(at, at + size)]
        at += size
    return np.array(tokens, dtype="<u2"), at


def pieces(row):
    """The texts between the BOS of a row."""
    starts = [i for i, token in enumerate(row) if token == BOS]
    return [row[a + 1 : b] for a, b in pairwise([*starts, len(row)])]


def document_of(sizes):
    return np.repeat(np.arange(len(sizes)), sizes)


@settings(max_examples=300, deadline=None)
@given(SIZES, LENGTHS)
def test_one_pass_uses_every_token_once_but_for_a_last_row_that_is_not_full(sizes, length):
    tokens, total = stream(sizes)
    rows = prepare.pack_rows(tokens, BOS, length)
    text = rows[rows != BOS]
    assert len(set(text.tolist())) == len(text)
    assert total - len(text) < length - 1


@settings(max_examples=300, deadline=None)
@given(SIZES, LENGTHS)
def test_rows_begin_with_a_bos_and_hold_unbroken_pieces_of_documents(sizes, length):
    tokens, _ = stream(sizes)
    owner = document_of(sizes)
    for row in prepare.pack_rows(tokens, BOS, length).tolist():
        assert len(row) == length
        assert row[0] == BOS
        for piece in pieces(row):
            assert all(b == a + 1 for a, b in pairwise(piece))
            assert len({int(owner[token]) for token in piece}) <= 1


def naive_plans(sizes, length, rows):
    """Best fit by looking at every piece: the sizes of each row's pieces."""
    whole, pool = length - 1, []
    for size in sizes:
        pool += [whole] * (size // whole) + ([size % whole] if size % whole else [])
    plans = []
    for _ in range(rows):
        plan, space = [], length
        while space > 1:
            fitting = [p for p in pool if p + 1 <= space]
            piece = max(fitting) if fitting else min(pool)
            pool.remove(piece)
            used = min(piece, space - 1)
            if piece > used:
                pool.append(piece - used)
            plan.append(used)
            space -= used + 1
        plans.append(plan)
    return plans


@settings(max_examples=200, deadline=None)
@given(SIZES, LENGTHS)
def test_the_longest_piece_that_fits_is_taken_and_only_else_the_shortest_is_cropped(sizes, length):
    tokens, _ = stream(sizes)
    packer = prepare.Packer(tokens, BOS, length, endless=False)
    plans = []
    while (plan := packer.plan_row()) is not None:
        plans.append([size for _, _, size in plan])
    assert plans == naive_plans(sizes, length, len(plans))


def test_a_row_leaves_no_place_empty_and_a_single_last_place_is_a_lone_bos():
    tokens, _ = stream([6, 6])
    (row,) = prepare.pack_rows(tokens, BOS, 8)[:1].tolist()
    assert row == [BOS, *row[1:7], BOS]
    assert row[1] in (0, 6)


def test_an_endless_packer_comes_back_to_every_token_and_counts_epochs():
    tokens, total = stream([30] * 400)
    packer = prepare.Packer(tokens, BOS, 16, endless=True)
    rows, seen = np.empty((512, 16), dtype=np.int64), np.zeros(total, dtype=int)
    while packer.epoch < 40:
        assert packer.fill(rows) == len(rows)
        np.add.at(seen, rows[rows != BOS], 1)
    assert seen.min() >= 20
    assert seen.max() <= 60


def test_rows_of_one_batch_come_from_many_documents():
    sizes = [640] * 100
    tokens, _ = stream(sizes)
    rows = np.empty((8, 65), dtype=np.int64)
    prepare.Packer(tokens, BOS, 65, endless=True).fill(rows)
    assert len(set(document_of(sizes)[rows[:, 1]].tolist())) >= 6


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 64))
def test_documents_are_found_whatever_the_window(sizes, window):
    tokens, _ = stream(sizes)
    found = list(prepare.find_documents(tokens, BOS, window))
    texts = [tokens[a : a + n].tolist() for a, n in found]
    starts = np.cumsum([0, *sizes])
    assert texts == [list(range(s, s + n)) for s, n in zip(starts, sizes, strict=False) if n]


@pytest.mark.parametrize("tokens", [[], [5, 6, 7], [BOS, BOS, BOS]])
def test_a_stream_without_text_is_an_error_and_not_a_wait(tokens):
    with pytest.raises(SystemExit, match="holds no text"):
        prepare.Packer(np.array(tokens, dtype="<u2"), BOS, 8, endless=True)

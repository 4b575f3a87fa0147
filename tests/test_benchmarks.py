"""The benchmarks' own arithmetic, and one short pair of trainings through the real thing."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inner_loop.home import REPOSITORY, Home
from inner_loop.records import Claims, Measured, Track

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import determinism
import gpu
import throughput
import watched

BOS = 99
texts = st.lists(st.lists(st.integers(0, 98), max_size=30), min_size=1, max_size=40)


# --- upstream's packing, written plainly ------------------------------------------------------


@given(texts)
def test_a_token_file_is_its_documents(documents: list[list[int]]) -> None:
    stream = np.array([token for text in documents for token in (BOS, *text)], dtype=np.uint16)
    found = list(islice(watched.documents_of(stream, BOS), 2 * len(documents)))
    assert found == 2 * [[BOS, *text] for text in documents]


@given(texts, st.integers(1, 25))
def test_a_row_takes_the_longest_that_fits_else_crops_the_shortest(
    documents: list[list[int]], length: int
) -> None:
    held = [[BOS, *text] for text in documents] + length * [(length + 3) * [BOS]]
    before = [list(document) for document in held]
    row = watched.scan_row(held, lambda: None, length)
    assert len(row) == length
    place = 0
    while place < length:
        fitting = [d for d in before if len(d) <= length - place]
        taken = max(fitting, key=len) if fitting else min(before, key=len)
        assert row[place : place + len(taken)] == taken[: length - place]
        before.remove(taken)
        place += len(taken)


def test_the_ports_targets_are_its_inputs_shifted_by_one() -> None:
    rng = np.random.default_rng(0)
    stream = np.concatenate([[BOS, *rng.integers(0, 98, n)] for n in rng.integers(1, 60, 50)])
    loader = watched.port_loader(stream.astype(np.uint16), BOS, 3, 16)
    for x, y, _ in islice(loader, 10):
        assert x.shape == y.shape == (3, 16)
        assert (x[:, 1:] == y[:, :-1]).all()
        assert (x[:, 0] == BOS).all()


# --- notes and what is made of them -----------------------------------------------------------


def test_a_watched_loader_notes_the_clock_and_stops_when_it_has_enough() -> None:
    ticks = iter(range(100))
    taken: list[int] = []
    batches = iter([(0, 0, 0)] * 9)
    loader = watched.Watched(batches, lambda: float(next(ticks)), 3, lambda: taken.append(1))  # type: ignore[arg-type]
    with pytest.raises(watched.Enough):
        list(loader)
    assert loader.asked == [0, 2, 4, 6]
    assert loader.answered == [1, 3, 5]
    assert len(taken) == 3


def noted(step: float, wait: float, muon: float, count: int) -> dict[str, object]:
    asked = [step * i for i in range(count + 1)]
    return {
        "asked": asked,
        "answered": [at + wait for at in asked[:-1]],
        "spent": {"muon": [(at + step / 2, muon) for at in asked[:-1]]},
        "attention": "SDPA",
        "device": "d",
        "torch": "t",
        "output": "---\nval_bpb:  1.5\nmfu_percent: 40.0\npeak_vram_mb: 7.0\nnum_steps: 9\n",
    }


@given(st.floats(0.01, 9), st.floats(0, 0.4), st.floats(0, 0.4), st.integers(30, 60))
def test_rates_share_a_step_out_among_its_parts(
    step: float, wait: float, muon: float, count: int
) -> None:
    shape = throughput.SHAPES[0]
    row = throughput.rates(noted(step, wait * step, muon * step, count), shape, 0, "ours")
    assert row.tokens_per_s == pytest.approx(shape.tokens / step)
    assert row.stall == pytest.approx(wait, abs=1e-9)
    assert row.muon_ms == pytest.approx(1000 * muon * step, abs=1e-9)
    assert sum(row.parts) == pytest.approx(row.step_ms)


def test_ratios_are_taken_within_a_pair() -> None:
    def row(pair: int, who: str, step: float) -> throughput.Rates:
        return throughput.rates(noted(step, 0, 0, 30), throughput.SHAPES[0], pair, who)

    rows = [row(0, "ours", 1), row(0, "port", 2), row(1, "ours", 4), row(1, "port", 2)]
    assert throughput.ratios(rows, "port") == pytest.approx([2, 0.5])
    assert throughput.spread([3.0, 1.0, 2.0], 1) == "2.0 (1.0 to 3.0)"


def test_a_gpu_line_is_of_whole_steps_after_the_first_ones() -> None:
    found = gpu.line("ours", 0, noted(0.5, 0.1, 0, 200), tokens=1000, passes=4)
    assert found.tokens_per_s == pytest.approx(1000 / 2.0)
    assert found.p50_ms == pytest.approx(found.p99_ms) == pytest.approx(2000)
    assert found.waiting == pytest.approx(0.2)
    assert (found.mfu_percent, found.peak_mb, found.num_steps) == (40, 7, 9)


def test_passes_of_a_step_come_from_the_constants() -> None:
    shipped = (REPOSITORY / "train.py").read_text(encoding="utf-8")
    port = (REPOSITORY / "benchmarks" / "upstream_style.py").read_text(encoding="utf-8")
    assert gpu.passes_of(shipped, 2048) == (2**18, 2)
    assert gpu.passes_of(port, 2048) == (2**19, 2)
    assert gpu.passes_of(shipped, 2**18) == (2**18, 1)


def test_the_gpu_comparison_is_at_equal_sizes() -> None:
    files = gpu.entrants(gpu.chosen(full=False, seconds=30))
    sizes = [
        gpu.passes_of(files[who]["train.py"], 2048)
        for who in ("ours, upstream's sizes", "upstream's manner")
    ]
    assert sizes[0] == sizes[1]


def training(score: float | None, steps: int) -> determinism.Row:
    claims = Claims(num_steps=None if score is None else steps)
    return determinism.Row("c", 1, Measured(search_bpb=score, clock_seconds=2.0, claims=claims))


def test_a_line_tells_equal_from_nearly_equal() -> None:
    assert "bit for bit" in determinism.line([training(2.5, 7), training(2.5, 7)])
    assert "| 1.4 | 8 (7 to 9)" in determinism.line([training(2.501, 7), training(2.503, 9)])
    assert "too few" in determinism.line([training(2.5, 7), training(None, 0)])


# --- the real thing, short --------------------------------------------------------------------


def test_a_short_pair_runs_and_packs(home: Home, quick: Track) -> None:
    shape = throughput.Shape(**{**vars(throughput.SHAPES[0]), "batches": 6, "skip": 2})
    track = throughput.track_of(shape, quick)
    (rows,) = throughput.measure(shape, track, home, pairs=1)
    assert [row.who for row in rows] == ["ours", "port"]
    for row in rows:
        assert min(row.parts) > 0  # every part was seen
        assert row.muon_ms < row.step_ms
    packed = throughput.packing(shape, track, home, turns=1)
    assert packed["ours"][0] > 5 * packed["port"][0]
    text = throughput.page([throughput.section(shape, rows, packed)], 1, "command")
    assert "has not been run" in text
    assert text.count("\n| ours |") == text.count("\n| port |") == 1


def test_a_question_about_bits_is_answered_by_a_process(
    home: Home, quick: Track, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / "determinism.py"), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--quick" in done.stdout
    files = throughput.base_files(quick)
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    companions, batch_size = determinism.ask("logits", tmp_path, next(home.cache.iterdir()))
    assert companions == 0
    assert batch_size < 1e-3

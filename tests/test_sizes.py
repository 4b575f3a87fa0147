"""The dial: monotone, inside the memory, and faithful to the published runs it is anchored on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outer_loop.sizes import (
    BUDGET_SECONDS,
    FULL_BATCH,
    FULL_DEPTH,
    MPS_SHARE,
    SHARE,
    Kind,
    Shape,
    Start,
    parameters,
    peak_gb,
    start_for,
    width_for,
)

CARDS = (8, 12, 16, 24, 32, 48, 80, 141)
FULL = {"DEPTH": 9, "WIDTH": 512, "TOTAL_BATCH_SIZE": 1 << 18, "DEVICE_BATCH_SIZE": 64}
CONTEXT = {"cuda": 2048, "mps": 512}
memories = st.floats(1.5, 300)
speeds = st.floats(2_000, 5e6)
kinds = st.sampled_from(["cuda", "mps"])


def size(start: Start, name: str) -> int:
    return int(start.literals.get(name, FULL.get(name, 0)))


@pytest.mark.parametrize(("depth", "published_mb"), [(8, 45_060.2), (9, 50_100)])
def test_the_memory_model_agrees_with_the_published_peaks(depth: int, published_mb: float) -> None:
    estimated = 1024 * peak_gb(Shape(depth, 512, 128, 2048, 8192))
    assert estimated == pytest.approx(published_mb, rel=0.15)


def test_the_parameter_count_is_the_published_one() -> None:
    assert parameters(Shape(8, 512, 128, 2048, 8192)) / 1e6 == pytest.approx(50.3, abs=0.1)


@pytest.mark.parametrize("memory", CARDS)
def test_every_card_keeps_a_fifth_of_its_memory(memory: int) -> None:
    assert 0 < start_for("cuda", memory).memory_gb <= SHARE * memory


def test_an_80_gb_card_gets_the_shipped_train_py_as_it_is() -> None:
    for memory in (79.6, 94, 141, 180):
        start = start_for("cuda", memory)
        assert start.literals == {}
        assert start.steps == pytest.approx(1717, abs=2)  # 1.5M tokens per second at depth 9


def test_a_12_gb_card_gets_what_was_best_on_one() -> None:
    """Upstream issue 596, RTX 3060."""
    start = start_for("cuda", 12)
    assert (start.literals["DEPTH"], start.literals["TOTAL_BATCH_SIZE"]) == (6, 1 << 14)


def test_a_fifth_of_an_h100_keeps_most_of_its_depth() -> None:
    """The published RTX 4090: 25 minutes for an H100's five."""
    start = start_for("cuda", 24, 1.67e6 / 5)
    assert start.literals["DEPTH"] == 7
    assert start.literals["TOTAL_BATCH_SIZE"] == 1 << 16


def test_the_speed_of_an_h100_leaves_the_full_task_as_it_is() -> None:
    for speed in (1.35e6, 1.5e6, 1.67e6, 3e6):
        assert start_for("cuda", 80, speed).literals == {}


@given(kinds, memories, memories)
def test_a_bigger_card_never_gets_less(kind: Kind, one: float, other: float) -> None:
    small, big = (start_for(kind, m) for m in sorted((one, other)))
    for name in ("DEPTH", "WIDTH", "TOTAL_BATCH_SIZE", "DEVICE_BATCH_SIZE"):
        assert size(small, name) <= size(big, name)
    assert small.memory_gb <= big.memory_gb


@given(kinds, memories, st.none() | speeds)
def test_sizes_always_fit_together(kind: Kind, memory: float, speed: float | None) -> None:
    start = start_for(kind, memory, speed)
    depth, width = size(start, "DEPTH"), size(start, "WIDTH")
    head = int(start.literals.get("HEAD_DIM", 128))
    batch, rows = size(start, "TOTAL_BATCH_SIZE"), size(start, "DEVICE_BATCH_SIZE")
    assert 2 <= depth <= FULL_DEPTH
    assert width % head == 0
    assert width <= 512
    assert batch % (rows * CONTEXT[kind]) == 0
    assert batch & (batch - 1) == 0
    assert batch <= FULL_BATCH
    assert start.memory_gb <= memory * (SHARE if kind == "cuda" else MPS_SHARE)


@given(kinds, memories, speeds)
def test_a_measured_speed_leaves_hundreds_of_steps(kind: Kind, memory: float, speed: float) -> None:
    start = start_for(kind, memory, speed)
    assert start.steps is not None
    assert start.tokens_per_second is not None
    assert start.steps >= 300
    assert start.steps == pytest.approx(
        start.tokens_per_second * BUDGET_SECONDS / size(start, "TOTAL_BATCH_SIZE")
    )


@given(kinds, memories, speeds, speeds)
def test_a_faster_machine_never_gets_a_smaller_model(
    kind: Kind, memory: float, one: float, other: float
) -> None:
    slow, fast = (start_for(kind, memory, s) for s in sorted((one, other)))
    assert size(slow, "DEPTH") <= size(fast, "DEPTH")


@given(st.integers(1, 20))
def test_heads_are_whole_and_width_grows_with_depth(depth: int) -> None:
    (width, head), (wider, _) = width_for(depth), width_for(depth + 1)
    assert width % head == 0
    assert width <= wider


def test_an_estimate_says_that_it_is_one() -> None:
    for memory in (8, 24, 48):
        assert "estimate" in start_for("cuda", memory).why
    assert "estimate" in start_for("mps", 16).why
    assert "measured" in start_for("cuda", 24, 3e5).why


def test_a_mac_gets_a_shorter_context_and_a_cpu_the_tiny_task() -> None:
    assert start_for("mps", 16).task == "gpu-short"
    assert start_for("cpu", 16).task == "tiny"
    assert start_for("cpu", 16).literals == {}

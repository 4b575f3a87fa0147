"""Every edit of the catalogue applies, alone and after others, and the train.py it gives trains."""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import itertools
import random
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inner_loop import catalog_weights as weights
from inner_loop.catalog_edits import BY_NAME, CATEGORIES, EDITS, CatalogEdit
from inner_loop.catalog_knobs import (
    BLOCKS,
    describe,
    knobs,
    read_description,
    replaced,
    step_name,
)
from inner_loop.catalog_page import PAGE, edit_table, with_table
from inner_loop.edits import CannotApply, apply_edits
from inner_loop.literals import set_literal, with_start
from inner_loop.tracks import load_track

ROOT = Path(__file__).parent.parent
TRAIN = (ROOT / "train.py").read_text()
TINY = with_start(TRAIN, load_track("tiny-cpu").task.start)
SMALL = with_start(
    TINY, {"WIDTH": 32, "HEAD_DIM": 8, "TOTAL_BATCH_SIZE": 128, "DEVICE_BATCH_SIZE": 8}
)
"""Tiny's start in smaller still: what three steps cost is their number of small operations."""
STARTS = {"shipped": TRAIN, "tiny": TINY}
SEQUENCE, VOCABULARY, STEPS = 16, 50, 3


@functools.cache
def patched(name: str, source: str) -> str:
    blocks = BY_NAME[name].build(source)
    after = replaced(source, blocks) if blocks else None
    assert after, f"{name} does not apply"
    return after


def lines_changed(before: str, after: str) -> set[int]:
    pairs = enumerate(zip(before.splitlines(), after.splitlines(), strict=True))
    return {number for number, (old, new) in pairs if old != new}


@functools.cache
def own_lines(name: str, source: str) -> frozenset[int]:
    return frozenset(lines_changed(source, patched(name, source)))


def apart(*names: str) -> bool:
    """Whether no two of these edits touch the same lines."""
    lines = [own_lines(name, TINY) for name in names]
    return all(a.isdisjoint(b) for a, b in itertools.combinations(lines, 2))


PAIRS = [pair for pair in itertools.combinations(BY_NAME, 2) if apart(*pair)]


def groups() -> list[tuple[str, ...]]:
    """Groups of four edits that touch different lines; every pair is in one of them."""
    found, missing = [], dict.fromkeys(PAIRS)
    while missing:
        group = next(iter(missing))
        while len(group) < 4:
            group = _with_most_new(group, missing)
        found.append(group)
        for pair in itertools.combinations(group, 2):
            missing.pop(pair, None)
    return found


def _with_most_new(group: tuple[str, ...], missing: dict[tuple[str, str], None]) -> tuple[str, ...]:
    fitting = [n for n in BY_NAME if n not in group and apart(*group, n)]
    new = {n: sum((a, n) in missing or (n, a) in missing for a in group) for n in fitting}
    return tuple(sorted((*group, max(fitting, key=lambda n: new[n])), key=list(BY_NAME).index))


# --- applying ---------------------------------------------------------------------------------


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", BY_NAME)
def test_every_edit_applies_to_the_shipped_train_py_and_to_tinys_start(
    name: str, start: str
) -> None:
    source, edit = STARTS[start], BY_NAME[name]
    after = apply_edits(source, edit.build(source) or ())
    ast.parse(after)
    assert [step_name(change) for change in read_description(describe(source, after))] == [name]


@pytest.mark.parametrize("start", STARTS)
def test_every_edit_applies_after_any_two_others_that_touch_other_lines(start: str) -> None:
    source, rng = STARTS[start], random.Random(1)
    for pair in PAIRS:
        first, second = rng.sample(pair, 2)
        both = patched(second, patched(first, source))
        others = [n for n in BY_NAME if n not in pair and apart(n, *pair)]
        for third in rng.sample(others, 2):
            after = patched(third, both)
            assert third in map(step_name, read_description(describe(both, after))), pair


def test_every_edit_has_a_bolder_or_a_smaller_form_or_only_one() -> None:
    for edit in EDITS:
        for stride in (0.125, 0.5, 2.0, 3.0):
            blocks = edit.build(TRAIN, stride)
            if blocks:
                after = replaced(TRAIN, blocks)
                assert after is not None
                assert step_name(read_description(describe(TRAIN, after))[0]) == edit.name


def test_a_stride_of_two_is_the_step_twice() -> None:
    for name in ("EMBEDDING_LR up", "MATRIX_LR down", "TOTAL_BATCH_SIZE up", "DEPTH up"):
        twice = patched(name, patched(name, TRAIN))
        assert replaced(TRAIN, BY_NAME[name].build(TRAIN, 2.0) or ()) == twice
    half = replaced(TRAIN, BY_NAME["MATRIX_LR up"].build(TRAIN, 0.5) or ())
    assert half is not None
    assert describe(TRAIN, half) == "MATRIX_LR 0.04 -> 0.0566"


# --- training ---------------------------------------------------------------------------------


@pytest.fixture
def stub_prepare() -> Iterator[None]:
    """The fixed side, with made-up tokens and three steps: all of train.py itself is real."""
    before, threads = sys.modules.get("prepare"), torch.get_num_threads()
    stub = types.ModuleType("prepare")
    stub.__dict__.update(
        DEVICE="cpu", MAX_SEQ_LEN=SEQUENCE, Tokenizer=None, evaluate_bpb=None,
        make_dataloader=None, check_compiler=None, peak_flops=None,
        progress=lambda step: step / STEPS,
    )  # fmt: skip
    sys.modules["prepare"] = stub
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    sys.modules.pop("prepare")
    if before:
        sys.modules["prepare"] = before


def rows(count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    while True:
        tokens = torch.randint(VOCABULARY, (count, SEQUENCE + 1))
        yield tokens[:, :-1], tokens[:, 1:], 1


def three_steps(source: str, names: tuple[str, ...]) -> None:
    """Import the patched file and let its own loop train, as `main` would."""
    train = types.ModuleType("patched_train")
    exec(compile(source, f"train.py with {names}", "exec"), train.__dict__)
    torch.manual_seed(0)
    model = train.build_model(train.model_config(VOCABULARY))
    optimizers = train.build_optimizers(model)
    total = max(1, train.TOTAL_BATCH_SIZE // SEQUENCE)
    accumulate = train.forward_passes(total)
    before = [p.detach().clone() for p in model.parameters()]
    with contextlib.redirect_stdout(io.StringIO()):
        loader = rows(total // accumulate)
        done = train.train(model, model, optimizers, loader, accumulate, contextlib.nullcontext())
    assert done == STEPS, names
    after = list(model.parameters())
    assert all(p.isfinite().all() for p in after), names
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)), names


@pytest.mark.usefixtures("stub_prepare")
def test_every_edit_alone_imports_and_takes_three_steps() -> None:
    for name in BY_NAME:
        three_steps(patched(name, TINY), (name,))


@pytest.mark.usefixtures("stub_prepare")
def test_every_pair_of_edits_among_others_imports_and_takes_three_steps() -> None:
    covering = groups()
    assert {p for g in covering for p in itertools.combinations(g, 2)} >= set(PAIRS)
    for group in covering:
        three_steps(functools.reduce(lambda s, n: patched(n, s), group, SMALL), group)


@pytest.mark.usefixtures("stub_prepare")
def test_bold_forms_take_three_steps() -> None:
    for edit in EDITS:
        blocks = edit.build(SMALL, 3.0)
        if blocks and blocks != edit.build(SMALL):
            three_steps(replaced(SMALL, blocks) or "", (edit.name, "bold"))


# --- the list ---------------------------------------------------------------------------------


def test_names_are_unique_and_all_categories_are_covered() -> None:
    assert len(BY_NAME) == len(EDITS) >= 40
    assert list(dict.fromkeys(e.category for e in EDITS)) == list(CATEGORIES)
    assert all(set(edit.categories) <= set(CATEGORIES) for edit in EDITS)
    assert {edit.knob for edit in EDITS} <= set(knobs(TRAIN))
    assert all("\n" not in edit.why and not edit.why.endswith(".") for edit in EDITS)


def test_blocks_of_code_are_edited_as_well_as_constants() -> None:
    blocks = [edit for edit in EDITS if edit.knob in BLOCKS]
    assert len(blocks) >= 10
    for variants in BLOCKS.values():
        present = [name for name, text in variants.items() if TRAIN.count(text) == 1]
        assert len(present) == 1


def test_comments_keep_their_column() -> None:
    old = next(line for line in TRAIN.splitlines() if line.startswith("EMBEDDING_LR"))
    after = patched("EMBEDDING_LR up", TRAIN)
    new = next(line for line in after.splitlines() if line.startswith("EMBEDDING_LR"))
    assert old.index("#") == new.index("#")


@given(st.text(max_size=200) | st.sampled_from(TRAIN.splitlines()).map(lambda line: line * 2))
@settings(deadline=None)
def test_an_edit_of_any_other_source_applies_or_is_none(source: str) -> None:
    for edit in EDITS:
        blocks = edit.build(source)
        if blocks:
            assert all(block.search in source for block in blocks)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A = 0.020  # x", "0.02"),
        ("A = 2**14", "2**14"),
        ("A = 64 # y", "64"),
        ("A = 1e-05", "1e-05"),
    ],
)
def test_knobs_have_one_way_of_writing(line: str, value: str) -> None:
    assert knobs(f"{line}\n") == {"A": value}
    assert set_literal(f"{line}\n", "A", value) is None


def test_powers_of_two_stay_powers_of_two() -> None:
    source = "TOTAL_BATCH_SIZE = 2**19 # about 0.5M tokens\n"
    assert (
        patched("TOTAL_BATCH_SIZE up", source) == "TOTAL_BATCH_SIZE = 2**20 # about 0.5M tokens\n"
    )


def test_an_edit_of_a_changed_line_is_refused_by_the_loop() -> None:
    edit: CatalogEdit = EDITS[0]
    with pytest.raises(CannotApply):
        apply_edits(patched(edit.name, TRAIN), edit.build(TRAIN) or ())


# --- the page ---------------------------------------------------------------------------------


def test_the_page_lists_the_edits_as_they_are() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page, edit_table(TRAIN)) == page
    assert all(edit.why in page for edit in EDITS)


def test_the_page_tells_the_factors_as_they_are() -> None:
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    told = (
        f"adds {weights.PER_MENTION:g} (five count at most)",
        f"falls to {weights.UNMENTIONED:g} ",
        f"kept, discarded, crashed | {weights.KEPT:g}, {weights.DISCARDED:g}, {weights.CRASHED:g} ",
        f"it is untried | {weights.UNTRIED:g} ",
        f"it was kept last | {weights.FOLLOWED:g} ",
        f"a plateau rule leaves it | {weights.LEFT:g} ",
        f"{weights.NAMED:g} if the program names it",
        f"{weights.SAME_STEP_KEPT:g} if the same step was kept before",
        f"{weights.SAME_STEP_LOST:g} if it was lost; {weights.OTHER_WAY:g} if the opposite",
    )
    assert weights.MOST_MENTIONS == 5
    assert [text for text in told if text not in page] == []

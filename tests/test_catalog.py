"""The offline catalogue: its edits, how it reads a program, and what it chooses."""

from __future__ import annotations

import ast
import asyncio
import functools
from collections import Counter
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inner_loop.catalog import Catalog, choose
from inner_loop.catalog_edits import CATEGORIES, EDITS, CatalogEdit
from inner_loop.catalog_knobs import (
    describe,
    knobs,
    read_description,
    set_literal,
    step_name,
)
from inner_loop.catalog_reading import Reading, read
from inner_loop.edits import CannotApply, apply_edits
from inner_loop.program import parse_program, read_program, render
from inner_loop.records import Experiment, Measured, Move, Status
from inner_loop.researcher import Brief

ROOT = Path(__file__).parent.parent
TRAIN = (ROOT / "train.py").read_text()


def brief(
    program: str | bytes = "Minimise val_bpb.",
    seed: int = 0,
    *,
    history: tuple[Experiment, ...] = (),
    train_py: str = TRAIN,
    tip: str = "base",
    left: int = 6,
    repair: str = "",
) -> Brief:
    body = program.encode() if isinstance(program, str) else program
    return Brief(
        program=parse_program(body, "p"),
        train_py=train_py,
        base_commit="base",
        tip_commit=tip,
        baseline_bpb=2.8,
        tip_bpb=2.8,
        history=history,
        facts=(),
        repair=repair,
        experiments_left=left,
        move_number=len(history) + 1,
        seed=seed,
    )


def experiment(move: Move, index: int, parent: str, status: Status) -> Experiment:
    return Experiment(
        run_id="r",
        index=index,
        kind="rerun" if move.kind == "rerun" else "edit",
        commit=f"c{index}",
        tree=f"t{index}",
        parent_commit=parent,
        seed=1,
        status=status,
        description=move.description,
        categories=move.categories,
        measured=Measured(search_bpb=2.7),
    )


def reading(text: str) -> Reading:
    return read(parse_program(text.encode(), "p"))


def chosen(program: str | bytes, seeds: int) -> Counter[str]:
    moves = [choose(brief(program, seed)) for seed in range(seeds)]
    return Counter(move.categories[0] for move in moves)


@functools.cache
def patched(edit: CatalogEdit, source: str) -> str:
    return apply_edits(source, edit.build(source) or ())


def lines_changed(before: str, after: str) -> set[int]:
    pairs = enumerate(zip(before.splitlines(), after.splitlines(), strict=True))
    return {number for number, (old, new) in pairs if old != new}


# --- the edits --------------------------------------------------------------------------------


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name)
def test_every_edit_applies_to_the_shipped_train_py(edit: CatalogEdit) -> None:
    after = patched(edit, TRAIN)
    ast.parse(after)
    steps = [step_name(change) for change in read_description(describe(TRAIN, after))]
    assert steps == [edit.name]


def test_every_edit_applies_after_any_other_that_touches_other_lines() -> None:
    for first, second in permutations(EDITS, 2):
        once = patched(first, TRAIN)
        if lines_changed(TRAIN, once).isdisjoint(lines_changed(TRAIN, patched(second, TRAIN))):
            both = patched(second, once)
            assert second.name in map(step_name, read_description(describe(once, both)))


def test_comments_keep_their_column() -> None:
    edit = next(e for e in EDITS if e.name == "EMBEDDING_LR up")
    old = next(line for line in TRAIN.splitlines() if line.startswith("EMBEDDING_LR"))
    new = next(
        line for line in patched(edit, TRAIN).splitlines() if line.startswith("EMBEDDING_LR")
    )
    assert old.index("#") == new.index("#")


def test_names_are_unique_and_all_categories_are_covered() -> None:
    assert len({edit.name for edit in EDITS}) == len(EDITS)
    assert {edit.categories[0] for edit in EDITS} == set(CATEGORIES)
    assert all(set(edit.categories) <= set(CATEGORIES) for edit in EDITS)
    assert {edit.knob for edit in EDITS} <= set(knobs(TRAIN))


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
    edit = next(e for e in EDITS if e.name == "TOTAL_BATCH_SIZE up")
    assert patched(edit, source) == "TOTAL_BATCH_SIZE = 2**20 # about 0.5M tokens\n"


# --- reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Never touch the learning rate.",
        "Do not change learning rates.",
        "Don\u2019t tune the LR.",
        "Avoid learning-rate changes.",
        "Leave the learning rate alone.",
        "Keep the learning rate fixed.",
        "Learning rates are off limits.",
        "The learning rate must not be changed.",
        "Learning rate: do not touch.",
        "The learning rates are tuned. Do not touch them.",
        "Never touch: the learning rate, the seed.",
        "Try depth, but never the learning rate.",
        "Try depth and never touch the **learning rate**.",
        "## Off limits\n\n- learning rate\n",
        "You must not change:\n\n- the learning rate\n- the seed\n\nTry depth.",
        "Never touch the learning\nrate if it can be helped.",
        "Raise the learning rate.\n\nNever touch the learning rate.",
        "1. NEVER TOUCH THE LEARNING RATE!",
        "> Do not touch the learning rate",
    ],
)
def test_a_ban_of_the_learning_rate_is_obeyed_for_every_seed(text: str) -> None:
    assert set(reading(text).banned) == {"learning-rate"}
    for seed in range(200):
        move = choose(brief(text, seed))
        assert move.kind == "edit"
        assert "learning-rate" not in move.categories
        assert not any("_LR" in block.search.split("#")[0] for block in move.edits)


@pytest.mark.parametrize(
    "text",
    [
        "Never stop: try the depth again.",
        "Do not ask before trying the depth.",
        "Do not just tune the depth.",
        "Do not be afraid of depth.",
        "Never forget the depth.",
        "Never change more than one of depth and width at once.",
        "Keep a commit if val_bpb fell; then vary depth.",
        "If memory cannot hold it, reduce depth.",
    ],
)
def test_not_every_negation_is_a_ban(text: str) -> None:
    found = reading(text)
    assert not found.banned
    assert not found.deferred


def test_a_ban_on_one_literal_leaves_its_category_open() -> None:
    found = reading("Leave EMBEDDING_LR alone.")
    assert set(found.banned) == {"EMBEDDING_LR"}
    names = {
        choose(brief("Never touch EMBEDDING_LR.", s)).description.split()[0] for s in range(300)
    }
    assert "MATRIX_LR" in names
    assert "EMBEDDING_LR" not in names


def test_until_defers_to_the_second_half_of_a_run() -> None:
    text = "Only depth and width matter. Do not touch the depth until the width is settled."
    assert chosen(text, 200)["depth"] == 0
    move = Move(kind="edit", description="something of its own")
    done = tuple(experiment(move, i, "base", "discard") for i in range(1, 5))
    late = [choose(brief(text, seed, history=done, left=4)) for seed in range(200)]
    assert any(move.categories == ("depth",) for move in late)


def test_first_and_before_set_the_order() -> None:
    assert set(reading("Try the depth first.").early) == {"depth"}
    for text in (
        "Tune depth before width.",
        "Before width, tune depth.",
        "Tune width after depth.",
    ):
        assert set(reading(text).early) == {"depth"}
        assert set(reading(text).late) == {"width"}
    counts = chosen("Tune depth before width.", 200)
    assert counts["depth"] > 3 * counts["width"]


def test_fences_are_not_read() -> None:
    assert reading("Output:\n\n```\ndepth: 8\n```\n").favoured == {}


def test_opposite_programs_choose_different_categories() -> None:
    one = chosen("Tune the learning rates, the schedule and the batch size.", 200)
    other = chosen("Change depth, width, heads and the activation.", 200)
    training = {"learning-rate", "schedule", "batch"}
    model = {"depth", "width", "heads", "activation"}
    assert sum(one[c] for c in training) > 2 * sum(one[c] for c in model)
    assert sum(other[c] for c in model) > 4 * sum(other[c] for c in training)


def test_the_shipped_strategies_pull_apart() -> None:
    by_name = {
        name: chosen(render(read_program(ROOT / "programs" / name)), 200)
        for name in ("one-line", "optimizer-first", "architecture-first")
    }
    assert by_name["optimizer-first"]["learning-rate"] > 80
    assert by_name["architecture-first"]["learning-rate"] == 0
    assert by_name["architecture-first"]["depth"] > 40 > by_name["one-line"]["depth"]
    assert len(by_name["one-line"]) == len(CATEGORIES)


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("Confirm every keep before building on it.", True),
        ("Re-run what you kept.", True),
        ("Train each improvement with a second seed.", True),
        ("Never rerun anything.", False),
        ("If it crashed, fix the typo and re-run.", False),
        ("Confirm that the setup is complete.", False),
    ],
)
def test_a_request_for_reruns_is_read(text: str, asks: bool) -> None:
    assert bool(reading(text).reruns) == asks


# --- choosing ---------------------------------------------------------------------------------


def test_a_keep_is_rerun_once_if_the_program_asks() -> None:
    text = "Confirm every keep on a second seed."
    first = choose(brief(text))
    kept = experiment(first, 1, "base", "keep")
    again = choose(brief(text, history=(kept,), tip="c1"))
    assert (again.kind, again.commit, len(again.cites)) == ("rerun", "c1", 1)
    confirmed = experiment(again, 2, "c1", "keep")
    assert choose(brief(text, history=(kept, confirmed), tip="c1")).kind == "edit"
    lost = experiment(first, 1, "base", "discard")
    assert choose(brief(text, history=(lost,))).kind == "edit"


def test_it_cites_the_instructions_that_decided() -> None:
    text = "- Make haste.\n- Vary depth.\n"
    program = parse_program(text.encode(), "p")
    for seed in range(100):
        move = choose(brief(text, seed))
        expected = (program.instructions[1].id,) if move.categories == ("depth",) else ()
        assert move.cites == expected
    many = "".join(f"- depth, reason {number}\n" for number in range(9))
    assert {len(choose(brief(many, seed)).cites) for seed in range(50)} == {0, 3}


def test_a_move_says_what_it_changes_and_why() -> None:
    move = choose(brief("Never stop.", 3))
    after = apply_edits(TRAIN, move.edits)
    assert move.description == describe(TRAIN, after)
    assert move.hypothesis
    assert "\n" not in move.description + move.hypothesis


def play(program: str, seed: int, keeps: list[bool]) -> list[str]:
    """The sources of a run whose n-th edit is kept or not; the base first."""
    source, tip, history = TRAIN, "base", ()
    sources = [source]
    for index, keep in enumerate(keeps, start=1):
        left = len(keeps) + 1 - index
        now = brief(
            program, seed * 1000 + index, history=history, train_py=source, tip=tip, left=left
        )
        move = choose(now)
        if move.kind == "unusable":
            break
        after = apply_edits(source, move.edits)
        sources.append(after)
        history += (experiment(move, index, tip, "keep" if keep else "discard"),)
        if keep:
            source, tip = after, f"c{index}"
    return sources


@given(st.integers(0, 10_000), st.lists(st.booleans(), min_size=1, max_size=12))
@settings(max_examples=15, deadline=None)
def test_no_train_py_is_proposed_twice_in_a_run(seed: int, keeps: list[bool]) -> None:
    sources = play("Vary depth and learning rates.", seed, keeps)
    assert len(set(sources)) == len(sources)


def test_it_says_so_when_nothing_is_left() -> None:
    others = ", ".join(c.replace("-", " ") for c in CATEGORIES if c not in ("depth", "heads"))
    sources = play(f"Never touch {others}.", 1, [False] * 20)
    assert len(sources) == 1 + 4  # base, depth up and down, heads up and down
    nothing = brief("Never touch hyperparameters, architecture, init or the optimizer.")
    assert choose(nothing).kind == "unusable"
    assert choose(brief(train_py="print('hello')\n")).kind == "unusable"


def test_evidence_of_the_run_moves_the_choice() -> None:
    def share(status: Status) -> int:
        first = Move(kind="edit", description="SEED 1 -> 2", categories=("batch",))
        history = tuple(experiment(first, i, "x", status) for i in (1, 2, 3))
        moves = [choose(brief("Go.", seed, history=history, left=9)) for seed in range(300)]
        return sum(move.categories == ("batch",) for move in moves)

    assert share("keep") > 2 * share("discard")
    assert share("discard") >= share("crash")


def test_a_kept_direction_is_tried_again() -> None:
    up = next(e for e in EDITS if e.name == "TOTAL_BATCH_SIZE up")
    after = patched(up, TRAIN)
    move = Move(kind="edit", description=describe(TRAIN, after), categories=("batch",))
    kept = (experiment(move, 1, "base", "keep"),)
    moves = [
        choose(brief("Batch size only.", seed, history=kept, train_py=after, tip="c1"))
        for seed in range(50)
    ]
    names = Counter(move.description for move in moves if move.categories == ("batch",))
    assert set(names) == {describe(after, patched(up, after))}


def test_a_refused_answer_is_not_given_again() -> None:
    for seed in range(50):
        first = choose(brief("Go.", seed))
        assert choose(brief("Go.", seed, repair="no such text")).description != first.description


@functools.cache
def _catalog() -> Catalog:
    return Catalog("ignored")


@given(st.text(max_size=400) | st.text("-#>* \n:.neverdotuchliaghfb", max_size=200), st.integers())
@settings(max_examples=200, deadline=None)
def test_any_program_text_gets_a_move_and_the_same_one_twice(text: str, seed: int) -> None:
    body = text.encode("utf-8", "ignore")
    one = asyncio.run(_catalog().next_move(brief(body, seed)))
    assert one == choose(brief(body, seed))
    assert one.kind in ("edit", "unusable")
    if one.kind == "edit":
        apply_edits(TRAIN, one.edits)


def test_a_foreign_history_is_no_obstacle() -> None:
    strange = Move(kind="edit", description="A -> B; -> ; x -> y -> z", categories=("unheard-of",))
    history = (experiment(strange, 1, "elsewhere", "crash"),)
    assert choose(brief("Go.", history=history)).kind == "edit"


def test_an_edit_of_a_changed_line_is_refused_by_the_loop() -> None:
    blocks = EDITS[0].build(TRAIN) or []
    with pytest.raises(CannotApply):
        apply_edits(patched(EDITS[0], TRAIN), blocks)

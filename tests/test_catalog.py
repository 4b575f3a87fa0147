"""The offline catalogue: how it reads a program's topics, and what it chooses for it."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inner_loop.catalog import Catalog, choose
from inner_loop.catalog_edits import BY_NAME, CATEGORIES, EDITS, CatalogEdit
from inner_loop.catalog_knobs import describe, knobs
from inner_loop.catalog_reading import Reading, read
from inner_loop.edits import apply_edits
from inner_loop.program import parse_program, read_program, render
from inner_loop.records import Experiment, Measured, Move, Status
from inner_loop.researcher import Brief, Setup

ROOT = Path(__file__).parent.parent
RATE_KNOBS = {edit.knob for edit in EDITS if "learning-rate" in edit.categories}
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
        "You may change anything except the learning rate.",
        "Anything but the learning rate may be changed.",
        "Except for the learning rate, everything is yours.",
        "No learning-rate changes.",
        "Under no circumstances change the learning rate.",
        "The learning rate is fixed.",
        "Steer clear of learning rates.",
        "The learning rates are not yours to change.",
        "Change nothing about the learning rate.",
    ],
)
def test_a_ban_of_the_learning_rate_is_obeyed_for_every_seed(text: str) -> None:
    assert set(reading(text).banned) == {"learning-rate"}
    for seed in range(200):
        move = choose(brief(text, seed))
        assert move.kind == "edit"
        assert "learning-rate" not in move.categories
        assert not any("_LR" in block.search.split("#")[0] for block in move.edits)


BANS = (
    "{never} touch {the} {rate}", "{never} change {the} {rate} {later}", "keep {the} {rate} fixed",
    "{the} {rate} {is_} off limits", "leave {the} {rate} alone", "{the} {rate} must not be changed",
    "hands off {the} {rate}", "everything except {the} {rate} is open to you",
    "raise nothing but depth and width, and {never} {the} {rate}", "{the} {rate}: do not touch",
)  # fmt: skip
RATES = ("learning rate", "learning-rate", "learning rates", "LR", "LRs", "*learning rate*")
OTHERS = ("Tune the depth first.", "Raise the learning rate by a factor of four.", "Be bold.", "")


@given(
    st.sampled_from(BANS),
    st.sampled_from(RATES),
    st.sampled_from(("never", "do not", "don't", "NEVER", "Do not ever")),
    st.sampled_from(("", "- ", "1. ", "> ", "## Rules\n\n- ")),
    st.sampled_from(OTHERS),
    st.lists(st.booleans(), max_size=5),
    st.integers(0, 2**31),
)
@settings(max_examples=80, deadline=None)
def test_a_ban_is_obeyed_however_it_is_said(
    ban: str, rate: str, never: str, mark: str, other: str, keeps: list[bool], seed: int
) -> None:
    plural = rate.lower().endswith("s")
    said = ban.format(
        never=never, the="the", rate=rate, is_="are" if plural else "is", later="at any time"
    )
    for source in play(f"{other}\n\n{mark}{said}.\n", seed, [*keeps, True]):
        changed = {name for name, value in knobs(source).items() if value != knobs(TRAIN)[name]}
        assert not changed & RATE_KNOBS


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


def test_nothing_but_and_only_forbid_the_rest() -> None:
    for text in ("Do not touch anything except the depth.", "Change only the depth."):
        assert set(chosen(text, 100)) == {"depth"}
    assert len(chosen("In phase one, change only the depth.", 300)) > 6
    assert not reading("Edit train.py only.").banned


def test_a_direction_is_told_from_its_opposite() -> None:
    names = [choose(brief("Never go deeper.", seed)).description for seed in range(300)]
    assert any(name.startswith("DEPTH 9 -> 8") for name in names)
    assert not any(name.startswith("DEPTH 9 -> 10") for name in names)
    wider = Counter(choose(brief("Go wider.", seed)).description for seed in range(300))
    assert wider["WIDTH 512 -> 768"] > 2 * wider["WIDTH 512 -> 256"]


def done(name: str, index: int, status: Status, source: str = TRAIN) -> Experiment:
    """An experiment that tried one edit."""
    edit = BY_NAME[name]
    text = describe(source, patched(edit, source))
    move = Move(kind="edit", description=text, categories=edit.categories)
    return experiment(move, index, "base", status)


def test_only_if_waits_for_what_it_names() -> None:
    text = "Try the width only if the depth helped."
    assert chosen(text, 200)["width"] == 0
    for status, allowed in (("discard", False), ("keep", True)):
        history = (done("DEPTH up", 1, status),)
        moves = [choose(brief(text, seed, history=history)) for seed in range(200)]
        assert any("width" in move.categories for move in moves) == allowed


def test_not_until_ends_when_what_it_names_was_tried() -> None:
    text = "Do not touch the depth until the width is settled."
    history = (done("WIDTH up", 1, "discard"),)
    moves = [choose(brief(text, seed, history=history, left=9)) for seed in range(200)]
    assert any("depth" in move.categories for move in moves)


def test_if_it_helped_speaks_for_what_follows() -> None:
    text = "If the depth helped, try the width."

    def share(status: Status) -> int:
        history = (done("DEPTH up", 1, status),)
        moves = [choose(brief(text, seed, history=history)) for seed in range(300)]
        return sum("width" in move.categories for move in moves)

    assert share("keep") > 2 * share("discard")


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
    assert (
        by_name["optimizer-first"]["learning-rate"] > 50 > 2 * by_name["one-line"]["learning-rate"]
    )
    assert by_name["architecture-first"]["learning-rate"] == 0
    assert by_name["architecture-first"]["depth"] > 40 > by_name["one-line"]["depth"]
    assert len(by_name["one-line"]) == len(CATEGORIES)


# --- choosing ---------------------------------------------------------------------------------


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
    assert len(sources) == 1 + 6  # base, three of depth, three of heads
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
    return Catalog(Setup("catalog", "ignored"))


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

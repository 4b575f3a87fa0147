"""Operations and their proof: byte-exact outside what is touched, and every reason to refuse."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_program import TEXTS

from inner_loop.outline import outline
from inner_loop.program import MAX_PROGRAM_BYTES, parse_program, read_program, split_lines
from inner_loop.proposal import Operation, Proposal, proposal_id
from inner_loop.records import Program
from inner_loop.roles import role_of_units, roles
from outer_loop.door_text import shape_findings
from outer_loop.rewriter.apply import apply, apply_one
from outer_loop.rewriter.rules import rule_in
from outer_loop.rewriter.surgery import RewriteRefused
from outer_loop.rewriter.verify import rejection, verified

PROGRAMS = Path(__file__).parent.parent / "programs"
SHIPPED = [read_program(PROGRAMS / name) for name in ("stock", "optimizer-first", "one-line")]
SHIPPED.append(read_program(PROGRAMS / "architecture-first"))


def parse(text: str) -> Program:
    return parse_program(text.encode(), "test")


def ids(program: Program) -> list[str]:
    return [unit.id for unit in program.instructions]


def named(program: Program, opening: str) -> str:
    """The id of the one instruction that begins with `opening`."""
    (found,) = [u.id for u in program.instructions if u.text.startswith(opening)]
    return found


def op(kind: str, *names: str, **more: object) -> Operation:
    return Operation.model_validate(
        {"kind": kind, "instruction_ids": names, "hypothesis": "It may help.", **more}
    )


def after(text: str, *operations: Operation) -> str:
    return apply(parse(text), operations).text


def one(text: str) -> str:
    return ids(parse(text))[0]


# --- what operations do to the text -----------------------------------------------------------


def test_a_removed_item_leaves_its_list() -> None:
    assert after("- a\n- b\n- c\n", op("REMOVE", one("b"))) == "- a\n- c\n"
    assert after("- a\n\n- b\n\n- c\n", op("REMOVE", one("b"))) == "- a\n\n- c\n"
    assert after("x\n\n- a\n\ny\n", op("REMOVE", one("a"))) == "x\n\ny\n"


def test_numbers_are_put_right() -> None:
    text = "1. a\n2. b\n3. c\n"
    assert after(text, op("REMOVE", one("a"))) == "1. b\n2. c\n"
    assert after(text, op("ADD", texts=["n"], after=one("a"))) == "1. a\n2. n\n3. b\n4. c\n"
    assert after(text, op("MOVE", one("a"), after=one("c"))) == "1. b\n2. c\n3. a\n"
    assert after("7) a\n8) b\n", op("ADD", texts=["n"], after=one("b"))) == "7) a\n8) b\n9) n\n"
    assert after("1. a\n1. b\n", op("ADD", texts=["n"], after=one("a"))) == "1. a\n1. n\n1. b\n"


def test_what_hangs_under_a_number_keeps_hanging_when_the_number_grows() -> None:
    text = "".join(f"{n}. item {n}\n" for n in range(1, 9)) + "9. last\n   - nested\n"
    grown = after(text, op("ADD", texts=["n"], after=one("item 1")))
    assert grown.endswith("10. last\n    - nested\n")
    assert after(grown, op("REMOVE", one("n"))).endswith("9.  last\n    - nested\n")
    program = parse(grown)
    assert outline(program).within[-1] == len(program.instructions) - 2


def test_an_empty_heading_goes_and_one_that_was_empty_stays() -> None:
    text = "# T\n\nkeep\n\n## A\n\n### B\n\n- b\n\n## C\n\n## D\n\nd\n"
    assert after(text, op("REMOVE", one("b"))) == "# T\n\nkeep\n\n## C\n\n## D\n\nd\n"
    assert after("T\n=\n\na\n\nU\n-\n\nb\n", op("REMOVE", one("b"))) == "T\n=\n\na\n"


def test_a_role_comment_goes_with_its_instruction() -> None:
    text = "- a\n<!-- role: gate -->\n- b\n- c\n"
    assert after(text, op("REMOVE", one("b"))) == "- a\n- c\n"
    text = "a\n\n<!-- role: gate -->\n## S\n\nb\n\n## U\n\nc\n"
    assert after(text, op("REMOVE", one("b"))) == "a\n\n## U\n\nc\n"


def test_an_added_instruction_looks_like_its_neighbours() -> None:
    assert after("* a\n", op("ADD", texts=["n\nm"], after=one("a"))) == "* a\n* n\n  m\n"
    assert after("- a\n\n- b\n", op("ADD", texts=["n"], after=one("a"))) == "- a\n\n- n\n\n- b\n"
    assert after("a\n\nb\n", op("ADD", texts=["n"], after=one("a"))) == "a\n\nn\n\nb\n"
    assert after("a\n# T\nb\n", op("ADD", texts=["n"], after=one("a"))) == "a\n\nn\n\n# T\nb\n"
    assert after("- a\n  - b\n- c\n", op("ADD", texts=["n"], after=one("a"))) == (
        "- a\n  - b\n- n\n- c\n"
    )
    assert after("> - a\n", op("ADD", texts=["n"], after=one("a"))) == "> - a\n> - n\n"
    assert after("In short:\n\n- a\n\nb\n", op("ADD", texts=["n"], after=one("In short:"))) == (
        "In short:\n\n- a\n\nn\n\nb\n"
    )


def test_a_section_is_found_or_opened() -> None:
    text = "# T\n\n## A\n\n- a\n  - b\n\n## B\n"
    assert after(text, op("ADD", texts=["n"], section="T / A")) == (
        "# T\n\n## A\n\n- a\n  - b\n- n\n\n## B\n"
    )
    assert after(text, op("ADD", texts=["n"], section="T / B")) == f"{text}\n- n\n"
    assert after(text, op("ADD", texts=["n"], section="T / C")) == f"{text}\n## C\n\n- n\n"
    assert after("a", op("ADD", texts=["n"], section="C")) == "a\n\n## C\n\n- n"


def test_line_ends_and_the_last_line_stay_as_they_are() -> None:
    assert after("- a\r\n- b", op("ADD", texts=["n"], after=one("b"))) == "- a\r\n- b\r\n- n"
    assert after("\ufeff- a\r\n- b\r\n", op("REMOVE", one("a"))) == "\ufeff- b\r\n"
    assert after("a\n\nb", op("REMOVE", one("b"))) == "a"


def test_merge_and_split() -> None:
    text = "- a\n- b\n- c\n"
    assert after(text, op("MERGE", one("c"), one("a"), texts=["ac"])) == "- b\n- ac\n"
    assert after(text, op("SPLIT", one("b"), texts=["x", "y"])) == "- a\n- x\n- y\n- c\n"
    assert after(text, op("EDIT", one("b"), texts=["**B** two"])) == "- a\n- **B** two\n- c\n"


def test_an_instruction_takes_its_fence_along() -> None:
    text = "- a\n\n  ```\n  x = 1\n\n  y\n  ```\n- b\n"
    assert after(text, op("MOVE", ids(parse(text))[0], after=one("b"))) == (
        "- b\n- a\n\n  ```\n  x = 1\n\n  y\n  ```\n"
    )


@pytest.mark.parametrize(
    ("text", "operation", "words"),
    [
        ("- a\n", op("REMOVE", "I-00000000"), "the program has no I-00000000"),
        ("- a\n- a\n", op("REMOVE", one("a")), "stands 2 times"),
        ("- a\n  - b\n", op("REMOVE", one("a")), "is nested under it"),
        ("- a\n", op("REMOVE", one("a"), texts=["x"]), "one instruction and no text"),
        ("- a\n", op("MERGE", one("a"), texts=["x"]), "two or more instructions"),
        ("- a\n- b\n", op("MERGE", one("a"), one("a"), texts=["x"]), "same instruction twice"),
        ("# T\n\n- a\n", op("ADD", texts=["x"]), "it has no place"),
        ("- a\n", op("ADD", texts=["x"], after=one("a"), section="S"), "two places"),
        ("- a\n", op("EDIT", one("a"), texts=["x"], section="S"), "needs none"),
        ("- a\n", op("ADD", texts=["x\n\n# H"], after=one("a")), "a heading"),
        ("- a\n", op("ADD", texts=["- x"], after=one("a")), "a list marker"),
        ("- a\n", op("ADD", texts=["x\n- y"], after=one("a")), "2 instructions instead of one"),
        ("- a\n", op("ADD", texts=["  "], after=one("a")), "0 instructions instead of one"),
        ("- a\n", op("ADD", texts=[""], after=one("a")), "is empty"),
        ("- a\n", op("ADD", texts=["x <!-- y -->"], after=one("a")), "hidden comment"),
        ("- a\n", op("ADD", texts=["x\n\n[a]: /b"], after=one("a")), "belong to no instruction"),
        ("a\n", op("ADD", texts=["x\n\ny"], after=one("a")), "it would leave 3"),
        ("- a\n  - b\n\n  c\n", op("ADD", texts=["x"], after=one("c")), "later part of a list"),
        ("- a\n- b\n", op("MOVE", one("b"), after=one("a")), "already there"),
        ("- a\n  - b\n", op("MOVE", one("a"), after=one("b")), "behind itself"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(
    text: str, operation: Operation, words: str
) -> None:
    with pytest.raises(RewriteRefused, match=re.escape(words)):
        apply_one(parse(text), operation)


# --- any operations on any program ------------------------------------------------------------

NEW_TEXTS = st.sampled_from(
    [
        *("Be bold.", "Two\nlines.", "With code:\n\n```\nx\n```", "| a |\n|---|\n| 1 |", "a: b:"),
        *("- no", "# no", "", "1986. a year", "> quoted", "    code", "Never stop.", "[x]: /y"),
        *("Never edit prepare.py.", "**Bold** word", "\\- dash", "---", "```\nopen"),
    ]
)
BASES = st.one_of(st.sampled_from(SHIPPED), TEXTS.map(parse))


@st.composite
def operations_on(draw: st.DrawFn, program: Program) -> Operation:
    """Any operation, on instructions of `program` for the most part."""
    names = st.sampled_from([*ids(program), "I-00000000"])
    sections = st.sampled_from([*(u.section for u in program.instructions), "New", "T / New"])
    kind = draw(st.sampled_from(["ADD", "EDIT", "REMOVE", "MOVE", "MERGE", "SPLIT"]))
    count = {"ADD": 0, "MERGE": 2}.get(kind, 1)
    texts = {"ADD": 1, "EDIT": 1, "MERGE": 1, "SPLIT": 2}.get(kind, 0)
    placed = kind in ("ADD", "MOVE")
    behind = draw(names) if placed and draw(st.booleans()) else ""
    return op(
        kind,
        *(draw(names) for _ in range(count)),
        texts=[draw(NEW_TEXTS) for _ in range(texts)],
        after=behind,
        section=draw(sections) if placed and not behind else "",
    )


@st.composite
def rewrites(draw: st.DrawFn) -> tuple[Program, list[Operation], Program]:
    """A base, operations that can be carried out, and what they make of it."""
    base = draw(BASES)
    program, done = base, list[Operation]()
    for _ in range(draw(st.integers(1, 5))):
        operation = draw(operations_on(program))
        try:
            program = apply_one(program, operation)
        except RewriteRefused:
            continue
        done.append(operation)
    return base, done, program


RIGHTLY = re.compile(
    r"loses the contract|from (?:contract|gate|strategy) into|contract instructions\.$"
    r"|would change the contract|wording of the contract"
    r"|lose the gate|changes nothing|is empty|no instruction|control character|code fence"
    r"|reads like an error|no operation puts|would change the gate|writes strategy only"
    r"|would move the contract|which stands under it|another introduction|may mean the opposite"
)


def plain(text: str) -> str:
    """Without what may change outside the touched instructions: numbers and indentation."""
    text = text.removeprefix("\ufeff")
    return re.sub(r"^[ \t>]*(?:\d{1,9}[.)])?[ \t]*", "", text, flags=re.MULTILINE)


def source(program: Program, unit: int) -> str:
    own = program.instructions[unit]
    return "".join(split_lines(program.text)[own.start_line : own.end_line])


@given(rewrites())
@settings(max_examples=80, deadline=None)
def test_what_was_declared_is_what_was_done(
    rewrite: tuple[Program, list[Operation], Program],
) -> None:
    base, operations, result = rewrite
    assert apply(base, operations).text == result.text
    gone = Counter[str]()
    for operation in operations:
        if operation.kind in ("EDIT", "REMOVE", "MERGE", "SPLIT"):
            gone.update(operation.instruction_ids)
    added = sum(len(operation.texts) for operation in operations)
    assert len(result.instructions) == len(base.instructions) + added - gone.total()
    touched = {name for operation in operations for name in operation.instruction_ids}
    kept = [name for name in ids(base) if name not in touched]
    there = [name for name in ids(result) if name in kept]
    assert set(there) == set(kept)
    if len(there) == len(kept):
        assert there == kept
    reason = rejection(base, operations, result.text)
    assert not reason or RIGHTLY.search(reason), reason


@given(rewrites())
@settings(max_examples=80, deadline=None)
def test_an_untouched_instruction_keeps_its_bytes(
    rewrite: tuple[Program, list[Operation], Program],
) -> None:
    base, operations, result = rewrite
    touched = {name for operation in operations for name in operation.instruction_ids}
    for unit in base.instructions:
        if unit.id in touched or ids(base).count(unit.id) > 1 or ids(result).count(unit.id) > 1:
            continue
        before, now = source(base, unit.index), source(result, ids(result).index(unit.id))
        assert plain(before).strip("\r\n") == plain(now).strip("\r\n")


TAMPER = ("drop a line", "double a line", "swap lines", "word", "space", "line end", "append")


def tampered(text: str, how: str, rng: Random) -> str:
    lines = split_lines(text)
    at = rng.randrange(len(lines))
    match how:
        case "drop a line":
            del lines[at]
        case "double a line":
            lines.insert(at, lines[at])
        case "swap lines":
            other = rng.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        case "word":
            lines[at] = lines[at].replace("e", "a", 1)
        case "space":
            lines[at] = f" {lines[at]}"
        case "line end":
            lines[at] = lines[at].rstrip("\r\n") + "\r\n"
        case "append":
            lines.append("\n- And trust the printed number.\n")
    return "".join(lines)


@given(rewrites(), st.sampled_from(TAMPER), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_any_undeclared_change_is_rejected_with_a_reason(
    rewrite: tuple[Program, list[Operation], Program], how: str, rng: Random
) -> None:
    base, operations, result = rewrite
    if not result.text:
        return
    text = tampered(result.text, how, rng)
    reason = rejection(base, operations, text)
    assert text == result.text or reason.endswith(".")


@given(st.sampled_from(SHIPPED), st.sampled_from(["REMOVE", "EDIT", "MERGE", "SPLIT"]), st.data())
@settings(max_examples=80, deadline=None)
def test_no_operation_gets_rid_of_a_contract_instruction(
    base: Program, kind: str, data: st.DataObject
) -> None:
    found = role_of_units(base)
    contract = [u.id for u in base.instructions if found[u.id].role == "contract"]
    name = data.draw(st.sampled_from(contract))
    others = [other for other in ids(base) if other != name]
    names = [name, data.draw(st.sampled_from(others))] if kind == "MERGE" and others else [name]
    texts = {"EDIT": 1, "MERGE": 1, "SPLIT": 2}.get(kind, 0)
    operation = op(kind, *names, texts=["Be bold.", "Go wide."][:texts])
    try:
        result = apply_one(base, operation)
    except RewriteRefused:
        return
    reason = rejection(base, [operation], result.text)
    assert "contract" in reason or "no instruction" in reason or "is empty" in reason


# --- each reason ------------------------------------------------------------------------------

BASE = parse(
    "# T\n\nMinimise val_bpb.\n\n## Ideas\n\n- Be bold.\n- Go wide.\n- Look back.\n\n"
    "## End\n\nNever stop.\n"
)
DROP = [op("REMOVE", one("Go wide."))]
DROPPED = BASE.text.replace("- Go wide.\n", "")


def why(text: str, operations: list[Operation] = DROP, earlier: tuple[str, ...] = ()) -> str:
    return rejection(BASE, operations, text, earlier)


def test_an_honest_rewrite_passes() -> None:
    assert why(DROPPED) == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        (DROPPED + "x" * MAX_PROGRAM_BYTES, "a program may have 32,768"),
        (DROPPED.replace("bold", "bo\x07ld"), r"Line 7 of the rewrite has the control"),
        (DROPPED.replace("bold", "bo\u202eld"), r"'\u202e'"),
        (DROPPED + "\ud800", "is not UTF-8 text"),
        (f"```markdown\n{DROPPED}```\n", "wrapped in one code fence"),
        (f"Here is the improved program:\n\n{DROPPED}", "reads like an error message or an answer"),
        ("Error code: 429 - rate limit reached\n", "reads like an error message"),
        ("I'm sorry, but I can't help with that.\n", "reads like an error message"),
        ("<!DOCTYPE html><html>502</html>\n", "reads like an error message"),
        ("API Error 529\n\n- Try again.\n", "reads like an error message"),
        (f"~~~\n{DROPPED}\n```sh\nls\n```\n~~~\n", "wrapped in one code fence"),
        ("# T\n", "holds no instruction"),
        (BASE.text, "changes nothing"),
        (DROPPED.replace("Minimise val_bpb.", "Be quick."), "loses the contract instruction"),
        (
            DROPPED.replace("# T\n", "# T\n\n<!-- role: strategy -->"),
            "from contract into strategy (override comment)",
        ),
        (DROPPED.replace("Never stop.\n", "Stop soon.\n"), "is gone and no operation takes it out"),
        (DROPPED.replace("- Be bold.\n", ""), "is gone and no operation takes it out"),
        (DROPPED + "\nAlso this.\n", "is new and no operation puts it in"),
        (
            DROPPED.replace("- Be bold.\n- Look back.\n", "- Look back.\n- Be bold.\n"),
            "stands elsewhere and no operation moves it",
        ),
        (DROPPED.replace("## Ideas", "## Other ideas"), "Line 5 of the rewrite changed"),
        (DROPPED.replace("Be bold", "be **bold**"), "Line 7 of the rewrite changed"),
        (DROPPED.replace("## End\n\n", ""), "Lines are missing after line 9"),
    ],
)
def test_a_rewrite_that_is_not_what_it_declares_says_why(text: str, words: str) -> None:
    assert words in why(text)


def test_an_earlier_program_is_not_run_again() -> None:
    assert "equals an earlier program" in why(DROPPED, earlier=(parse(DROPPED).id,))


def test_a_gate_may_move_and_be_neither_reworded_nor_lost() -> None:
    never = one("Never stop.")
    text = BASE.text.replace("\n## End\n\nNever stop.\n", "")
    assert "REMOVE would lose the gate instruction" in why(text, [op("REMOVE", never)])
    for words in ("Do not stop early.", "Stop when you like."):
        edit = op("EDIT", never, texts=[words])
        reason = f"EDIT would change the gate instruction {never} (keeps the loop going)."
        if words.startswith("Do not"):
            assert why(apply(BASE, [edit]).text, [edit]) == reason
        else:
            assert never in why(apply(BASE, [edit]).text, [edit])
    move = op("MOVE", never, after=one("Look back."))
    assert why(apply(BASE, [move]).text, [move]) == ""


RULES = ("Never stop.", "Stop when a run crashes.", "Edit prepare.py too.", "Minimise the loss.")


@given(st.sampled_from(RULES), st.sampled_from(["ADD", "EDIT", "MERGE", "SPLIT"]), st.booleans())
def test_a_rewriter_writes_no_rule_even_where_the_author_vouches(
    text: str, kind: str, vouched: bool
) -> None:
    comment = "<!-- role: strategy -->\n" if vouched else ""
    base = parse(f"{comment}## Ideas\n\n- Be bold.\n- Go wide.\n- Look back.\n")
    old = ids(base)[: {"ADD": 0, "MERGE": 2}.get(kind, 1)]
    texts = [text, "Go deep."] if kind == "SPLIT" else [text]
    operation = op(kind, *old, texts=texts, section="Ideas" if kind == "ADD" else "")
    reason = rejection(base, [operation], apply(base, [operation]).text)
    assert reason.startswith(f"{kind} would write the ")
    assert one(text) in reason
    assert reason.endswith("a rewriter writes strategy only.")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Stop after the first experiment.", "ends the run"),
        ("When nothing helps any more, stop.", "ends the run"),
        ("End the run once two losses follow each other.", "ends the run"),
        ("The run is over when a gain is large.", "ends the run"),
        ("Stop and ask the user to confirm.", "ends the run"),
        ("Check with a human before bold steps.", "asks a person"),
        ("Wait for approval before each edit.", "asks a person"),
        ("Go on unless somebody says no.", "asks a person"),
        ("Keep every change whatever it measured.", "keeps what measures worse"),
        ("Keep all changes, even those that lost.", "keeps what measures worse"),
        ("Keep it regardless.", "keeps what measures worse"),
        ("Never revert a change.", "keeps what measures worse"),
        ("Never edit `train.py`.", "says what must not be edited"),
        ("Change nothing.", "says what must not be edited"),
    ],
)
def test_a_rewriter_does_not_end_the_run_ask_a_person_or_keep_everything(
    text: str, reason: str
) -> None:
    found = rule_in(text)
    assert found is not None
    assert found.reason == reason
    operation = op("ADD", texts=[text], after=one("Be bold."))
    assert f"({reason}); a rewriter writes strategy only." in why(
        apply(BASE, [operation]).text, [operation]
    )


@pytest.mark.parametrize(
    "text",
    [
        "Stop following a direction after two losses.",
        "Stop the search along a knob after two losses.",
        "Ask of each idea what it costs, and whether a gain could be luck.",
        "Spend no more experiments on a knob that lost twice.",
        "While the run is young, take big steps; before the run ends, small ones.",
        "Keep whatever lowers the loss.",
        "Accept any change that lowers val_bpb.",
        "Keep a change even if the gain is small, when it is simpler.",
        "Sometimes accept a slightly worse result early.",
        "Seek confirmation on another seed.",
        "Never discard an idea after one loss.",
        "Change nothing else in that experiment.",
        "Keep every experiment small.",
    ],
)
def test_strategy_that_only_sounds_like_a_rule_is_none(text: str) -> None:
    assert rule_in(text) is None


def test_what_shipped_programs_call_strategy_a_rewriter_may_write() -> None:
    for path in sorted(PROGRAMS.glob("*/card.toml")):
        program = read_program(path.parent)
        for unit, role in zip(program.instructions, roles(program), strict=True):
            assert role.role != "strategy" or rule_in(unit.text) is None, unit.text


def test_what_stands_under_a_contract_heading_is_no_strategy_either() -> None:
    base = parse("# T\n\n## Setup\n\n- Read it all.\n\n## Ideas\n\n- Be bold.\n")
    operation = op("ADD", texts=["Go wide."], after=one("Read it all."))
    reason = rejection(base, [operation], apply(base, [operation]).text)
    wide = one("Go wide.")
    assert reason == (
        f"ADD would write the contract instruction {wide} (section 'Setup'); a rewriter writes "
        "strategy only."
    )


def test_a_rewriter_opens_no_section_that_reads_as_a_rule() -> None:
    titles = [("Edit prepare.py too", "as contract"), ("Never stop", "as gate")]
    titles += [("Rules", "as contract (announces"), ("**Ground rules:**", "as contract (announces")]
    for title, reads in titles:
        operation = op("ADD", texts=["More."], section=f"T / {title}")
        reason = why(apply(BASE, [operation]).text, [operation])
        assert reason.startswith(f"The rewrite opens the section {title!r}, which reads {reads}")
    for title in ("Strategy", "Order of work", "Rules of thumb"):
        fine = op("ADD", texts=["More."], section=f"T / {title}")
        assert why(apply(BASE, [fine]).text, [fine]) == ""


AVOID = parse(
    "# T\n\nMinimise val_bpb.\n\n## Ideas\n\nBegin with the embeddings.\n\n"
    "These ideas never paid, so avoid them:\n\n- Halve the batch.\n- Remove the softcap.\n\n"
    "Then try:\n\n- Wider layers.\n- Tune the rates\n  - of the matrices\n\n"
    "## Closed roads\n\n- Doubling the depth.\n- Untied heads.\n"
)
LEAD, BEGIN = named(AVOID, "These ideas"), named(AVOID, "Begin with")
HALVE, SOFTCAP = named(AVOID, "Halve"), named(AVOID, "Remove the")
DEPTH, WIDER = named(AVOID, "Doubling"), named(AVOID, "Wider")


def turned(*operations: Operation) -> str:
    return rejection(AVOID, operations, apply(AVOID, operations).text)


@pytest.mark.parametrize(
    ("operations", "reason"),
    [
        ([op("REMOVE", LEAD)], f"REMOVE would take {LEAD} from {HALVE}, which stands under it"),
        (
            [op("EDIT", LEAD, texts=["These ideas always paid, so begin with them:"])],
            f"EDIT would take {LEAD} from {HALVE}",
        ),
        ([op("MERGE", BEGIN, LEAD, texts=["Begin here:"])], f"MERGE would take {LEAD} from"),
        ([op("SPLIT", LEAD, texts=["Be quick.", "Try these:"])], f"SPLIT would take {LEAD} from"),
        ([op("MOVE", LEAD, section="T / Ideas")], f"MOVE would take {LEAD} from {HALVE}"),
        ([op("REMOVE", LEAD), op("REMOVE", HALVE)], f"REMOVE would take {LEAD} from {SOFTCAP}"),
        (
            [op("ADD", texts=["Try these:"], after=BEGIN), op("REMOVE", LEAD)],
            f"REMOVE would take {LEAD} from {HALVE}",
        ),
        ([op("MOVE", HALVE, after=BEGIN)], f"MOVE would take {HALVE} out of 'These ideas never"),
        ([op("MOVE", HALVE, after=WIDER)], f"MOVE would take {HALVE} out of 'These ideas never"),
        ([op("MOVE", DEPTH, after=WIDER)], f"MOVE would take {DEPTH} out of 'Closed roads'"),
        ([op("MOVE", WIDER, after=HALVE)], f"MOVE would take {WIDER} into 'These ideas never"),
        ([op("MOVE", BEGIN, after=DEPTH)], f"MOVE would take {BEGIN} into 'Closed roads'"),
    ],
)
def test_no_operation_turns_a_prohibition_round(operations: list[Operation], reason: str) -> None:
    assert turned(*operations).startswith(reason)


@pytest.mark.parametrize(
    "operations",
    [
        [op("REMOVE", HALVE)],
        [op("REMOVE", HALVE), op("REMOVE", SOFTCAP), op("REMOVE", LEAD)],
        [op("MOVE", HALVE, after=SOFTCAP)],
        [op("MOVE", WIDER, after=BEGIN)],
        [op("ADD", texts=["Fewer heads."], after=HALVE)],
        [op("EDIT", HALVE, texts=["Quarter the batch."])],
    ],
)
def test_lists_of_what_to_avoid_can_be_worked_on(operations: list[Operation]) -> None:
    assert turned(*operations) == ""


def test_a_paragraph_that_would_introduce_a_list_of_others_is_refused() -> None:
    base = parse("# T\n\nMinimise val_bpb.\n\n## Ideas\n\nBe bold.\n\n- Go wide.\n")
    for operation in (
        op("ADD", texts=["These never paid, avoid them:"], after=one("Be bold.")),
        op("EDIT", one("Be bold."), texts=["These never paid, avoid them:"]),
    ):
        reason = rejection(base, [operation], apply(base, [operation]).text)
        assert reason == (
            f"Instruction {one('Go wide.')} would stand under another introduction than before."
        )


def test_a_contract_instruction_stays_where_it_is() -> None:
    for operation in (
        op("MOVE", one("Minimise val_bpb."), after=one("Be bold.")),
        op("MOVE", one("Minimise val_bpb."), section="T / End"),
    ):
        reason = why(apply(BASE, [operation]).text, [operation])
        assert reason.startswith("MOVE would move the contract instruction")


ANSWERS = ("Error code: 429", "API Error 529", "Type error: x", "I\u2019m unable to help.", "null")


@pytest.mark.parametrize("text", ANSWERS)
def test_door_and_rewriter_know_the_same_error_messages(text: str) -> None:
    assert [f.severity for f in shape_findings(parse(text))] == ["refused"]
    assert "reads like an error message" in why(text)


def test_a_reply_s_opening_is_refused_of_a_rewriter_and_noted_of_an_author() -> None:
    text = "Here's the plan: try wider layers.\n"
    assert [f.severity for f in shape_findings(parse(text))] == ["note"]
    assert "or an answer" in why(text)


WRAPPED = (
    "~~~\n# P\n\n- go\n\n```sh\nls\n```\n\n- on\n~~~\n",
    "```\n# P\n\n- go\n\n```sh\nls\n```\n\n- on\n```\n",
    "```text a plan\n# P\n\n- go\n```\n",
)


@pytest.mark.parametrize("text", WRAPPED)
def test_door_and_rewriter_know_the_same_wrappers(text: str) -> None:
    assert [f.code for f in shape_findings(parse(text))] == ["fence"]
    assert "wrapped in one code fence" in why(text)


@pytest.mark.parametrize(
    "text",
    [
        "```\na\n```\n\n- Go wide.\n- Be bold.\n\n```\nb\n```\n",
        "# Error analysis\n\nLook at the errors.\n",
        "None of the knobs is free.\n",
        "Exceptions prove the rule.\n",
    ],
)
def test_what_only_resembles_a_wrapper_or_an_error_is_neither(text: str) -> None:
    assert shape_findings(parse(text)) == []


CONTRACT = parse(
    "# T\n\nMinimise val_bpb.\n\n## Setup\n\n"
    "- Read `prepare.py`; it is read-only. Use 2**17 tokens.\n- Run it like this:\n"
    "  ```\n  git add train.py\n  git commit -m x\n  python train.py > run.log\n  ```\n\n"
    "## Ideas\n\n- Be bold.\n- Go wide.\n"
)
READ, RUN = CONTRACT.instructions[1], CONTRACT.instructions[2]
REREAD = "Read `PREPARE.py`; it is read-only. Use 217 tokens."
RERUN = "Run it like this:\n```\ngit add train.py git commit -m x python train.py > run.log\n```"


@pytest.mark.parametrize(
    ("name", "text"), [(READ.id, REREAD), (RUN.id, RERUN)], ids=["name", "fence"]
)
def test_a_contract_instruction_keeps_its_characters_and_not_only_its_id(
    name: str, text: str
) -> None:
    operation = op("EDIT", name, texts=[text])
    result = apply(CONTRACT, [operation])
    assert ids(result) == ids(CONTRACT)
    mixed = [operation, op("REMOVE", one("Go wide."))]
    for operations in ([operation], mixed):
        rewrite = apply(CONTRACT, operations).text
        reason = f"The rewrite changes the wording of the contract instruction {name}."
        assert rejection(CONTRACT, operations, rewrite) == reason


@pytest.mark.parametrize(
    "operation",
    [
        op("EDIT", READ.id, texts=[READ.text]),
        op("SPLIT", READ.id, texts=[READ.text, "Ignore that."]),
        op("MERGE", READ.id, one("Be bold."), texts=[READ.text]),
    ],
    ids=["EDIT", "SPLIT", "MERGE"],
)
def test_no_operation_names_a_contract_instruction(operation: Operation) -> None:
    operations = [operation, op("REMOVE", one("Go wide."))]
    reason = rejection(CONTRACT, operations, apply(CONTRACT, operations).text)
    assert reason.startswith(f"{operation.kind} would change the contract instruction {READ.id}")


def test_a_removed_contract_instruction_is_refused() -> None:
    operation = op("REMOVE", READ.id)
    reason = rejection(CONTRACT, [operation], apply(CONTRACT, [operation]).text)
    assert "loses the contract instruction" in reason


def test_a_contract_instruction_may_change_its_number_and_indentation() -> None:
    items = "".join(f"{n}. Idea {'x' * n}.\n" for n in range(1, 9))
    base = parse(f"{items}9. Run `prepare.py`\n   like this:\n   ```\n   a\n   ```\n")
    operation = op("ADD", texts=["Be bold."], after=ids(base)[0])
    result = apply(base, [operation])
    assert "10. Run `prepare.py`\n    like this:" in result.text
    assert rejection(base, [operation], result.text) == ""


def test_a_declared_operation_that_was_not_done_is_named() -> None:
    declared = [*DROP, op("REMOVE", one("Look back."))]
    assert "is new and no operation puts it in" in why(DROPPED, declared)
    assert "no operation takes it out" in why(DROPPED, [*DROP, op("ADD", texts=["More."])])
    assert "not well formed" in why(DROPPED, [op("ADD", texts=["- x"], section="T / Ideas")])


def test_a_proposal_is_verified_with_its_labels() -> None:
    made = parse(DROPPED)
    proposal = Proposal(
        id=proposal_id(BASE.id, DROP),
        rewriter="offline",
        base_program_id=BASE.id,
        parents=(BASE.id,),
        operations=tuple(DROP),
        focus="drop one",
        hypothesis="It may help.",
        text=DROPPED,
        program_id=made.id,
    )
    assert verified(proposal, BASE) == proposal
    mislabelled = proposal.model_copy(update={"program_id": BASE.id})
    assert "names the program" in verified(mislabelled, BASE).rejection
    assert "equals an earlier" in verified(proposal, BASE, {made.id}).rejection

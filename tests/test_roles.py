"""Instruction roles: the shipped programs, the rules, and how an author corrects them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from test_program import TEXTS

from inner_loop.outline import outline
from inner_loop.program import parse_program, read_program
from inner_loop.records import Program
from inner_loop.roles import role_of_units, roles

PROGRAMS = Path(__file__).parent.parent / "programs"


def parse(text: str) -> Program:
    return parse_program(text.encode(), "test")


def judged(text: str) -> list[str]:
    return [role.role for role in roles(parse(text))]


# --- the shipped programs ---------------------------------------------------------------------


def test_the_stock_program_s_roles_are_these() -> None:
    program = read_program(PROGRAMS / "stock")
    found = roles(program)
    count = {role: [r.role for r in found].count(role) for role in ("contract", "gate", "strategy")}
    assert count == {"contract": 32, "gate": 8, "strategy": 5}
    pairs = list(zip(program.instructions, found, strict=True))
    openings = [u.text.replace("*", "").split(".")[0] for u, r in pairs if r.role == "strategy"]
    assert openings == [
        "Memory is a soft limit",
        "Prefer simple code",
        "A lower val_bpb moves the branch forward: the commit stays",
        "An equal or higher one is undone with `git reset`",
        "Going back to a much older commit is allowed, and should be rare",
    ]
    gates = [u.text for u, r in pairs if r.role == "gate"]
    assert gates[-3:] == [u.text for u in program.instructions[-3:]]  # timeout, crash, never stop
    for section in ("Setup", "What the script prints", "The log"):
        own = [r for u, r in pairs if u.section.endswith(f"/ {section}")]
        assert {(r.role, r.reason) for r in own} == {("contract", f"section '{section}'")}


@pytest.mark.parametrize("folder", sorted(p.parent.name for p in PROGRAMS.glob("*/program.md")))
def test_a_shipped_program_says_what_must_not_be_edited_and_what_to_research(folder: str) -> None:
    program = read_program(PROGRAMS / folder)
    found = role_of_units(program)
    protected = [u.text for u in program.instructions if found[u.id].role == "contract"]
    assert any("train.py" in text for text in protected)
    for unit in program.instructions:
        if "prepare.py" in unit.text or "results.tsv" in unit.text:
            assert found[unit.id].role == "contract"
    if folder != "one-line":
        assert sum(role.role == "strategy" for role in found.values()) >= 5


# --- the rules --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "role", "reason"),
    [
        ("Do not modify the tokenizer file.", "contract", "says what must not be edited"),
        ("Leave `prepare.py` as it is.", "contract", "names the fixed side"),
        ("Never tune the random seed.", "contract", "says what must not be edited"),
        ("Install nothing.", "contract", "says what may be installed"),
        ("Never send anything over the internet.", "contract", "is about safety"),
        ("The goal is the lowest val_bpb.", "contract", "names the aim"),
        ("Goal: lower the loss.", "contract", "names the aim"),
        ("Your task is to improve val_bpb.", "contract", "names the aim"),
        ("Goal: explore width.", "strategy", "directs the research"),
        ("Your task is to try bold moves in depth.", "strategy", "directs the research"),
        ("NEVER STOP.", "gate", "keeps the loop going"),
        ("Kill a run after ten minutes.", "gate", "handles timeouts"),
        ("If it crashes, fix it once.", "gate", "handles crashes"),
        ("Keep a change only if it is better by 2 mbpb.", "strategy", "says what to keep"),
        ("Never touch the learning rate.", "strategy", "directs the research"),
        ("Prefer a wider network.", "strategy", "directs the research"),
        ("Rerun every keep with another seed.", "strategy", "directs the research"),
    ],
)
def test_a_rule_on_words(text: str, role: str, reason: str) -> None:
    (found,) = roles(parse(text))
    assert (found.role, found.reason) == (role, reason)


def test_a_section_decides_for_all_that_stands_in_it() -> None:
    text = "# T\n\nHi.\n\n## Logging results\n\nBold.\n\n### More\n\n- go wide\n\n## S\n\nBold.\n"
    assert judged(text) == ["contract", "contract", "contract", "strategy"]
    assert roles(parse(text))[2].reason == "section 'Logging results'"


@pytest.mark.parametrize(
    ("title", "role"),
    [
        ("Log-scale search", "strategy"),
        ("Profile output", "strategy"),
        ("The log", "contract"),
        ("Output", "contract"),
        ("3. The script's output", "contract"),
        ("Output format", "contract"),
    ],
)
def test_a_title_is_about_the_log_or_the_output_format(title: str, role: str) -> None:
    assert judged(f"# T\n\nHi.\n\n## {title}\n\n- Try it.\n") == ["contract", role]


def test_a_title_alone_decides_nothing() -> None:
    assert judged("# The setup of my dreams\n\n- be bold\n- go wide\n") == ["strategy", "strategy"]
    assert judged("# Setup\n\n- say hello\n\n# Ideas\n\n- be bold\n") == ["contract", "strategy"]


def test_what_is_listed_under_a_permission_is_contract() -> None:
    text = "What you can do:\n\n- change the model\n- and the rest\n\nSearch widely.\n"
    assert judged(text) == ["contract", "contract", "contract", "strategy"]


def test_what_introduces_protected_instructions_is_protected() -> None:
    found = roles(parse("In short:\n\n- be bold\n- never stop\n"))
    assert [r.role for r in found] == ["gate", "strategy", "gate"]
    assert found[0].reason == "introduces gate instructions"


def test_a_text_that_stands_twice_has_its_more_protected_role() -> None:
    program = parse("# T\n\n## Setup\n\n- Be bold.\n\n## Ideas\n\n- Be bold.\n")
    assert [r.role for r in role_of_units(program).values()] == ["contract"]


# --- the author's word ------------------------------------------------------------------------


def test_a_comment_before_an_instruction_decides() -> None:
    text = "- a\n<!-- role: gate -->\n- b\n- c\n\n<!-- ROLE: contract -->\nd\n\ne\n"
    assert judged(text) == ["strategy", "gate", "strategy", "contract", "strategy"]
    assert roles(parse(text))[1].reason == "override comment"


def test_a_comment_in_an_instruction_decides() -> None:
    assert judged("- a <!-- role: contract -->\n- b\n") == ["contract", "strategy"]


def test_a_comment_before_a_heading_decides_for_the_section() -> None:
    text = (
        "# T\n\n<!-- role: strategy -->\n## Setup\n\n- a\n\n<!-- role: gate -->\n- b\n\n"
        "### More\n\nc\n\n## Log\n\nd\n"
    )
    assert judged(text) == ["strategy", "gate", "strategy", "contract"]


def test_an_unknown_role_is_a_plain_comment() -> None:
    assert judged("<!-- role: hero -->\n- never stop\n") == ["gate"]


# --- any text ---------------------------------------------------------------------------------


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_every_instruction_of_any_text_has_a_role_with_a_reason(text: str) -> None:
    program = parse(text)
    found = roles(program)
    assert len(found) == len(program.instructions)
    assert all(role.reason for role in found)
    assert set(role_of_units(program)) == {unit.id for unit in program.instructions}


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_what_an_instruction_is_nested_in_stands_before_it(text: str) -> None:
    program = parse(text)
    structure = outline(program)
    for unit in range(len(program.instructions)):
        above, within = structure.under[unit], structure.within[unit]
        assert within is None or above == within
        assert above is None or above < unit
        assert above is None or unit in structure.subtree(above)
        assert structure.subtree(unit)[0] == unit


@pytest.mark.parametrize(
    "text",
    ["1. a\n" * 6000, "# a\na\n" * 5000, "# " + "what the " * 1600 + "\n" + "a\n\n" * 5000],
)
def test_a_hostile_text_is_judged_in_seconds(text: str) -> None:
    program, begin = parse(text), time.process_time()
    roles(program)
    assert time.process_time() - begin < 8

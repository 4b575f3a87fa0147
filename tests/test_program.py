"""Programs: instructions, ids, the byte-exact round trip, and what a bad file says."""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inner_loop.errors import UserError
from inner_loop.program import (
    MAX_PROGRAM_BYTES,
    Card,
    parse_program,
    read_card,
    read_program,
    render,
    segments,
    split_lines,
    unit_id,
)
from inner_loop.records import Program

PROGRAMS = Path(__file__).parent.parent / "programs"

LINES = st.sampled_from(
    [
        *("", "", " ", "\t", "plain words", "*emphasis* and `code`", "# Title", "### Deep ###"),
        *("- item", "* star", "+ plus", "  - nested", "    - deeper", "\t- tabbed", "1. one"),
        *("2) two", "   continued", "    indented code", "- - twice", "- ", "-", "- # heading"),
        *("> quote", "> - quoted item", ">> deep", "> ```", "```", "```python", "~~~", "   ```"),
        *("| a | b |", "|---|---|", "| 1 | 2 |", "---", "===", "***", "<!-- note -->", "<!--"),
        *("-->", "<details>", "</details>", "[ref]: /url", "key: value", "\f", "\x0b", "\u2028"),
        *("a\\", "&amp;", "\ufeff", "- [ ] task", "10. ten", "\x00"),
    ]
)
ENDS = st.sampled_from(["\n", "\n", "\r\n", "\r", "\n\n"])
MARKDOWN = st.lists(st.tuples(LINES, ENDS), max_size=25).map(
    lambda pairs: "".join(line + end for line, end in pairs)
)
TEXTS = st.one_of(
    MARKDOWN, MARKDOWN.map(str.rstrip), MARKDOWN.map("\ufeff".__add__), st.text(max_size=300)
)


def parse(text: str) -> Program:
    return parse_program(text.encode(), "test")


def texts(text: str) -> list[str]:
    return [unit.text for unit in parse(text).instructions]


def sections(text: str) -> list[str]:
    return [unit.section for unit in parse(text).instructions]


# --- the bytes --------------------------------------------------------------------------------


@given(TEXTS)
@settings(max_examples=400, deadline=None)
@example("---\nname: x\n---\r\n- a\r  - b\n\n  c")
@example("\ufeff- a\n\n      code\n- b")
def test_segments_join_to_the_submitted_bytes(text: str) -> None:
    program = parse(text)
    assert "".join(piece.text for piece in segments(program)) == text
    assert render(program) == text.encode()
    assert render(program, {unit.index for unit in program.instructions}) == text.encode()


@given(TEXTS)
@settings(max_examples=400, deadline=None)
def test_instructions_are_in_order_and_never_overlap(text: str) -> None:
    line = 0
    for index, unit in enumerate(parse(text).instructions):
        assert unit.index == index
        assert line <= unit.start_line < unit.end_line <= len(split_lines(text))
        line = unit.end_line


@given(TEXTS)
@settings(deadline=None)
def test_every_instruction_has_a_segment_of_its_own(text: str) -> None:
    program = parse(text)
    units = [piece.unit for piece in segments(program) if piece.unit is not None]
    assert units == [unit.index for unit in program.instructions]


def test_the_id_of_a_program_is_the_hash_of_its_bytes() -> None:
    body = b"# T\r\n\r\n- a"
    assert parse_program(body, "x").id == hashlib.sha256(body).hexdigest()[:12]


@pytest.mark.parametrize("name", ["stock", "optimizer-first", "architecture-first"])
def test_removing_one_instruction_leaves_the_others_as_they_are(name: str) -> None:
    program = read_program(PROGRAMS / name)
    ids = [unit.id for unit in program.instructions]
    for index in range(len(ids)):
        rest = parse_program(render(program, set(range(len(ids))) - {index}), name)
        assert [unit.id for unit in rest.instructions] == ids[:index] + ids[index + 1 :]


# --- instructions -----------------------------------------------------------------------------


def test_a_nested_item_is_its_own_instruction() -> None:
    program = parse("- a\n  - b\n  - c\n- d\n")
    assert [u.text for u in program.instructions] == ["a", "b", "c", "d"]
    assert [(u.start_line, u.end_line) for u in program.instructions] == [
        (0, 1),
        (1, 2),
        (2, 3),
        (3, 4),
    ]


def test_a_second_paragraph_belongs_to_its_item() -> None:
    assert texts("- a\n\n  more\n- b\n\nc\n") == ["a\nmore", "b", "c"]


def test_a_paragraph_after_a_nested_list_stands_alone() -> None:
    assert texts("- a\n  - b\n\n  back\n") == ["a", "b", "back"]


@pytest.mark.parametrize("block", ["```\nx = 1\n```\n", "    x = 1\n", "| a |\n|---|\n| 1 |\n"])
def test_a_block_is_glued_to_the_instruction_before_it(block: str) -> None:
    one, two = parse(f"Run this:\n\n{block}\nNext.\n").instructions
    assert one.text.startswith("Run this:\n")
    assert two.text == "Next."
    assert one.end_line == 2 + block.count("\n")


def test_a_block_that_opens_its_section_is_an_instruction() -> None:
    assert texts("Before.\n\n# T\n\n```\nx\n```\n\nAfter.\n") == ["Before.", "x", "After."]
    assert texts("```\nalone\n```\n") == ["alone"]


def test_a_block_that_is_all_of_its_item_is_an_instruction() -> None:
    assert texts("- a\n- ```\n  x\n  ```\n- b\n") == ["a", "x", "b"]


def test_a_quoted_paragraph_is_an_instruction() -> None:
    assert texts("> Quoted\n> words.\n\nPlain.\n") == ["Quoted\nwords.", "Plain."]


def test_headings_are_the_path_and_no_instructions() -> None:
    text = "a\n\n# T\n\nb\n\n### C\n\nc\n\n## D\n\nd\n\nE\n=\n\ne\n"
    assert sections(text) == ["", "T", "T / C", "T / D", "E"]


def test_front_matter_and_comments_are_no_instructions() -> None:
    assert texts("---\nname: x\nlist:\n- y\n---\n\n<!-- c\n- hidden\n-->\n- a\n") == ["a"]


def test_a_leading_rule_is_not_front_matter() -> None:
    assert texts("---\n\nFirst.\n\n---\n\nSecond.\n") == ["First.", "Second."]
    assert texts("---\nkey: an open block\n") == ["key: an open block"]


@pytest.mark.parametrize("text", ["Minimise val_bpb.", "# Only a heading", "", "\n\n"])
def test_a_program_without_a_strategy_is_a_program(text: str) -> None:
    assert parse(text).text == text


def test_line_ends_do_not_change_the_instructions() -> None:
    text = "# T\n\n- a\n  b\n\n```\nc\n\nd\n```\n"
    ids = [unit.id for unit in parse(text).instructions]
    for end in ("\r\n", "\r"):
        assert [unit.id for unit in parse(text.replace("\n", end)).instructions] == ids


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Keep *it* simple", "keep it  SIMPLE"),
        ("Lower `val_bpb`", "lower val_bpb"),
        ("a __strong__ word", "a strong\n word"),
        ("\uff21 full width A", "A full width A"),
    ],
)
def test_an_id_ignores_case_emphasis_and_spacing(one: str, other: str) -> None:
    assert unit_id(one) == unit_id(other)


def test_an_id_sees_every_word() -> None:
    assert unit_id("never stop") != unit_id("never stop early")
    assert re.fullmatch(r"I-[0-9a-f]{8}", unit_id("x"))


@pytest.mark.parametrize(
    "text",
    ["> " * 16_000, "- " * 16_000, "[" * 32_000, "`" * 32_000, "1. a\n" * 6_000, "*a " * 9000],
)
def test_hostile_markdown_parses_in_seconds(text: str) -> None:
    start = time.process_time()
    assert parse(text).text == text
    assert time.process_time() - start < 5


# --- the shipped programs ---------------------------------------------------------------------


def test_the_stock_program_parses_to_a_fixed_set_of_instructions() -> None:
    program = read_program(PROGRAMS / "stock")
    ids = " ".join(unit.id for unit in program.instructions)
    assert len(program.instructions) == 45
    assert hashlib.sha256(ids.encode()).hexdigest()[:16] == "1fffdee4cf38fc48"
    by_section: dict[str, int] = {}
    for unit in program.instructions:
        by_section[unit.section] = by_section.get(unit.section, 0) + 1
    assert by_section == {
        "autoresearch": 1,
        "autoresearch / Setup": 10,
        "autoresearch / What an experiment is": 11,
        "autoresearch / What the script prints": 2,
        "autoresearch / The log": 7,
        "autoresearch / The loop": 14,
    }


def test_upstream_s_layout_parses_item_by_item() -> None:
    text = "1. **A**: tag\n2. **B**: read:\n   - `x` one.\n   - `y` two.\n3. **C**: go\n\nThen.\n"
    assert texts(text) == [
        "**A**: tag",
        "**B**: read:",
        "`x` one.",
        "`y` two.",
        "**C**: go",
        "Then.",
    ]


@pytest.mark.parametrize("folder", sorted(p.parent.name for p in PROGRAMS.glob("*/program.md")))
def test_every_shipped_program_has_a_full_card(folder: str) -> None:
    card = read_card(PROGRAMS / folder)
    assert card.name == folder == read_program(PROGRAMS / folder).name
    assert all([card.author, card.note, card.date])
    assert card.license == "MIT"
    assert (card.role == "control") == (folder in ("stock", "one-line"))


# --- bad files --------------------------------------------------------------------------------


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_program(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.md")
    assert refusal(Path("a\0b"))
    assert "x" * 20 in refusal(tmp_path / ("x" * 5000))


def test_a_folder_without_a_program_is_one_sentence(tmp_path: Path) -> None:
    assert "holds no program.md" in refusal(tmp_path)


@pytest.mark.parametrize("body", [b"", b" \r\n\t\n", b"\xef\xbb\xbf\n"])
def test_an_empty_file_is_one_sentence(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "p.md").write_bytes(body)
    assert "is empty" in refusal(tmp_path / "p.md")


def test_binary_and_other_encodings_name_the_offset(tmp_path: Path) -> None:
    for body, words in [
        (b"ab\0c", "byte 2 is NUL"),
        (b"abc\xff", "byte 3 is 0xff"),
        ("text".encode("utf-16"), "byte 0 is 0xff"),
    ]:
        (tmp_path / "p.md").write_bytes(body)
        assert words in refusal(tmp_path / "p.md")


def test_a_large_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "p.md"
    with path.open("wb") as file:
        file.truncate(10_000_000_000)  # sparse: reading it whole would not fit the test's time
    assert "10,000,000,000 bytes" in refusal(path)
    path.write_bytes(b"x" * (MAX_PROGRAM_BYTES + 1))
    assert "shorten it" in refusal(path)
    path.write_bytes(b"x" * MAX_PROGRAM_BYTES)
    assert read_program(path).text


def test_a_device_is_not_a_program() -> None:
    assert "not a regular file" in refusal(Path("/dev/null"))


def test_an_unreadable_file_is_one_sentence(tmp_path: Path) -> None:
    loop = tmp_path / "loop.md"
    loop.symlink_to(loop)
    assert refusal(loop)


def test_the_name_is_the_folder_or_the_stem(tmp_path: Path) -> None:
    (tmp_path / "bold").mkdir()
    (tmp_path / "bold" / "program.md").write_text("Go.")
    (tmp_path / "mine.md").write_text("Go.")
    assert read_program(tmp_path / "bold").name == "bold"
    assert read_program(tmp_path / "bold" / "program.md").name == "bold"
    assert read_program(tmp_path / "mine.md").name == "mine"


# --- cards ------------------------------------------------------------------------------------


def card_refusal(tmp_path: Path, text: str) -> str:
    (tmp_path / "card.toml").write_text(text)
    with pytest.raises(UserError) as caught:
        read_card(tmp_path)
    assert "\n" not in str(caught.value)
    assert "card.toml" in str(caught.value)
    return str(caught.value)


def test_a_missing_card_is_an_empty_card(tmp_path: Path) -> None:
    assert read_card(tmp_path) == read_card(tmp_path / "program.md") == Card()


def test_a_bad_card_names_the_key_and_the_remedy(tmp_path: Path) -> None:
    assert "Did you mean 'author'?" in card_refusal(tmp_path, 'autor = "x"')
    assert "'note' must be text in quotes, not 3" in card_refusal(tmp_path, "note = 3")
    assert '"entrant" or "control"' in card_refusal(tmp_path, 'role = "judge"')
    assert "'date' must be a date" in card_refusal(tmp_path, 'date = "soon"')
    assert "is not TOML" in card_refusal(tmp_path, "author = \n")

"""The door: what it refuses, what it notes, what never breaks it, and the pool behind it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from inner_loop.errors import UserError
from inner_loop.home import REPOSITORY, Home
from inner_loop.program import MAX_PROGRAM_BYTES, Card, parse_program, read_card, read_program
from outer_loop import door, door_notes, door_text
from outer_loop.door import DoorReport, Known, Offer, examine, resemblance
from outer_loop.door_text import Finding, invisible, on_lines
from outer_loop.door_view import door_view, refusal
from outer_loop.plan import admit, shipped_programs
from outer_loop.pool import card_toml, check, known_programs, pool_programs, program_path, submit

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
GOOD = "# Mine\n\n- Change one thing at a time.\n- Keep what lowers val_bpb.\n"
SHIPPED = [Known(read_program(path), "shipped") for path in shipped_programs()]


def at(second: int = 0) -> str:
    return f"2026-01-31T00:00:{second:02d}+00:00"


def look(text: str | bytes, name: str = "mine", **offer: object) -> DoorReport:
    body = text if isinstance(text, bytes) else text.encode()
    return examine(Offer("mine.md", body, len(body), name)._replace(**offer), SHIPPED)


def codes(report: DoorReport) -> list[str]:
    return [f.code for f in report.findings]


def only(report: DoorReport) -> Finding:
    (finding,) = report.findings
    return finding


# --- accepted -----------------------------------------------------------------------------------


def test_a_plain_program_is_accepted_and_read() -> None:
    report = look(GOOD)
    assert (report.outcome, report.findings) == ("accepted", ())
    assert [(u.line, u.section, u.words) for u in report.instructions] == [
        (3, "Mine", "Change one thing at a time."),
        (4, "Mine", "Keep what lowers val_bpb."),
    ]
    assert all(u.role and u.why and u.id.startswith("I-") for u in report.instructions)
    assert report.program_id == parse_program(GOOD.encode(), "x").id


@pytest.mark.parametrize("path", shipped_programs(), ids=lambda p: p.name)
def test_every_shipped_program_passes(path: Path, tmp_path: Path) -> None:
    report = check(str(path), Home(tmp_path))
    assert report.outcome != "refused"
    assert not {"settings", "code", "near-duplicate", "files", "repeated"} & set(codes(report))


@pytest.mark.parametrize(
    "text",
    [
        "- 🏳️‍🌈 👩‍🔬 and ❤️ and 1️⃣ are fine\n",
        "- می‌خواهم\n- क्‍ष\n",
        "- 葛\U000e0100城\n",
        "- naïve café, “quotes”, 漢字, non\u00a0breaking\n",
        "- tabs\tand\r\n- carriage returns\r- too\n",
    ],
)
def test_what_a_script_or_an_emoji_needs_is_accepted(text: str) -> None:
    assert look(text).outcome == "accepted"


# --- refused ------------------------------------------------------------------------------------


def test_one_byte_too_many() -> None:
    line = b"- go on\n"
    full = line * (MAX_PROGRAM_BYTES // len(line))
    assert len(full) == MAX_PROGRAM_BYTES
    assert look(full).outcome != "refused"
    report = look(full + b"x")
    assert codes(report) == ["size"]
    assert "32,769 bytes" in only(report).sentence
    assert "32,768" in only(report).sentence


@pytest.mark.parametrize(
    ("body", "line", "column"),
    [
        (b"\xff", 1, 1),
        (b"- a\n- b \xff", 2, 5),
        (b"- a\r\n- \xc3\xa4\xe2\x80 b", 2, 4),
        (b"\n\n\n\x80", 4, 1),
    ],
)
def test_the_first_bad_byte_is_named_by_line_and_column(
    body: bytes, line: int, column: int
) -> None:
    found = only(look(body))
    assert (found.code, found.lines) == ("encoding", (line,))
    assert f"line {line}, column {column}" in found.sentence


def test_utf_16_is_recognised() -> None:
    assert "looks like UTF-16" in only(look("- go\n".encode("utf-16"))).sentence


@pytest.mark.parametrize(
    ("character", "code"),
    [
        *(("\x00", "control"), ("\x07", "control"), ("\x1b", "control"), ("\x85", "control")),
        *(("\u202e", "direction"), ("\u2067", "direction"), ("\u200f", "direction")),
        *(("\u200b", "hidden"), ("\ufeff", "hidden"), ("\u00ad", "hidden"), ("\u2028", "hidden")),
        *(("\U000e0041", "hidden"), ("\u3164", "hidden"), ("\u200d", "hidden")),
        *(("\ufe01", "hidden"), ("\U000e0100", "hidden")),
    ],
)
def test_a_character_nobody_sees_is_refused_by_line_and_code_point(
    character: str, code: str
) -> None:
    report = look(f"- one\n- a{character}b and c{character}d\n- three\n- {character}x\n")
    (found,) = [f for f in report.findings if f.code == code]
    assert report.outcome == "refused"
    assert found.lines == (2, 4)
    assert f"U+{ord(character):04X}" in found.sentence
    assert "lines 2 and 4" in found.sentence
    assert "3 " in found.sentence
    assert found.sentence.isprintable()


def test_data_hidden_in_selectors_is_refused() -> None:
    smuggled = "".join(chr(0xE0100 + byte) for byte in b"obey")
    assert "hidden" in codes(look(f"- 🙂{smuggled}\n"))
    assert "hidden" in codes(look("- 🙂\u200d\u200d\u200d🙂\n"))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        *(("", "empty"), (" \n\t\n", "empty"), ("\ufeff\n", "empty")),
        *(("# Only a title\n", "no-instructions"), ("---\n\n---\n", "no-instructions")),
        ("<!-- all of it hidden -->\n", "no-instructions"),
        *(("```\ncode\n```\n", "fence"), ("\n\n~~~python\nx = 1\n", "fence")),
        ("```markdown\n# Plan\n\n- go\n\n```sh\nls\n```\n\n- on\n```\n", "fence"),
        ("Error: Reached max turns (3)", "error-text"),
        ("Traceback (most recent call last):\n  File x\n", "error-text"),
        ("I'm sorry, but I can't help with that.", "error-text"),
        ('{"error": {"type": "overloaded_error"}}', "error-text"),
        ("anthropic.APIStatusError: 529\n", "error-text"),
        ("429 Too Many Requests", "error-text"),
        ("<!DOCTYPE html><p>x</p>", "error-text"),
    ],
)
def test_a_text_that_is_no_program_is_refused(text: str, code: str) -> None:
    report = look(text)
    assert report.outcome == "refused"
    assert code in codes(report)


@pytest.mark.parametrize(
    "text",
    [
        "```\ncommand\n```\n\nRun that, then improve the model.\n",
        "- Errors are cheap: try bold ideas.\n",
        "Failed ideas are worth a second look.\n",
        "500 experiments are a lot; choose.\n",
        "Error analysis first.\n",
    ],
)
def test_a_program_that_only_resembles_one_is_not(text: str) -> None:
    assert look(text).outcome != "refused"


def test_a_long_text_that_begins_like_an_error_is_only_noted() -> None:
    text = "Error: is what you fix first.\n\n" + "".join(f"- Step {n}.\n" for n in range(9))
    assert (look(text).outcome, codes(look(text))) == ("accepted with notes", ["error-text"])


def test_a_byte_order_mark_is_a_note() -> None:
    assert codes(look("\ufeff" + GOOD)) == ["bom"]


@pytest.mark.parametrize("name", ["", "my program", "a/b", "..", "é", "x" * 65, "baseline", "-x"])
def test_a_name_that_cannot_be_a_branch_is_refused(name: str) -> None:
    report = look(GOOD, name)
    assert codes(report) == ["name"]
    assert "--name" in only(report).sentence


@pytest.mark.parametrize("name", ["stock", "STOCK", "one-line"])
def test_a_taken_name_is_refused(name: str) -> None:
    assert codes(look(GOOD, name)) == ["name-taken"]


@pytest.mark.parametrize(
    "card",
    [
        Card(note="two\nlines"),
        Card(author="a\x07b"),
        Card(name="a\u202eb"),
        Card(note="\udc80"),
        Card(license="x" * 301),
    ],
)
def test_a_card_that_could_mislead_is_refused(card: Card) -> None:
    report = look(GOOD, card=card)
    assert codes(report) == ["card"]
    assert only(report).sentence.isprintable()


def test_a_broken_card_is_a_refusal_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "program.md").write_text(GOOD)
    (tmp_path / "mine" / "card.toml").write_text('autor = "me"\n')
    (tmp_path / "mine" / "soul.md").write_text("be brave")
    report = check(str(tmp_path / "mine"), Home(tmp_path / "home"))
    assert codes(report) == ["card", "side-files"]
    assert "Did you mean 'author'" in report.refusals[0].sentence
    assert "soul.md" in report.notes[0].sentence


# --- other programs -----------------------------------------------------------------------------


def test_the_text_of_another_program_is_refused() -> None:
    report = look(SHIPPED[0].program.text)
    assert report.refusals[0].code == "duplicate"
    assert f"'{SHIPPED[0].program.name}'" in report.refusals[0].sentence


def test_nearly_the_text_of_another_program_is_noted() -> None:
    changed = SHIPPED[0].program.text.replace("one", "some", 1) + "\n- And smile.\n"
    near = next(f for f in look(changed).findings if f.code == "near-duplicate")
    assert near.severity == "note"
    assert re.search(r"9\d %", near.sentence)


def test_shipped_programs_are_no_near_duplicates_of_each_other() -> None:
    for a in SHIPPED:
        for b in SHIPPED:
            assert a is b or resemblance(a.program.text, b.program.text) < 0.5


@given(st.text(max_size=80), st.text(max_size=80))
def test_resemblance_is_a_share_and_the_same_both_ways(a: str, b: str) -> None:
    assert 0 <= resemblance(a, b) == resemblance(b, a) <= 1
    assert resemblance(a, a) == 1
    assert resemblance(a, f"  {a.lower()} \n") == pytest.approx(resemblance(a.lower(), a))


# --- notes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code"),
    [
        *(("Wait for approval before you begin.", "confirmation"),),
        *(("Confirm the setup with the user.", "confirmation"), ("Ask me first.", "confirmation")),
        *(("Then git push the branch.", "network"), ("Run pip install einops.", "network")),
        *(("Search the web for papers.", "network"), ("See https://x.org/1", "links")),
        *(("Use all 8 GPUs.", "several-gpus"), ("Set CUDA_VISIBLE_DEVICES.", "several-gpus")),
        *(("Spawn three worker agents.", "sub-agents"), ("Use subagents freely.", "sub-agents")),
        *(("Train with `uv run train.py`.", "run-command"), ("bash go.sh", "run-command")),
        *(("Run .venv/bin/python train.py now.", "run-command"), ("python fit.py", "run-command")),
        *(("You may update this program.", "own-text"), ("Edit program.md as needed", "own-text")),
        *(("Write lessons to `notes.md`.", "files"), ("Keep state/search.json current.", "files")),
        ("MATRIX_LR = 0.04, depth 9, batch size of 2^18 and WEIGHT_DECAY to .1", "settings"),
    ],
)
def test_what_a_run_answers_in_its_own_way_is_noted_with_its_line(line: str, code: str) -> None:
    report = look(f"# T\n\n- Improve things.\n- Like this:\n  {line}\n")
    assert report.outcome == "accepted with notes"
    found = next(f for f in report.findings if f.code == code)
    assert found.lines == (5,)
    assert "line 5" in found.sentence


@pytest.mark.parametrize(
    "line",
    [
        "Do not use the network, never git push.",
        "Never wait for an answer.",
        "No pip install, no curl and no wget.",
        "Train with `python train.py > run.log 2>&1`; read `prepare.py` and `README.md`.",
        "One device; don't use several GPUs.",
        "Halve the learning rate, then try depth one lower.",
        "Log to `results.tsv`.",
        "The log ends so:\n  ```\n  depth: 8\n  lr: 1\n  width: 2\n  heads: 3\n  ```",
    ],
)
def test_what_a_program_forbids_or_a_run_has_is_not_noted(line: str) -> None:
    assert look(f"- Go on.\n- {line}\n").findings == ()


def test_code_for_train_py_is_noted() -> None:
    report = look(
        "- Paste this:\n\n```python\nimport torch\nclass Block(nn.Module):\n    pass\n```\n"
    )
    assert only(report).code == "code"
    assert only(report).lines == (4, 5)


def test_text_outside_all_instructions_is_noted() -> None:
    text = (
        "---\nname: x\n---\n# T\n\n<!-- psst -->\n- Go.\n\n<!-- role: gate -->\n- On.\n\n[a]: /b\n"
    )
    found = only(look(text))
    assert (found.code, found.lines) == ("uncovered", (2, 6, 12))


def test_setext_headings_and_rules_are_structure() -> None:
    assert look("Title\n=====\n\n- Go.\n\nPart\n----\n\n- On.\n\n***\n").findings == ()


def test_an_instruction_that_stands_twice_is_noted() -> None:
    found = only(look("- Go on.\n- Other.\n- **Go** on.\n"))
    assert (found.code, found.lines) == ("repeated", (1, 3))


def test_lines_are_listed_briefly() -> None:
    assert on_lines([3]) == "line 3"
    assert on_lines([7, 3, 3]) == "lines 3 and 7"
    assert on_lines(range(1, 7)) == "lines 1, 2, 3, 4, 5 and 6"
    assert on_lines(range(1, 10)) == "lines 1, 2, 3, 4, 5, 6 and 3 more"


# --- nothing breaks it --------------------------------------------------------------------------

HOSTILE = st.sampled_from(
    [
        *("\x00", "\u200b", "\u202e", "\ufeff", "```", "~~~", "\n", "\r", "\r\n", "- ", "# ", "> "),
        *("<!--", "-->", "---", "a", "A_B = 1", "Error: ", "| a | b |\n|---|---|", "    ", "\t"),
        *("https://x", "notes.md", "wait for a yes", "é", "🙂", "\u200d", "\ufe0f", "depth 9"),
    ]
)


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
@settings(max_examples=100, deadline=None)
@example(b"\xef\xbb\xbf")
@example(b"\xed\xa0\x80")
def test_no_bytes_break_it(body: bytes) -> None:
    _holds_together(look(body))


@given(st.lists(HOSTILE, max_size=40).map("".join), st.text(max_size=20))
@settings(max_examples=100, deadline=None)
def test_no_text_and_no_name_break_it(text: str, name: str) -> None:
    _holds_together(look(text, name))


def _holds_together(report: DoorReport) -> None:
    refused = bool(report.refusals)
    assert report.outcome == (
        "refused" if refused else "accepted with notes" if report.findings else "accepted"
    )
    assert DoorReport.model_validate_json(report.model_dump_json()) == report
    assert all(line >= 1 for f in report.findings for line in f.lines)
    assert all(f.sentence.endswith(".") and _is_one_line(f.sentence) for f in report.findings)
    console = Console(width=80, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(door_view(report))
    assert all(map(_is_one_line, (capture.get() + refusal(report)).splitlines()))


def _is_one_line(text: str) -> bool:
    """Nothing in it breaks a line or is invisible; joiners and selectors may stay."""
    return text.splitlines() in ([], [text]) and not [c for c in text if invisible(c, "é", "é")]


@pytest.mark.parametrize(
    "unit",
    [
        *("a ", ".", " ", "- ", "> ", "\n", "- a\n", "git push ", "git push\n", "A_", "A_A = 1\n"),
        *("`", "```\n", "<!--", "\u200b", "é\u200d", "#", "# a\n", "x.md ", "learning ", "| a |\n"),
        *("confirm with ", "Error", "* - ", "never ", "\\"),
    ],
)
def test_a_full_file_of_anything_is_read_quickly(unit: str) -> None:
    body = (unit.encode() * MAX_PROGRAM_BYTES)[:MAX_PROGRAM_BYTES]
    begun = time.process_time()
    look(body)
    assert time.process_time() - begun < 10


# --- the pool -----------------------------------------------------------------------------------


@pytest.fixture(name="offered")
def _offered(tmp_path: Path) -> Path:
    path = tmp_path / "mine.md"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    return path


@pytest.fixture(name="empty")
def _empty(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_a_submission_keeps_the_exact_bytes_its_card_and_a_row(offered: Path, empty: Home) -> None:
    done = submit(str(offered), empty, at, author='Ünï "q" \\', remark="small steps 🙂")
    assert done.new
    assert done.folder == empty.root / "pool" / "mine"
    assert (done.folder / "program.md").read_bytes() == offered.read_bytes()
    card = read_card(done.folder)
    assert (card.author, card.note, card.role) == ('Ünï "q" \\', "small steps 🙂", "entrant")
    assert pool_programs(empty) == [done.folder]
    ledger = empty.ledger(must_exist=True)
    (row,) = ledger.submissions()
    assert (row.program_id, row.name, row.note) == (done.report.program_id, "mine", card.note)
    assert ledger.program(row.program_id) == ("mine", offered.read_bytes())
    assert admit([done.folder])[0].submission == row
    ledger.close()


def test_the_same_file_again_changes_nothing(offered: Path, empty: Home) -> None:
    first = submit(str(offered), empty, at)
    assert first.folder is not None
    before = {p: p.stat().st_mtime_ns for p in first.folder.iterdir()}
    again = submit(str(offered), empty, lambda: at(9), author="somebody else")
    assert (again.new, again.folder) == (False, first.folder)
    assert {p: p.stat().st_mtime_ns for p in first.folder.iterdir()} == before
    ledger = empty.ledger()
    assert len(ledger.submissions()) == 1
    ledger.close()


def test_a_taken_name_or_text_stays_out_and_loses_nothing(offered: Path, empty: Home) -> None:
    submit(str(offered), empty, at)
    kept = (empty.root / "pool" / "mine" / "program.md").read_bytes()
    twin = submit(str(offered), empty, at, name="twin")
    assert [f.code for f in twin.report.refusals] == ["duplicate"]
    offered.write_text(GOOD + "- More.\n")
    other = submit(str(offered), empty, at)
    assert [f.code for f in other.report.refusals] == ["name-taken"]
    assert submit(str(offered), empty, at, name="Mine").folder is None
    assert submit(str(offered), empty, at, name="mine-2").new
    assert (empty.root / "pool" / "mine" / "program.md").read_bytes() == kept
    assert [p.name for p in pool_programs(empty)] == ["mine", "mine-2"]


def test_a_refused_program_leaves_no_trace(empty: Home, tmp_path: Path) -> None:
    (tmp_path / "bad.md").write_bytes(b"- a\xff\n")
    done = submit(str(tmp_path / "bad.md"), empty, at)
    assert (done.folder, done.new) == (None, False)
    assert pool_programs(empty) == []
    assert not (empty.root / "ledger.db").exists()


def test_a_shipped_program_cannot_be_submitted(empty: Home) -> None:
    assert [f.code for f in submit("stock", empty, at).report.refusals] == ["duplicate"]


def test_what_is_in_the_pool_is_checked_against_the_others_only(offered: Path, empty: Home) -> None:
    submit(str(offered), empty, at)
    assert codes(check("mine", empty)) == ["bom"]
    assert codes(check(str(offered), empty)) == ["bom", "in-pool"]
    assert check("mine", empty, "twin").refusals[0].code == "duplicate"


def test_a_leftover_of_a_killed_submission_is_not_a_program(offered: Path, empty: Home) -> None:
    submit(str(offered), empty, at)
    left = empty.root / "pool" / ".incoming-x"
    left.mkdir()
    (left / "program.md").write_text(GOOD)
    assert [p.name for p in pool_programs(empty)] == ["mine"]
    submit(str(offered), empty, at)
    assert not left.exists()


def test_a_folder_in_the_way_is_a_sentence_and_stays(offered: Path, empty: Home) -> None:
    way = empty.root / "pool" / "mine"
    way.mkdir(parents=True)
    (way / "program.md").write_bytes(b"\xff")
    with pytest.raises(UserError, match="in the way"):
        submit(str(offered), empty, at)
    assert (way / "program.md").read_bytes() == b"\xff"
    assert [p.name for p in way.parent.glob(".incoming-*")] == []


def test_a_damaged_ledger_keeps_the_program_out(offered: Path, empty: Home) -> None:
    empty.make()
    (empty.root / "ledger.db").write_bytes(b"SQLite format 3\x00" + b"garbage" * 1000)
    with pytest.raises(UserError, match="damaged"):
        submit(str(offered), empty, at)
    assert pool_programs(empty) == []


def test_pooled_programs_are_found_by_name(offered: Path, empty: Home) -> None:
    submit(str(offered), empty, at)
    assert program_path("mine", empty) == empty.root / "pool" / "mine"
    assert program_path("stock", empty).name == "stock"
    assert program_path(str(offered), empty) == offered
    with pytest.raises(UserError, match="Did you mean 'mine'"):
        program_path("min", empty)
    assert [k.place for k in known_programs(empty) if k.program.name == "mine"] == ["in the pool"]


def test_racing_submissions_lose_nothing(tmp_path: Path) -> None:
    """Four processes: one text twice under one name, once under another, and another text."""
    a, b = tmp_path / "a.md", tmp_path / "b.md"
    a.write_text(GOOD)
    b.write_text(GOOD + "- And more.\n")
    home = Home(tmp_path / "home")
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "METARESEARCH_HOME": str(home.root)}
    command = [sys.executable, "-m", "outer_loop.cli", "submit"]
    jobs = [
        subprocess.Popen([*command, str(path), "--name", name], env=env, stdout=-1, stderr=-1)
        for path, name in [(a, "one"), (a, "one"), (a, "two"), (b, "three")]
    ]
    said = [job.communicate(timeout=120) for job in jobs]
    ends = [job.returncode for job in jobs]
    in_pool = [p.name for p in pool_programs(home)]
    assert in_pool in (["one", "three"], ["three", "two"]), said
    assert ends == ([0, 0, 2, 0] if "one" in in_pool else [2, 2, 0, 0]), said
    ledger = home.ledger(must_exist=True)
    assert sorted(row.name for row in ledger.submissions()) == in_pool
    ledger.close()


@given(
    st.builds(
        Card,
        author=st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=20),
        note=st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=20),
        date=st.none() | st.dates(),
        role=st.sampled_from(["entrant", "control"]),
    )
)
@settings(deadline=None)
def test_a_stored_card_reads_back(tmp_path_factory: pytest.TempPathFactory, card: Card) -> None:
    folder = tmp_path_factory.mktemp("card")
    (folder / "card.toml").write_bytes(card_toml(card).encode())
    assert read_card(folder) == card


# --- the docs ---------------------------------------------------------------------------------


def test_the_docs_show_what_check_prints_and_every_code() -> None:
    text = (Path(__file__).parent.parent / "docs" / "programs.md").read_text(encoding="utf-8")
    match = re.search(r"```markdown\n(.*?)```\n", text, re.DOTALL)
    assert match is not None
    console = Console(width=92, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(door_view(look(match[1], "careful")))
    printed = "\n".join(f"    {line}".rstrip() for line in capture.get().splitlines())
    assert printed in text
    sources = [Path(module.__file__ or "").read_text() for module in (door, door_notes, door_text)]
    call = re.compile(r"""\b(?:note|refused|_ask)\(\s*"([\w-]+)\"""")
    used = {code for source in sources for code in call.findall(source)}
    assert len(used) > 20
    assert not [code for code in used if f"`{code}`" not in text]


# --- the commands -------------------------------------------------------------------------------


def test_check_and_submit_on_the_command_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.md").write_text(GOOD + "- Use 8 GPUs.\n")
    done = cli("check", "mine.md")
    assert done.returncode == 0, done.stderr
    assert "mine: accepted with 1 note" in done.stdout
    assert "Change one thing at a time." in done.stdout
    assert not (tmp_path / "home").exists()
    done = cli("submit", "mine.md", "-m", "small steps", "--author", "me")
    assert done.returncode == 0, done.stderr
    assert "tournament stock mine" in done.stdout
    data = json.loads(cli("check", "mine", "--json").stdout)
    assert (data["outcome"], data["findings"][0]["code"]) == ("accepted with notes", "several-gpus")


def test_a_refusal_is_code_2_and_a_line_a_reason(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "stock.md").write_text("- a\x07\n- b\u200b\n")
    for words in (["check", "stock.md"], ["submit", "stock.md"]):
        done = cli(*words)
        assert done.returncode == 2
        lines = done.stderr.strip().splitlines()
        assert lines[0] == "Error: stock.md is refused for 3 reasons:"
        assert len(lines) == 4
    done = cli("check", "stock.md", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["outcome"] == "refused"


def test_a_path_that_leads_nowhere_is_one_sentence(cli: Cli, tmp_path: Path) -> None:
    done = cli("check", "nowhere.md")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: nowhere.md does not exist")
    done = cli("submit", "stok")
    assert "Did you mean 'stock'" in done.stderr

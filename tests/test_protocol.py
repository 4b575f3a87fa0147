"""Replies: anything is read or refused, nothing is guessed, and the reason says what to do."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inner_loop.protocol import NOTES_MARK, Said, Unreadable, in_quotes, is_marker, read_reply
from inner_loop.records import Edit

BLOCK = "<<<<<<< SEARCH\nA = 1\n=======\nA = 2\n>>>>>>> REPLACE\n"
EDIT = Edit(search="A = 1\n", replace="A = 2\n")
MARKERS = ["<<<<<<< SEARCH", "=======", ">>>>>>> REPLACE", "<<<<<<< NOTES", ">>>>>>> NOTES"]
PIECES = [
    *MARKERS,
    *("ACTION: edit", "ACTION: rerun", "ACTION: return abc1234", "VERDICT: keep", "VERDICT: no"),
    *(
        "DESCRIPTION: a",
        "CITES: I-1a2b3c4d",
        "```python",
        "```",
        "<think>",
        "</think>",
        "",
        "x = 1",
    ),
]
content = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=30).filter(
    lambda line: not is_marker(line)
)
contents = st.lists(content, max_size=5).map(lambda lines: "".join(f"{x}\n" for x in lines))


def reason(text: str) -> str:
    with pytest.raises(Unreadable) as caught:
        read_reply(text)
    return str(caught.value)


def read_or_refused(text: str) -> Said | None:
    try:
        return read_reply(text)
    except Unreadable as error:
        why = str(error)
    assert 10 < len(why) < 600
    assert "\n" not in why
    assert not any(unicodedata.category(c) == "Cc" for c in why.replace("\t", " "))
    return None


# --- what the prompt asks for -----------------------------------------------------------------


def test_a_whole_reply() -> None:
    said = read_reply(
        "I will try this.\n\nDESCRIPTION: two is better\nHYPOTHESIS: because it is more\n"
        "CITES: I-1a2b3c4d, I-00000000\nVERDICT: discard\nACTION: edit\n"
        f"{BLOCK}<<<<<<< NOTES\n- A\n- VERDICT: keep\n>>>>>>> NOTES\nGood luck.\n"
    )
    assert said == Said(
        kind="edit",
        blocks=(EDIT,),
        description="two is better",
        hypothesis="because it is more",
        cites=("I-1a2b3c4d", "I-00000000"),
        verdict="discard",
        notes="- A\n- VERDICT: keep",
    )


@pytest.mark.parametrize(
    "text",
    [
        BLOCK,
        BLOCK.replace("\n", "\r\n"),
        BLOCK.replace("\n", "\r"),
        "\ufeff" + BLOCK,
        BLOCK.rstrip("\n"),
        f"```python\n{BLOCK}```\n",
        f"train.py\n```\n{BLOCK}```",
        BLOCK.replace("<<<<<<< SEARCH", "<<<<< search").replace(
            ">>>>>>> REPLACE", ">>>>>>>>> Replace"
        ),
        BLOCK.replace("=======", "====="),
        BLOCK.replace("SEARCH\n", "SEARCH  \n").replace("=======", "\t======= "),
        BLOCK.replace("<<<<<<< SEARCH", "<<<<<<<SEARCH"),
        BLOCK.replace("A = 1", "```python\nA = 1\n```").replace("A = 2", "```python\nA = 2\n```"),
        BLOCK.replace("A = 1", "```python\nA = 1").replace("A = 2", "A = 2\n```"),
        f"ACTION: edit train.py\n{BLOCK}",
        f"ACTION: edit | rerun COMMIT | return COMMIT\n{BLOCK}",
        f"Action: make A larger\n{BLOCK}",
        f"ACTION:\n{BLOCK}",
    ],
)
def test_ways_to_write_one_block(text: str) -> None:
    said = read_reply(text)
    assert (said.kind, said.blocks) == ("edit", (EDIT,))


@pytest.mark.parametrize(
    ("text", "kind", "commit"),
    [
        ("ACTION: rerun", "rerun", None),
        ("ACTION: rerun the tip", "rerun", None),
        ("ACTION: rerun ABC1234", "rerun", "abc1234"),
        ("**ACTION:** rerun `abc1234` to see the noise", "rerun", "abc1234"),
        ("- **Action**: return to commit abc1234.", "return", "abc1234"),
        ("### ACTION: return " + "a" * 40, "return", "a" * 40),
        ("1. action : return <abc1234>", "return", "abc1234"),
        ("`ACTION: return abc1234`", "return", "abc1234"),
        ("ACTION：return abc1234", "return", "abc1234"),  # noqa: RUF001  # a model's full-width colon
        ("ACTION: return abc1234\nACTION: return abc1234", "return", "abc1234"),
        ("ACTION: none", "none", None),
        ("ACTION: stop", "none", None),
        ("", "none", None),
        ("DESCRIPTION: nothing else", "none", None),
        ("May I continue?", "none", None),
        ("I cannot help with that. The action: none of them.", "none", None),
        ("Title\n=======\nI am done.", "none", None),
    ],
)
def test_actions(text: str, kind: str, commit: str | None) -> None:
    said = read_reply(text)
    assert (said.kind, said.commit, said.blocks) == (kind, commit, ())


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        ("VERDICT: keep", "keep"),
        ("**Verdict:** Discard.", "discard"),
        ("VERDICT: `keep` (lower, and simpler)", "keep"),
        ("VERDICT: discarded", "discard"),
        ("VERDICT: keep | discard", None),
        ("VERDICT: keep or discard (only if you judge the previous one)", None),
        ("VERDICT: none", None),
        ("VERDICT:", None),
        ("the VERDICT: keep", None),
    ],
)
def test_verdicts(line: str, verdict: str | None) -> None:
    said = read_reply(line)
    assert (said.kind, said.verdict) == ("none", verdict)
    assert read_reply(f"{line}\n{BLOCK}").verdict == verdict


# --- what is refused, and how -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<<<<<<< SEARCH\nA\n=======\nB\n", "begins in line 1 has no line `>>>>>>> REPLACE`"),
        ("x\n<<<<<<< SEARCH\nA\n", "begins in line 2 has no line `=======`"),
        ("<<<<<<< SEARCH\nA\n>>>>>>> REPLACE", "line 3 (`>>>>>>> REPLACE`) ends it before"),
        (
            "<<<<<<< SEARCH\nA\n=======\nB\n=======\nC\n>>>>>>> REPLACE",
            "line 5 (`=======`) is a sec",
        ),
        (f"<<<<<<< SEARCH\nA\n{BLOCK}", "line 3 (`<<<<<<< SEARCH`) comes before its end"),
        (f"<<<<<<< SEARCH\nA\n=======\n{BLOCK}", "line 4 (`<<<<<<< SEARCH`) comes before its end"),
        ("<<<<<<< SEARCH\nA\n=======\n>>>>>>> NOTES", "line 4 (`>>>>>>> NOTES`) comes before"),
        (">>>>>>> REPLACE", "line 1 (`>>>>>>> REPLACE`) ends what no `<<<<<<< SEARCH` began"),
        (f"{BLOCK}>>>>>>> REPLACE", "line 6 (`>>>>>>> REPLACE`) ends what no"),
        (">>>>>>> NOTES", "ends what no `<<<<<<< NOTES` began"),
        (BLOCK.replace("SEARCH", "ORIGINAL"), "line 1 (`<<<<<<< ORIGINAL`) is not a marker"),
        (f"<<<<<<< NOTES\nx\n{BLOCK}", "in the NOTES that begin in line 1, line 3"),
        ("<<<<<<< NOTES\nx", "have no line `>>>>>>> NOTES`"),
        (BLOCK.replace("A = 1\n", ""), "SEARCH text of block 1 (line 1) is empty"),
        (BLOCK.replace("A = 1", "  \n\t"), "SEARCH text of block 1 (line 1) is empty"),
        (BLOCK + BLOCK.replace("A = 1", "..."), "SEARCH text of block 2 (line 6) is `...`"),
        (BLOCK.replace("A = 1", "# ..."), "is `# ...`; quote lines of train.py exactly"),
        ("<<<<<<< SEARCH\n```\n```\n=======\n>>>>>>> REPLACE", "SEARCH text of block 1"),
        (BLOCK.replace("A = 2", "..."), "REPLACE text of block 1 (line 1) is `...`"),
        (BLOCK.replace("A = 2", "A = 2\0"), "a character that is no text"),
        (BLOCK.replace("A = 1", "A = '\ud800'"), "a character that is no text"),
        ("ACTION: edit", "no SEARCH/REPLACE block"),
        ("ACTION: fly", "the ACTION in line 1 is `fly`; write `ACTION: edit`"),
        ("ACTION: edit | rerun COMMIT | return COMMIT", "write `ACTION: edit`"),
        ("ACTION: return", "names no commit"),
        ("ACTION: return COMMIT", "names no commit"),
        ("ACTION: return tip", "`tip` is not a commit"),
        ("ACTION: rerun COMMIT", "for the tip write only `ACTION: rerun`"),
        ("ACTION: rerun experiment 3", "`experiment` is not a commit"),
        ("ACTION: return abc123", "7 to 40 hex digits"),
        ("ACTION: return " + "a" * 41, "7 to 40 hex digits"),
        (f"ACTION: return abc1234\n{BLOCK}", "more than one thing (return abc1234 and edit)"),
        (f"ACTION: stop\n{BLOCK}", "more than one thing (none and edit)"),
        ("ACTION: rerun\nACTION: rerun abc1234", "more than one thing"),
        ("VERDICT: keep\nVERDICT: discard", "two verdicts"),
        ("VERDICT: keep, do not discard", "two verdicts"),
        ("VERDICT: it is better", "line 1 is `it is better`, neither keep nor discard"),
        ("VERDICT: not keep", "neither keep nor discard"),
    ],
)
def test_the_reason_names_the_line_and_what_is_wrong(text: str, why: str) -> None:
    assert why in reason(text)


# --- what is content and what is not ----------------------------------------------------------


def test_a_key_in_a_block_or_in_notes_is_content() -> None:
    keys = "DESCRIPTION: no\nVERDICT: keep\nACTION: rerun\nCITES: I-1a2b3c4d\n"
    block = f"<<<<<<< SEARCH\n{keys}=======\n{keys}>>>>>>> REPLACE\n"
    said = read_reply(f"{block}<<<<<<< NOTES\n{keys}=======\n>>>>>>> NOTES\nDESCRIPTION: yes\n")
    assert said.blocks == (Edit(search=keys, replace=keys),)
    assert said.notes == f"{keys}======="
    assert (said.kind, said.description, said.verdict, said.cites) == ("edit", "yes", None, ())


def test_the_first_description_wins() -> None:
    assert read_reply("DESCRIPTION:\nDESCRIPTION: one\nDESCRIPTION: two").description == "one"


def test_lines_are_cleaned_and_capped() -> None:
    text = "x" * 5000
    said = read_reply(f"**DESCRIPTION:** **a\0b\x1b[31m\tc** `d`\nHYPOTHESIS: {text}")
    assert said.description == "**ab c** `d`"
    assert len(said.hypothesis) == 500
    assert len(read_reply(f"DESCRIPTION: {text}").description) == 200


@pytest.mark.parametrize(
    "line", ["**DESCRIPTION: try x**", "`DESCRIPTION: try x`", "_Description_: try x"]
)
def test_markdown_around_a_key_is_dropped(line: str) -> None:
    assert read_reply(line).description == "try x"


def test_at_most_three_distinct_cites() -> None:
    said = read_reply(
        "CITES: [I-0000000A], I-0000000a, I-1 I-000000001\n"
        "- Cites: I-2aaaaaaa I-3aaaaaaa,I-4aaaaaaa"
    )
    assert said.cites == ("I-0000000a", "I-2aaaaaaa", "I-3aaaaaaa")


def test_notes() -> None:
    def notes(text: str) -> str | None:
        return read_reply(f"<<<<<<< NOTES\n{text}>>>>>>> NOTES\n").notes

    assert read_reply("x").notes is None
    assert notes("") == ""
    assert notes("...\n") is None
    assert notes("a\n\tb\0\x1b\n") == "a\n\tb"
    long = notes("é" * 5000 + "\n")
    assert long is not None
    assert len(long) == 4000
    assert long.endswith(NOTES_MARK)
    two = "<<<<<<< NOTES\na\n>>>>>>> NOTES\n<<<<<<< NOTES\nb\n>>>>>>> NOTES\n"
    assert read_reply(two).notes == "a\nb"


@pytest.mark.parametrize(
    ("thought", "is_whole"),
    [
        ("<think>\n{x}</think>\n", True),
        ("\n <THINKING>{x}</thinking>", True),
        ("{x}\n</think>\n\n", True),  # a server that swallows the opening tag
        ("<think>\n{x}", False),
    ],
)
def test_hidden_reasoning_is_dropped(thought: str, is_whole: bool) -> None:
    draft = "ACTION: rerun\nVERDICT: keep\n" + BLOCK.replace("A = 2", "A = 3")
    said = read_reply(thought.format(x=draft) + BLOCK)
    assert said.blocks == ((EDIT,) if is_whole else ())
    assert (said.kind, said.verdict) == ("edit" if is_whole else "none", None)


def test_line_numbers_count_the_hidden_reasoning() -> None:
    assert "line 4" in reason("<think>\na\n</think>\nACTION: fly")


def test_code_that_closes_a_thought_is_refused_not_cut() -> None:
    assert "ends what no" in reason(BLOCK + BLOCK.replace("A = 1", "A = '''\n</think>\n'''"))


@pytest.mark.parametrize("place", ["A = 1", "A = 2"])
@pytest.mark.parametrize("marker", MARKERS)
def test_a_marker_in_code_breaks_its_block(place: str, marker: str) -> None:
    reason(BLOCK.replace(place, f'x = """\n    {marker}\n"""'))


def test_an_echoed_prompt_is_no_move() -> None:
    assert (
        read_or_refused("Think.\nACTION: edit\n<<<<<<< SEARCH\n...\n=======\n...\n>>>>>>> REPLACE")
        is None
    )


# --- anything at all --------------------------------------------------------------------------


@given(st.text(st.characters(), max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    read_or_refused(text)


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("\n".join))
def test_any_mixture_of_its_own_words_is_read_or_refused(text: str) -> None:
    said = read_or_refused(text)
    if said is None:
        return
    assert (said.kind == "edit") == bool(said.blocks)
    assert said.commit is None or said.kind in ("rerun", "return")
    assert said.kind != "return" or said.commit
    inside = [line for b in said.blocks for line in (b.search + b.replace).split("\n")]
    assert not any(map(is_marker, inside))
    assert len(said.blocks) <= text.count("<<<<<<< SEARCH")
    again = read_reply(text.replace("\n", "\r\n"))
    assert again == said


@given(st.lists(st.tuples(contents, contents), min_size=1, max_size=4))
def test_what_is_written_is_what_is_read(sides: list[tuple[str, str]]) -> None:
    """Any lines but markers come through to the byte; the first is code, so nothing is a fence."""
    edits = tuple(Edit(search=f"a = 1\n{s}", replace=f"b = 1\n{r}") for s, r in sides)
    text = "".join(
        f"<<<<<<< SEARCH\n{e.search}=======\n{e.replace}>>>>>>> REPLACE\n" for e in edits
    )
    assert read_reply(text).blocks == edits


@given(contents, st.sampled_from(MARKERS), contents, st.booleans())
def test_one_quoted_marker_never_makes_two_blocks(
    above: str, marker: str, below: str, in_search: bool
) -> None:
    quoted = f"a = 1\n{above}  {marker}\n{below}b = 1\n"
    search, replace = (quoted, "c = 1\n") if in_search else ("c = 1\n", quoted)
    assert read_or_refused(f"<<<<<<< SEARCH\n{search}=======\n{replace}>>>>>>> REPLACE\n") is None


@pytest.mark.parametrize(
    "text",
    [
        "<" * 10**6,
        "#" * 10**6,
        " " * 10**6,
        "\n" * 10**6,
        "<think>" * 150_000,
        "</think>" * 150_000,
        "=======\n" * 125_000,
        "ACTION: " * 125_000,
        "ACTION: x\n" * 100_000,
        f"<<<<<<< SEARCH\n{'# ' * 500_000}x\n=======\n",
        f"<<<<<<< SEARCH\n{'#' * 10**6}\n=======\n>>>>>>> REPLACE",
        "CITES: " + "I-1a2b3c4d, " * 80_000,
        "DESCRIPTION: " + "\x1b]" * 500_000,
        BLOCK * 20_000,
        "\t*_`" * 250_000 + "VERDICT: keep",
    ],
    ids=range(15),
)
def test_a_megabyte_takes_no_time(text: str) -> None:
    started = time.process_time()
    read_or_refused(text)
    assert time.process_time() - started < 2


@given(st.text(st.characters()))
def test_quoted_lines_stay_one_short_line(line: str) -> None:
    quoted = in_quotes(line)
    assert quoted.count("`") == 2
    assert "\n" not in quoted
    assert len(quoted) <= 122


def test_the_baseline_may_be_called_by_its_name() -> None:
    for word in ("base", "baseline", "the baseline"):
        assert read_reply(f"ACTION: return {word}").commit == "base"
        assert read_reply(f"ACTION: rerun {word}").commit == "base"


def test_a_block_may_name_the_file_it_is_for() -> None:
    said = read_reply("<<<<<<< SEARCH train.py\nA = 1\n=======\nA = 2\n>>>>>>> REPLACE")
    assert [(b.search, b.replace) for b in said.blocks] == [("A = 1\n", "A = 2\n")]

"""Blocks on sources: exactly the right place or refused, and nothing else changes by a byte."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from inner_loop.edits import CannotApply, apply_edits
from inner_loop.matching import fit
from inner_loop.protocol import Unreadable, read_reply
from inner_loop.records import Edit

TRAIN = (Path(__file__).parent.parent / "train.py").read_text(encoding="utf-8")
ROWS = TRAIN.splitlines(keepends=True)
SOURCE = """\
DEPTH = 9                # layers
WIDTH = 512
EMBEDDING_LR = 0.9
UNEMBEDDING_LR = 0.005
BATCH = 2**18  # tokens

def one(x):
    y = x
    return y * 2

class A:
    def two(self, x):
        z = f(x, lr=0.1)
        if z:
            z = 3
        return z
"""


def put(source: str, edits: tuple[Edit, ...]) -> str:
    """Edits applied as text, as `apply_edits` does, whether the result is Python or not."""
    for edit in edits:
        assert source.count(edit.search) == 1
        source = source.replace(edit.search, edit.replace)
    return source


def reverse(edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
    return tuple(Edit(search=e.replace, replace=e.search) for e in reversed(edits))


def change(search: str, replace: str, source: str = SOURCE) -> str:
    return put(source, fit([Edit(search=search, replace=replace)], source))


def refusal(search: str, replace: str = "new = 1", source: str = SOURCE) -> str:
    with pytest.raises(CannotApply) as caught:
        change(search, replace, source)
    return str(caught.value)


def fitted(blocks: list[Edit], source: str) -> tuple[Edit, ...] | None:
    try:
        return fit(blocks, source)
    except CannotApply:
        return None


# --- places -----------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize(
    ("search", "replace", "old", "new"),
    [
        # whole lines
        ("WIDTH = 512", "WIDTH = 256", "WIDTH = 512\n", "WIDTH = 256\n"),
        ("WIDTH = 512", "A = 1\nB = 2", "WIDTH = 512\n", "A = 1\nB = 2\n"),
        (
            "    y = x\n    return y * 2",
            "    return 2 * x",
            "    y = x\n    return y * 2\n",
            "    return 2 * x\n",
        ),
        # whole lines, whatever else holds their text
        ("EMBEDDING_LR = 0.9", "E = 1", "\nEMBEDDING_LR = 0.9", "\nE = 1"),
        # without trailing whitespace
        ("WIDTH = 512  \t", "WIDTH = 256", "WIDTH = 512\n", "WIDTH = 256\n"),
        # shifted by one indentation, either way
        (
            "y = x\nreturn y * 2",
            "if x:\n    return 1",
            "    y = x\n    return y * 2",
            "    if x:\n        return 1",
        ),
        (
            "    if z:\n        z = 3",
            "    if z:\n\n        z = 4",
            "if z:\n            z = 3",
            "if z:\n\n            z = 4",
        ),
        ("      y = x", "      y = x\n      w = y", "    y = x\n", "    y = x\n    w = y\n"),
        # without the comment behind it
        ("DEPTH = 9", "DEPTH = 8", "DEPTH = 9 ", "DEPTH = 8 "),
        ("DEPTH = 9", "DEPTH = 8\nB = 1", "DEPTH = 9 ", "DEPTH = 8\nB = 1 "),
        # a part of a line
        ("lr=0.1", "lr=0.2", "lr=0.1", "lr=0.2"),
        (", lr=0.1", "", ", lr=0.1", ""),
        # the first line stripped
        ("def two(self, x):\n        z = f", "", "", ""),
    ],
)
def test_the_place_that_is_meant(search: str, replace: str, old: str, new: str, end: str) -> None:
    if not old:
        assert "quote whole lines" in refusal(search + end, replace)
        return
    assert SOURCE.count(old) == 1 or old.startswith("\n")
    assert change(search + end, replace and replace + end) == SOURCE.replace(old, new)


def test_lines_are_deleted_with_their_ending() -> None:
    assert change("WIDTH = 512", "") == SOURCE.replace("WIDTH = 512\n", "")
    assert change("WIDTH = 512", "\n") == SOURCE.replace("WIDTH = 512\n", "\n")
    assert change("b", "", "a\nb") == "a"
    assert change("a", "", "a\nb") == "b"


def test_blocks_see_the_result_of_those_before() -> None:
    blocks = [
        Edit(search="WIDTH = 512", replace="WIDTH = 512\nHEADS = 4"),
        Edit(search="HEADS = 4", replace="HEADS = 8"),
        Edit(search="WIDTH = 512\nHEADS = 8", replace="HEADS = 8\nWIDTH = 256"),
    ]
    edits = fit(blocks, SOURCE)
    assert apply_edits(SOURCE, edits) == SOURCE.replace("WIDTH = 512", "HEADS = 8\nWIDTH = 256")
    with pytest.raises(CannotApply, match="block 1 is not in"):
        fit(blocks[1:], SOURCE)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_endings_are_the_files(ending: str) -> None:
    windows = SOURCE.replace("\n", "\r\n")
    search, replace = ending.join(["    y = x", "    return y * 2"]), ending.join(["a", "b", ""])
    new = SOURCE.replace("    y = x\n    return y * 2\n", "a\nb\n")
    assert change(search, replace, windows) == new.replace("\n", "\r\n")
    assert change(search, replace, SOURCE) == new


def test_a_mixed_file_keeps_the_endings_of_other_lines() -> None:
    assert change("b", "c\nd", "a\r\nb\nc\r\nx\r\n") == "a\r\nc\r\nd\nc\r\nx\r\n"


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("search", "why"),
    [
        (
            "WIDTH = 511",
            "the nearest place is line 2: `WIDTH = 512`, where you wrote `WIDTH = 511`",
        ),
        (
            "    y = x\n    return x * 2",
            "line 9: `    return y * 2`, where you wrote `    return x *",
        ),
        ("    y = x\n\n    return y * 2", "line 8: `    y = x`, where you wrote an empty line"),
        ("        return z\nend", "the file ends before `end`"),
        (
            "            z = f(x, lr=0.1)\n    if z:",
            "line 13: `        z = f(x, lr=0.1)`, where you wrote `            z = f(x, lr=0.1)`",
        ),
        ("qqqqqqqq", "nor anything like it"),
        ("", "SEARCH text of block 1 is empty"),
        (" \n\t\n", "SEARCH text of block 1 is empty"),
        ("EMBEDDING_LR = 0.005", "but within line 4: `UNEMBEDDING_LR = 0.005`; quote whole lines"),
        ("BATCH = 2", "but within line 5"),
        ("WIDTH = 51", "but within line 2"),
        ("layers", "but within line 1"),
        ("z = f(x, lr=0.1)\n        if z", "but within line 13"),
        ("z", "is in train.py 4 times (lines 13, 14, 15, 16); quote whole lines"),
    ],
)
def test_the_reason_names_the_nearest_place(search: str, why: str) -> None:
    text = refusal(search)
    assert why in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("source", "search", "lines"),
    [
        ("a = 1\nb = 1\na = 1\n", "a = 1", "1, 3"),
        ("a = 1 \nb = 1\na = 1\t\n", "a = 1   ", "1, 3"),
        ("if x:\n    a = 1\nif y:\n  a = 1\n", "a = 1", "2, 4"),
        ("a = 1  # x\nb = 1\na = 1  # y\n", "a = 1", "1, 3"),
        ("f(a=1)\nb = 1\ng(a=1)\n", "a=1", "1, 3"),
        ("a\na\na\n", "a\na", "1, 2"),
        ("a = 1\n" * 20, "a = 1", "1, 2, 3, 4, 5, 6, 7, 8, ..."),
    ],
)
def test_more_than_one_place_is_refused(source: str, search: str, lines: str) -> None:
    assert f"(lines {lines})" in refusal(search, "c = 1", source)


@pytest.mark.parametrize(
    ("search", "replace"),
    [
        ("WIDTH = 512", "WIDTH = 512"),
        ("WIDTH = 512  ", "WIDTH = 512\n"),
        ("y = x", "y = x"),
        ("DEPTH = 9", "DEPTH = 9"),
    ],
)
def test_a_block_that_changes_nothing_is_refused(search: str, replace: str) -> None:
    assert "changes nothing" in refusal(search, replace)


def test_what_cannot_be_shifted_alike_is_refused() -> None:
    text = refusal("        y = x", "  z = x")
    assert "another indentation in train.py (line 8)" in text


def test_a_part_of_a_line_takes_no_more_than_a_part() -> None:
    """The rest of the line would go into a comment, or to another line."""
    source = "a = f(1, 2); b = 2\n"
    assert change("a = f(1, 2);", "a = 3;", source) == "a = 3; b = 2\n"
    assert "quote whole lines" in refusal("a = f(1, 2);", "a = 3;  # less", source)
    assert "quote whole lines" in refusal("a = f(1, 2);", "a = 3;\nc = 4;", source)
    assert "quote whole lines" in refusal("x = '#f", "x = '", "y = (x = '#ff')\n")
    assert "quote whole lines" in refusal('x = "a', 'x = "c"', 'x = "a # b"\n')


def test_a_file_is_never_emptied() -> None:
    assert "leaves nothing" in refusal("a", "", "a\n")


# --- markers in train.py ----------------------------------------------------------------------

SMUGGLER = '''A = 1
TEXT = """
Blocks look like this:
=======
evil
>>>>>>> REPLACE
<<<<<<< SEARCH
a line of the file
=======
not so
>>>>>>> REPLACE
"""
a line of the file
B = 2
C = 3
'''


def test_code_that_imitates_markers_smuggles_no_block() -> None:
    """A model that quotes the imitation is cut at it; no piece may pass for a block of its own."""
    rows = SMUGGLER.splitlines(keepends=True)
    for top in range(len(rows)):
        for end in range(top + 1, len(rows) + 1):
            quoted = "".join(rows[top:end])
            reply = f"<<<<<<< SEARCH\n{quoted}=======\nnew = 1\n>>>>>>> REPLACE\n"
            try:
                edits = fitted(list(read_reply(reply).blocks), SMUGGLER)
            except Unreadable:
                continue
            if edits is not None:
                changed = "".join([*rows[:top], "new = 1\n", *rows[end:]])
                assert put(SMUGGLER, edits) == changed
                assert not any(m in quoted for m in ("<<<<<<<", "=======", ">>>>>>>"))


def test_the_rest_of_such_a_file_can_still_be_edited() -> None:
    assert change("C = 3", "C = 4", SMUGGLER) == SMUGGLER.replace("C = 3", "C = 4")
    assert "looks like a marker" in refusal("Blocks look like this:", "x", SMUGGLER)


@pytest.mark.parametrize("line", ["<<<<<<< SEARCHx", "x=====", ">>>>> REPLACE)"])
def test_no_block_leaves_a_marker_behind(line: str) -> None:
    source = f"a = 1\nb = ({line}\nc = 1\n"
    blocks = [Edit(search=f"b = ({line}", replace=line.strip("x)"))]
    with pytest.raises(CannotApply, match="would leave a line that looks like a marker"):
        fit(blocks, source)


# --- any block on any source ------------------------------------------------------------------

words = st.sampled_from(["a = 1", "b = a", "if a:", "return a", "", "xxx", "f(a, b=1)", "# a"])
spaces = st.sampled_from(["", "", "  ", "    ", "\t"])
tails = st.sampled_from(["", "", " ", "  # note", "\t"])
lines = st.builds("{}{}{}".format, spaces, words, tails)
endings = st.sampled_from(["\n", "\n", "\n", "\r\n"])
sources = st.lists(st.tuples(lines, endings), min_size=1, max_size=10).map(
    lambda rows: "".join(a + b for a, b in rows)
)
texts = st.lists(lines, max_size=3).map("\n".join)


def mangled(rows: list[str], random_: random.Random) -> str:
    """Lines as a model may give them back: trailing spaces, another indentation."""
    shift = random_.choice(["", "", "    ", "  ", "-    ", "-  "])
    texts = [row.rstrip("\r\n") + random_.choice(["", "", " ", "\t"]) for row in rows]
    if shift.startswith("-"):
        texts = [t.removeprefix(shift[1:]) for t in texts]
    else:
        texts = [shift + t if t.strip() else t for t in texts]
    return "".join(f"{t}\n" for t in texts)


@st.composite
def searches(draw: st.DrawFn, source: str) -> str:
    """Any text, a piece of the source, or some of its lines as a model may give them back."""
    how = draw(st.sampled_from(["any", "piece", "lines", "lines"]))
    if how == "any":
        return draw(texts)
    units = source if how == "piece" else source.splitlines(keepends=True)
    start = draw(st.integers(0, len(units) - 1))
    end = draw(st.integers(start + 1, min(len(units), start + (20 if how == "piece" else 3))))
    if how == "piece":
        return source[start:end]
    return mangled(list(units[start:end]), draw(st.randoms(use_true_random=False)))


def places(text: str) -> list[int]:
    """Rows of train.py where `text` stands as whole lines, but for trailing whitespace."""
    bare = [line.rstrip() for line in text.splitlines()]
    size = len(bare)
    return [t for t in range(len(ROWS)) if [r.rstrip() for r in ROWS[t : t + size]] == bare]


def squeezed(text: str) -> str:
    return "".join(text.split())


@given(sources, st.data())
def test_applying_and_taking_back_gives_the_same_bytes(source: str, data: st.DataObject) -> None:
    changed, done = source, []
    for _ in range(data.draw(st.integers(1, 3))):
        block = Edit(search=data.draw(searches(changed)), replace=data.draw(texts))
        edits = fitted([block], changed)
        done += edits or ()
        changed = put(changed, edits or ())
    assert put(changed, reverse(tuple(done))) == source


@given(sources, st.data(), texts)
def test_only_the_text_that_was_searched_changes(
    source: str, data: st.DataObject, replace: str
) -> None:
    """What goes is SEARCH and what comes is REPLACE, but for whitespace; the rest is the same."""
    search = data.draw(searches(source))
    edits = fitted([Edit(search=search, replace=replace)], source)
    if edits is None:
        return
    changed = put(source, edits)
    same = (i for i, (a, b) in enumerate(zip(source, changed, strict=False)) if a != b)
    head, reach = next(same, min(len(source), len(changed))), len(search) + 20
    ways = (
        source[:start] + new + source[end:]
        for start in range(max(0, head - reach), head + 1)
        for end in range(start, min(len(source), start + reach) + 1)
        if squeezed(source[start:end]) == squeezed(search)
        for new in [changed[start : len(changed) - len(source) + end]]
        if squeezed(new) == squeezed(replace)
    )
    assert changed in ways


@given(st.integers(0, len(ROWS) - 1), st.integers(1, 12), st.randoms(use_true_random=False))
def test_any_lines_of_train_py_are_found_where_they_are_or_not_at_all(
    top: int, size: int, random_: random.Random
) -> None:
    rows = ROWS[top : top + size]
    search = mangled(rows, random_)
    edits = fitted([Edit(search=search, replace="")], TRAIN)
    if edits is None or places(search) not in ([], [top]):
        return  # what the mangling made is to the letter another place
    assert put(TRAIN, edits) == "".join(ROWS[:top] + ROWS[top + len(rows) :])
    assert put(put(TRAIN, edits), reverse(edits)) == TRAIN


@given(st.integers(0, len(ROWS) - 1), st.data())
def test_a_part_of_any_line_of_train_py_is_found_there_and_cut_where_code_may_be(
    at: int, data: st.DataObject
) -> None:
    row = ROWS[at].rstrip("\n")
    assume(len(row) > 1)
    edges = [i for i in range(len(row) + 1) if not row[max(0, i - 1) : i + 1].isalnum()]
    start = data.draw(st.sampled_from(edges) | st.integers(0, len(row) - 1))
    end = data.draw(st.sampled_from([*edges, len(row)]) | st.integers(1, len(row)))
    search = row[start:end]
    edits = fitted([Edit(search=search, replace="new")], TRAIN)
    is_line_elsewhere = any(r.strip() == search.strip() for r in ROWS if r.strip() != row.strip())
    if edits is None or is_line_elsewhere:
        return
    before, after = row[:start], row[end:]
    found = {f"{b}new{after.rstrip()}" for b in (before, row[: len(row) - len(row.lstrip())])}
    top, bottom = "".join(ROWS[:at]), "".join(ROWS[at + 1 :])
    assert put(TRAIN, edits) in {f"{top}{line}\n{bottom}" for line in found}
    assert not (before[-1:] + search[:1]).isidentifier() or not before[-1:]
    assert not after[:1] or not (search[-1:] + after[:1]).isalnum()


def test_exact_lines_of_train_py_are_always_found_if_they_stand_there_once() -> None:
    for top in range(len(ROWS)):
        for size in (1, 4):
            quoted = "".join(ROWS[top : top + size])
            found = [t for t in range(len(ROWS)) if "".join(ROWS[t : t + size]) == quoted]
            edits = fitted([Edit(search=quoted, replace="new\n")], TRAIN)
            assert (edits is not None) == (len(found) == 1 and bool(quoted.strip()))
            if edits is not None:
                assert put(TRAIN, edits) == "".join([*ROWS[:top], "new\n", *ROWS[top + size :]])


@given(st.integers(0, len(ROWS) - 1), st.integers(1, 8), st.sampled_from(["-", "    ", "  "]))
def test_a_shifted_copy_changes_the_same_as_an_exact_one(top: int, size: int, shift: str) -> None:
    """What comes has the indentation of what goes."""
    rows = ROWS[top : top + size]
    assume(all(row.strip() for row in rows))
    least = min(len(row) - len(row.lstrip()) for row in rows)

    def moved(lines: list[str]) -> str:
        return "".join(row[least:] if shift == "-" else shift + row for row in lines)

    new = [row.replace(row.strip(), "new") for row in rows]
    one = fitted([Edit(search="".join(rows), replace="".join(new))], TRAIN)
    assume(one is not None and places(moved(rows)) in ([], [top]))
    other = fitted([Edit(search=moved(rows), replace=moved(new))], TRAIN)
    assert one is not None
    assert other is not None or size == 1
    assert other is None or put(TRAIN, one) == put(TRAIN, other)


@given(st.lists(st.integers(0, len(ROWS) - 1), min_size=1, max_size=6, unique=True), st.data())
def test_a_reply_with_many_blocks_over_train_py(tops: list[int], data: st.DataObject) -> None:
    """From reply to file and back: each quoted range is replaced, everything else is the same."""
    expected, text = list(ROWS), ""
    for number, top in enumerate(sorted(tops)):
        size = data.draw(st.integers(1, 3))
        new = [f"new_{number}_{i} = 1\n" for i in range(data.draw(st.integers(0, 3)))]
        following = [t for t in tops if t > top]
        size = min([size, *(t - top for t in following), len(ROWS) - top])
        quoted = "".join(ROWS[top : top + size])
        text += f"<<<<<<< SEARCH\n{quoted}=======\n{''.join(new)}>>>>>>> REPLACE\n"
        expected[top : top + size] = ["".join(new), *[""] * (size - 1)]
    try:
        edits = fitted(list(read_reply(text).blocks), TRAIN)
    except Unreadable:
        assume(False)
    assume(edits)
    assert edits is not None
    assert put(TRAIN, edits) == "".join(expected)
    assert put("".join(expected), reverse(edits)) == TRAIN


def test_the_widened_edit_is_unique_in_a_file_of_equal_lines() -> None:
    source = "a = 1\n" * 3000 + "b = 1\n" + "a = 1\n" * 3000
    edits = fit([Edit(search="b = 1", replace="a = 1")], source)
    assert apply_edits(source, edits) == "a = 1\n" * 6001
    assert put("a = 1\n" * 6001, reverse(edits)) == source


@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=200))
def test_any_texts_fit_or_are_refused(search: str, replace: str, source: str) -> None:
    edits = fitted([Edit(search=search, replace=replace)], source)
    assert edits is None or put(source, edits) != source


@pytest.mark.parametrize("written", ["   DEPTH = 9\n", "31: DEPTH = 9\n", "DEPTH = 10\n"])
def test_the_nearest_place_of_a_constant_is_its_line_whatever_its_comment(written: str) -> None:
    with pytest.raises(CannotApply, match=r"nearest place is line \d+: `DEPTH = 9  "):
        fit([Edit(search=written, replace="DEPTH = 8\n")], TRAIN)

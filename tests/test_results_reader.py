"""Results files as people really write them: separators, headers, encodings, broken lines."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inner_loop.errors import UserError
from inner_loop.records import Experiment, Measured
from inner_loop.results_columns import STATUS_OF, number, status_of
from inner_loop.results_reader import (
    ResultsFile,
    parse_results,
    read_results,
    unreadable_lines,
)
from inner_loop.results_tsv import results_tsv

HEADER = "commit\tval_bpb\tmemory_gb\tstatus\tdescription\n"
BASE = "a1b2c3d\t0.997900\t44.0\tkeep\tbaseline\n"


def scores(file: ResultsFile) -> list[float | None]:
    return [row.bpb for row in file.rows]


def test_upstreams_five_columns() -> None:
    file = parse_results(
        HEADER + BASE + "d4e5f6g\t0.000000\t0.0\tcrash\tdouble model width (OOM)\n", "r.tsv"
    )
    assert file.has_header
    assert file.has_status
    assert scores(file) == [0.9979, None]
    first, crash = file.rows
    assert (first.line, first.commit, first.memory_gb) == (2, "a1b2c3d", 44.0)
    assert (first.status, first.description) == ("keep", "baseline")
    assert (crash.status, crash.description) == ("crash", "double model width (OOM)")


def test_what_the_harness_writes_is_read_back() -> None:
    history = [
        Experiment(
            run_id="r",
            index=i,
            kind="edit",
            commit=f"{i:040x}",
            tree="t",
            parent_commit="p",
            seed=1,
            status=status,  # type: ignore[arg-type]
            description="=a,\tb; c",
            measured=Measured(search_bpb=bpb, memory_gb=1.5, crash=None if bpb else "oom"),
        )
        for i, (status, bpb) in enumerate([("keep", 2.5), ("crash", None), ("discard", 2.75)])
    ]
    file = parse_results(results_tsv("b" * 40, 3.0, history), "results.tsv")
    assert scores(file) == [3.0, 2.5, None, 2.75]
    assert [r.status for r in file.rows] == ["keep", "keep", "crash", "discard"]
    assert {r.description for r in file.rows[1:]} == {"'=a, b; c"}
    assert not file.unreadable


def test_nine_columns_with_commas_quotes_windows_lines_and_a_bom(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_bytes(
        "\ufeffexperiment_id,agent,design,axis,hypothesis,score,peak_vram_mb,status,desc\r\n"
        'exp-01,ada,base,none,start,1.033848,45056,Keep,"baseline, unmodified"\r\n'
        'exp-02,ada,lr,opt,"higher, ""faster""",1.0312,45056,KEPT,double it\r\n'
        "exp-03,bob,arch,depth,,,,crash,OOM at depth 12\r\n"
        "exp-04,bob,arch,depth,,1.0310,45056,near-miss,depth 10, with a comma\r\n"
        "exp-05,bob,arch,depth,,1.0300,45056,checks_failed,gate\r\n".encode()
    )
    file = read_results(path)
    assert scores(file) == [1.033848, 1.0312, None, 1.0310, 1.03]
    assert [r.status for r in file.rows] == ["keep", "keep", "crash", "discard", "discard"]
    assert [r.agent for r in file.rows] == ["ada", "ada", "bob", "bob", "bob"]
    assert file.rows[0].description == "baseline, unmodified"
    assert file.rows[1].extra["hypothesis"] == 'higher, "faster"'
    assert file.rows[3].description == "depth 10, with a comma"
    assert file.rows[0].memory_gb == 44.0
    assert file.rows[0].name == "exp-01"
    assert not file.unreadable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BASE + "b2c3d4e\t0.9932\t44.2\tdiscard\tx\n", [0.9979, 0.9932]),
        (BASE.replace("\t", ",") + "b2c3d4e,nan,0,crash,x\n", [0.9979, None]),
        ("1\tkeep\t0.9979\tbaseline\n2\tdiscard\t0.9990\twider\n", [0.9979, 0.9990]),
        ("exp-01  keep  1.003  44.0  baseline\nexp-02  crash  0.000  0.0  x\n", [1.003, None]),
        ("1;0,9979;44,0;keep;baseline\n2;0,9932;44,0;discard;x\n", [0.9979, 0.9932]),
    ],
)
def test_no_header(text: str, expected: list[float | None]) -> None:
    file = parse_results(text, "r")
    assert not file.has_header
    assert file.has_status
    assert scores(file) == expected
    assert file.rows[0].status == "keep"
    assert file.rows[0].description == "baseline"


def test_tabs_that_echo_did_not_write_and_utf_16(tmp_path: Path) -> None:
    text = HEADER + BASE
    assert scores(parse_results(text.replace("\t", "\\t"), "r")) == [0.9979]
    path = tmp_path / "r.tsv"
    path.write_bytes(text.replace("\n", "\r\n").encode("utf-16"))
    assert scores(read_results(path)) == [0.9979]
    path.write_bytes(text.encode() + b"b2c3d4e\t0.99\t1\tkeep\tcaf\xe9\n")
    assert scores(read_results(path)) == [0.9979, 0.99]


def test_blank_lines_comments_and_a_second_header_are_not_rows() -> None:
    text = f"# my night\n\n# {HEADER}{BASE}\n   \n# lunch, then more, and more\n{HEADER}{BASE}"
    file = parse_results(text, "r")
    assert [r.line for r in file.rows] == [4, 9]
    assert file.repeated_headers == (8,)
    assert not file.unreadable


def test_a_line_that_cannot_be_read_is_named_not_dropped() -> None:
    text = HEADER + BASE + "b2c3d4e\tabout 1\t44\tkeep\tx\nc3d4e5f\nd4e5f6a\t-1\t1\tkeep\ty\n"
    file = parse_results(text, "r")
    assert scores(file) == [0.9979]
    assert [u.line for u in file.unreadable] == [3, 4, 5]
    said = unreadable_lines(file.unreadable, most=2)
    assert said.startswith("3 lines could not be read and were left out: line 3 ('about 1'")
    assert said.endswith("and 1 more.")
    assert unreadable_lines(()) == ""


def test_an_unpaired_quote_swallows_nothing() -> None:
    tabs = HEADER + BASE + 'b2c3d4e\t0.99\t1\tkeep\t"SwiGLU\n' + "c3d4e5f\t0.98\t1\tkeep\tx\n"
    assert scores(parse_results(tabs, "r")) == [0.9979, 0.99, 0.98]
    assert scores(parse_results(tabs.replace("\t", ","), "r")) == [0.9979, 0.99, 0.98]


@pytest.mark.parametrize(
    ("header", "column"),
    [
        ("delta_bpb best_val_bpb val_bpb status", "val_bpb"),
        ("commit val_bpb_duel score status", "val_bpb_duel"),
        ("commit metric score note", "score"),
        ("id Val-BPB verdict note", "Val-BPB"),
        ("commit loss status note", "loss"),
        ("commit train_bpb valid_bpb status", "valid_bpb"),
        ("commit trainBPB bpb status", "bpb"),
        ("commit val_bpb_std val_bpb_mean status", "val_bpb_mean"),
        ("commit val_bpb_sem val_bpb_ema bpb_stderr new_val_bpb status", "new_val_bpb"),
        ("commit test_bpb bpb val_bpb_duel status", "val_bpb_duel"),
        ("commit value_bpb bpb eval_bpb status", "eval_bpb"),
        ("commit score_bpb bpb status", "bpb"),
    ],
)
def test_the_score_column_is_found_by_its_name(header: str, column: str) -> None:
    names = header.split()
    cells = {"status": "keep", "verdict": "keep", "metric": "accuracy", "note": "n", "commit": "a"}
    row = [cells.get(n, "2.5" if n == column else "9.5") for n in names]
    file = parse_results("\t".join(names) + "\n" + "\t".join(row) + "\n", "r")
    assert file.value_column == column
    assert scores(file) == [2.5]


def test_columns_that_could_have_been_the_score_are_listed() -> None:
    def others(header: str) -> tuple[str, ...]:
        names = header.split(",")
        return parse_results(f"{header}\n{','.join('2' for _ in names)}\n", "r").other_value_columns

    assert others("train_bpb,bpb,val_bpb,val_bpb_sd,loss,test_bpb") == ("bpb", "test_bpb")
    assert others("val_bpb,train_bpb,score") == ()
    assert others("id,score,val_loss") == ("val_loss",)
    text = "commit\ttrain_bpb\tstatus\na\t0.9\tkeep\n"
    with pytest.raises(UserError, match=r"columns: commit, train_bpb, status"):
        parse_results(text, "r")


@pytest.mark.parametrize(
    ("yes", "no"),
    [
        *(("1", "0"), ("1.0", "0.0"), ("True", "FALSE"), ("yes", "No"), ("y", "N")),
        *(("\u2713", "\u2717"), ("\u2714\ufe0f", "\u2716\ufe0f"), ("\u2705", "\u274c")),
        *(("\u2705 keep", "\u274c discard"), ("accepted", "rejected"), ("\u2611", "")),
    ],
)
def test_flags_and_marks_say_what_was_kept(yes: str, no: str) -> None:
    for header in ("kept", "status"):
        text = f"commit,val_bpb,{header}\na,0.99,{yes}\nb,0.98,{yes}\nc,0.97,{no}\n"
        file = parse_results(text, "r")
        assert (file.has_status, file.unread_status) == (True, None)
        assert [r.status for r in file.rows] == ["keep", "keep", "discard" if no else "none"]


def test_the_status_column_is_the_one_understood_best() -> None:
    text = "id,val_bpb,status,kept\n1,0.99,ok,1\n2,0,crash,0\n3,0.98,ok,0\n"
    assert [r.status for r in parse_results(text, "r").rows] == ["keep", "crash", "discard"]
    measured = "id,val_bpb,result,note\n1,0.99,1,a\n2,0.98,41.5,b\n3,0.98,43.5,c\n"
    assert parse_results(measured, "r").has_status is False
    assert parse_results(measured, "r").unread_status is None


def test_a_status_that_is_not_understood_is_named() -> None:
    rows = "".join(f"c{i},0.9{i},{w}\n" for i, w in enumerate(["adopted", "", "x", "adopted"]))
    file = parse_results("commit,val_bpb,outcome\n" + rows, "r")
    assert not file.has_status
    assert file.unread_status is not None
    assert file.unread_status.column == "outcome"
    assert file.unread_status.words == ("adopted", "x")
    assert status_of("\u2705\u274c") == status_of("\u2605") == status_of("2") == "unknown"
    assert status_of("\u2014") == status_of(" - ") == "none"


def test_many_repeated_headers_take_no_time() -> None:
    text = HEADER * 20_000 + BASE
    started = time.process_time()
    assert len(parse_results(text, "r").repeated_headers) == 19_999
    assert time.process_time() - started < 2.5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("\n# nothing\n\n", "is empty"),
        (HEADER, "a header and no rows"),
        ("commit\taccuracy\tstatus\na\t0.3\tkeep\n", "columns: commit, accuracy, status"),
        ("hello there\nthis is a note\n", "no header"),
        (HEADER + "a\t0.000000\t0.0\tcrash\tb\n", "crashes only"),
        ("commit\tval_bpb\na\tx y 1\nb\t1e9\n", "no column holds scores|no line has a score"),
    ],
)
def test_what_cannot_be_judged_is_one_sentence(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        parse_results(text, "r.tsv")
    assert str(caught.value).startswith("r.tsv")
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Cannot read"):
        read_results(tmp_path / "nowhere.tsv")
    (tmp_path / "b.tsv").write_bytes(b"\x89PNG\r\n\x00\x00")
    with pytest.raises(UserError, match="not a text file"):
        read_results(tmp_path / "b.tsv")


def test_words_and_numbers() -> None:
    assert status_of("Near-Miss") == status_of("checks_failed") == "discard"
    assert status_of("STRONG_KEEP") == status_of(" Kept ") == "keep"
    assert status_of("") == "none"
    assert status_of("maybe") == "unknown"
    assert number("0,9979") == number("0.9979") == 0.9979
    assert number("nan") is number("inf") is number("1,000,000") is None
    assert len(STATUS_OF) == len(set(STATUS_OF))


@given(st.text(alphabet=st.sampled_from('ab0.1\t,;"\n\r#\\ keep'), max_size=200) | st.text())
def test_any_text_is_a_file_or_a_sentence(text: str) -> None:
    try:
        file = parse_results(text, "r")
    except UserError:
        return
    assert any(row.bpb is not None for row in file.rows)


ROW = st.tuples(
    st.sampled_from(["keep", "discard", "crash"]),
    st.floats(0.5, 4).map(lambda x: round(x, 6)),
    st.text(alphabet=st.sampled_from("abcdef ,;\"'|0123"), max_size=20).map(str.strip),
)


@settings(deadline=None)
@given(
    rows=st.lists(ROW, min_size=1, max_size=8),
    separator=st.sampled_from("\t,;"),
    newline=st.sampled_from(["\n", "\r\n"]),
    order=st.permutations(["commit", "val_bpb", "memory_gb", "status", "description"]),
    bom=st.sampled_from(["", "\ufeff"]),
)
def test_every_dialect_says_the_same(
    rows: list[tuple[str, float, str]], separator: str, newline: str, order: list[str], bom: str
) -> None:
    out = io.StringIO()
    writer = csv.DictWriter(out, order, delimiter=separator, lineterminator=newline)
    writer.writeheader()
    told = [("keep", 1.5, "start"), *rows]
    for i, (status, bpb, text) in enumerate(told):
        score = "0.000000" if status == "crash" else f"{bpb:.6f}"
        cells = {"commit": f"{i:07d}x", "memory_gb": "44.0", "status": status}
        writer.writerow(cells | {"val_bpb": score, "description": text})
    file = parse_results(bom + out.getvalue(), "r")
    expected = [(s, None if s == "crash" else b, text.strip()) for s, b, text in told]
    assert [(r.status, r.bpb, r.description) for r in file.rows] == expected
    assert not file.unreadable

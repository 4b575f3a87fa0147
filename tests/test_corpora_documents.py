"""Documents of .txt, .jsonl and .parquet files, and the order and split they get."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inner_loop.corpora import documents
from inner_loop.corpora.documents import cut_text, parquet_size, read_documents, text_bytes
from inner_loop.corpora.splits import SHARES, SPLITS, digest_of, split_of
from inner_loop.corpora.spool import Spool
from inner_loop.corpora.tokens import first_characters
from inner_loop.errors import UserError

TEXTS = ["the king", "naïve café\n\n你好 🦉", '"quoted" \\ text', "tab\tand\nline"]
any_text = st.text(st.characters(exclude_categories=["Cs"]))


def write(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def jsonl(texts: Iterable[str]) -> bytes:
    lines = [json.dumps({"text": t, "id": i} if i % 2 else t) for i, t in enumerate(texts)]
    return ("\n".join(lines) + "\n").encode()


# Reading


def test_all_kinds_of_file_give_the_same_documents(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [*TEXTS, "", None]}), tmp_path / "c.parquet")
    lines = write(tmp_path, "c.jsonl", b"\xef\xbb\xbf" + jsonl(TEXTS) + b'\n""\n{"text": " "}\n')
    names = [write(tmp_path, f"{i}.TXT", t.encode()) for i, t in enumerate(TEXTS)]
    assert list(read_documents(tmp_path / "c.parquet")) == TEXTS
    assert list(read_documents(lines)) == TEXTS
    assert [text for name in names for text in read_documents(name)] == TEXTS


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(any_text))
def test_json_lines_lose_nothing(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), "c.jsonl", jsonl(texts))
        assert list(read_documents(path)) == [t for t in texts if t.strip()]


def test_a_long_text_is_cut_at_blank_lines(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {i}. " + "word " * 150 + "\n\n" for i in range(200)]
    path = write(tmp_path, "novel.txt", "".join(paragraphs).encode())
    found = list(read_documents(path))
    assert "".join(found) == "".join(paragraphs)
    assert all(text.startswith("Paragraph ") and text.endswith("\n\n") for text in found)
    assert all(documents.GOAL <= len(text) < documents.GOAL + 800 for text in found[:-1])


def test_a_short_text_is_one_document(tmp_path: Path) -> None:
    text = "A paragraph.\n\n" * 7000
    assert len(text) < documents.WHOLE_FILE
    assert list(read_documents(write(tmp_path, "a.txt", text.encode()))) == [text]


def test_one_endless_line_is_cut_too(tmp_path: Path) -> None:
    text = "ñ" * 200_000
    found = list(read_documents(write(tmp_path, "a.txt", text.encode())))
    assert "".join(found) == text
    assert max(map(len, found)) == documents.MOST


@given(
    lines=st.lists(st.sampled_from(["", " ", "a", "bb", "ccccc"]).map(lambda s: s + "\n")),
    goal=st.integers(1, 12),
)
def test_cutting_keeps_every_character(lines: list[str], goal: int) -> None:
    pieces = list(cut_text(lines, goal, most=12))
    assert "".join(pieces) == "".join(lines)
    assert all(0 < len(piece) <= 12 for piece in pieces)


def test_reading_reports_about_the_size_of_the_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS * 1000}), tmp_path / "c.parquet", row_group_size=700)
    for path in (tmp_path / "c.parquet", write(tmp_path, "c.jsonl", jsonl(TEXTS * 1000))):
        ticks: list[int] = []
        assert len(list(read_documents(path, ticks.append))) == 4000
        assert len(ticks) > 2
        assert 0.9 * path.stat().st_size < sum(ticks) <= path.stat().st_size


def test_the_size_of_a_parquet_text_is_known_before_reading(tmp_path: Path) -> None:
    texts = [f"{i} " * 100 for i in range(500)]
    pq.write_table(pa.table({"text": texts, "other": texts}), tmp_path / "c.parquet")
    size = sum(len(t.encode()) for t in texts)
    assert parquet_size(tmp_path / "c.parquet").rows == 500
    assert size <= text_bytes(tmp_path / "c.parquet") < 1.1 * size


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("a.txt", "fine\nfine\nna\xefve".encode("latin-1"), r"a\.txt, line 3: not UTF-8; save"),
        ("a.txt", "wide".encode("utf-16"), r"line 1: not UTF-8"),
        ("a.jsonl", b'"fine"\n"\xff"\n', r"a\.jsonl, line 2: not UTF-8"),
        ("a.jsonl", b'"fine"\n\n{"text": "half\n', r"line 3: not JSON \(.*\); correct"),
        ("a.jsonl", b'{"body": "x"}\n', r"line 1: no field `text`"),
        ("a.jsonl", b'{"text": 7}\n', r"line 1: `text` must be a string, not 7\."),
        ("a.jsonl", b"[1]\n", r"line 1: `text` must be a string, not \[1\]"),
        ("a.jsonl", b'"\\ud83e"\n', r"line 1: half a surrogate pair"),
        ("a.jsonl", b"[" * 100_000, r"line 1: not JSON"),
        ("a.parquet", b"noise" * 200, r"a\.parquet: cannot read the corpus as parquet"),
    ],
)
def test_a_broken_file_is_one_sentence_that_names_the_line(
    tmp_path: Path, name: str, data: bytes, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        list(read_documents(write(tmp_path, name, data)))
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_parquet_file_without_texts_is_one_sentence(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "body.parquet")
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "numbers.parquet")
    with pytest.raises(UserError, match="no column `text`"):
        list(read_documents(tmp_path / "body.parquet"))
    with pytest.raises(UserError, match="must hold strings, not int64"):
        list(read_documents(tmp_path / "numbers.parquet"))


def test_a_damaged_parquet_page_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table({"text": [f"text {i}" for i in range(5000)]}), path)
    data = bytearray(path.read_bytes())
    data[4:2000] = b"\xff" * 1996
    path.write_bytes(data)
    with pytest.raises(UserError, match="cannot read the corpus as parquet"):
        list(read_documents(path))


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    for name in ("absent.txt", "absent.jsonl", "absent.parquet"):
        with pytest.raises(UserError, match=r"No such file or directory.*; check the path"):
            list(read_documents(tmp_path / name))


# Order and splits


def spooled(texts: list[str], buckets: int, folder: Path) -> Spool:
    expected = (buckets - 1) * (1 << 26)
    spool = Spool.write(folder / "spool", iter(texts), expected)
    assert spool.buckets == buckets
    return spool


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(any_text, max_size=60), buckets=st.integers(1, 30))
def test_every_document_is_in_exactly_one_split_in_order_of_its_hash(
    texts: list[str], buckets: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool = spooled(texts, buckets, Path(folder))
        splits = {split: list(spool.read(split)) for split in SPLITS}
    assert Counter(t for found in splits.values() for t in found) == Counter(texts)
    for split, found in splits.items():
        digests = [digest_of(t) for t in found]
        assert digests == sorted(digests)
        assert {split_of(d) for d in digests} <= {split}
        assert spool.documents[split] == len(found)
        assert spool.bytes[split] == sum(len(t.encode()) for t in found)


def test_the_order_of_reading_and_the_number_of_buckets_change_nothing(tmp_path: Path) -> None:
    texts = [f"{i} naïve 🦉" for i in range(500)]
    orders = []
    for buckets, given_ in ((1, texts), (7, texts[::-1]), (100, texts[250:] + texts[:250])):
        folder = tmp_path / str(buckets)
        folder.mkdir()
        spool = spooled(given_, buckets, folder)
        orders.append([list(spool.read(split)) for split in SPLITS])
    assert orders[0] == orders[1] == orders[2]


def test_a_split_stays_when_other_documents_come_and_go(tmp_path: Path) -> None:
    texts = [str(i) for i in range(300)]
    (tmp_path / "b").mkdir()
    before, after = spooled(texts, 3, tmp_path), spooled([*texts[50:], "new"], 3, tmp_path / "b")
    for split in SPLITS:
        kept = [t for t in before.read(split) if t in texts[50:]]
        assert kept == [t for t in after.read(split) if t != "new"]


def test_equal_texts_share_a_split(tmp_path: Path) -> None:
    spool = spooled([str(i % 100) for i in range(300)], 4, tmp_path)
    for split in SPLITS:
        assert set(Counter(spool.read(split)).values()) <= {3}


def test_the_split_shares_are_about_85_5_5_5() -> None:
    counts = Counter(split_of(digest_of(str(i))) for i in range(20000))
    assert {s: counts[s] / 20000 for s in SPLITS} == pytest.approx(SHARES, abs=0.01)


def test_the_edges_of_all_digests_have_a_split() -> None:
    assert split_of(b"\0" * 32) == "train"
    assert split_of(b"\xff" * 32) == "locked"


@given(st.lists(st.text("ab", max_size=9)), st.integers(0, 40), st.integers(1, 9))
def test_the_tokenizer_sees_the_first_characters_only(
    texts: list[str], most: int, each: int
) -> None:
    cut = [t[:each] for t in texts]
    assert "".join(first_characters(texts, most, each)) == "".join(cut)[:most]

"""A corpus becomes a cache folder: whole or not there, the same for everyone, and once."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from corpora_fixture import (
    LENGTH,
    PREPARE,
    TASK,
    climb,
    contents,
    prepared,
    some_texts,
    write_corpus,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_server import ShardServer, serving, shard_texts

from inner_loop.corpora import cache, climbmix, tokens
from inner_loop.corpora.source import CLIMBMIX, Source
from inner_loop.corpora.splits import SHARDS, SPLITS, digest_of, split_of
from inner_loop.errors import UserError


class Made(NamedTuple):
    """A prepared cache."""

    cache: Path
    corpus: Path
    texts: list[str]
    tokenizer: Any


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    texts = some_texts()
    corpus = write_corpus(folder / "corpus.parquet", texts)
    prepared(folder / "cache", corpus)
    data = json.loads((folder / "cache" / "tokenizer.json").read_text())
    return Made(folder / "cache", corpus, texts, PREPARE.Tokenizer(data))


def by_hash(texts: list[str], split: str) -> list[str]:
    return sorted((t for t in texts if split_of(digest_of(t)) == split), key=digest_of)


# What is in the files


def test_train_is_every_document_behind_its_bos_by_hash(made: Made) -> None:
    bos = made.tokenizer.get_bos_token_id()
    expected = [
        i for t in by_hash(made.texts, "train") for i in made.tokenizer.encode(t, prepend=bos)
    ]
    assert np.fromfile(made.cache / "train.bin", dtype="<u2").tolist() == expected


def test_shards_are_packed_rows_of_their_own_documents(made: Made) -> None:
    bos = made.tokenizer.get_bos_token_id()
    for split in SHARDS:
        documents = made.tokenizer.encode(by_hash(made.texts, split), prepend=bos)
        stream = np.array([i for ids in documents for i in ids], dtype="<u2")
        rows = np.fromfile(made.cache / f"{split}.bin", dtype="<u2").reshape(-1, LENGTH)
        assert (rows == PREPARE.pack_rows(stream, bos, LENGTH)).all()
        assert (rows[:, 0] == bos).all()
        assert len(rows) > 0


def test_the_tokenizer_is_plain_data_and_the_byte_table_is_its(made: Made) -> None:
    data = json.loads((made.cache / "tokenizer.json").read_text())
    assert sorted(data) == ["format", "pattern", "special_tokens", "tokens"]
    assert made.tokenizer.get_vocab_size() == 300
    table = np.load(made.cache / "token_bytes.npy")
    assert table.dtype == np.int32
    assert table[-4:].tolist() == [0] * 4
    assert table[made.tokenizer.encode("naïve 🦉")].sum() == len("naïve 🦉".encode())


def test_bpe_is_trained_on_the_train_split_only(made: Made, tmp_path: Path) -> None:
    marked: list[str] = []
    while len(marked) < 20:  # hidden documents, full of a word that train never has
        text = f"{len(marked)} {random.random()} " + "zyxwvut " * 50
        if split_of(digest_of(text)) != "train":
            marked.append(text)
    prepared(tmp_path / "c", write_corpus(tmp_path / "c.parquet", made.texts + marked))
    assert contents(tmp_path / "c")["tokenizer.json"] == contents(made.cache)["tokenizer.json"]


def test_the_manifest_tells_sizes_and_hashes(made: Made) -> None:
    manifest = cache.read_manifest(made.cache)
    assert manifest
    assert sorted(manifest["files"]) == sorted(
        ["tokenizer.json", "token_bytes.npy", *(f"{s}.bin" for s in SPLITS)]
    )
    for name, entry in manifest["files"].items():
        assert entry["bytes"] == (made.cache / name).stat().st_size
        assert entry["sha256"] == cache.file_sha256(made.cache / name)
    assert manifest["row_tokens"] == LENGTH
    assert manifest["corpus_sha256"] == cache.file_sha256(made.corpus)
    for split, counts in manifest["splits"].items():
        texts = by_hash(made.texts, split)
        assert counts["documents"] == len(texts)
        assert counts["bytes"] == sum(len(t.encode()) for t in texts)
        size = (made.cache / f"{split}.bin").stat().st_size // 2
        assert size == (counts["tokens"] if split == "train" else counts["rows"] * LENGTH)


def test_every_kind_of_file_gives_the_same_data(made: Made, tmp_path: Path) -> None:
    texts = [t.strip("\n") for t in made.texts]
    parquet = write_corpus(tmp_path / "a.parquet", texts)
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    files = [tmp_path / f"{i}.txt" for i in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    halves = [write_corpus(tmp_path / "b1.parquet", texts[:90]), tmp_path / "b2.jsonl"]
    halves[1].write_text("".join(json.dumps(t) + "\n" for t in texts[90:]))
    kinds = {"parquet": [parquet], "jsonl": [lines], "txt": files, "both": halves}
    found = []
    for kind, paths in kinds.items():
        prepared(tmp_path / kind, *paths)
        found.append({n: d for n, d in contents(tmp_path / kind).items() if n != "manifest.json"})
    assert found[0] == found[1] == found[2] == found[3]


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip), max_size=30
    ),
    packed=st.sampled_from([40, 1 << 22]),
    most=st.none() | st.integers(1, 40),
)
def test_rows_lose_no_document_and_take_no_more_than_they_need(
    made: Made, texts: list[str], packed: int, most: int | None
) -> None:
    """With a packing that loses nothing but the tail, rows are the stream in order."""
    bos = made.tokenizer.get_bos_token_id()
    stream = [i for ids in made.tokenizer.encode(texts, prepend=bos) for i in ids]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "PACKED_TOKENS", packed)
        patch.setattr(tokens, "BATCH_DOCUMENTS", 3)
        patch.setattr(tokens, "FEWEST_ROWS", 1)
        done: list[int] = []
        writer = tokens.RowWriter(made.tokenizer, lambda t, _, n: t.reshape(-1, 1), 1, most)
        counts = writer.write(Path(folder) / "rows", iter(texts), done.append)
        rows = np.fromfile(Path(folder) / "rows", dtype="<u2").tolist()
    assert rows == stream[:most]
    assert counts.rows == len(rows)
    assert sum(done) == counts.documents <= len(texts)
    if most is None:
        assert counts.documents == len(texts)


# The folder


def test_a_complete_cache_is_left_alone(made: Made) -> None:
    before = {p: p.stat().st_mtime_ns for p in made.cache.iterdir()}
    assert prepared(made.cache, made.corpus) == [f"Data is ready in {made.cache}"]
    assert prepared(made.cache) == [f"Data is ready in {made.cache}"]  # nor is the corpus needed
    assert {p: p.stat().st_mtime_ns for p in made.cache.iterdir()} == before


def spoil_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def spoil_half_a_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text()[:80])


def spoil_an_old_manifest(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["key"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def spoil_a_bin(folder: Path) -> None:
    os.truncate(folder / "train.bin", 100)


def spoil_a_missing_file(folder: Path) -> None:
    (folder / "token_bytes.npy").unlink()


def spoil_a_killed_build(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    for left in (".build", ".spool"):
        (folder / left).mkdir()
        (folder / left / "train.bin").write_bytes(b"half")


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_manifest,
        spoil_half_a_manifest,
        spoil_an_old_manifest,
        spoil_a_bin,
        spoil_a_missing_file,
        spoil_a_killed_build,
    ],
)
def test_a_half_written_cache_is_rebuilt(
    made: Made, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    shutil.copytree(made.cache, tmp_path / "c")
    spoil(tmp_path / "c")
    (said,) = prepared(tmp_path / "c", made.corpus)
    assert said.startswith("Prepared letters in ")
    assert contents(tmp_path / "c") == contents(made.cache)


def test_another_corpus_takes_a_folder_only_when_told_to(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    shutil.copytree(made.cache, folder)
    other = write_corpus(tmp_path / "c.parquet", some_texts(prefix="other "))
    sha256 = cache.file_sha256(made.corpus)[:12]
    with pytest.raises(UserError) as error:
        prepared(folder, other)
    sentence = str(error.value)
    assert sentence.startswith(f"{folder} holds the corpus letters (sha256 {sha256}), which")
    assert "--cache DIR" in sentence
    assert "METARESEARCH_CACHE" in sentence
    assert sentence.endswith("or --replace to put it in this one.")
    left = contents(folder)
    assert left.pop(".lock") == b""
    assert left == {n: d for n, d in contents(made.cache).items() if n != ".lock"}
    assert "Prepared" in prepared(folder, other, replace=True)[0]
    assert contents(folder)["train.bin"] != contents(made.cache)["train.bin"]


def test_a_folder_that_is_not_whole_holds_nobodys_corpus(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.cache, tmp_path / "c")
    spoil_a_bin(tmp_path / "c")
    other = write_corpus(tmp_path / "c.parquet", some_texts(prefix="other "))
    assert "Prepared" in prepared(tmp_path / "c", other)[0]


def test_a_changed_task_is_prepared_again(made: Made, tmp_path: Path) -> None:
    folder, other = tmp_path / "c", made.corpus
    shutil.copytree(made.cache, folder)
    assert "Prepared" in prepared(folder, other, max_seq_len=8)[0]
    assert "Prepared" in prepared(folder, other, vocab_size=290, max_seq_len=8)[0]
    assert "ready" in prepared(folder, other, vocab_size=290, max_seq_len=8, name="x")[0]


def test_files_of_others_in_the_folder_survive(made: Made, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    prepared(tmp_path, made.corpus)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_key_follows_the_data_and_nothing_else(made: Made) -> None:
    def key(source: Source = Source("letters", (made.corpus,)), **changes: Any) -> str:  # noqa: B008
        return cache.cache_key({**TASK, **changes}, source)

    shards = Source(CLIMBMIX, shards=10)
    assert key() == key(name="other", clock="wall", time_budget=9, eval_tokens=64)
    assert len({key(), key(vocab_size=301), key(max_seq_len=17), key(shards)}) == 4
    assert key(shards) == key(shards._replace(base_url="http://mirror", workers=1))
    keys = {key(shards), key(shards._replace(shards=11)), key(shards, salt="2")}
    assert len(keys | {key(shards, eval_tokens=1 << 21)}) == 4


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (some_texts(3), r"letters: the corpus is too small: the \w+ split has .* give more text"),
        ([" "], "no documents"),
    ],
)
def test_a_corpus_without_enough_text_is_one_sentence(
    tmp_path: Path, texts: list[str], sentence: str
) -> None:
    corpus = write_corpus(tmp_path / "few.parquet", texts)
    with pytest.raises(UserError, match=sentence):
        prepared(tmp_path / "c", corpus)
    assert [p.name for p in (tmp_path / "c").iterdir()] == [".lock"]


def test_no_corpus_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No corpus is named 'letters'; .*--corpus"):
        prepared(tmp_path / "c")
    with pytest.raises(UserError, match=r"gone\.jsonl: no such corpus file"):
        prepared(tmp_path / "c", tmp_path / "gone.jsonl")


def test_two_threads_prepare_at_the_same_time_and_one_works(made: Made, tmp_path: Path) -> None:
    said: list[str] = []
    threads = [
        threading.Thread(target=lambda: said.extend(prepared(tmp_path / "c", made.corpus)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum("Prepared" in s for s in said) == 1
    assert sum("ready" in s for s in said) == 1
    assert contents(tmp_path / "c") == contents(made.cache)


# Climbmix


@pytest.fixture(scope="module")
def server() -> Iterator[ShardServer]:
    with serving() as shards:
        yield shards


def test_shards_become_splits_in_their_order(server: ShardServer, tmp_path: Path) -> None:
    climb(server, tmp_path, shards=2)
    names = climbmix.shard_names(2, "0")
    tokenizer = PREPARE.Tokenizer(json.loads((tmp_path / "c" / "tokenizer.json").read_text()))
    bos = tokenizer.get_bos_token_id()
    for split in SPLITS:
        texts = [t for name in names[split] for t in shard_texts(name)]
        stream = [i for ids in tokenizer.encode(texts, prepend=bos) for i in ids]
        if split != "train":
            stream = PREPARE.pack_rows(np.array(stream, dtype="<u2"), bos, LENGTH).ravel().tolist()
        assert np.fromfile(tmp_path / "c" / f"{split}.bin", dtype="<u2").tolist() == stream
    kept = {p.name for p in (tmp_path / "downloads" / "climbmix").glob("*.parquet")}
    assert kept == {name for found in names.values() for name in found}


def test_the_number_of_shards_stays_what_was_asked_for(server: ShardServer, tmp_path: Path) -> None:
    climb(server, tmp_path, shards=2)
    assert "ready" in climb(server, tmp_path, shards=None)[0]
    held = r"holds the corpus climbmix \(training shards: 2, salt '0'\), .* or --replace"
    with pytest.raises(UserError, match=held):
        climb(server, tmp_path, shards=1)
    assert "ready" in climb(server, tmp_path, shards=2)[0]
    assert "Prepared" in climb(server, tmp_path, shards=1, replace=True)[0]
    with pytest.raises(UserError, match=r"\(training shards: 1, salt '0'\)"):
        climb(server, tmp_path, shards=1, salt="next season")
    assert "Prepared" in climb(server, tmp_path, salt="next season", replace=True)[0]


def test_climbmix_and_own_texts_do_not_take_each_others_folder(
    made: Made, server: ShardServer, tmp_path: Path
) -> None:
    climb(server, tmp_path)
    with pytest.raises(UserError, match="holds the corpus climbmix"):
        prepared(tmp_path / "c", made.corpus)
    prepared(tmp_path / "c", made.corpus, replace=True)
    with pytest.raises(UserError, match=r"holds the corpus letters .* to prepare climbmix in"):
        climb(server, tmp_path)


def test_validation_shards_hold_no_more_than_is_scored(
    server: ShardServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "SHARD_TOKENS", 16 * 70)
    monkeypatch.setattr(tokens, "BATCH_DOCUMENTS", 2)
    climb(server, tmp_path)
    manifest = cache.read_manifest(tmp_path / "c")
    assert manifest
    for split in SHARDS:
        assert manifest["splits"][split]["rows"] == 70
        assert manifest["splits"][split]["documents"] < 60
    climb(server, tmp_path, eval_tokens=16 * 90)
    assert (tmp_path / "c" / "audit.bin").stat().st_size == 90 * LENGTH * 2


def test_a_broken_shard_is_one_sentence(server: ShardServer, tmp_path: Path) -> None:
    folder = tmp_path / "downloads" / "climbmix"
    folder.mkdir(parents=True)
    (folder / "shard_00000.parquet").write_bytes(b"copied by hand, half")
    with pytest.raises(UserError, match=r"shard_00000\.parquet: cannot read .* replace or remove"):
        climb(server, tmp_path)

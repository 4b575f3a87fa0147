"""Preparation: from a source to a whole cache folder, once.

Owns: the order of the work, the manifest, and what makes a corpus too small.
Does not own: any single step, nor the tokenizer and the packing (`Tools`).

Text is read, encoded and written in parts: memory does not grow with the corpus (see `spool`).
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inner_loop.corpora import cache as store
from inner_loop.corpora import climbmix
from inner_loop.corpora.documents import parquet_size, read_documents, text_bytes
from inner_loop.corpora.meter import Meters
from inner_loop.corpora.source import DEFAULT_SHARDS, SUFFIXES, Source
from inner_loop.corpora.splits import SHARES, SPLIT_RULE, SPLITS, Split
from inner_loop.corpora.spool import Spool
from inner_loop.corpora.tokens import (
    TRAINING_CHARACTERS,
    Encoder,
    RowWriter,
    Tools,
    counted,
    first_characters,
    train_tokenizer,
    write_stream,
)
from inner_loop.errors import UserError
from inner_loop.records import content_hash

__all__ = ["Tools", "prepare"]


class Text(NamedTuple):
    """The documents of one split."""

    read: Callable[[], Iterator[str]]
    """Reads them from the start, each time in the same order."""
    documents: int
    bytes: int
    """About."""


class Corpus(NamedTuple):
    """The text of all splits, and how to name it."""

    splits: Mapping[Split, Text]
    sha256: str
    """Of the file; of the hashes of the files if there are several."""
    facts: Mapping[str, Any]
    """For the manifest: how the splits were made."""
    rows: int | None
    """Rows that each validation shard needs; None = all of its text."""


def prepare(
    task: Mapping[str, Any],
    cache: Path,
    source: Source,
    tools: Tools,
    say: Callable[[str], None],
    meters: Meters | None = None,
) -> Path:
    """Fill a cache folder for a task, unless it is filled.

    Args:
        task: as in task.json; `salt` (default "0") chooses the hidden shards of climbmix.
        cache: the folder; files of others in it stay.
        source: what to read.
        tools: the tokenizer and the packing.
        say: told one sentence at a time.
        meters: shows progress; default: a bar on a terminal, else lines through `say`.

    Returns:
        The folder.

    Raises:
        UserError: the corpus is missing, unreadable or too small, or cannot be downloaded; or the
            folder holds another one, and the source is not to `replace` it.
        OSError: the folder cannot be written, or the disk is full.
    """
    if not store.ready(task, cache, source):
        with store.folder_lock(cache, lambda: say(f"Another process prepares {cache}; waiting.")):
            if not store.ready(task, cache, source):  # that process may have prepared it
                _refuse_to_replace(task, cache, source)
                manifest = _fill(task, cache, source, tools, meters or Meters(say))
                say(_summary(manifest, cache))
                return cache
    say(f"Data is ready in {cache}")
    return cache


def _refuse_to_replace(task: Mapping[str, Any], cache: Path, source: Source) -> None:
    other = "" if source.replace else store.other_corpus(task, cache, source)
    if other:
        raise UserError(
            f"{cache} holds the corpus {other}, which experiments may be using: give --cache DIR "
            f"to prepare {source.name} in another folder (and METARESEARCH_CACHE=DIR when "
            "training), or --replace to put it in this one."
        )


def _summary(manifest: Mapping[str, Any], cache: Path) -> str:
    splits = manifest["splits"].items()
    tokens = ", ".join(f"{name} {counts['tokens']:,}" for name, counts in splits)
    return f"Prepared {manifest['corpus']} in {cache} (tokens: {tokens})"


def _fill(
    task: Mapping[str, Any], cache: Path, source: Source, tools: Tools, meters: Meters
) -> dict[str, Any]:
    if source.is_climbmix:
        source = source._replace(shards=source.shards or DEFAULT_SHARDS)
    else:
        _check_files(source)
    key = store.key_fields(task, source)  # before reading: what changes meanwhile is built again
    with _empty_folder(cache / ".build") as folder, _empty_folder(cache / ".spool") as spool:
        if source.is_climbmix:
            corpus = _climbmix(task, source, cache.parent / "downloads" / source.name, meters)
        else:
            corpus = _own_files(source, key["corpus_sha256"], spool, meters)
        facts = _write_files(task, corpus, tools, folder, meters)
        _check_sizes(facts["splits"], task, source)
        manifest = _manifest(key, source, corpus, facts, folder)
        store.install(folder, cache, manifest)
    return manifest


@contextlib.contextmanager
def _empty_folder(folder: Path) -> Iterator[Path]:
    shutil.rmtree(folder, ignore_errors=True)  # what a killed builder left
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_files(source: Source) -> None:
    if not source.files:
        raise UserError(
            f"No corpus is named '{source.name}'; give your own {'/'.join(SUFFIXES)} files with "
            "--corpus FILE."
        )
    for path in source.files:
        if not path.is_file():
            raise UserError(f"{path}: no such corpus file; give the right one with --corpus FILE.")


def _climbmix(task: Mapping[str, Any], source: Source, folder: Path, meters: Meters) -> Corpus:
    names = climbmix.shard_names(source.shards or DEFAULT_SHARDS, store.salt_of(task))
    wanted = [name for split in SPLITS for name in names[split]]
    hashes = climbmix.download(wanted, folder, source, meters)
    splits = {split: _shards([folder / name for name in names[split]]) for split in SPLITS}
    rows = -(-store.shard_tokens(task) // int(task["max_seq_len"]))
    sha256 = content_hash({split: [hashes[n] for n in names[split]] for split in SPLITS}, length=64)
    return Corpus(splits, sha256, {"shards": names}, rows)


def _shards(paths: list[Path]) -> Text:
    def read() -> Iterator[str]:
        for path in paths:
            yield from read_documents(path)

    sizes = [parquet_size(path) for path in paths]
    return Text(read, sum(s.rows for s in sizes), sum(s.text_bytes for s in sizes))


def _own_files(source: Source, sha256: str, folder: Path, meters: Meters) -> Corpus:
    with meters.meter("Reading", sum(path.stat().st_size for path in source.files)) as meter:
        texts = (text for path in source.files for text in read_documents(path, meter.advance))
        spool = Spool.write(folder / "texts", texts, sum(map(text_bytes, source.files)))
    if not spool.documents.total():
        raise UserError(f"{source.name}: the corpus has no documents; give a file with text.")
    splits = {
        split: Text(partial(spool.read, split), spool.documents[split], spool.bytes[split])
        for split in SPLITS
    }
    return Corpus(splits, sha256, {"split_shares": SHARES}, None)


def _write_files(
    task: Mapping[str, Any], corpus: Corpus, tools: Tools, folder: Path, meters: Meters
) -> dict[str, Any]:
    """Write everything but the manifest, and return what it is to say of it."""
    encoder = _write_tokenizer(task, corpus.splits["train"], tools, folder, meters)
    length, counts = int(task["max_seq_len"]) + 1, {}
    total = sum(text.documents for text in corpus.splits.values())
    with meters.meter("Tokenising", total, "documents") as meter:
        for split, text in corpus.splits.items():
            path = folder / f"{split}.bin"
            if split == "train":
                made = write_stream(path, text.read(), encoder, meter.advance)
            else:
                rows = RowWriter(encoder, tools.pack, length, corpus.rows)
                made = rows.write(path, text.read(), meter.advance)
            counts[split] = {k: v for k, v in made._asdict().items() if v is not None}
    return {"vocab_size": encoder.get_vocab_size(), "row_tokens": length, "splits": counts}


def _write_tokenizer(
    task: Mapping[str, Any], text: Text, tools: Tools, folder: Path, meters: Meters
) -> Encoder:
    with meters.meter("Training the tokenizer", min(text.bytes, TRAINING_CHARACTERS)) as meter:
        texts = counted(first_characters(text.read()), meter.advance)
        data = train_tokenizer(texts, int(task["vocab_size"]))
    encoder = tools.tokenizer(data)
    store.write_file(folder / "tokenizer.json", json.dumps(data, indent=0).encode())
    table = io.BytesIO()
    np.save(table, encoder.token_bytes())
    store.write_file(folder / "token_bytes.npy", table.getvalue())
    return encoder


def _check_sizes(
    counts: Mapping[str, Mapping[str, int]], task: Mapping[str, Any], source: Source
) -> None:
    need = int(task["max_seq_len"]) + 1
    for split, has in counts.items():
        if has["tokens"] < need or has.get("rows") == 0:
            raise UserError(
                f"{source.name}: the corpus is too small: the {split} split has {has['documents']} "
                f"documents and {has['tokens']} tokens, and needs at least 1 and {need}; give more "
                "text."
            )


def _manifest(
    key: Mapping[str, Any], source: Source, corpus: Corpus, facts: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": store.file_sha256(path)}
        for path in sorted(folder.iterdir())
    }
    named = {"corpus": source.name, "corpus_sha256": corpus.sha256, "split_rule": SPLIT_RULE}
    return {
        "data_key": content_hash(key),
        "key": dict(key),
        **named,
        **corpus.facts,
        **facts,
        "files": files,
    }

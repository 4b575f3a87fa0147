"""Text to tokens: training the tokenizer, and writing the files of a cache folder.

Owns: the split pattern and special tokens, the tokenizer as plain data, `train.bin` (a stream
of documents, each BOS + tokens) and the shards' rows of `max_seq_len + 1` tokens; all are
little-endian uint16.
Does not own: encoding and packing (`Tools`, handed in by prepare.py).
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

SPECIAL_TOKENS = ["<|reserved_0|>", "<|reserved_1|>", "<|reserved_2|>", "<|reserved_3|>"]
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
"""GPT-4's, with numbers cut at two digits: a small vocabulary has no room for three."""
TRAINING_CHARACTERS = 1_000_000_000
"""Text that the tokenizer is trained on, at most (upstream's number)."""
DOCUMENT_CHARACTERS = 10_000
"""Of each document, at most (upstream's number)."""
BATCH_CHARACTERS, BATCH_DOCUMENTS = 1_000_000, 1024
"""Encoded at a time."""
PACKED_TOKENS = 1 << 22
"""Packed into rows at a time: bounds memory, and costs at most a few rows a time."""

FEWEST_ROWS = 64
"""Packed at a time, at least."""

Tokens = NDArray[np.uint16]
Pack = Callable[[Tokens, int, int], Tokens]
"""(stream, bos, length) -> rows of shape (N, length), each beginning with BOS."""


class Encoder(Protocol):
    """A tokenizer, as prepare.py makes one from its data."""

    def encode(self, text: list[str], prepend: int | None = None) -> list[list[int]]:
        """The token ids of each text, behind `prepend`."""

    def get_bos_token_id(self) -> int:
        """The id that opens a document."""

    def get_vocab_size(self) -> int:
        """Number of ids, special tokens included."""

    def token_bytes(self) -> NDArray[np.int32]:
        """Bytes that each id stands for; 0 for special tokens."""


class Tools(NamedTuple):
    """What prepare.py lends, so that nothing here imports it."""

    tokenizer: Callable[[dict[str, Any]], Encoder]
    """A tokenizer from its data (`train_tokenizer`)."""
    pack: Pack


class Counts(NamedTuple):
    """How much a split holds."""

    documents: int = 0
    tokens: int = 0
    """Tokens of these documents, one BOS each included."""
    bytes: int = 0
    """UTF-8 bytes of their text."""
    rows: int | None = None
    """Rows of a validation shard."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> dict[str, Any]:
    """Train BPE.

    Args:
        texts: from the train split only.
        vocab_size: special tokens included.

    Returns:
        The tokenizer as plain data: tokens in order of rank, base64. Small texts give fewer tokens.
    """
    import rustbpe

    bpe = rustbpe.Tokenizer()
    bpe.train_from_iterator(iter(texts), vocab_size - len(SPECIAL_TOKENS), pattern=SPLIT_PATTERN)
    ranks = sorted(bpe.get_mergeable_ranks(), key=lambda pair: pair[1])
    assert [rank for _, rank in ranks] == list(range(len(ranks)))
    tokens = [base64.b64encode(bytes(token)).decode() for token, _ in ranks]
    return {
        "format": 1,
        "pattern": SPLIT_PATTERN,
        "special_tokens": SPECIAL_TOKENS,
        "tokens": tokens,
    }


def first_characters(
    texts: Iterable[str], most: int = TRAINING_CHARACTERS, each: int = DOCUMENT_CHARACTERS
) -> Iterator[str]:
    """The beginnings of documents, until they are `most` characters together."""
    left = most
    for text in texts:
        if left <= 0:
            return
        cut = text[: min(each, left)]
        left -= len(cut)
        yield cut


def write_stream(
    path: Path, texts: Iterable[str], encoder: Encoder, done: Callable[[int], object]
) -> Counts:
    """Write documents as one stream; `done` is told how many more are written."""
    counts = Counts()
    with path.open("wb") as file:
        for tokens, batch in _encoded(texts, encoder):
            file.write(tokens.tobytes())
            counts = _add(counts, batch)
            done(batch.documents)
        _sync(file)
    return counts


class RowWriter(NamedTuple):
    """Writes documents packed into rows."""

    encoder: Encoder
    pack: Pack
    length: int
    """Tokens of a row."""
    most: int | None = None
    """Rows to write, and no more documents are read than they need; None = all documents."""

    def write(self, path: Path, texts: Iterable[str], done: Callable[[int], object]) -> Counts:
        """Write a shard; `done` is told how many more documents are in it."""
        counts, rows = Counts(), 0
        batches = _encoded(texts, self.encoder)
        with path.open("wb") as file:
            while self.most is None or rows < self.most:
                stream, batch = _gather(batches, self._tokens(rows))
                if not batch.documents:
                    break
                packed = self._packed(stream, rows)
                file.write(packed.tobytes())
                counts, rows = _add(counts, batch), rows + len(packed)
                done(batch.documents)
            _sync(file)
        return counts._replace(rows=rows)

    def _tokens(self, rows: int) -> int:
        """How many tokens to pack next; packing loses some, so an eighth more than needed."""
        if self.most is None:
            return PACKED_TOKENS
        need = max(self.most - rows, FEWEST_ROWS) * self.length
        return min(need * 9 // 8, PACKED_TOKENS)

    def _packed(self, stream: Tokens, rows: int) -> Tokens:
        packed = self.pack(stream, self.encoder.get_bos_token_id(), self.length)
        wanted = packed if self.most is None else packed[: self.most - rows]
        return wanted.astype("<u2", copy=False)


def counted(texts: Iterable[str], done: Callable[[int], object]) -> Iterator[str]:
    """The texts; `done` is told the characters of each."""
    for text in texts:
        done(len(text))
        yield text


def _encoded(texts: Iterable[str], encoder: Encoder) -> Iterator[tuple[Tokens, Counts]]:
    bos = encoder.get_bos_token_id()
    for batch in _batches(texts):
        documents = encoder.encode(batch, prepend=bos)
        stream = np.concatenate([np.array(ids, dtype="<u2") for ids in documents])
        yield stream, Counts(len(batch), len(stream), sum(len(t.encode()) for t in batch))


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_CHARACTERS or len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _gather(batches: Iterator[tuple[Tokens, Counts]], tokens: int) -> tuple[Tokens, Counts]:
    parts, counts = [np.empty(0, dtype="<u2")], Counts()
    for part, batch in batches:
        parts.append(part)
        counts = _add(counts, batch)
        if counts.tokens >= tokens:
            break
    return np.concatenate(parts), counts


def _add(a: Counts, b: Counts) -> Counts:
    return Counts(a.documents + b.documents, a.tokens + b.tokens, a.bytes + b.bytes)


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())

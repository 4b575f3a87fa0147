"""A corpus of any size in the order of its hashes: shuffled once, the same for everyone.

Owns: the spool, files on disk that each take a range of hashes; sorting one of them at a time
sorts everything, with about 1/512 of a large corpus in memory (a bucket sort).
Does not own: the splits (`splits`); they are ranges of hashes too.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from inner_loop.corpora.splits import SPLITS, Split, digest_of, split_of

BUCKET_BYTES = 1 << 26
"""Text that one file takes, about; more when a corpus needs more than `MOST_BUCKETS`."""
MOST_BUCKETS = 512
_HEAD = struct.Struct(">32sQ")  # digest, bytes of UTF-8 that follow


class Spool:
    """Documents, sorted by hash, that can be read as often as needed."""

    def __init__(self, folder: Path, buckets: int) -> None:
        self.folder = folder
        self.buckets = buckets
        self.documents: Counter[Split] = Counter()
        self.bytes: Counter[Split] = Counter()

    @classmethod
    def write(cls, folder: Path, texts: Iterable[str], expected_bytes: int) -> Spool:
        """Spool documents into an empty folder.

        Args:
            folder: made here.
            texts: read once, in any order.
            expected_bytes: about their size; decides the number of files.
        """
        folder.mkdir()
        spool = cls(folder, min(1 + expected_bytes // BUCKET_BYTES, MOST_BUCKETS))
        with ExitStack() as stack:
            paths = map(spool._path, range(spool.buckets))
            files = [stack.enter_context(path.open("wb")) for path in paths]
            for text in texts:
                data, digest = text.encode(), digest_of(text)
                files[spool._bucket(digest)].write(_HEAD.pack(digest, len(data)) + data)
                spool.documents[split_of(digest)] += 1
                spool.bytes[split_of(digest)] += len(data)
        return spool

    def read(self, split: Split) -> Iterator[str]:
        """The documents of a split, by hash."""
        for bucket in range(self.buckets):
            first, last = (SPLITS.index(split_of(edge)) for edge in self._edges(bucket))
            if first <= SPLITS.index(split) <= last:
                yield from self._sorted(bucket, split)

    def _sorted(self, bucket: int, split: Split) -> Iterator[str]:
        data = self._path(bucket).read_bytes()
        places, at = [], 0
        while at < len(data):
            digest, size = _HEAD.unpack_from(data, at)
            at += _HEAD.size
            if split_of(digest) == split:
                places.append((digest, at, size))
            at += size
        places.sort()
        for _, start, size in places:
            yield data[start : start + size].decode()

    def _bucket(self, digest: bytes) -> int:
        return int.from_bytes(digest[:8], "big") * self.buckets >> 64

    def _edges(self, bucket: int) -> tuple[bytes, bytes]:
        low, end = (-(-(i << 64) // self.buckets) for i in (bucket, bucket + 1))
        return low.to_bytes(8, "big"), (end - 1).to_bytes(8, "big")

    def _path(self, bucket: int) -> Path:
        return self.folder / f"{bucket:03}"

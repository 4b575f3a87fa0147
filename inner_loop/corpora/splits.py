"""Which split a document of a bundled or user's corpus falls into.

Owns: the shares and the rule. Does not own: the shards of climbmix (`climbmix`).
"""

from __future__ import annotations

import hashlib
from typing import Literal, get_args

Split = Literal["train", "search", "audit", "locked"]
SPLITS: tuple[Split, ...] = get_args(Split)
SHARDS = SPLITS[1:]
"""The validation shards."""
SHARES: dict[Split, float] = {"train": 0.85, "search": 0.05, "audit": 0.05, "locked": 0.05}
"""Shares of the documents."""
SPLIT_RULE = 1
"""Raise it when documents would land elsewhere."""


def digest_of(text: str) -> bytes:
    """The sha256 of a document's UTF-8: decides its split and its place in it."""
    return hashlib.sha256(text.encode()).digest()


def split_of(digest: bytes) -> Split:
    """The split of a document: stable when others come or go, and equal texts stay together.

    Digests are uniform, so the splits are consecutive ranges of them with the sizes of `SHARES`.
    """
    share, edge = int.from_bytes(digest[:8], "big") / 2**64, 0.0
    for name in SPLITS:
        edge += SHARES[name]
        if share < edge:
            return name
    return SPLITS[-1]

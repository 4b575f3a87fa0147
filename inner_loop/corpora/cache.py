"""The cache folder: what data it holds, whether it is whole, and how built files get into it.

Owns: the cache key, the lock of a folder, reading and installing the manifest.
Does not own: what the files hold (`build`).

A folder is believed only through its manifest, which leaves first and comes last, so whatever a
killed builder left behind is built again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from inner_loop.corpora.source import ALL_SHARDS, Source
from inner_loop.corpora.splits import SPLIT_RULE
from inner_loop.records import content_hash

FORMAT = 2
"""Raise it when the same corpus would give other files: reading, tokenizer, packing."""
SHARD_TOKENS = 1 << 20
"""Fewest tokens that a validation shard of climbmix offers to score."""
MANIFEST = "manifest.json"
_TEXT = ("corpus", "corpus_sha256", "shards", "salt")
"""Fields of a key that say which text it is; another vocabulary of the same text is no other."""


def key_fields(task: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """Everything that changes the data, as far as it is known without reading a manifest.

    Left out when unknown: the hash of files that are not here, and a number of climbmix shards
    that nobody asked for; what is prepared already is then right.
    """
    fields: dict[str, Any] = {
        "format": FORMAT,
        "max_seq_len": task["max_seq_len"],
        "split_rule": SPLIT_RULE,
        "vocab_size": task["vocab_size"],
    }
    if source.is_climbmix:
        fields |= {
            "corpus": source.name,
            "salt": salt_of(task),
            "shard_tokens": shard_tokens(task),
        }
        return fields | ({} if source.shards is None else {"shards": source.shards})
    if source.files and all(path.is_file() for path in source.files):
        fields["corpus_sha256"] = corpus_sha256(source.files)
    return fields


def cache_key(task: Mapping[str, Any], source: Source) -> str:
    """Names the data; tasks that differ elsewhere have the same key."""
    return content_hash(key_fields(task, source))


def salt_of(task: Mapping[str, Any]) -> str:
    """What chooses the hidden shards of climbmix; another one each season."""
    return str(task.get("salt", "0"))


def shard_tokens(task: Mapping[str, Any]) -> int:
    """Tokens that a validation shard of climbmix offers to score."""
    return max(int(task["eval_tokens"]), SHARD_TOKENS)


def ready(task: Mapping[str, Any], cache: Path, source: Source) -> bool:
    """Whether the folder holds, whole, what would be built."""
    manifest = read_manifest(cache)
    if manifest is None:
        return False
    have = manifest.get("key")
    return isinstance(have, dict) and key_fields(task, source).items() <= have.items()


def other_corpus(task: Mapping[str, Any], cache: Path, source: Source) -> str:
    """The other corpus that a whole folder holds, in words; empty if it is this one, or none."""
    manifest = read_manifest(cache) or {}
    have, want = manifest.get("key"), key_fields(task, source)
    if not isinstance(have, dict) or all(have.get(k) == want[k] for k in _TEXT if k in want):
        return ""
    shards = have.get("shards")
    count = "all" if shards == ALL_SHARDS else shards
    which = f"training shards: {count}, salt '{have.get('salt')}'" if shards else ""
    return f"{manifest['corpus']} ({which or 'sha256 ' + manifest['corpus_sha256'][:12]})"


def read_manifest(cache: Path) -> dict[str, Any] | None:
    """The manifest, or None when the cache is absent, torn, or a file of it has another size."""
    try:
        manifest: dict[str, Any] = json.loads((cache / MANIFEST).read_text(encoding="utf-8"))
        for name, entry in manifest["files"].items():
            if (cache / name).stat().st_size != entry["bytes"]:
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest


def install(folder: Path, cache: Path, manifest: Mapping[str, Any]) -> None:
    """Move built files into place."""
    (cache / MANIFEST).unlink(missing_ok=True)
    sync_folder(cache)
    for name in manifest["files"]:
        (folder / name).replace(cache / name)
    sync_folder(cache)
    write_file(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
    (folder / MANIFEST).replace(cache / MANIFEST)
    sync_folder(cache)


@contextlib.contextmanager
def folder_lock(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """One process at a time in a folder; a killed one's lock falls with it.

    Args:
        folder: made if missing.
        waiting: called once when another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def corpus_sha256(files: tuple[Path, ...]) -> str:
    """One file's sha256, or the hash of the sorted ones of several: their order is no matter."""
    hashes = sorted(file_sha256(path) for path in files)
    return hashes[0] if len(hashes) == 1 else content_hash(hashes, length=64)


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_file(path: Path, data: bytes) -> None:
    """Write and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""What tests of preparation share: a small task, texts, and the tools of the real prepare.py."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from shard_server import ShardServer

from inner_loop.corpora import build
from inner_loop.corpora.source import CLIMBMIX, Source

ROOT = Path(__file__).resolve().parent.parent
TASK = {
    "name": "test",
    "corpus": "letters",
    "vocab_size": 300,
    "max_seq_len": 16,
    "eval_tokens": 1024,
    "clock": "steps",
    "time_budget": 3,
}
WORDS = ["the", "a", "king", "said", "12", "1605", "naïve", "café", "ßtraße", "Ωmega", "你好"]
WORDS += ["世界", "🦉", "👩\u200d🚀", ",", "e\u0301", "\n"]
LENGTH = 17


def load_prepare() -> Any:
    spec = importlib.util.spec_from_file_location("prepare_of_corpora", ROOT / "prepare.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PREPARE = load_prepare()
TOOLS = build.Tools(tokenizer=PREPARE.Tokenizer, pack=PREPARE.pack_rows)


def some_texts(documents: int = 200, prefix: str = "") -> list[str]:
    rng = random.Random(0)
    return [prefix + f"{i}: " + " ".join(rng.choices(WORDS, k=60)) for i in range(documents)]


def write_corpus(path: Path, texts: list[str]) -> Path:
    pq.write_table(pa.table({"text": texts}), path)
    return path


def prepared(folder: Path, *files: Path, replace: bool = False, **changes: Any) -> list[str]:
    """Prepare files into a folder and return what was said."""
    said: list[str] = []
    source = Source("letters", files, replace=replace)
    assert build.prepare({**TASK, **changes}, folder, source, TOOLS, said.append) == folder
    return said


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def climb(
    server: ShardServer,
    folder: Path,
    shards: int | None = 1,
    replace: bool = False,
    **changes: Any,
) -> list[str]:
    said: list[str] = []
    source = Source(CLIMBMIX, shards=shards, base_url=server.url, replace=replace)
    build.prepare({**TASK, **changes}, folder / "c", source, TOOLS, said.append)
    return said

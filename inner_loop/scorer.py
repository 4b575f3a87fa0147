"""The first scorer: val_bpb from logits, in a process that holds no researcher code.

Owns: the scored rows, the byte table, the batch shape and the softmax. It asks the box for logits
of rows and does the arithmetic itself, so nothing the box prints or returns as a loss counts.
Does not own: proof that the logits are honest. The rows contain the answers (each target is the
next input), so a model that looks ahead is not caught, nor one that goes on learning while it is
scored (its CPU seconds there are capped, not charged); step 5's claim and audit closes both.

Bits per byte = sum of -ln p(target) over targets that stand for bytes / (ln 2 * those bytes).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from inner_loop.crash import Crash
from inner_loop.records import Shard, Task

BATCH_TOKENS = 1 << 14  # scored at a time: bounds the memory that a model's logits take
Rows = npt.NDArray[np.uint16]
Logits = npt.NDArray[np.float32]


class ScoredShard(NamedTuple):
    """Inputs (N, T), targets (N, T) and the bytes each target stands for (N, T)."""

    inputs: Rows
    targets: Rows
    nbytes: npt.NDArray[np.int64]


def load_shard(cache: Path, shard: Shard, task: Task) -> ScoredShard:
    """The first `scored_tokens` of a shard; its rows of `max_seq_len + 1` each begin with a BOS."""
    width = task.max_seq_len
    tokens = np.memmap(cache / f"{shard}.bin", dtype="<u2", mode="r").reshape(-1, width + 1)
    rows = np.asarray(tokens[: task.scored_tokens // width])
    table = np.load(cache / "token_bytes.npy", allow_pickle=False).astype(np.int64)
    return ScoredShard(rows[:, :-1], rows[:, 1:], table[rows[:, 1:]])


def bits_per_byte(shard: ScoredShard, ask: Callable[[Rows], Logits], vocab_size: int) -> float:
    """Score a shard, `BATCH_TOKENS` tokens at a time.

    Args:
        shard: the rows to score.
        ask: rows (B, T) to float32 logits (B, T, V) of the model under test.
        vocab_size: V.

    Raises:
        Crash: wrong shape or not finite.
    """
    total_nats = 0.0
    for part in _batches(shard):
        logits = ask(part.inputs)
        if logits.shape != (*part.inputs.shape, vocab_size):
            raise Crash("bad_logits", f"logits of shape {logits.shape}")
        if not np.isfinite(logits).all():
            raise Crash("nan", "the logits are not finite")
        nats = token_nats(logits, part.targets)
        total_nats += float(nats[part.nbytes > 0].sum())
    return total_nats / (math.log(2) * float(shard.nbytes.sum()))


def token_nats(logits: Logits, targets: Rows) -> npt.NDArray[np.float64]:
    """-ln softmax(logits)[target] for each position; logits (B, T, V), targets (B, T)."""
    top = logits.max(axis=-1, keepdims=True)
    log_norm = np.log(np.exp(logits - top).sum(axis=-1, dtype=np.float64))
    index = targets.astype(np.int64)[..., None]
    chosen = np.take_along_axis(logits, index, axis=-1)[..., 0]
    nats: npt.NDArray[np.float64] = log_norm + top[..., 0] - chosen
    return nats


def _batches(shard: ScoredShard) -> Iterator[ScoredShard]:
    at_a_time = max(1, BATCH_TOKENS // shard.inputs.shape[1])
    for i in range(0, len(shard.inputs), at_a_time):
        rows = slice(i, i + at_a_time)
        yield ScoredShard(shard.inputs[rows], shard.targets[rows], shard.nbytes[rows])

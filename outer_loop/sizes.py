"""Sizes of the starting train.py for a machine, from one dial: DEPTH.

Owns: the arithmetic from memory and measured speed to constants, with its estimates of peak memory
and speed. Pure. Does not own: asking the machine (`inner_loop/machine.py`), what a track file
looks like, or learning rates (train.py scales its own with the width).

The anchors are published numbers of karpathy/autoresearch: its own sample run (H100, DEPTH 8, 128
rows of 2048 tokens: 45,060 MB, 500M tokens in 300 s), discussion 43 (DEPTH 9, 2**18 tokens a step,
50,100 MB) and issue 596 (RTX 3060 12 GB: DEPTH 6 and 2**14 tokens a step were best; an RTX 4090
takes five times as long as an H100). Everything between them is an estimate.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from inner_loop.records import Constant

Kind = Literal["cuda", "mps", "cpu"]

FULL_DEPTH, FULL_WIDTH = 9, 512
FULL_BATCH, FULL_ROWS = 1 << 18, 64
SHARE = 0.8  # of the memory that a training may be estimated to take
MPS_SHARE = 0.5  # of a Mac's memory, which the system and everything else live in too
BUDGET_SECONDS = 300.0
GOOD_STEPS = 1500  # optimizer steps that the batch size leaves room for; H100 runs take 950-1900
BYTES_A_PARAMETER = 16  # weight, gradient and two moments in float32
H100_TOKENS_PER_SECOND, H100_DEPTH = 500e6 / 300, 8
CPU_MEMORY_GB = 0.3  # the shipped tiny task, torch included; measured


class Shape(NamedTuple):
    """What memory and speed depend on."""

    depth: int
    width: int
    rows: int
    """Rows of one forward pass."""
    context: int
    vocab: int


class Start(NamedTuple):
    """The sizes for one machine."""

    task: str
    """Shipped task it is for: `gpu`, `gpu-short` (a shorter context) or `tiny`."""
    literals: dict[str, Constant]
    """The track's `[start]` table; empty where train.py fits as it is."""
    memory_gb: float
    """Estimated peak of one training, GiB of the GPU (of main memory on a CPU)."""
    tokens_per_second: float | None
    """Estimate from the published H100, or scaled from the measurement; None = not known."""
    steps: float | None
    """Optimizer steps in `BUDGET_SECONDS`; None = not known."""
    why: str
    """One sentence, saying what is estimated."""


class _Class(NamedTuple):
    """What cards from this memory on start with."""

    memory_gb: float
    depth: int
    batch: int
    """Tokens per optimizer step."""


# Cards of one size also tend to have one speed, which is what decides; 12 GB is issue 596's.
_CUDA = (
    _Class(70, FULL_DEPTH, FULL_BATCH),
    _Class(36, 9, 1 << 17),
    _Class(20, 8, 1 << 16),
    _Class(14, 6, 1 << 15),
    _Class(10, 6, 1 << 14),
    _Class(6, 4, 1 << 14),
    _Class(0, 3, 1 << 13),
)
_MPS = (_Class(60, 6, 1 << 15), _Class(14, 4, 1 << 14), _Class(0, 3, 1 << 13))
_CONTEXT = {"cuda": 2048, "mps": 512}
_BYTES = {"cuda": (24, 10), "mps": (80, 24)}
"""Kept for the backward pass per token: a channel of WIDTH in a layer, and a logit. CUDA's (bf16,
compiled) are fitted to the two published peaks; a Mac's (float32, not compiled) were counted with
torch.autograd.graph.saved_tensors_hooks on a CPU, which runs the same code."""
_VOCAB = 8192
_SLOWEST_BATCH = {"cuda": 1 << 11, "mps": 1 << 10}


def start_for(kind: Kind, memory_gb: float, tokens_per_second: float | None = None) -> Start:
    """The sizes for a device.

    Args:
        kind: what trains.
        memory_gb: GiB of the GPU (half of it where the GPU has no bfloat16: float32 takes twice
            the room); of the whole machine for `mps` and `cpu`.
        tokens_per_second: what `start_for(kind, memory_gb)` was measured to train at, if it was.
    """
    if kind == "cpu":
        return _tiny(tokens_per_second)
    room = memory_gb * (SHARE if kind == "cuda" else MPS_SHARE)
    first = next(c for c in (_CUDA if kind == "cuda" else _MPS) if memory_gb >= c.memory_gb)
    if tokens_per_second is None:
        shape = _fitted(kind, first.depth, first.batch, room)
        speed = _published_speed(shape) if first.batch == FULL_BATCH else None
        return _start(kind, shape, first.batch, speed, _why(kind, memory_gb))
    before = _fitted(kind, first.depth, first.batch, room)
    depth = _deepest(kind, depth_for(tokens_per_second, before), room)
    after = _fitted(kind, depth, first.batch, room)
    speed = tokens_per_second * flops_per_token(before) / flops_per_token(after)
    batch = batch_for(speed, _SLOWEST_BATCH[kind])
    shape = _fitted(kind, depth, batch, room)
    why = f"sized from {tokens_per_second:,.0f} tokens per second measured on this machine."
    return _start(kind, shape, batch, speed, why)


def width_for(depth: int) -> tuple[int, int]:
    """WIDTH and HEAD_DIM: 64 channels a layer in whole heads, 512 at most (as published)."""
    head = 128 if depth > 3 else 64
    return min(FULL_WIDTH, head * math.ceil(64 * depth / head)), head


def depth_for(tokens_per_second: float, shape: Shape) -> int:
    """The depth whose training suits the machine's speed.

    At equal seconds the best number of weights grows with the square root of the compute, and the
    weights with the cube of the depth, so the depth with its sixth root (Hoffmann et al. 2022,
    "Training Compute-Optimal Large Language Models", and WIDTH = 64 * DEPTH). Issue 596 agrees: an
    RTX 3060 has a twentieth of an H100's arithmetic, which gives 5.5, and 6 was best.
    """
    full = flops_per_token(_full(H100_DEPTH)) * H100_TOKENS_PER_SECOND
    share = flops_per_token(shape) * tokens_per_second / full
    return min(FULL_DEPTH, max(2, round(FULL_DEPTH * math.pow(share, 1 / 6))))


def batch_for(tokens_per_second: float, least: int) -> int:
    """The largest power of two that leaves `GOOD_STEPS` optimizer steps in the budget."""
    most = tokens_per_second * BUDGET_SECONDS / GOOD_STEPS
    return min(FULL_BATCH, max(least, _power_of_two(most)))


def parameters(shape: Shape) -> int:
    """Weights of the model: matrices of 12 WIDTH**2 a layer, embedding, head, value embeddings."""
    matrices = 12 * shape.depth * shape.width * shape.width
    tables = 2 + math.ceil(shape.depth / 2)  # every other layer has value embeddings
    return matrices + tables * shape.vocab * shape.width


def peak_gb(shape: Shape, kind: Kind = "cuda") -> float:
    """Estimated peak memory of a training on a GPU, GiB; within 15 % of both published peaks."""
    a_channel, a_logit = _BYTES[kind]
    a_row = shape.context * (a_channel * shape.depth * shape.width + a_logit * shape.vocab)
    return (BYTES_A_PARAMETER * parameters(shape) + shape.rows * a_row) / (1 << 30)


def flops_per_token(shape: Shape) -> float:
    """Forward and backward: 6 per weight that multiplies, and attention in windows of half."""
    weights = 12 * shape.depth * shape.width * shape.width + shape.vocab * shape.width
    return 6 * weights + 6 * shape.depth * shape.width * shape.context


def _fitted(kind: Kind, depth: int, batch: int, room: float) -> Shape:
    """The most rows of a forward pass, a power of two, that fit in `room` GiB; one at least."""
    context, rows = _CONTEXT[kind], FULL_ROWS
    shape = Shape(depth, width_for(depth)[0], rows, context, _VOCAB)
    while rows > 1 and (peak_gb(shape, kind) > room or rows * context > batch):
        rows //= 2
        shape = shape._replace(rows=rows)
    return shape


def _deepest(kind: Kind, wanted: int, room: float) -> int:
    """At most `wanted` layers, so that one row fits in `room` GiB; two at least."""
    fits = [d for d in range(2, wanted + 1) if peak_gb(_fitted(kind, d, 1, room), kind) <= room]
    return max(fits, default=2)


def _full(depth: int) -> Shape:
    return Shape(depth, FULL_WIDTH, FULL_ROWS, _CONTEXT["cuda"], _VOCAB)


def _published_speed(shape: Shape) -> float:
    return H100_TOKENS_PER_SECOND * flops_per_token(_full(H100_DEPTH)) / flops_per_token(shape)


def _start(kind: Kind, shape: Shape, batch: int, speed: float | None, why: str) -> Start:
    shipped = kind == "cuda" and (shape, batch) == (_full(FULL_DEPTH), FULL_BATCH)
    literals: dict[str, Constant] = {
        "DEPTH": shape.depth,
        "WIDTH": shape.width,
        "HEAD_DIM": width_for(shape.depth)[1],
        "TOTAL_BATCH_SIZE": batch,
        "DEVICE_BATCH_SIZE": shape.rows,
    }
    if kind == "mps":
        literals["WINDOW_PATTERN"] = "L"  # a short window saves nothing there
    return Start(
        task="gpu" if kind == "cuda" else "gpu-short",
        literals={} if shipped else literals,
        memory_gb=peak_gb(shape, kind),
        tokens_per_second=speed,
        steps=None if speed is None else speed * BUDGET_SECONDS / batch,
        why=why,
    )


def _why(kind: Kind, memory_gb: float) -> str:
    if kind == "mps":
        return (
            f"sized for a Mac with {memory_gb:.0f} GB: an estimate, we never ran on one; "
            "--calibrate measures it."
        )
    if memory_gb >= _CUDA[0].memory_gb:
        return "the full task, sized for an H100 with 80 GB; memory and speed are published ones."
    return (
        f"sized for a card with {memory_gb:.0f} GB: an estimate from published runs on an H100 and "
        "an RTX 3060, we never ran on such a card; --calibrate measures it."
    )


def _tiny(tokens_per_second: float | None) -> Start:
    why = "no GPU that torch can use, so the task sized for CPU seconds."
    return Start("tiny", {}, CPU_MEMORY_GB, tokens_per_second, None, why)


def _power_of_two(most: float) -> int:
    return 1 << (int(max(1.0, most)).bit_length() - 1)

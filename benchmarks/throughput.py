"""Tokens per second of our train.py against a plain port of upstream's, on one thread, in pairs.

Owns: the sizes compared, the pairing, the packing rates, and throughput.csv and throughput.md.
Does not own: running a training and reading its clock, or the port's loader (`watched.py`), the
port itself (`upstream_style.py`), GPUs (`gpu.py`). CPU seconds, since the machine may be shared.

Usage: python benchmarks/throughput.py [--pairs 4] [--compiled] [--quick]
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.progress import track as progress
from watched import Training, documents_of, scan_rows, take_turns

from inner_loop.data import base_files, prepare_data
from inner_loop.home import REPOSITORY, Home
from inner_loop.literals import with_start
from inner_loop.machine import hardware
from inner_loop.records import Track
from inner_loop.tracks import load_track

HERE = Path(__file__).parent
PARTS = ("forward and backward", "loader", "Muon", "AdamW")
FOR_EVER = 10**9
TRAIN_TOKENS = 500_000  # that the packers pack per turn


@dataclass(frozen=True)
class Shape:
    """One size at which both train; `ours` and `port` are their constants."""

    name: str
    context: int
    vocab: int
    batches: int
    """Batches timed, after `skip` that are not."""
    skip: int
    ours: Mapping[str, int | str]
    port: Mapping[str, int | str]

    @property
    def tokens(self) -> int:
        """Per step."""
        return int(self.ours["TOTAL_BATCH_SIZE"])


TINY = {"DEPTH": 2, "HEAD_DIM": 16, "WINDOW_PATTERN": "L", "TOTAL_BATCH_SIZE": 512}
LARGER = {"DEPTH": 4, "HEAD_DIM": 64, "WINDOW_PATTERN": "SSSL", "TOTAL_BATCH_SIZE": 4096}
SHAPES = (
    Shape(
        "tiny",
        context=64,
        vocab=512,
        batches=150,
        skip=20,
        ours=TINY | {"WIDTH": 64, "SHORT_WINDOW": 2},
        port=TINY | {"ASPECT_RATIO": 32, "DEVICE_BATCH_SIZE": 8},
    ),
    Shape(
        "larger",
        context=256,
        vocab=2048,
        batches=8,
        skip=2,
        ours=LARGER | {"WIDTH": 256, "SHORT_WINDOW": 2},
        port=LARGER | {"ASPECT_RATIO": 64, "DEVICE_BATCH_SIZE": 16},
    ),
)


@dataclass(frozen=True)
class Rates:
    """What one training did; milliseconds of CPU time per step."""

    shape: str
    pair: int
    who: str
    tokens_per_s: float
    step_ms: float
    rest_ms: float
    loader_ms: float
    muon_ms: float
    adamw_ms: float
    steps_ms: tuple[float, ...]
    """Each step's time."""

    @property
    def stall(self) -> float:
        """Share of a step spent waiting for its batch."""
        return self.loader_ms / self.step_ms

    @property
    def parts(self) -> tuple[float, ...]:
        """Milliseconds by part, in the order of PARTS."""
        return self.rest_ms, self.loader_ms, self.muon_ms, self.adamw_ms


# --- arithmetic -------------------------------------------------------------------------------


def rates(noted: Mapping[str, Any], shape: Shape, pair: int, who: str) -> Rates:
    """Means over the batches after the first `skip`, one batch a step.

    Args:
        noted: what `watched.py` wrote; `asked` has one more entry than `answered`.
        shape: the size that was trained.
        pair: number of the pair.
        who: `ours`, `port` or another name.
    """
    asked, answered = noted["asked"][shape.skip :], noted["answered"][shape.skip :]
    steps, began, ended = len(asked) - 1, asked[0], asked[-1]
    waited = sum(b - a for a, b in zip(asked[:-1], answered, strict=True))
    inside = {
        name: sum(took for at, took in noted["spent"].get(name, []) if began < at <= ended)
        for name in ("muon", "adamw")
    }
    rest = ended - began - waited - sum(inside.values())
    per_step = 1000 / steps
    return Rates(
        shape=shape.name,
        pair=pair,
        who=who,
        tokens_per_s=shape.tokens * steps / (ended - began),
        step_ms=(ended - began) * per_step,
        rest_ms=rest * per_step,
        loader_ms=waited * per_step,
        muon_ms=inside["muon"] * per_step,
        adamw_ms=inside["adamw"] * per_step,
        steps_ms=tuple(1000 * (b - a) for a, b in pairwise(asked)),
    )


def ratios(rows: Sequence[Rates], rival: str) -> list[float]:
    """Ours over the rival's tokens per second, a pair each; one shape only.

    A pair's number is the median over its steps of the two times taken one after the other, which
    a burst of somebody else's work on the machine cannot move.
    """
    steps = {(row.pair, row.who): row.steps_ms for row in rows}
    pairs = sorted({row.pair for row in rows if row.who == rival})
    return [
        median(b / a for a, b in zip(steps[pair, "ours"], steps[pair, rival], strict=True))
        for pair in pairs
    ]


def spread(values: Sequence[float], digits: int) -> str:
    """`median (lowest to highest)`."""
    low, high = min(values), max(values)
    return f"{median(values):,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


# --- measuring --------------------------------------------------------------------------------


def track_of(shape: Shape, base: Track) -> Track:
    """`base` at this size, on a clock that lets both train until they are stopped."""
    task = {"max_seq_len": shape.context, "vocab_size": shape.vocab, "start": dict(shape.ours)}
    changed = {"task": base.task.model_copy(update=task), "clock": "steps"}
    return base.model_copy(update=changed | {"time_budget": FOR_EVER})


def sources(shape: Shape, track: Track, compiled: bool) -> dict[str, dict[str, str]]:
    """The folders of all that take part, by name."""
    files = base_files(track)
    plain = (HERE / "upstream_style.py").read_text(encoding="utf-8")
    port = with_start(plain, dict(shape.port))
    found = {"ours": files, "port": files | {"train.py": port}}
    if compiled:
        found["port, compiled"] = files | {"train.py": with_start(port, {"COMPILE": True})}
    return found


def measure(
    shape: Shape, track: Track, home: Home, pairs: int, compiled: bool = False
) -> Iterator[list[Rates]]:
    """Pair after pair, fresh processes each; within a pair they train step by step in turn."""
    cache = home.cache / prepare_data(track, home).name
    env = {"METARESEARCH_CACHE": str(cache), "METARESEARCH_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    batches = ["--batches", str(shape.skip + shape.batches)]
    for pair in range(pairs):
        with ExitStack() as stack:
            trainings = {}
            everyone = list(sources(shape, track, compiled).items())
            for who, files in everyone if pair % 2 else reversed(everyone):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                words = [*batches, "--loader", "own" if who == "ours" else "port"]
                trainings[who] = Training(folder, files, words, env, turns=True)
                stack.callback(trainings[who].close)
            take_turns(list(trainings.values()))
            yield [rates(trainings[who].noted(), shape, pair, who) for who, _ in everyone]


def packing(shape: Shape, track: Track, home: Home, turns: int) -> dict[str, list[float]]:
    """Tokens of rows per CPU second: our packer, and the scan of a buffer for every document."""
    sys.path[:0] = [str(REPOSITORY), str(HERE)]

    import prepare

    cache = home.cache / prepare_data(track, home).name
    tokens = np.fromfile(cache / "train.bin", dtype="<u2")[:TRAIN_TOKENS]
    bos, length = int(tokens[0]), shape.context + 1
    found: dict[str, list[float]] = {"ours": [], "port": []}
    for _ in range(turns):
        began = time.process_time()
        packed = prepare.pack_rows(tokens, bos, length)
        found["ours"].append(packed.size / (time.process_time() - began))
        rows = scan_rows(documents_of(tokens, bos), length)
        next(rows)  # the buffer is full
        began = time.process_time()
        for _ in range(200):
            next(rows)
        found["port"].append(200 * length / (time.process_time() - began))
    return found


# --- reporting --------------------------------------------------------------------------------


def git_state() -> str:
    """The commit, and whether the files differ from it."""
    words = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip() or "?"


def part_lines(rows: Sequence[Rates]) -> list[str]:
    """A table line a participant: step and parts, median milliseconds."""
    lines = []
    for who in dict.fromkeys(row.who for row in rows):
        own = [row for row in rows if row.who == who]
        cells = [median(row.step_ms for row in own)]
        cells += [median(row.parts[i] for row in own) for i in range(len(PARTS))]
        speed = spread([row.tokens_per_s for row in own], 0)
        stall = f"{100 * median(row.stall for row in own):.1f} %"
        lines.append(" | ".join([f"| {who}", speed, *(f"{c:.2f}" for c in cells), f"{stall} |"]))
    return lines


def section(shape: Shape, rows: Sequence[Rates], packed: Mapping[str, Sequence[float]]) -> str:
    """One shape's part of the page."""
    rivals = [who for who in dict.fromkeys(row.who for row in rows) if who != "ours"]
    verdicts = [f"Ours / {who}: **{spread(ratios(rows, who), 2)}**." for who in rivals]
    faster = median(packed["ours"]) / median(packed["port"])
    head = "| | tokens/s | step | " + " | ".join(PARTS) + " | waiting for data |"
    return (
        f"## {shape.name}: depth {shape.ours['DEPTH']}, width {shape.ours['WIDTH']}, context "
        f"{shape.context}, vocabulary {shape.vocab}, {shape.tokens} tokens a step\n\n"
        + "\n".join([head, "|---|---:" + 6 * "|---:" + "|", *part_lines(rows)])
        + f"\n\n{' '.join(verdicts)} Packing alone, tokens/s: ours {spread(packed['ours'], 0)}, "
        f"the scan {spread(packed['port'], 0)}; {faster:,.0f} times as fast.\n"
    )


def page(sections: Sequence[str], pairs: int, command: str) -> str:
    """The whole of throughput.md."""
    return (
        "# Tokens per second against a plain port of upstream's\n\n"
        f"Generated by `{command}`; raw rows in `throughput.csv`.\n\n"
        f"Machine: {hardware(load_track('tiny-cpu'))}, one thread. Code: {git_state()}. "
        f"{pairs} pairs of fresh processes; within a pair they train step by step in turn, each "
        "first every other time, so that the machine's moods hit both. CPU seconds; milliseconds "
        "a step are means of a pair. All "
        "cells: median over pairs (lowest to highest). A pair's ratio is the median over its "
        "steps. Absolute numbers are this machine's in this hour.\n\n"
        "Both train the same design at the same sizes: equal windows, value embeddings, batch and "
        "token file. The port (`upstream_style.py`, not compiled) is written from upstream's "
        "documented design: matrices stacked by shape, numbers that change in 0-D tensors, a "
        "buffer of 1000 documents scanned for every piece. It does not pay for tokenising, which "
        "upstream does as it goes. What still differs in the model: ours gates value embeddings "
        "on all channels, the port on 32.\n\n"
        "No GPU was used. `gpu.py` compares on one; **it has not been run yet**.\n\n"
        + "\n".join(sections)
    )


def save(rows: Sequence[Rates], text: str, folder: Path) -> None:
    """Write both files; a line of the CSV is a step."""
    with (folder / "throughput.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["shape", "pair", "who", "step", "cpu_ms"])
        for row in rows:
            for number, took in enumerate(row.steps_ms):
                writer.writerow([row.shape, row.pair, row.who, number, round(took, 3)])
    (folder / "throughput.md").write_text(text, encoding="utf-8")


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--compiled", action="store_true", help="also the port with torch.compile")
    parser.add_argument("--quick", action="store_true", help="one short pair of tiny, for tests")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    home = Home.from_environment(os.environ)
    home.make()
    shapes, pairs = SHAPES, args.pairs
    if args.quick:
        shapes, pairs = (Shape(**{**vars(SHAPES[0]), "batches": 10, "skip": 2}),), 1
    every, sections = list[Rates](), list[str]()
    for shape in shapes:
        track = track_of(shape, load_track("tiny-cpu"))
        found = measure(shape, track, home, pairs, args.compiled)
        rows = list(chain(*progress(found, description=shape.name, total=pairs)))
        every += rows
        sections.append(section(shape, rows, packing(shape, track, home, 1 if args.quick else 5)))
    text = page(sections, pairs, f"python benchmarks/throughput.py --pairs {pairs}")
    save(every, text, args.out)
    print(text)


if __name__ == "__main__":
    main()

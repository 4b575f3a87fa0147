"""Our train.py and a script in upstream's manner on one CUDA device, in turn.

Owns: tokens/s, MFU, step times and peak memory of both, gpu.csv and gpu.md. Both run stand-alone on
prepare.py's clock and loader, and choose the attention back end in the same order.
Does not own: anything scored (under the harness the scorer does that).

Usage: python benchmarks/gpu.py            # 30 s each on the bundled corpus, about 8 minutes
       python benchmarks/gpu.py --full     # the 300-second protocol on climbmix (downloads it)
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from rich.progress import track as progress
from throughput import HERE, git_state
from watched import Training

from inner_loop.data import base_files, prepare_data
from inner_loop.errors import UserError
from inner_loop.home import Home
from inner_loop.literals import literals, number, with_start
from inner_loop.machine import gpus
from inner_loop.records import Track
from inner_loop.tracks import load_track

WARM = 12  # steps at the start that are left out: upstream's manner compiles in them
UPSTREAM_SIZES = {
    "DEPTH": 8,
    "WINDOW_PATTERN": "SSSL",
    "SHORT_WINDOW": 2,
    "TOTAL_BATCH_SIZE": 2**19,
    "DEVICE_BATCH_SIZE": 128,
}


class Line(NamedTuple):
    """What one training did."""

    who: str
    pair: int
    tokens_per_s: float
    p50_ms: float
    p99_ms: float
    waiting: float
    """Share of the time spent waiting for data."""
    mfu_percent: float
    """As the script says."""
    peak_mb: float
    val_bpb: float
    num_steps: int
    attention: str
    device: str


def passes_of(source: str, context: int) -> tuple[int, int]:
    """Tokens and forward passes of a step, from the constants of a train.py."""
    constants = literals(source)
    total = int(number(constants["TOTAL_BATCH_SIZE"]) or 0)
    rows, most = total // context, int(number(constants["DEVICE_BATCH_SIZE"]) or 0)
    return total, next(n for n in range(1, rows + 1) if rows % n == 0 and rows // n <= most)


def line(who: str, pair: int, noted: Mapping[str, Any], tokens: int, passes: int) -> Line:
    """Step times from the times at which batches were asked for, `passes` a step."""
    asked = np.array(noted["asked"][WARM * passes :: passes])
    first, count = WARM * passes, (len(asked) - 1) * passes
    steps = np.diff(asked)
    answered = np.array(noted["answered"][first : first + count])
    waited = answered - np.array(noted["asked"][first : first + count])
    claims = dict(re.findall(r"^(\w+):\s+([\d.]+)\s*$", noted["output"], re.MULTILINE))
    return Line(
        who=who,
        pair=pair,
        tokens_per_s=float(tokens / steps.mean()),
        p50_ms=float(1000 * np.percentile(steps, 50)),
        p99_ms=float(1000 * np.percentile(steps, 99)),
        waiting=float(waited.sum() / steps.sum()),
        mfu_percent=float(claims["mfu_percent"]),
        peak_mb=float(claims["peak_vram_mb"]),
        val_bpb=float(claims["val_bpb"]),
        num_steps=int(claims["num_steps"]),
        attention=str(noted["attention"]),
        device=f"{noted['device']}, torch {noted['torch']}",
    )


def entrants(track: Track) -> dict[str, dict[str, str]]:
    """Ours at its own and at upstream's sizes, and upstream's manner; the folders by name."""
    files = base_files(track)
    port = (HERE / "upstream_style.py").read_text(encoding="utf-8")
    return {
        "ours": files,
        "ours, upstream's sizes": files
        | {"train.py": with_start(files["train.py"], UPSTREAM_SIZES)},
        "upstream's manner": files | {"train.py": port},
    }


def measure(track: Track, home: Home, pairs: int) -> list[Line]:
    """All in turn, pair after pair."""
    cache = home.cache / prepare_data(track, home).name
    env = {"METARESEARCH_CACHE": str(cache), "METARESEARCH_DEVICE": "cuda"}
    todo = [(pair, *each) for pair in range(pairs) for each in entrants(track).items()]
    lines = []
    for pair, who, files in progress(todo, description="trainings"):
        with tempfile.TemporaryDirectory() as folder:
            noted = Training(Path(folder), files, ["--clock", "wall"], env).noted()
        sizes = passes_of(files["train.py"], track.task.max_seq_len)
        lines.append(line(who, pair, noted, *sizes))
    return lines


def page(lines: Sequence[Line], track: Track, command: str) -> str:
    """The whole of gpu.md."""
    rows = []
    for who in dict.fromkeys(each.who for each in lines):
        own = [each for each in lines if each.who == who]
        middle = {
            name: median(getattr(each, name) for each in own)
            for name in Line._fields
            if name not in ("who", "pair", "attention", "device")
        }
        rows.append(
            "| {who} | {tokens_per_s:,.0f} | {mfu_percent:.1f} | {p50_ms:.1f} | {p99_ms:.1f} "
            "| {stall:.2f} % | {peak_mb:,.0f} | {num_steps:.0f} | {val_bpb:.4f} |".format(
                who=who, stall=100 * middle["waiting"], **middle
            )
        )
    speed = {(each.pair, each.who): each.tokens_per_s for each in lines}
    pairs = sorted({each.pair for each in lines})
    ratio = [speed[p, "ours, upstream's sizes"] / speed[p, "upstream's manner"] for p in pairs]
    return (
        "# One GPU: ours and upstream's manner\n\n"
        f"Generated by `{command}`; raw rows in `gpu.csv`.\n\n"
        f"Device: {lines[0].device}. Attention: {', '.join(sorted({x.attention for x in lines}))}. "
        f"Code: {git_state()}. Corpus {track.task.corpus}, {track.time_budget:g} s each, "
        f"{len(pairs)} in turn; medians. The first {WARM} steps are left out. MFU is what the "
        "script says. On the bundled corpus a GPU passes through the text many times, so "
        "val_bpb there says nothing.\n\n"
        "| | tokens/s | MFU % | step p50, ms | p99, ms | waiting | peak MB | steps | val_bpb |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|\n" + "\n".join(rows) + "\n\n"
        f"Ours / upstream's manner at the same sizes: **{median(ratio):.2f}** "
        f"({min(ratio):.2f} to {max(ratio):.2f}).\n"
    )


def chosen(full: bool, seconds: float) -> Track:
    """gpu-5min, or a short one on the bundled corpus."""
    track = load_track("gpu-5min")
    if full:
        return track
    short = {"name": "gpu-short", "corpus": "shakespeare", "eval_tokens": 65536}
    task = track.task.model_copy(update=short)
    return track.model_copy(update={"task": task, "time_budget": seconds})


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--pairs", type=int, default=3)
    args = parser.parse_args()
    if not gpus():
        raise SystemExit("gpu.py needs an NVIDIA GPU and nvidia-smi finds none.")
    home = Home.from_environment(os.environ)
    home.make()
    track = chosen(args.full, args.seconds)
    try:
        lines = measure(track, home, args.pairs)
    except UserError as error:
        raise SystemExit(str(error)) from None
    with (HERE / "gpu.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([Line._fields, *lines])
    command = "python benchmarks/gpu.py" + (" --full" if args.full else "")
    text = page(lines, track, command)
    (HERE / "gpu.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

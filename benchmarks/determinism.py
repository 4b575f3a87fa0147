"""What repeats exactly on tiny-cpu and what does not, and how far it moves when it does not.

Owns: the conditions compared, determinism.csv and determinism.md. Trainings go through the real run
box and scorer; only the questions about bits ("does a row's companion matter?", "does a second
thread?") look inside one process. Does not own: the effect of edits (`single_edits.py`).

Usage: python benchmarks/determinism.py [--n 8] [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, NamedTuple

from rich.progress import track as progress

from inner_loop.data import base_files, prepare_data
from inner_loop.execute import Job, Site
from inner_loop.executor import LocalExecutor
from inner_loop.home import Home
from inner_loop.machine import hardware
from inner_loop.records import Measured, Track
from inner_loop.tracks import load_track

HERE = Path(__file__).parent
SEED = 1000
BIT_STEPS = 40


@dataclass(frozen=True)
class Condition:
    """Trainings that differ in nothing we set but, where `seeds` says so, the seed."""

    name: str
    track: Track
    slots: int
    seeds: tuple[int, ...]


class Row(NamedTuple):
    """One training."""

    condition: str
    seed: int
    measured: Measured


class Bits(NamedTuple):
    """Largest differences within one process; 0 is equal bit for bit."""

    companions: float
    """Of logits, when the other rows of a batch of 32 change."""
    batch_size: float
    """Of logits, when a row is alone instead of one of 32."""
    threads: float
    """Of val_bpb in mbpb, when training and scoring use two threads instead of one."""


# --- inside one process -----------------------------------------------------------------------


def logits_of(folder: Path) -> tuple[float, float]:
    """How far other companions, and none, move the logits of a row; a stirred model's."""
    sys.path.insert(0, str(folder))
    import torch

    prepare: Any = importlib.import_module("prepare")
    train: Any = importlib.import_module("train")
    torch.manual_seed(0)
    model = train.build_model(train.model_config(prepare.TASK["vocab_size"])).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    rows = prepare.search_rows()[:63, :-1]
    whole = prepare.compute_logits(model, rows[:32])
    others = prepare.compute_logits(model, rows[31:63])
    alone = prepare.compute_logits(model, rows[31:32])
    companions = (whole[31] - others[0]).abs().max().item()
    return companions, (whole[31] - alone[0]).abs().max().item()


def val_bpb_of(folder: Path, threads: int) -> float:
    """val_bpb of a training in this process, unrounded."""
    sys.path.insert(0, str(folder))
    import torch

    prepare: Any = importlib.import_module("prepare")
    score, found = prepare.evaluate_bpb, list[float]()

    def keep(*args: Any) -> float:
        found.append(score(*args))
        return found[-1]

    prepare.evaluate_bpb = keep
    torch.set_num_threads(threads)
    importlib.import_module("train").main()
    return found[0]


def ask(question: str, folder: Path, cache: Path) -> list[float]:
    """Answer one of the questions above in a fresh process.

    Raises:
        RuntimeError: it failed; the end of what it said.
    """
    done = subprocess.run(
        [sys.executable, __file__, "--ask", question, "--folder", str(folder)],
        env=os.environ | {"METARESEARCH_CACHE": str(cache), "METARESEARCH_DEVICE": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"--ask {question} failed:\n{done.stderr[-2000:]}")
    answer: list[float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def answer(question: str, folder: Path) -> None:
    """Print the answer as JSON: what `ask` starts."""
    if question == "logits":
        found: Sequence[float] = logits_of(folder)
    else:
        found = [val_bpb_of(folder, int(question))]
    print(json.dumps(found))


def look_at_bits(track: Track, cache: Path) -> Bits:
    """All questions about bits, at `BIT_STEPS` steps."""
    steps = track.model_copy(update={"clock": "steps", "time_budget": BIT_STEPS})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in base_files(steps).items():
            (folder / file).write_text(text, encoding="utf-8")
        companions, batch_size = ask("logits", folder, cache)
        (one,), (two,) = ask("1", folder, cache), ask("2", folder, cache)
    return Bits(companions, batch_size, 1000 * abs(one - two))


# --- through the run box ----------------------------------------------------------------------


def timed_conditions(track: Track, n: int) -> list[Condition]:
    """On the track's own clock."""
    seeds = tuple(range(SEED, SEED + n))
    return [
        Condition("seconds, one at a time", track, 1, seeds),
        Condition("seconds, two at a time", track, 2, seeds),
        Condition("seconds, one seed", track, 2, (SEED,) * n),
    ]


def counted_conditions(track: Track, n: int, steps: int) -> list[Condition]:
    """The same with a number of steps for a budget."""
    fixed = track.model_copy(update={"clock": "steps", "time_budget": steps})
    seeds = tuple(range(SEED, SEED + n))
    return [
        Condition(f"{steps} steps, {n} seeds", fixed, 2, seeds),
        Condition(f"{steps} steps, one seed", fixed, 2, (SEED, SEED)),
    ]


async def train(condition: Condition, site: Site, data: str) -> list[Row]:
    """All trainings of a condition, `slots` at a time."""
    files = base_files(condition.track)
    executor = LocalExecutor(site, condition.slots)
    jobs = [
        Job(
            run_id="determinism",
            index=i,
            files=files,
            track=condition.track,
            seed=seed,
            shards=("search",),
            data=data,
        )
        for i, seed in enumerate(condition.seeds)
    ]
    try:
        waiting = [asyncio.ensure_future(executor.submit(job)) for job in jobs]
        bar = progress(waiting, description=condition.name)
        return [
            Row(condition.name, job.seed, await each) for job, each in zip(jobs, bar, strict=True)
        ]
    finally:
        await executor.close()


def steps_of(rows: Sequence[Row]) -> list[int]:
    """Steps of every training that finished, as it says."""
    return [r.measured.claims.num_steps for r in rows if r.measured.claims.num_steps is not None]


def scores_of(rows: Sequence[Row]) -> list[float]:
    """val_bpb on the search shard of every training that finished."""
    return [r.measured.search_bpb for r in rows if r.measured.search_bpb is not None]


# --- reporting --------------------------------------------------------------------------------


def line(rows: Sequence[Row]) -> str:
    """A condition's line of the table."""
    scores, steps = scores_of(rows), steps_of(rows)
    if len(scores) < 2:
        return f"| {rows[0].condition} | {len(scores)} | too few finished | | | |"
    equal = "0 (bit for bit)" if len(set(scores)) == 1 else f"{1000 * stdev(scores):.1f}"
    spread = 100 * stdev(steps) / fmean(steps)
    clock = [row.measured.clock_seconds for row in rows]
    return (
        f"| {rows[0].condition} | {len(scores)} | {fmean(scores):.4f} | {equal} "
        f"| {median(steps):.0f} ({min(steps)} to {max(steps)}), sd {spread:.1f} % "
        f"| {min(clock):.2f} to {max(clock):.2f} |"
    )


def moved(value: float, unit: str) -> str:
    """How far something moved, in words."""
    return "nothing, bit for bit" if value == 0 else f"at most {value:.2g}{unit}"


def page(groups: Sequence[Sequence[Row]], bits: Bits, track: Track, command: str) -> str:
    """The whole of determinism.md."""
    table = "\n".join(line(rows) for rows in groups)
    return (
        f"# What repeats on `{track.name}` and what does not\n\n"
        f"Generated by `{command}`; raw rows in `determinism.csv`.\n\n"
        f"Machine: {hardware(track)}. The unchanged starting train.py through the run box and the "
        f"scorer, search shard; budget {track.time_budget:g} CPU seconds on one thread, or steps. "
        "A spread is a standard deviation; 1 mbpb is 0.001 bits per byte.\n\n"
        "| condition | n | mean val_bpb | sd, mbpb | steps: median (range) | CPU s used |\n"
        f"|---|---:|---:|---:|---:|---:|\n{table}\n\n"
        "- `seconds, one seed` moves only because the number of steps does; the rows with a fixed "
        "number of steps move only because the seed does.\n"
        f"- Other rows beside a row in a batch of 32 change its logits by "
        f"{moved(bits.companions, '')}; alone instead of one of 32: "
        f"{moved(bits.batch_size, '')}. The scorer always sends the same rows together.\n"
        f"- Two threads instead of one, same seed, {BIT_STEPS} steps: val_bpb changes by "
        f"{moved(bits.threads, ' mbpb')}. CPU tracks use one.\n"
        "- A GPU was not measured; expect it to differ from run to run even at a fixed number of "
        "steps.\n"
    )


def save(groups: Sequence[Sequence[Row]], text: str, folder: Path) -> None:
    """Write both files."""
    with (folder / "determinism.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["condition", "seed", "search_bpb", "crash", "clock_seconds", "num_steps"])
        for row in (row for rows in groups for row in rows):
            m = row.measured
            cells = [m.search_bpb, m.crash, round(m.clock_seconds, 3), m.claims.num_steps]
            writer.writerow([row.condition, row.seed, *cells])
    (folder / "determinism.md").write_text(text, encoding="utf-8")


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=8, help="trainings a condition")
    parser.add_argument("--quick", action="store_true", help="two short ones each, for tests")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ask:
        answer(args.ask, args.folder)
        return
    n, track = args.n, load_track("tiny-cpu")
    if args.quick:
        n, track = 2, track.model_copy(update={"time_budget": 0.5})
    home = Home.from_environment(os.environ)
    home.make()
    site, data = Site(home.cache, home.scratch), prepare_data(track, home).name
    bits = look_at_bits(track, home.cache / data)
    groups = [asyncio.run(train(each, site, data)) for each in timed_conditions(track, n)]
    steps = round(median(steps_of(groups[0]) or [BIT_STEPS]))
    counted = counted_conditions(track, n, steps)
    groups += [asyncio.run(train(each, site, data)) for each in counted]
    text = page(groups, bits, track, f"python benchmarks/determinism.py --n {n}")
    save(groups, text, args.out)
    print(text)


if __name__ == "__main__":
    main()

"""Baselines of a track on this machine: its noise floor, before anybody spends a night on it.

Owns: the order of work (a short training that is thrown away, then unchanged ones, one at a time)
and the track file that comes out. Does not own: a training (`inner_loop.execute`), the sizes
(`sizes.py`), the statistics and the records (`analysis`).
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
)
from rich.text import Text

from analysis.machine_report import Baseline, Calibration, Statistics, statistics
from analysis.machine_terminal import baseline_cells, minutes, sentences
from analysis.wording import count
from inner_loop.data import PreparedData, base_files, prepare_data
from inner_loop.errors import UserError
from inner_loop.execute import Job, Site
from inner_loop.executor import Executor, LocalExecutor
from inner_loop.faults import preflight
from inner_loop.home import Home
from inner_loop.literals import literals, number
from inner_loop.machine import hardware
from inner_loop.records import Measured, Track, derive_seed
from outer_loop.doctor import Findings, Plan, propose
from outer_loop.track_file import set_aside, writable_path

FEWEST_BASELINES = 5
TRIAL_BUDGET = {"wall": 10.0, "cpu": 2.0, "steps": 10.0}
"""Budget of the training that is thrown away, in the clock's units."""
TRIAL_STARTUP_SECONDS = 600.0  # a slow processor compiles for minutes; the track's cap comes later
HALVINGS = 4  # of DEVICE_BATCH_SIZE, should the estimate of memory be wrong
INTERRUPTED = 130

T = TypeVar("T")


class Trial(NamedTuple):
    """What the training that is thrown away tells."""

    tokens_per_second: float
    seconds: float
    """Expected wall seconds of one whole baseline."""
    startup_seconds: float


class Bench(NamedTuple):
    """Where trainings are run, and where it is told."""

    home: Home
    executor: Executor
    console: Console


def refuse_too_few(baselines: int) -> None:
    """A noise floor from a handful of trainings is a guess.

    Raises:
        UserError: fewer than `FEWEST_BASELINES`.
    """
    if baselines < FEWEST_BASELINES:
        raise UserError(
            f"--baselines {baselines} is too few: even {FEWEST_BASELINES} trainings know their "
            "spread only to within a factor of three (95 % interval), and one or two say nothing; "
            f"use {FEWEST_BASELINES} or more."
        )


def calibrate(
    home: Home,
    found: Findings,
    plan: Plan,
    *,
    baselines: int,
    write: str | None,
    console: Console,
) -> tuple[Plan, Calibration]:
    """Measure speed, adjust the sizes, train baselines and write the track file.

    Args:
        home: state folder; no tournament may run in it meanwhile.
        found: what the machine answered.
        plan: the track to calibrate; its sizes are adjusted if they are a proposal's.
        baselines: unchanged trainings, `FEWEST_BASELINES` or more.
        write: where the track file goes; None = the home's `tracks` folder.
        console: where progress is told.

    Raises:
        UserError: a training fails, or nothing can be written.
        MachineFault: the machine cannot train now.
    """
    refuse_too_few(baselines)
    home.make()
    path = writable_path(write, home.root / "tracks", plan.track.name)
    with home.driver_lock():
        preflight(plan.track, 1)
        data = prepare_data(plan.track, home)
        shutil.rmtree(home.scratch, ignore_errors=True)  # left by a killed driver
        bench = Bench(home, LocalExecutor(Site(home.cache, home.scratch), 1), console)
        work = _measure(bench, found, plan, data, baselines)
        plan, trial, measured = _run(bench, work)
    result = _calibration(plan.track, measured)
    file = _limits(plan, trial).file
    for old, new in [(p, set_aside(p)) for p in file.paths(path)]:
        if new is not None:
            console.print(f"{old} was there; it is now {new.name}.", soft_wrap=True, markup=False)
    file.write(path, _remarks(result))
    return _with_speed(plan, measured), result.model_copy(update={"path": str(path)})


def _run(bench: Bench, work: Coroutine[Any, Any, T]) -> T:
    async def main() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
        try:
            return await work
        finally:
            await bench.executor.close()

    try:
        return asyncio.run(main())
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("Stopped. No track file was written.", file=sys.stderr)
        sys.exit(INTERRUPTED)


async def _measure(
    bench: Bench, found: Findings, plan: Plan, data: PreparedData, baselines: int
) -> tuple[Plan, Trial, list[Baseline]]:
    plan, trial = await try_out(bench, found, plan, data)
    whole = minutes(baselines * trial.seconds)
    one = minutes(trial.seconds)
    bench.console.print(
        f"{count(baselines, 'baseline')} x {one} = {whole}, one at a time.", highlight=False
    )
    return plan, trial, await _train(bench, plan.track, data, baselines, trial.seconds)


# --- the training that is thrown away -----------------------------------------------------------


async def try_out(
    bench: Bench, found: Findings, plan: Plan, data: PreparedData
) -> tuple[Plan, Trial]:
    """Measure the speed and, for a proposal, fit the sizes to it; halve the rows if it must."""
    bench.console.print(
        "First a short training that is thrown away: how fast is it here?", highlight=False
    )
    trial = await _trial(bench, plan.track, data)
    if plan.start is None or not plan.start.literals:
        if trial is None:
            raise UserError(
                f"Track '{plan.track.name}' runs out of memory here; use a smaller one."
            )
        return plan, trial
    if trial is not None:
        plan = propose(found, trial.tokens_per_second)
        trial = await _trial(bench, plan.track, data)
    for _ in range(HALVINGS):
        if trial is not None:
            return plan, trial
        plan = _halved(plan)
        trial = await _trial(bench, plan.track, data)
    raise UserError("Even small batches run out of memory here; use --track tiny-cpu.")


async def _trial(bench: Bench, track: Track, data: PreparedData) -> Trial | None:
    """One short training; None if it runs out of memory."""
    budget = min(track.time_budget, TRIAL_BUDGET[track.clock])
    limits = track.limits.model_copy(
        update={
            "startup_seconds": TRIAL_STARTUP_SECONDS,
            "wall_seconds": max(track.limits.wall_seconds, 2 * TRIAL_STARTUP_SECONDS),
            "overtime_fraction": 1.0,
        }
    )
    short = track.model_copy(update={"time_budget": budget, "limits": limits})
    measured = await bench.executor.submit(_job(short, data, 0))
    if measured.crash == "oom":
        return None
    _refuse_a_crash(track, measured, "The short training")
    more = measured.clock_seconds * (track.time_budget / budget - 1)
    return Trial(
        tokens_per_second=_speed(short, measured) or 0.0,
        seconds=measured.wall_seconds + more,
        startup_seconds=measured.startup_seconds,
    )


def _halved(plan: Plan) -> Plan:
    assert plan.start is not None
    rows = plan.track.start["DEVICE_BATCH_SIZE"]
    assert isinstance(rows, int)
    smaller = {**plan.start.literals, "DEVICE_BATCH_SIZE": max(1, rows // 2)}
    file = plan.file.with_start(smaller)
    start = plan.start._replace(literals=smaller)
    proposal = plan.proposal.model_copy(update={"start": smaller})
    return Plan(file, file.load(), start, proposal)


# --- baselines ----------------------------------------------------------------------------------


async def _train(
    bench: Bench, track: Track, data: PreparedData, baselines: int, seconds: float
) -> list[Baseline]:
    done: list[Baseline] = []
    with _progress(bench.console, baselines, seconds) as advance:
        for index in range(1, baselines + 1):
            measured = await bench.executor.submit(_job(track, data, index))
            _refuse_a_crash(track, measured, f"Baseline {index} of {baselines}")
            done.append(_baseline(track, measured))
            advance(f"{index}/{baselines} {_line(done[-1])}")
    return done


def _line(baseline: Baseline) -> str:
    bpb, steps, speed, startup, _ = baseline_cells(baseline, 0.1)
    return f"val_bpb {bpb}, {steps or '?'} steps, {speed or '?'} tokens/s, start-up {startup}"


class _TimeLeft(ProgressColumn):
    """Counts down what was expected, from the first second; each end of a training corrects it."""

    def render(self, task: Task) -> Text:
        left = task.fields["each"] * (task.total or 0) - (task.elapsed or 0)
        return Text(f"{minutes(max(0.0, left))} left")


@contextmanager
def _progress(console: Console, total: int, seconds: float) -> Iterator[Callable[[str], None]]:
    """A bar with time left on a terminal, plain lines elsewhere.

    Args:
        console: where to.
        total: trainings.
        seconds: what one is expected to take.
    """

    def line(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    if not console.is_terminal:
        yield line
        return
    with Progress(
        TextColumn("baselines"), BarColumn(), MofNCompleteColumn(), _TimeLeft(), console=console
    ) as progress:
        task = progress.add_task("", total=total, each=seconds)

        def advance(text: str) -> None:
            line(text)
            progress.advance(task)
            done = progress.tasks[task]
            progress.update(task, each=(done.elapsed or 0) / done.completed)

        yield advance


def _job(track: Track, data: PreparedData, index: int) -> Job:
    return Job(
        run_id="calibration",
        index=index,
        files=base_files(track),
        track=track,
        seed=derive_seed("calibration", track.fingerprint, index),
        shards=("search",),
        data=data.name,
    )


def _baseline(track: Track, measured: Measured) -> Baseline:
    assert measured.search_bpb is not None
    return Baseline(
        search_bpb=measured.search_bpb,
        steps=measured.claims.num_steps,
        tokens_per_second=_speed(track, measured),
        startup_seconds=measured.startup_seconds,
        wall_seconds=measured.wall_seconds,
        memory_gb=measured.memory_gb,
    )


def _refuse_a_crash(track: Track, measured: Measured, which: str) -> None:
    if measured.crash is None:
        return
    lines = [line.strip() for line in measured.error.splitlines() if line.strip()]
    last = f": {lines[0]}; {lines[-1]}" if len(lines) > 1 else f": {''.join(lines)}"
    raise UserError(
        f"{which} of the unchanged train.py on track '{track.name}' failed "
        f"({measured.crash}){last[:300]}. Nothing was written; mend the cause and calibrate again."
    )


def _speed(track: Track, measured: Measured) -> float | None:
    """Tokens per second of the track's clock, from train.py's own count of steps."""
    if not measured.claims.num_steps or not measured.clock_seconds:
        return None
    return measured.claims.num_steps * tokens_per_step(track) / measured.clock_seconds


def tokens_per_step(track: Track) -> int:
    """Tokens of one optimizer step: whole rows, in equal parts, as train.py cuts them."""
    found, context = literals(base_files(track)["train.py"]), track.task.max_seq_len
    total, most = (
        int(number(found.get(name, "")) or context)
        for name in ("TOTAL_BATCH_SIZE", "DEVICE_BATCH_SIZE")
    )
    rows_in_all = max(1, total // context)
    rows = min(most, rows_in_all)
    return rows_in_all // rows * rows * context


# --- the result ---------------------------------------------------------------------------------


def _calibration(track: Track, done: list[Baseline]) -> Calibration:
    found: Statistics = statistics([baseline.search_bpb for baseline in done])
    return Calibration(
        track=track.name,
        hardware=hardware(track),
        baselines=tuple(done),
        floor=found.floor,
        drift=found.drift,
    )


def _with_speed(plan: Plan, done: list[Baseline]) -> Plan:
    """The plan with what the baselines measured in place of what was expected."""
    steps = [b.steps for b in done if b.steps is not None]
    speeds = [b.tokens_per_second for b in done if b.tokens_per_second is not None]
    measured = {
        "steps": fmean(steps) if steps else None,
        "tokens_per_second": fmean(speeds) if speeds else None,
    }
    return plan._replace(proposal=plan.proposal.model_copy(update=measured))


def _limits(plan: Plan, trial: Trial) -> Plan:
    """More start-up time where this machine compiles more slowly than the track allows."""
    limits = plan.file.table["limits"]
    needed = round(2 * trial.startup_seconds)
    if plan.track.clock == "cpu" or needed <= limits["startup_seconds"]:
        return plan
    changed = {**limits, "startup_seconds": float(needed)}
    return plan._replace(file=plan.file._replace(table={**plan.file.table, "limits": changed}))


def _remarks(found: Calibration) -> list[str]:
    day = datetime.now(UTC).date().isoformat()
    baselines = count(len(found.baselines), "baseline")
    return [
        f"Written by `metaresearch doctor --calibrate` on {day}: {baselines}, {found.hardware}.",
        *sentences(found),
    ]

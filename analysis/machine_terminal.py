"""What `doctor` found, as tables and sentences for a terminal.

Owns: their layout and wording. What tools and files said is shown literally, never as markup.
Does not own: the facts (`machine_report`), printing (the CLI does).
"""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from analysis import wording
from analysis.machine_report import Baseline, Calibration, Check, DoctorReport, Proposal

STATE_STYLE = {"ok": "green", "warning": "yellow", "problem": "bold red", "missing": "dim"}


def doctor_view(report: DoctorReport) -> Group:
    """The table of checks, the track and what to type next."""
    return Group(checks_view(report), Text(f"Next: {wording.visible(report.next_command)}"))


def checks_view(report: DoctorReport) -> Group:
    """The table of checks and the track."""
    state = "It can run." if report.can_run else "It cannot run here yet: mend the problem above."
    return Group(
        checks_table(report.checks),
        checks_table(report.researchers, "researcher"),
        _proposal(report.proposal),
        Text(state, style="green" if report.can_run else "bold red"),
    )


def checks_table(checks: tuple[Check, ...], what: str = "check") -> Table:
    """One row a check, with the remedy for what is not well."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column(what, no_wrap=True)
    table.add_column("found", overflow="fold", ratio=3)
    table.add_column("", no_wrap=True)
    table.add_column("what to do", overflow="fold", ratio=4)
    for check in checks:
        table.add_row(
            check.name,
            _literal(check.found),
            Text(check.state, style=STATE_STYLE[check.state]),
            _literal(check.remedy),
        )
    return table


def calibration_view(found: Calibration) -> Group:
    """The baselines and what they say."""
    title = _literal(f"Baselines of {found.track} on {found.hardware}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("#", "val_bpb", "steps", "tokens/s", "start-up", "whole"):
        table.add_column(name, justify="right", no_wrap=True)
    for number, baseline in enumerate(found.baselines, 1):
        table.add_row(str(number), *baseline_cells(baseline, _sd(found)))
    return Group(title, table, *(Text(line) for line in sentences(found)))


def baseline_cells(baseline: Baseline, noise_sd: float | None) -> list[str]:
    """Score, steps, tokens per second, start-up and whole seconds of one training."""
    speed = baseline.tokens_per_second
    return [
        wording.show_bpb(baseline.search_bpb, noise_sd),
        "" if baseline.steps is None else f"{baseline.steps:,}",
        "" if speed is None else f"{speed:,.0f}",
        f"{baseline.startup_seconds:.1f} s",
        f"{baseline.wall_seconds:.1f} s",
    ]


def sentences(found: Calibration) -> list[str]:
    """Noise floor, drift and where the track is, in words."""
    said = [_floor(found), _drift(found)]
    if found.path:
        said.append(f"Track file: {wording.visible(found.path)}")
    return [sentence for sentence in said if sentence]


def minutes(seconds: float) -> str:
    """`28 min`, `40 s`."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _floor(found: Calibration) -> str:
    n, floor = len(found.baselines), found.floor
    if floor is None or floor.low_mbpb is None or floor.high_mbpb is None:
        return f"Noise floor: all {n} baselines are equal, so there is no noise to measure."
    low, high = _digits(floor.low_mbpb), _digits(floor.high_mbpb)
    return (
        f"Noise floor: one training scatters by {_digits(floor.sd_mbpb)} mbpb (sd on the search "
        f"shard; 95 % interval {low} to {high}, chi-square, {n} baselines). {wording.MBPB}"
    )


def _drift(found: Calibration) -> str:
    drift = found.drift
    if drift is None or found.floor is None:
        return ""
    places = wording.supported_decimals((drift.high_mbpb - drift.low_mbpb) / 2)
    ends = [wording.signed(x, places) for x in (drift.low_mbpb, drift.high_mbpb)]
    slope = wording.signed(drift.slope_mbpb, places)
    seen = drift.low_mbpb > 0 or drift.high_mbpb < 0
    verdict = "the machine or its load drifts; find out why" if seen else "no drift can be seen"
    return (
        f"Drift: {slope} mbpb of val_bpb a training, 95 % interval [{ends[0]}, {ends[1]}]: "
        f"{verdict}."
    )


def _digits(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def _sd(found: Calibration) -> float | None:
    return found.floor.sd_mbpb if found.floor else None


def _proposal(found: Proposal) -> Text:
    title = "Track" if found.asked else "Proposed track"
    lines = [f"{title}: {found.track}, {found.budget} an experiment; {found.why}"]
    if found.start:
        changes = ", ".join(f"{name} {value}" for name, value in found.start.items())
        lines.append(f"It starts train.py with {changes}.")
    lines.append(_expectation(found))
    return Text("\n".join(wording.visible(line) for line in lines if line))


def _expectation(found: Proposal) -> str:
    said = []
    if found.memory_gb is not None:
        of = "" if found.device_memory_gb is None else f" of {found.device_memory_gb:.0f}"
        said.append(f"about {found.memory_gb:.1f}{of} GiB at the peak (estimated)")
    if found.steps is None:
        said.append("steps not known before --calibrate")
    else:
        said.append(f"about {found.steps:,.0f} optimizer steps a training")
    return f"Expected: {', '.join(said)}."


def _literal(text: str) -> Text:
    return Text(wording.visible(text))

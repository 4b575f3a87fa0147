"""`doctor` from the question to the printed answer.

Owns: the order (look, propose, calibrate if asked) and where words go: with `--json` the report
alone is on standard output and progress on standard error.
Does not own: checks (`doctor.py`), trainings (`calibrate.py`), layout (`analysis`).
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from analysis.machine_report import DoctorReport
from analysis.machine_terminal import calibration_view, checks_view, doctor_view
from inner_loop.errors import UserError
from inner_loop.home import Home
from inner_loop.tracks import load_track
from outer_loop.calibrate import calibrate, refuse_too_few
from outer_loop.doctor import asked, diagnose, examine, propose


def consult(
    home: Home, *, track: str | None, baselines: int | None, write: str | None, as_json: bool
) -> DoctorReport:
    """Examine the machine, print what was found, calibrate if asked and possible.

    Args:
        home: state folder.
        track: a track to judge; None = propose one.
        baselines: unchanged trainings to calibrate with; None = no calibration.
        write: where the calibrated track goes.
        as_json: print the report as JSON instead of tables.

    Raises:
        UserError: bad input, or a calibration that fails.
    """
    if baselines is not None:
        refuse_too_few(baselines)
    elif write is not None:
        raise UserError("--write is for --calibrate, which measures what is written; add it.")
    if track is not None:
        load_track(track)  # a wrong name is told before anything is asked
    found = examine(home)
    plan = propose(found) if track is None else asked(found, track)
    report = diagnose(home, found, plan)
    console = Console(stderr=as_json)
    if baselines is None or not report.can_run:
        _show(report, as_json)
        return report
    console.print(checks_view(report))
    plan, calibration = calibrate(
        home, found, plan, baselines=baselines, write=write, console=console
    )
    command = f"metaresearch tournament --track {_short(Path(calibration.path))}"
    report = diagnose(home, found, plan).model_copy(
        update={"calibration": calibration, "next_command": command}
    )
    if as_json:
        _show(report, as_json)
    else:
        console.print(calibration_view(calibration))
        console.print(f"Next: {command}", soft_wrap=True, highlight=False, markup=False)
    return report


def _short(path: Path) -> Path:
    """The path as one would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _show(report: DoctorReport, as_json: bool) -> None:
    if as_json:
        print(report.model_dump_json(indent=2))
    else:
        Console().print(doctor_view(report))

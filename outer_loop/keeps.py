"""From a results file or a run of the ledger to a `KeepsReport`.

Owns: what the command's argument names, where the noise floor comes from, and notes on the source.
Does not own: statistics (`analysis.keeps`, `analysis.keeps_noise`), reading files
(`inner_loop.results_reader`), which rows train the same code (`keeps_codes`), layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from analysis.curves import CHARGED, MBPB_PER_BPB, audit_scores, run_detail, search_scores
from analysis.keeps import (
    START,
    Confirmation,
    KeepsReport,
    Session,
    Trial,
    keeps_report,
    repeat_groups,
)
from analysis.keeps_noise import (
    ASSUMED_SD_MBPB,
    FEW_MEASUREMENTS,
    NoiseFloor,
    interval_factor,
    known_floor,
    measured_floor,
    standard_error,
)
from inner_loop.errors import UserError
from inner_loop.home import Home
from inner_loop.ledger import Ledger
from inner_loop.records import Experiment, Run, RunDetail
from inner_loop.results_reader import (
    ResultRow,
    ResultsFile,
    read_results,
    shown,
    unreadable_lines,
)
from outer_loop.details import find_run
from outer_loop.keeps_codes import Coded, coded_rows, without_duplicates

FILE_ENDINGS = {".tsv", ".csv", ".txt"}


def keeps_of(target: str, noise_sd: float | None, home: Home) -> KeepsReport:
    """Judge the keeps of a results file or of a run.

    Args:
        target: a file, `-` for standard input, a folder with a results.tsv, or a run's id.
        noise_sd: the noise floor in mbpb where the user knows it.
        home: whose ledger has the run.

    Raises:
        UserError: no such file or run, or nothing in it can be judged.
    """
    if noise_sd is not None and not math.isfinite(noise_sd):
        raise UserError(f"--noise-sd {noise_sd} is no spread; give the sd of one training in mbpb.")
    path = Path("/dev/stdin" if target == "-" else target).expanduser()
    if path.is_dir() and (path / "results.tsv").is_file():
        path = path / "results.tsv"
    if path.exists() and not path.is_dir():
        return file_keeps(read_results(path), noise_sd)
    if path.suffix.lower() in FILE_ENDINGS or path.is_dir():
        what = "holds no results.tsv" if path.is_dir() else "does not exist"
        raise UserError(f"{target} {what}; give a results file, or the id of a run.")
    ledger = _ledger(target, home)
    return run_keeps(ledger, find_run(ledger, target), noise_sd)


def _ledger(target: str, home: Home) -> Ledger:
    try:
        return home.ledger(must_exist=True)
    except UserError as error:
        raise UserError(
            f"There is no file '{shown(target)}', and no ledger to find a run in: {error}"
        ) from error


# --- a results file -----------------------------------------------------------------------------


def file_keeps(file: ResultsFile, noise_sd: float | None = None) -> KeepsReport:
    """Judge the keeps of a results file; its first scored row is what the session started from.

    Raises:
        UserError: it has no experiment after that row.
    """
    rows, duplicates = without_duplicates(file.rows)
    coded = coded_rows(rows)
    session = _file_session(coded, file.has_status)
    if not session.trials:
        raise UserError(
            f"{file.name} has one scored row, its start, and no experiment after it; there is "
            "nothing to judge yet."
        )
    own = measured_floor(repeat_groups(session), "reruns")
    floor = _file_floor(noise_sd, own)
    return keeps_report(
        session,
        floor,
        source=file.name,
        own_repeats=None if own is floor else own,
        notes=[*_file_notes(file, duplicates), *_doubtful(coded), *_direction(session)],
    )


def _file_floor(noise_sd: float | None, own: NoiseFloor | None) -> NoiseFloor:
    if noise_sd is not None:
        return known_floor(noise_sd, "given")
    if own is not None and own.measurements >= FEW_MEASUREMENTS:
        return own
    return known_floor(ASSUMED_SD_MBPB, "assumed")


def _file_session(coded: Sequence[Coded], has_status: bool) -> Session:
    first = next(i for i, c in enumerate(coded) if c.row.bpb is not None)
    start = coded[first]
    assert start.row.bpb is not None
    best, trials = start.row.bpb, []
    for row, code, _ in coded[first + 1 :]:
        is_lower = row.bpb is not None and row.bpb < best
        kept = row.status == "keep" if has_status else is_lower
        if kept and is_lower:
            best = row.bpb or best
        trials.append(_file_trial(row, START if code == start.code else code, kept))
    return Session(
        start_commit=start.row.commit or start.row.name,
        start_bpb=start.row.bpb,
        trials=tuple(trials),
    )


def _file_trial(row: ResultRow, code: str, kept: bool) -> Trial:
    return Trial(
        where=f"line {row.line}",
        code=code,
        commit=row.commit or row.name,
        bpb=row.bpb,
        kept=kept,
        description=row.description,
    )


def _file_notes(file: ResultsFile, duplicates: Sequence[int]) -> Iterator[str]:
    if file.unreadable:
        yield unreadable_lines(file.unreadable)
    if duplicates:
        yield f"Logged twice, counted once: {_lines(duplicates)}."
    if file.repeated_headers:
        yield (
            f"The header stands again at {_lines(file.repeated_headers)}: if these are several "
            "sessions, judge each in a file of its own."
        )
    yield from _status_note(file)
    if file.other_value_columns:
        others = ", ".join(f"'{shown(c)}'" for c in file.other_value_columns)
        yield (
            f"Column '{shown(file.value_column)}' is read as the score, not {others}; to judge "
            "another one, name it 'val_bpb' in the header and this one otherwise."
        )
    if file.has_header and "bpb" not in file.value_column.lower():
        yield (
            f"Column '{shown(file.value_column)}' is read as bits per byte, lower is better; in "
            "any other unit, give --noise-sd in thousandths of that unit."
        )
    unknown = sorted({shown(r.status_word) for r in file.rows if r.status == "unknown"})
    if unknown:
        yield f"Not known as a status, read as not kept: {', '.join(unknown[:5])}."
    agents = {r.agent for r in file.rows if r.agent}
    if len(agents) > 1:
        yield f"The rows of {len(agents)} agents are read as one session, in the file's order."


def _status_note(file: ResultsFile) -> Iterator[str]:
    lower = "a row is taken as kept if it is lower than all before it"
    if file.unread_status is not None:
        words = ", ".join(f"'{shown(w)}'" for w in file.unread_status.words)
        yield (
            f"Column '{shown(file.unread_status.column)}' is named like a status, but nothing in "
            f"it is understood ({words}), so {lower}; write keep or discard there."
        )
    elif not file.has_status:
        yield f"There is no status column; {lower}."


def _doubtful(coded: Sequence[Coded]) -> Iterator[str]:
    lines = [c.row.line for c in coded if c.is_doubtful and c.row.bpb is not None]
    if lines:
        yield (
            f"Same commit and description as a line before, but nothing says rerun: "
            f"{_lines(lines)}; read as edits that were not committed. Where they train the same "
            "code again, write rerun in the description."
        )


def _direction(session: Session) -> Iterator[str]:
    best, kept, higher = session.start_bpb, 0, 0
    for trial in session.trials:
        if trial.kept and trial.bpb is not None:
            kept, higher = kept + 1, higher + (trial.bpb > best)
            best = min(best, trial.bpb)
    if kept > 2 and higher > kept / 2:
        yield (
            f"{higher} of {kept} keeps are higher than the best before them: is lower better in "
            "this file? Only such scores can be judged."
        )


def _lines(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"line{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:5]))}{more}"


# --- a run of the ledger ------------------------------------------------------------------------


def run_keeps(ledger: Ledger, run: Run, noise_sd: float | None = None) -> KeepsReport:
    """Judge the keeps of a run against the baselines of its track, search shard.

    Raises:
        UserError: it is a block's baselines, has no experiment yet, or its noise is not known.
    """
    detail = run_detail(ledger, run.id)
    session = _run_session(ledger, detail)
    blocks = list(_blocks(ledger, run))
    own = measured_floor([_mbpb(search_scores(b)) for b in blocks], "baselines")
    floor = known_floor(noise_sd, "given") if noise_sd is not None else own
    if floor is None:
        raise UserError(
            f"The track of run {run.id} has no two baselines of one block that differ, so its "
            "noise is not known; give --noise-sd, in mbpb."
        )
    return keeps_report(
        session,
        floor,
        source=f"run {run.id} ({run.program_name})",
        own_repeats=None if own is floor else own,
        confirmation=_confirmation(ledger, detail, session, blocks),
        notes=list(_run_notes(detail)),
    )


def _run_session(ledger: Ledger, detail: RunDetail) -> Session:
    run, trials = detail.run, tuple(_run_trials(ledger, detail))
    if run.role == "baseline":
        raise UserError(f"Run {run.id} is a block's baselines; name the run of a program.")
    if detail.baseline_search_bpb is None or not any(t.bpb is not None for t in trials):
        raise UserError(f"Run {run.id} has no scored experiment yet; there is nothing to judge.")
    track = ledger.tournament(run.tournament_id).track
    block = _block(ledger, run)
    opening = [e for e in block if e.index <= track.opening_baselines]
    return Session(
        start_commit=track.base_commit[:8],
        start_bpb=detail.baseline_search_bpb,
        start_trainings=max(1, len(search_scores(opening))),
        trials=trials,
    )


def _run_trials(ledger: Ledger, detail: RunDetail) -> Iterator[Trial]:
    base = {e.tree for e in _block(ledger, detail.run)}
    for e in detail.experiments:
        if e.kind in CHARGED:
            yield Trial(
                where=f"exp {e.index}",
                code=START if e.tree in base else e.tree,
                commit=e.commit[:8],
                bpb=e.measured.search_bpb,
                kept=e.status == "keep",
                description=e.description,
            )


def _confirmation(
    ledger: Ledger, detail: RunDetail, session: Session, blocks: Sequence[Sequence[Experiment]]
) -> Confirmation | None:
    """The run's gain on the audit shard; its noise is that of the baselines on that shard."""
    if detail.gain is None:
        return None
    final = audit_scores(e for e in detail.experiments if e.kind == "confirm")
    start = audit_scores(_block(ledger, detail.run))
    floor = measured_floor([_mbpb(audit_scores(b)) for b in blocks], "baselines")
    half = None
    if floor is not None:
        half = interval_factor(floor.df) * standard_error(floor, len(final), len(start))
    kept = [t.bpb for t in session.trials if t.kept and t.bpb is not None]
    claim = MBPB_PER_BPB * (session.start_bpb - min([session.start_bpb, *kept]))
    return Confirmation(
        gain_mbpb=detail.gain,
        low_mbpb=None if half is None else detail.gain - half,
        high_mbpb=None if half is None else detail.gain + half,
        trainings=len(final),
        baseline_trainings=len(start),
        source="audit shard",
        shrinkage_mbpb=claim - detail.gain,
    )


def _run_notes(detail: RunDetail) -> Iterator[str]:
    if detail.run.state != "complete":
        yield f"The run is {detail.run.state}: this is what it has so far, without confirmation."
    elif detail.gain is None:
        yield "Every confirmation of this run crashed, so its final script has no confirmed gain."


def _block(ledger: Ledger, run: Run) -> list[Experiment]:
    """The baselines that the run shares with its block."""
    return [
        e
        for other in ledger.runs(run.tournament_id)
        if other.role == "baseline" and other.replicate == run.replicate
        for e in ledger.experiments(other.id)
        if e.kind == "baseline"
    ]


def _blocks(ledger: Ledger, run: Run) -> Iterator[list[Experiment]]:
    """The baselines of every block of every tournament on the run's track."""
    fingerprint = ledger.tournament(run.tournament_id).track.fingerprint
    for tournament in ledger.tournaments():
        if tournament.track.fingerprint == fingerprint:
            for other in ledger.runs(tournament.id):
                if other.role == "baseline":
                    yield _block(ledger, other)


def _mbpb(scores: Sequence[float]) -> list[float]:
    return [MBPB_PER_BPB * x for x in scores]

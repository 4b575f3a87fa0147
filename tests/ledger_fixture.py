"""Synthetic tournaments in a real ledger, for the tests of analysis."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inner_loop.ledger import Ledger
from inner_loop.program import parse_program
from inner_loop.records import (
    Budget,
    CrashCode,
    Entrant,
    Experiment,
    ExperimentKind,
    Limits,
    Measured,
    Role,
    Run,
    RunState,
    Submission,
    Task,
    Tournament,
    Track,
)

AT = "2026-01-31T00:00:00+00:00"
TRACK = Track(
    name="tiny-cpu",
    task=Task(
        name="tiny",
        corpus="shakespeare",
        vocab_size=512,
        max_seq_len=64,
        eval_tokens=4096,
        scored_tokens=4096,
    ),
    device="cpu",
    clock="cpu",
    time_budget=3.0,
    limits=Limits(
        startup_seconds=20,
        scoring_seconds=10,
        wall_seconds=180,
        overtime_fraction=0.1,
        memory_gb=4,
        file_mb=64,
        processes=64,
    ),
    researcher="catalog",
    budget=Budget(experiments=5),
    baselines=4,
    confirm_seeds=1,
    hardware="two cores",
    base_commit="b" * 40,
)
BASE = "b" * 40


@dataclass(frozen=True)
class Try:
    """One charged experiment to write: its score, or how it crashed."""

    bpb: float | None = None
    crash: CrashCode | None = None
    description: str = "Raise the matrix learning rate"
    cites: tuple[str, ...] = ()
    verdict: bool = True
    kind: ExperimentKind = "edit"
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """One run to write."""

    name: str
    block: int
    tries: Sequence[Try] = ()
    confirms: Sequence[float | None] = ()
    state: RunState = "complete"
    role: Role = "entrant"


def sha(*parts: object) -> str:
    return hashlib.sha1(repr(parts).encode()).hexdigest()


def program_body(name: str) -> bytes:
    return f"# {name}\n\n- Tune the optimiser first.\n- Then change the shape of {name}.\n".encode()


def program_id(name: str) -> str:
    return parse_program(program_body(name), name).id


def instruction_ids(name: str) -> list[str]:
    return [i.id for i in parse_program(program_body(name), name).instructions]


def measured(bpb: float | None, crash: CrashCode | None, audit: float | None, at: int) -> Measured:
    return Measured(
        search_bpb=bpb,
        audit_bpb=audit,
        crash=crash,
        error="Traceback: <script>" if crash else "",
        clock_seconds=3.0 + 0.01 * at,
        wall_seconds=6.0,
        memory_gb=0.5,
    )


def write_tournament(
    ledger: Ledger,
    plans: Sequence[Plan],
    baselines: Sequence[Sequence[float | None]],
    *,
    name: str = "demo",
    track: Track = TRACK,
    notes: dict[str, str] | None = None,
    clock_offset: float = 0.0,
) -> Tournament:
    roles = {p.name: p.role for p in plans}
    for program in roles:
        ledger.add_program(program_id(program), program, program_body(program))
    for program, note in (notes or {}).items():
        ledger.add_submission(
            Submission(
                id=f"S-{sha(program)[:8]}",
                program_id=program_id(program),
                author="someone",
                name=program,
                note=note,
            ),
            AT,
        )
    tournament = Tournament(
        id=f"T-{sha(name)[:8]}",
        track=track,
        entrants=tuple(
            Entrant(program_id=program_id(n), name=n, role=role) for n, role in roles.items()
        ),
        replicates=max((p.block for p in plans), default=0) + 1,
        seed=0,
    )
    ledger.add_tournament(tournament, AT)
    for block, scores in enumerate(baselines):
        _write_baselines(ledger, tournament, block, scores)
    for plan in plans:
        _write_run(ledger, tournament, plan, clock_offset)
    return tournament


def _write_baselines(
    ledger: Ledger, tournament: Tournament, block: int, scores: Sequence[float | None]
) -> None:
    run = Run(
        id=f"{tournament.id}-b{block}",
        tournament_id=tournament.id,
        program_id=None,
        program_name="baseline",
        role="baseline",
        replicate=block,
        seed=block,
        branch="main",
    )
    ledger.add_run(run)
    for index, score in enumerate(scores, start=1):
        crash: CrashCode | None = "oom" if score is None else None
        m = measured(score, crash, score, index)
        _write(ledger, run, index, "baseline", BASE, BASE, m, Try())
    ledger.set_run(run.id, state="complete", started_at=AT, ended_at=AT)


def _write_run(ledger: Ledger, tournament: Tournament, plan: Plan, clock_offset: float) -> None:
    run = Run(
        id=f"{tournament.id}-{plan.name}-{plan.block}",
        tournament_id=tournament.id,
        program_id=program_id(plan.name),
        program_name=plan.name,
        role=plan.role,
        replicate=plan.block,
        seed=plan.block,
        branch=f"autoresearch/{plan.name}-{plan.block}",
    )
    ledger.add_run(run)
    tip, best = BASE, 3.0
    for index, t in enumerate(plan.tries, start=1):
        commit = sha(run.id, index)
        m = measured(t.bpb, t.crash, None, index)
        m = m.model_copy(update={"clock_seconds": m.clock_seconds + clock_offset})
        _write(ledger, run, index, t.kind, commit, tip, m, t)
        keep = t.bpb is not None and t.bpb < best
        if t.verdict:
            status = "crash" if t.crash else "keep" if keep else "discard"
            ledger.add_verdict(run.id, index, status, "", AT)
        if keep:
            tip, best = commit, t.bpb or best
    for k, score in enumerate(plan.confirms, start=len(plan.tries) + 1):
        m = measured(score, "nan" if score is None else None, score, k)
        _write(ledger, run, k, "confirm", tip, tip, m, Try(description="confirmation"))
    ledger.set_run(run.id, state=plan.state, tip=tip, started_at=AT, ended_at=AT)
    if plan.state == "complete":
        ledger.set_run(run.id, exit_reason="experiments spent")


def _write(
    ledger: Ledger,
    run: Run,
    index: int,
    kind: ExperimentKind,
    commit: str,
    parent: str,
    result: Measured,
    t: Try,
) -> None:
    experiment = Experiment(
        run_id=run.id,
        index=index,
        kind=kind,
        commit=commit,
        tree=sha("tree", commit),
        parent_commit=parent,
        seed=index,
        description=t.description if kind in ("edit", "rerun") else "",
        cites=t.cites,
        categories=t.categories,
        measured=result,
        started_at=AT,
    )
    ledger.add_experiment(experiment, AT, None)


NASTY = (
    "<script>alert(1)</script> $x^2$ & \"quotes\" 'too'",
    "control \x00\x07\x1b[31m characters \u202egnp.exe",
    "emoji 🚀🚀 and 漢字 " + "very long " * 60,
    "",
)


def nasty_tournament(ledger: Ledger, **options: float) -> Tournament:
    """Crashes, strange text, an unfinished run, a single run, a run whose confirmations crashed."""
    cite = instruction_ids("optimizer-first")
    optimizer = [
        Try(2.93, description=NASTY[0], cites=(cite[0],)),
        Try(2.95, description=NASTY[1], cites=(cite[0], "I-00000000")),
        Try(crash="oom", description=NASTY[2]),
        Try(2.86, description="Double the embedding learning rate", cites=(cite[1],)),
        Try(2.85, description="Use one layer instead of two"),
    ]
    plans = [
        Plan("optimizer-first", 0, optimizer, [2.85]),
        Plan("optimizer-first", 1, optimizer[3:], [2.87]),
        Plan("architecture-first", 0, [Try(2.94, description=NASTY[3])], [2.90]),
        Plan("architecture-first", 1, [Try(2.97), Try(crash="nan")], [2.88]),
        Plan("stock", 0, [Try(3.1), Try(3.2), Try(3.05)], [3.02], role="control"),
        Plan("stock", 1, [Try(2.99)], [2.98], role="control"),
        Plan("single", 0, [Try(2.96)], [2.95]),
        Plan("single", 1, [Try(2.97), Try(2.90, verdict=False)], state="running"),
        Plan("doomed", 0, [Try(2.9, description="Remove the softcap")], [None]),
        Plan("doomed", 1, [], [], state="failed"),
    ]
    baselines = [[3.0, 3.01, 2.99, None], [3.02, 3.0, 3.01, 3.03]]
    notes = {"optimizer-first": "Tune <b>first</b>", "doomed": "Bold."}
    return write_tournament(ledger, plans, baselines, notes=notes, **options)  # type: ignore[arg-type]


def open_ledger(folder: Path) -> Ledger:
    return Ledger.at(folder / "ledger.sqlite")

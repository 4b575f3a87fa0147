"""The ledger as pandas frames, for notebooks, exports and the statistics to come.

Owns: column names, their units and the order of rows and columns, which readers may rely on.
Does not own: what the numbers mean (`curves`, `leaderboard`). Missing numbers are NaN, missing
words are empty strings; gains are in mbpb (0.001 bits per byte) and higher is better.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.curves import lost_its_confirmations, run_details, staircase, status_of
from inner_loop.ledger import Ledger
from inner_loop.records import Experiment, Run, RunDetail, Tournament

RUN_COLUMNS = {
    "tournament_id": "string",
    "fingerprint": "string",  # of the track: never pool rows that differ in it
    "run_id": "string",
    "program_id": "string",  # empty for a block's baselines
    "program_name": "string",
    "role": "string",  # entrant, control or baseline
    "block": "int64",  # the replicate: runs of a block share baselines
    "state": "string",
    "exit_reason": "string",
    "seed": "int64",
    "gain_mbpb": "float64",  # audit shard; NaN until confirmed
    "confirmations_lost": "bool",  # complete, but every confirmation crashed
    "baseline_search_bpb": "float64",  # mean of the block's opening baselines
    "best_search_bpb": "float64",  # running minimum at the end
    "experiments": "int64",  # charged ones: edits and reruns
    "keeps": "int64",
    "crashes": "int64",
    "clock_seconds": "float64",  # of the track's clock, charged experiments
    "tokens": "Int64",  # NA where a coding agent asked its model itself
    "usd": "float64",  # NaN there, and where a price is not known
    "started_at": "string",  # UTC ISO
    "ended_at": "string",
}
EXPERIMENT_COLUMNS = {
    "tournament_id": "string",
    "fingerprint": "string",
    "run_id": "string",
    "program_id": "string",
    "program_name": "string",
    "role": "string",
    "block": "int64",
    "index": "int64",  # position in the run, from 1
    "kind": "string",  # baseline, edit, rerun or confirm
    "status": "string",  # keep, discard, crash; empty for baselines and confirmations
    "reason": "string",
    "crash": "string",  # crash code; empty if it was scored
    "search_bpb": "float64",  # NaN after a crash
    "audit_bpb": "float64",  # baselines and confirmations only
    "parent_bpb": "float64",  # search shard, what its parent measured
    "best_bpb": "float64",  # search shard, running minimum
    "gain_over_parent_mbpb": "float64",  # search shard
    "startup_seconds": "float64",  # wall
    "clock_seconds": "float64",  # of the track's clock
    "wall_seconds": "float64",
    "memory_gb": "float64",  # GiB
    "trust": "string",  # boxed or untrusted
    "description": "string",  # the researcher's claim
    "cites": "string",  # instruction ids, blank-separated (a claim)
    "categories": "string",  # blank-separated (a claim)
    "commit": "string",
    "parent_commit": "string",
    "tree": "string",
    "seed": "int64",
    "started_at": "string",  # UTC ISO
}


def runs_frame(ledger: Ledger, tournament: Tournament) -> pd.DataFrame:
    """One row per run, baselines included, by block, baselines first, then id."""
    details = run_details(ledger, tournament)
    return _frame((_run_row(tournament, d) for d in details), RUN_COLUMNS)


def experiments_frame(ledger: Ledger, tournament: Tournament) -> pd.DataFrame:
    """One row per experiment of every kind, in the order of `runs_frame`, then by index."""
    details = run_details(ledger, tournament)
    rows = (row for d in details for row in _experiment_rows(tournament, d))
    return _frame(rows, EXPERIMENT_COLUMNS)


def _frame(rows: Iterator[dict[str, Any]], columns: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns)).astype(columns)


def _identity(tournament: Tournament, run: Run) -> dict[str, Any]:
    return {
        "tournament_id": tournament.id,
        "fingerprint": tournament.track.fingerprint,
        "run_id": run.id,
        "program_id": run.program_id or "",
        "program_name": run.program_name,
        "role": run.role,
        "block": run.replicate,
    }


def _run_row(tournament: Tournament, detail: RunDetail) -> dict[str, Any]:
    run, steps = detail.run, staircase(detail)
    return _identity(tournament, run) | {
        "state": run.state,
        "exit_reason": run.exit_reason,
        "seed": run.seed,
        "gain_mbpb": detail.gain,
        "confirmations_lost": lost_its_confirmations(detail),
        "baseline_search_bpb": detail.baseline_search_bpb,
        "best_search_bpb": steps[-1].best_bpb if steps else detail.baseline_search_bpb,
        "experiments": len(steps),
        "keeps": sum(s.status == "keep" for s in steps),
        "crashes": sum(s.status == "crash" for s in steps),
        "clock_seconds": run.spent.gpu_seconds,
        "tokens": run.spent.tokens,
        "usd": run.spent.usd,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
    }


def _experiment_rows(tournament: Tournament, detail: RunDetail) -> Iterator[dict[str, Any]]:
    steps = {step.index: step for step in staircase(detail)}
    for e in detail.experiments:
        step = steps.get(e.index)
        yield (
            _identity(tournament, detail.run)
            | _measurement(e)
            | {
                "parent_bpb": step.parent_bpb if step else None,
                "best_bpb": step.best_bpb if step else None,
                "gain_over_parent_mbpb": step.gain_over_parent if step else None,
            }
        )


def _measurement(e: Experiment) -> dict[str, Any]:
    measured = e.measured.model_dump(exclude={"error", "claims", "crash"})
    told = e.model_dump(include={"index", "kind", "reason", "description", "commit", "seed"})
    git = e.model_dump(include={"parent_commit", "tree", "started_at"})
    words = {
        "status": status_of(e) or "",
        "crash": e.measured.crash or "",
        "cites": " ".join(e.cites),
        "categories": " ".join(e.categories),
    }
    return measured | told | git | words

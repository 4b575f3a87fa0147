"""What a tournament will do, fixed before it spends anything.

Owns: admitting programs, the track as it is on this machine, the frozen plan and its runs; the same
plan gets the same ids, which is how a killed tournament resumes.
Does not own: running it (`tournament.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from inner_loop.data import PreparedData, base_files
from inner_loop.errors import UserError
from inner_loop.home import REPOSITORY
from inner_loop.machine import hardware
from inner_loop.program import Card, read_card, read_program
from inner_loop.records import (
    Entrant,
    Program,
    Run,
    Submission,
    Tournament,
    Track,
    content_hash,
    derive_seed,
)
from inner_loop.repo import Repository

SHIPPED_PROGRAMS = REPOSITORY / "programs"
BASELINE_NAME = "baseline"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Admitted(NamedTuple):
    """A program, its entrant row and what was said about it."""

    program: Program
    entrant: Entrant
    submission: Submission


def admit(paths: Sequence[Path]) -> list[Admitted]:
    """Read programs from disk; two equal texts or two equal names are refused.

    Raises:
        UserError: one sentence about the first that cannot be admitted.
    """
    admitted: list[Admitted] = []
    for path in paths:
        program, card = read_program(path), read_card(path)
        for other in admitted:
            if other.program.id == program.id:
                raise UserError(
                    f"{path} has the same text as '{other.entrant.name}'; list it once."
                )
            if other.entrant.name == program.name:
                raise UserError(
                    f"Two programs are called '{program.name}'; rename the folder {path}."
                )
        admitted.append(admit_program(program, card))
    return admitted


def shipped_programs() -> list[Path]:
    """The folders under `programs/` that hold a program.md."""
    return sorted(p.parent for p in SHIPPED_PROGRAMS.glob("*/program.md"))


def admit_program(program: Program, card: Card) -> Admitted:
    """A program with its entrant and submission rows.

    Raises:
        UserError: its name cannot be used.
    """
    if program.name == BASELINE_NAME:
        raise UserError(f"The name '{BASELINE_NAME}' is the harness's; rename the program.")
    if not NAME.fullmatch(program.name):
        raise UserError(
            f"'{program.name}' becomes part of a branch name; rename the program to at most 64 "
            "letters, digits, - and _, beginning with a letter or digit."
        )
    author, name = card.author or "unknown", card.name or program.name
    submission = Submission(
        id=f"S-{content_hash([program.id, author, name], length=8)}",
        program_id=program.id,
        author=author,
        name=name,
        note=card.note,
    )
    entrant = Entrant(program_id=program.id, name=program.name, role=card.role)
    return Admitted(program, entrant, submission)


def on_this_machine(track: Track, repository: Repository, data: PreparedData) -> Track:
    """The track with hardware key, corpus hash and base commit filled in.

    Raises:
        UserError: the track needs a GPU and there is none.
    """
    base = repository.commit(base_files(track), "base: train.py, prepare.py, task.json\n")
    filled_in = {
        "hardware": hardware(track),
        "corpus_sha256": data.corpus_sha256,
        "base_commit": base.sha,
    }
    return track.model_copy(update=filled_in)


def make_plan(
    track: Track, admitted: Sequence[Admitted], *, replicates: int, seed: int
) -> Tournament:
    """The frozen plan; its id is the hash of everything in it."""
    entrants = tuple(a.entrant for a in admitted)
    parts = [
        track.fingerprint,
        [e.model_dump(mode="json") for e in entrants],
        replicates,
        seed,
    ]
    return Tournament(
        id=f"T-{content_hash(parts, length=8)}",
        track=track,
        entrants=entrants,
        replicates=replicates,
        seed=seed,
    )


def planned_runs(tournament: Tournament) -> list[Run]:
    """All runs of a plan: per block the baselines and one run of each entrant."""
    runs = []
    for block in range(tournament.replicates):
        runs.append(_run(tournament, block, Entrant(program_id="", name="", role="baseline")))
        runs += [_run(tournament, block, entrant) for entrant in tournament.entrants]
    return runs


def _run(tournament: Tournament, block: int, entrant: Entrant) -> Run:
    name = entrant.name or BASELINE_NAME
    run_id = f"{tournament.id}-{name}-r{block}"
    return Run(
        id=run_id,
        tournament_id=tournament.id,
        program_id=entrant.program_id or None,
        program_name=name,
        role=entrant.role,
        replicate=block,
        seed=derive_seed(tournament.seed, tournament.track.fingerprint, name, block),
        branch=f"autoresearch/{run_id}",
    )


def trainings(tournament: Tournament) -> int:
    """Trainings the plan pays for: baselines, charged experiments and confirmations."""
    track = tournament.track
    per_run = track.budget.experiments + track.confirm_seeds
    return tournament.replicates * (track.baselines + len(tournament.entrants) * per_run)

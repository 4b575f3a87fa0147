"""What the reading commands look up beyond one ledger query.

Owns: finding a run by part of its id, an experiment's diff from git, writing the report page.
Does not own: what a page says (`analysis`).
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from inner_loop.errors import UserError, unknown
from inner_loop.home import Home
from inner_loop.ledger import Ledger
from inner_loop.records import ExperimentDetail, Run, Tournament
from inner_loop.repo import Repository
from inner_loop.settings import Usage
from inner_loop.tracks import TRACKS
from inner_loop.transcript import spent_in
from outer_loop.track_choice import as_words

if TYPE_CHECKING:
    from analysis.story import Lineage


def find_run(ledger: Ledger, text: str) -> Run:
    """The run whose id is `text`, or the only one of the newest tournament that contains it.

    Raises:
        UserError: none, or several.
    """
    for tournament in reversed(ledger.tournaments()):
        runs = ledger.runs(tournament.id)
        matches = [r for r in runs if r.id == text] or [r for r in runs if text in r.id]
        if len(matches) == 1:
            return matches[0]
        if matches:
            names = ", ".join(r.id for r in matches[:8])
            raise UserError(f"'{text}' fits {len(matches)} runs; name one of them: {names}.")
    return ledger.run(text)


def runs_of(ledger: Ledger, tournament: Tournament, program: str) -> list[str]:
    """Ids of a program's runs, by the program's name or id.

    Raises:
        UserError: the program is not in the tournament.
    """
    runs = [r for r in ledger.runs(tournament.id) if r.role != "baseline"]
    found = [r.id for r in runs if program in (r.program_name, r.program_id)]
    if not found:
        raise unknown("program", program, (e.name for e in tournament.entrants))
    return found


def experiment_detail(home: Home, ledger: Ledger, run: Run, index: int) -> ExperimentDetail:
    """One experiment, the move that caused it and its diff.

    Raises:
        UserError: the run has no such experiment.
    """
    found = {e.index: e for e in ledger.experiments(run.id)}
    if index not in found:
        raise unknown("experiment", str(index), (str(i) for i in found))
    experiment = found[index]
    number = ledger.move_numbers(run.id).get(index)
    repository = Repository(home.root / "repository.git")
    try:
        diff = repository.diff(experiment.parent_commit, experiment.commit)
    finally:
        repository.close()
    return ExperimentDetail(
        experiment=experiment,
        move=ledger.moves(run.id)[number - 1] if number else None,
        diff=diff,
    )


def write_report(
    home: Home,
    ledger: Ledger,
    tournament: Tournament,
    program: str | None = None,
    output: Path | None = None,
) -> Path:
    """Write the HTML page, of all runs or of one program's, and return where it is."""
    from analysis.report import render_report

    run_ids = runs_of(ledger, tournament, program) if program else None
    name = f"report-{program}.html" if program else "report.html"
    path = output or home.tournament(tournament.id) / name
    again = commands(ledger, tournament)
    lineage = lineage_of(ledger, tournament)
    page = render_report(
        ledger,
        tournament,
        run_ids,
        commands=again,
        lineage=lineage,
        rewriter_usage=rewriter_usage(home, ledger, tournament),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise UserError(f"Cannot write to {path}; give --output another path.") from error
    return path


def rewriter_usage(home: Home, ledger: Ledger, tournament: Tournament) -> Usage:
    """What the rewriter of a series of rounds has cost so far."""
    return spent_in(home.rewriter(ledger.series(tournament.id)[0].id))


def lineage_of(ledger: Ledger, tournament: Tournament) -> Lineage | None:
    """The leaders of a series of rounds; None where there was only one round, or no score."""
    from outer_loop.leading import Seen

    return Seen.of(ledger, tournament).lineage()


def commands(ledger: Ledger, tournament: Tournament) -> list[str]:
    """What to type to run the same tournament, and the rounds before it, again."""
    series = ledger.series(tournament.id)
    first, track = series[0], series[0].track
    words = ["metaresearch", "tournament", *(e.name for e in first.entrants)]
    shipped = (TRACKS / f"{track.name}.toml").exists()
    words += ["--track", track.name if shipped else f"{track.name}.toml"]
    words += ["--replicates", str(first.replicates)]
    words += ["--rounds", str(len(series))] if len(series) > 1 else []
    words += ["--seed", str(first.seed), *as_words(track), *_rewriter_words(ledger, series)]
    return [shlex.join(words)]


def _rewriter_words(ledger: Ledger, series: list[Tournament]) -> list[str]:
    """What to type for the rewriter, where it was a model."""
    labels = [p.rewriter for each in series for p in ledger.proposals(each.id)]
    kind, _, model = next((label for label in labels if " " in label), "").partition(" ")
    return ["--rewriter", kind, "--rewriter-model", model] if model else []

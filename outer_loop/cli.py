"""The command line: one verb each; DESIGN.md section 9.

Owns: arguments, exit codes (0 done, 1 `doctor` found what keeps the track from running, 2 bad
input or a machine that fails with one sentence, 130 interrupted) and which command calls what.
Does not own: any work. Heavy imports happen inside the command that needs them, so that `--help`
is quick.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from inner_loop.errors import UserError
from outer_loop import options as opt

if TYPE_CHECKING:
    from rich.console import RenderableType

    from inner_loop.home import Home
    from inner_loop.ledger import Ledger
    from inner_loop.records import Record
    from outer_loop.door import DoorReport

DEFAULT_TRACK = "tiny-cpu"
DEFAULT_REPLICATES = 4  # fewer rarely give an interval that says anything
DEMO_REPLICATES, DEMO_ROUNDS = 2, 2  # what two cores do in about ten minutes

app = typer.Typer(
    name="metaresearch",
    help="Competing program.md files, run through the same inner loop on the same budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def demo(slots: opt.Slots = None, seed: opt.Seed = 0) -> None:
    """Watch the whole loop offline: the shipped programs, a rewrite, a second round, the report."""
    _tournament(None, replicates=DEMO_REPLICATES, rounds=DEMO_ROUNDS, slots=slots, seed=seed)


@app.command()
def tournament(
    programs: opt.Programs = None,
    track: opt.TrackName = DEFAULT_TRACK,
    replicates: opt.Replicates = DEFAULT_REPLICATES,
    experiments: opt.Experiments = None,
    rounds: opt.Rounds = 1,
    seed: opt.Seed = 0,
    slots: opt.Slots = None,
    researcher: opt.ResearcherKind = None,
    model: opt.ModelName = None,
    base_url: opt.BaseUrl = None,
    command: opt.AgentCommand = None,
    setting: opt.Set = None,
    max_tokens: opt.MaxTokens = None,
    max_usd: opt.MaxUsd = None,
    night_tokens: opt.NightTokens = None,
    night_usd: opt.NightUsd = None,
    rewriter: opt.RewriterKind = "offline",
    rewriter_model: opt.RewriterModel = None,
    rewriter_base_url: opt.RewriterBaseUrl = None,
    challengers: opt.Challengers = 1,
) -> None:
    """Run programs against each other at equal budget. The same command resumes where it was."""
    _tournament(
        programs,
        track=track,
        replicates=replicates,
        rounds=rounds,
        seed=seed,
        slots=slots,
        chosen={
            "experiments": experiments,
            "researcher": researcher,
            "model": model,
            "base_url": base_url,
            "command": command,
            "tokens": max_tokens,
            "usd": max_usd,
        },
        settings=setting,
        night=(night_tokens, night_usd),
        rewriting=(rewriter, rewriter_model, rewriter_base_url, challengers),
    )


@app.command()
def run(
    program: Annotated[str, typer.Argument(help="A program's folder, file or known name.")],
    track: opt.TrackName = DEFAULT_TRACK,
    experiments: opt.Experiments = None,
    seed: opt.Seed = 0,
    slots: opt.Slots = None,
    researcher: opt.ResearcherKind = None,
    model: opt.ModelName = None,
    base_url: opt.BaseUrl = None,
    command: opt.AgentCommand = None,
    setting: opt.Set = None,
    max_tokens: opt.MaxTokens = None,
    max_usd: opt.MaxUsd = None,
) -> None:
    """Run one program once: a tournament of one entrant and one replicate."""
    _tournament(
        [program],
        track=track,
        replicates=1,
        seed=seed,
        slots=slots,
        chosen={
            "experiments": experiments,
            "researcher": researcher,
            "model": model,
            "base_url": base_url,
            "command": command,
            "tokens": max_tokens,
            "usd": max_usd,
        },
        settings=setting,
    )


@app.command()
def leaderboard(tournament: opt.TournamentId = None, as_json: opt.AsJson = False) -> None:
    """Standings with n, mean gain and interval; programs the data cannot order share a rank."""
    from analysis.leaderboard import leaderboard as standings

    ledger = _ledger()
    board = standings(ledger, ledger.tournament(tournament))
    if as_json:
        _print_json(board)
    else:
        from analysis.curves import run_details
        from analysis.terminal import standings_view

        _print(standings_view(board, run_details(ledger, board.tournament)))


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="A run id, or a part of one that only it has.")],
    experiment: Annotated[int | None, typer.Option(help="One experiment, with its diff.")] = None,
    transcript: Annotated[
        bool,
        typer.Option(
            "--transcript",
            help="What a model was asked, and what it answered; of a tournament: its rewriter.",
        ),
    ] = False,
    as_json: opt.AsJson = False,
) -> None:
    """One run with its experiments, or one experiment with its diff, kept or discarded."""
    from outer_loop.details import experiment_detail, find_run

    home, ledger = _home(), _ledger()
    if transcript:
        from outer_loop.transcript_view import said_in, transcript_text

        said = said_in(home, ledger, run, experiment)
        if as_json:
            _print_json(said)
        else:
            _print(transcript_text(said))
        return
    found = find_run(ledger, run)
    if experiment is not None:
        one = experiment_detail(home, ledger, found, experiment)
        if as_json:
            _print_json(one)
        else:
            from analysis.terminal import diff_text, experiment_panel

            _print(experiment_panel(one))
            _print(diff_text(one))
        return
    from analysis.curves import run_detail

    whole = run_detail(ledger, found.id)
    if as_json:
        _print_json(whole)
    else:
        from analysis.leaderboard import leaderboard as standings
        from analysis.terminal import run_table

        board = standings(ledger, ledger.tournament(found.tournament_id))
        _print(run_table(whole, board.baseline_sd))


@app.command()
def keeps(
    target: Annotated[
        str, typer.Argument(help="A results.tsv (anybody's; - reads a pipe), or a run's id.")
    ],
    noise_sd: Annotated[
        float | None,
        typer.Option(min=1e-6, help="Noise floor: sd of one training, mbpb, if you know it."),
    ] = None,
    as_json: opt.AsJson = False,
) -> None:
    """Label each keep real, unclear or noise against a stated noise floor, with the drift."""
    from outer_loop.keeps import keeps_of

    judged = keeps_of(target, noise_sd, _home())
    if as_json:
        _print_json(judged)
    else:
        from analysis.keeps_terminal import keeps_view

        _print(keeps_view(judged))


@app.command()
def report(
    program: Annotated[str | None, typer.Argument(help="Only this program's runs.")] = None,
    tournament: opt.TournamentId = None,
    output: Annotated[Path | None, typer.Option(help="Where to write the HTML page.")] = None,
    as_json: opt.AsJson = False,
) -> None:
    """Write the tournament's report as one HTML page, and print its tables."""
    from outer_loop.details import lineage_of, rewriter_usage, runs_of, write_report

    home, ledger = _home(), _ledger()
    chosen = ledger.tournament(tournament)
    run_ids = runs_of(ledger, chosen, program) if program else None
    if as_json:
        from analysis.report import report_record

        spent = rewriter_usage(home, ledger, chosen)
        _print_json(report_record(ledger, chosen, run_ids, lineage_of(ledger, chosen), spent))
        return
    path = write_report(home, ledger, chosen, program, output)
    from analysis.citations_view import citations_table
    from analysis.curves import run_details
    from analysis.leaderboard import leaderboard as standings
    from analysis.report import report_citations
    from analysis.terminal import standings_view

    _print(standings_view(standings(ledger, chosen), run_details(ledger, chosen)))
    cited = report_citations(ledger, chosen, run_ids)
    if cited.cited:
        _print(citations_table(cited))
    typer.echo(f"Report: {path}")


@app.command()
def check(
    program: Annotated[str, typer.Argument(help="A program.md, its folder, or a known name.")],
    name: Annotated[str | None, typer.Option(help="What it would be called in the pool.")] = None,
    as_json: opt.AsJson = False,
) -> None:
    """See whether a program may enter, what the door notes, and how it reads."""
    from outer_loop.pool import check as check_program

    _print_door(check_program(program, _home(), name), as_json=as_json)


@app.command()
def submit(
    program: Annotated[str, typer.Argument(help="A program.md, or the folder that holds one.")],
    name: Annotated[
        str | None, typer.Option(help="Its name in the pool. Default: its folder or file.")
    ] = None,
    author: Annotated[str | None, typer.Option(help="Who offers it.")] = None,
    remark: Annotated[
        str | None, typer.Option("--note", "-m", help="One line: the strategy in a few words.")
    ] = None,
) -> None:
    """Check a program and put it into the local pool, where tournaments find it by name."""
    from inner_loop.home import utc_now
    from outer_loop.pool import submit as submit_program

    done = submit_program(program, _home(), utc_now, name=name, author=author, remark=remark)
    _print_door(done.report, reading=False)
    was = "Submitted" if done.new else "Nothing to do: it was there already"
    typer.echo(f"{was}: {done.folder}\nRun it: metaresearch tournament stock {done.report.name}")


@app.command()
def doctor(
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Train baselines: how fast and how noisy is it?")
    ] = False,
    baselines: Annotated[int, typer.Option(help="Unchanged trainings of --calibrate.")] = 5,
    track: Annotated[
        str | None, typer.Option(help="This track instead of one proposed for the machine.")
    ] = None,
    write: Annotated[
        str | None, typer.Option(help="Where --calibrate writes the track file (.toml).")
    ] = None,
    as_json: opt.AsJson = False,
) -> None:
    """See what works on this machine, which track suits it and what to type next."""
    from outer_loop.consult import consult

    count = baselines if calibrate else None
    report = consult(_home(), track=track, baselines=count, write=write, as_json=as_json)
    sys.exit(0 if report.can_run else 1)


def _print_door(report: DoorReport, *, as_json: bool = False, reading: bool = True) -> None:
    """Print what the door says; a refusal ends the command with code 2."""
    from outer_loop.door_view import door_view, refusal

    if as_json:
        _print_json(report)
    elif report.refusals:
        typer.echo(f"Error: {refusal(report)}", err=True)
    else:
        _print(door_view(report, reading=reading))
    if report.refusals:
        sys.exit(2)


def _tournament(
    programs: list[str] | None,
    *,
    track: str = DEFAULT_TRACK,
    replicates: int = DEFAULT_REPLICATES,
    rounds: int = 1,
    seed: int = 0,
    slots: int | None = None,
    chosen: dict[str, Any] | None = None,
    settings: list[str] | None = None,
    night: tuple[int | None, float | None] = (None, None),
    rewriting: tuple[str, str | None, str | None, int] = ("offline", None, None, 1),
) -> None:
    from inner_loop.meter import Cap
    from outer_loop.drive import Rewriting, drive
    from outer_loop.track_choice import chosen_track

    drive(
        _home(),
        programs,
        chosen_track(track, chosen or {}, settings or []),
        replicates=replicates,
        rounds=rounds,
        seed=seed,
        slots=slots,
        night=Cap("night", *night),
        rewriting=Rewriting(*rewriting),
    )


def _home() -> Home:
    import os

    from inner_loop.home import Home

    return Home.from_environment(os.environ)


def _ledger() -> Ledger:
    return _home().ledger(must_exist=True)


def _print(renderable: RenderableType) -> None:
    from rich.console import Console
    from rich.text import Text

    Console().print(renderable, soft_wrap=isinstance(renderable, Text))


def _print_json(record: Record) -> None:
    typer.echo(record.model_dump_json(indent=2))


def _fail(sentence: str) -> NoReturn:
    typer.echo(f"Error: {' '.join(sentence.split())}", err=True)
    sys.exit(2)


def main() -> None:
    """The console script."""
    try:
        app()
    except UserError as error:
        _fail(str(error))
    except Exception as error:
        from outer_loop.failures import as_sentence

        sentence = as_sentence(error)
        if sentence is None:
            raise
        _fail(sentence)


if __name__ == "__main__":
    main()

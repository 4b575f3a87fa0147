"""What may be typed after the commands that run programs, in one place.

Owns: these options' names, bounds and help. Does not own: the commands (`cli.py`) or what an option
does (`drive.py`).
"""

from __future__ import annotations

from typing import Annotated

import typer

Programs = Annotated[
    list[str] | None,
    typer.Argument(help="Program folders, files or known names. Default: all shipped ones."),
]
TrackName = Annotated[str, typer.Option("--track", help="Track name, or a track file (.toml).")]
Replicates = Annotated[int, typer.Option(min=1, help="Runs of each program.")]
Rounds = Annotated[
    int, typer.Option(min=1, help="Rounds; programs are rewritten from the evidence in between.")
]
Seed = Annotated[int, typer.Option(help="Another seed is another tournament.")]
Slots = Annotated[
    int | None, typer.Option(min=1, help="Trainings at a time. Default: one per core or GPU.")
]
Experiments = Annotated[
    int | None, typer.Option(min=0, help="Experiments per run. Default: the track's.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
TournamentId = Annotated[str | None, typer.Option("--tournament", help="Default: the newest.")]

_RESEARCHER = "Researcher"
ResearcherKind = Annotated[
    str | None,
    typer.Option(
        "--researcher",
        help="catalog (offline), anthropic, openai, command, replay. Default: the track's.",
        rich_help_panel=_RESEARCHER,
    ),
]
ModelName = Annotated[
    str | None,
    typer.Option("--model", help="The researcher's model.", rich_help_panel=_RESEARCHER),
]
BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        help="A compatible server instead of the provider's: vLLM, Ollama, llama.cpp, a proxy.",
        rich_help_panel=_RESEARCHER,
    ),
]
AgentCommand = Annotated[
    str | None,
    typer.Option(
        "--command",
        help="For --researcher command: a preset such as claude or codex, or a command line with "
        "{prompt_file}.",
        rich_help_panel=_RESEARCHER,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any other setting, for example effort=high or temperature=0.7.",
        rich_help_panel=_RESEARCHER,
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Model tokens of one run at most.", rich_help_panel=_RESEARCHER),
]
MaxUsd = Annotated[
    float | None,
    typer.Option(min=1e-9, help="Dollars of one run at most.", rich_help_panel=_RESEARCHER),
]

_NIGHT = "The whole tournament"
NightTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Model tokens of everything together.", rich_help_panel=_NIGHT),
]
NightUsd = Annotated[
    float | None,
    typer.Option(min=1e-9, help="Dollars of everything together.", rich_help_panel=_NIGHT),
]
RewriterKind = Annotated[
    str,
    typer.Option(
        "--rewriter",
        help="offline, anthropic or openai: who rewrites programs between rounds.",
        rich_help_panel=_NIGHT,
    ),
]
RewriterModel = Annotated[
    str | None,
    typer.Option(
        "--rewriter-model",
        help="Its model. Default: the researcher's, if both are of one kind.",
        rich_help_panel=_NIGHT,
    ),
]
RewriterBaseUrl = Annotated[
    str | None,
    typer.Option(
        "--rewriter-base-url",
        help="A compatible server for the rewriter. Default: the researcher's, if both are of one "
        "kind.",
        rich_help_panel=_NIGHT,
    ),
]
Challengers = Annotated[
    int,
    typer.Option(min=1, max=9, help="Rewritten programs a round.", rich_help_panel=_NIGHT),
]

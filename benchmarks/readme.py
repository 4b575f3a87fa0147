"""Runs the shipped demo and puts its standings and one curve into the README.

Writes demo.json (the leaderboard), staircase.svg (the winner's best run) and the README's table.
Usage: python benchmarks/readme.py [--only-render]   (render from the committed demo.json)
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from analysis.wording import show_gain
from inner_loop.records import Leaderboard

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- demo:begin -->", "<!-- demo:end -->"


def render(board: Leaderboard) -> str:
    """The README's table with what is needed to read it."""
    track = board.tournament.track
    rows = [
        f"| {s.rank} | {s.name} | {s.role} | {show_gain(s.mean_gain, s.ci_low, s.ci_high)} "
        f"| {s.n} | {s.keeps}/{s.experiments} | {s.crashes} |"
        for s in board.standings
    ]
    return "\n".join(
        [
            "| rank | program | role | gain, mbpb [95 % interval] | runs | kept | crashes |",
            "|---:|---|---|---:|---:|---:|---:|",
            *rows,
            "",
            f"<sub>One `metaresearch demo`, seed {board.tournament.seed}, offline catalogue (no "
            f"language model), {board.tournament.replicates} runs of {track.budget.experiments} "
            f"experiments of {track.time_budget:g} CPU seconds each, {track.hardware}. Equal rank: "
            "the data cannot order them. Baselines scatter by "
            f"{board.baseline_sd:.0f} mbpb (sd), runs of one program by {board.run_sd:.0f}. "
            "Regenerate with `make figures`.</sub>",
        ]
    )


def put(table: str, text: str) -> str:
    """`text` with the table between the markers."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table}\n{END}{tail}"


def on_paper(svg: str) -> str:
    """The drawing on white: as an image of its own it cannot take a dark page's colours."""
    return svg.replace(">", "><style>svg{background:#fff;color:#111}</style>", 1)


def run_demo() -> None:
    """One demo in a home of its own; writes demo.json and staircase.svg."""
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"METARESEARCH_HOME": folder}
        command = [sys.executable, "-m", "outer_loop.cli", "demo"]
        subprocess.run(command, cwd=HERE.parent, env=env, check=True)
        from analysis.curves import run_details
        from analysis.leaderboard import standings_of
        from analysis.plots import staircase_svg
        from inner_loop.home import Home

        ledger = Home(Path(folder)).ledger(must_exist=True)
        tournament = ledger.tournament()
        details = run_details(ledger, tournament)
        board = standings_of(tournament, details)
        first = board.standings[0].name
        runs = [d for d in details if d.run.program_name == first and d.gain is not None]
        best = max(runs, key=lambda d: d.gain or 0)
        svg = on_paper(staircase_svg(best, board.baseline_sd))
        ledger.close()
    (HERE / "demo.json").write_text(board.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (HERE / "staircase.svg").write_text(svg, encoding="utf-8")


def main() -> None:
    """Run the demo unless told not to, then render."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only-render", action="store_true")
    if not parser.parse_args().only_render:
        run_demo()
    board = Leaderboard.model_validate_json((HERE / "demo.json").read_text(encoding="utf-8"))
    README.write_text(put(render(board), README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

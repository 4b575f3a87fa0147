"""Runs the shipped demo and puts its standings and one curve into the README.

Writes demo.json (the rounds), staircase.svg (the run that gained most) and the README's table.
Usage: python benchmarks/readme.py [--only-render]   (render from the committed demo.json)
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from analysis.story import Story, story_of
from analysis.wording import show_gain

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- demo:begin -->", "<!-- demo:end -->"


def render(story: Story) -> str:
    """The README's table of the first round, and what the second showed."""
    board, last = story.rounds[0].leaderboard, story.rounds[-1].leaderboard
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
            f"Then the leader was rewritten. Round {len(story.rounds)}: {' '.join(story.known)}",
            "",
            f"<sub>One `metaresearch demo`, seed {board.tournament.seed}, offline catalogue and "
            f"rewriter (no language model), {board.tournament.replicates} and "
            f"{last.tournament.replicates} runs of {track.budget.experiments} experiments of "
            f"{track.time_budget:g} CPU seconds each, {track.hardware}. Equal rank: the data "
            f"cannot order them. In the first round baselines scatter by {board.baseline_sd:.0f} "
            f"mbpb (sd), runs of one program by {board.run_sd:.0f}. Regenerate with "
            "`make figures`.</sub>",
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
        from analysis.plots import staircase_svg
        from inner_loop.home import Home

        ledger = Home(Path(folder)).ledger(must_exist=True)
        story = story_of(ledger, ledger.tournament())
        assert story is not None
        details = run_details(ledger, story.rounds[0].leaderboard.tournament)
        best = max((d for d in details if d.gain is not None), key=lambda d: d.gain or 0)
        svg = on_paper(staircase_svg(best, story.rounds[0].leaderboard.baseline_sd))
        ledger.close()
    (HERE / "demo.json").write_text(story.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (HERE / "staircase.svg").write_text(svg, encoding="utf-8")


def main() -> None:
    """Run the demo unless told not to, then render."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only-render", action="store_true")
    if not parser.parse_args().only_render:
        run_demo()
    story = Story.model_validate_json((HERE / "demo.json").read_text(encoding="utf-8"))
    README.write_text(put(render(story), README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Whole tournaments through the real command line: real edits, real training, real git."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import git
import psutil
import pytest
from jsonschema import Draft202012Validator

from analysis.report import Report
from inner_loop.home import REPOSITORY, Home
from inner_loop.ledger import Ledger
from inner_loop.records import Experiment, ExperimentDetail, Leaderboard, RunDetail

QUICK = str(Path(__file__).parent / "data" / "quick.toml")
Cli = Callable[..., "subprocess.CompletedProcess[str]"]
TOURNAMENT = ("tournament", "stock", "optimizer-first", "--track", QUICK, "--replicates", "1")


def open_ledger(home: Home) -> Ledger:
    return home.ledger(must_exist=True)


def facts(home: Home) -> dict[str, list[tuple[Any, ...]]]:
    """What must be equal between two runs of the same seed: everything but times."""
    ledger = open_ledger(home)
    (tournament,) = ledger.tournaments()
    found = {}
    for run in ledger.runs(tournament.id):
        moves = [(m.kind, m.edits, m.description, m.cites) for m in ledger.moves(run.id)]
        rows = [
            (e.index, e.kind, e.tree, e.commit, e.seed, e.status, e.measured.search_bpb)
            for e in ledger.experiments(run.id)
        ]
        found[run.id] = [*moves, *rows]
    ledger.close()
    return found


def page(home: Home) -> str:
    """The report without what is marked as a time."""
    (path,) = home.root.glob("tournaments/*/report.html")
    html = path.read_text(encoding="utf-8")
    return re.sub(r'<(\w+)[^>]*class="[^"]*\btime\b[^"]*"[^>]*>.*?</\1>', "", html, flags=re.S)


@pytest.fixture
def second_home(tmp_path: Path, prepared: Path) -> Home:
    made = Home(tmp_path / "second")
    made.make()
    made.cache.symlink_to(prepared, target_is_directory=True)
    return made


def test_the_same_seed_twice_gives_the_same_tournament(
    cli: Cli, home: Home, second_home: Home
) -> None:
    for where in (home, second_home):
        done = cli(*TOURNAMENT, env={"METARESEARCH_HOME": str(where.root)})
        assert done.returncode == 0, done.stderr
    assert facts(home) == facts(second_home)
    assert page(home) == page(second_home)
    _the_same_command_again_runs_nothing(cli, home)
    _every_diff_can_be_read(cli, home)
    _json_validates(cli, home)
    _the_run_folder_has_what_people_read(home)


def _the_same_command_again_runs_nothing(cli: Cli, home: Home) -> None:
    before = facts(home)
    done = cli(*TOURNAMENT, env={"METARESEARCH_HOME": str(home.root)})
    assert done.returncode == 0
    assert "Already complete" in done.stdout
    assert facts(home) == before


def _every_diff_can_be_read(cli: Cli, home: Home) -> None:
    done = cli("show", "stock-r0", "--experiment", "1")
    assert done.returncode == 0, done.stderr
    assert "diff --git a/train.py b/train.py" in done.stdout
    repository = git.Repo(home.root / "repository.git")
    for rows in facts(home).values():
        for row in rows:
            if isinstance(row[0], int):
                assert repository.commit(row[3]).tree.hexsha == row[2]
    repository.close()


def _json_validates(cli: Cli, home: Home) -> None:
    cases: list[tuple[list[str], type[Any]]] = [
        (["leaderboard"], Leaderboard),
        (["show", "stock-r0"], RunDetail),
        (["show", "stock-r0", "--experiment", "1"], ExperimentDetail),
        (["show", "baseline-r0", "--experiment", "1"], ExperimentDetail),
        (["report"], Report),
        (["report", "stock"], Report),
    ]
    for words, record in cases:
        done = cli(*words, "--json")
        assert done.returncode == 0, done.stderr
        schema = record.model_json_schema(mode="serialization")
        Draft202012Validator.check_schema(schema)
        Draft202012Validator(schema).validate(json.loads(done.stdout))
        record.model_validate_json(done.stdout)


def _the_run_folder_has_what_people_read(home: Home) -> None:
    (folder,) = home.root.glob("tournaments/*/runs/*-stock-r0")
    program = (REPOSITORY / "programs" / "stock" / "program.md").read_bytes()
    assert (folder / "program.md").read_bytes() == program
    header, baseline, *rows = (folder / "results.tsv").read_text().splitlines()
    assert header == "commit\tval_bpb\tmemory_gb\tstatus\tdescription"
    assert baseline.split("\t")[3:] == ["keep", "baseline"]
    assert len(rows) == 2
    assert (folder / "worktree" / "train.py").exists()


# --- replayed runs ----------------------------------------------------------------------------

TOP = "def main():\n"
BREAKS = {
    "exception": TOP + "    raise ValueError('boom')\n",
    "oom": TOP + "    hog = bytearray(9 << 30)\n",
    "timeout": TOP + "    time.sleep(1000)\n",
    "nan": TOP + "    print('FAIL: loss is nan'); sys.exit(1)\n",
    "no_result": TOP + "    return\n",
}


def test_every_crash_is_a_row_with_its_code_and_the_run_goes_on(
    cli: Cli, home: Home, tmp_path: Path
) -> None:
    moves: list[dict[str, Any]] = [
        {"kind": "edit", "description": code, "edits": [{"search": TOP, "replace": text}]}
        for code, text in BREAKS.items()
    ]
    head = "        logits = self.head(norm(x)).float()"
    nan_when_scored = f"{head} * (1 if self.training else math.nan)"
    model_nan = {"search": f"{head}\n", "replace": f"{nan_when_scored}\n"}
    moves.append({"kind": "edit", "description": "nan logits", "edits": [model_nan]})
    good = {"search": "\nDEPTH = 2 ", "replace": "\nDEPTH = 1 "}
    moves.append({"kind": "edit", "description": "one layer", "edits": [good], "verdict": None})
    script = tmp_path / "moves.json"
    script.write_text(json.dumps(moves))
    track = tmp_path / "short.toml"
    task = str(Path(QUICK).with_name("quick-task.toml"))
    text = Path(QUICK).read_text().replace("quick-task.toml", task)
    track.write_text(text.replace("wall_seconds = 240.0", "wall_seconds = 25.0"))
    words = ["run", "stock", "--track", str(track), "--experiments", str(len(moves))]
    done = cli(*words, "--researcher", "replay", "--model", str(script))
    assert done.returncode == 0, done.stderr
    ledger = open_ledger(home)
    (tournament,) = ledger.tournaments()
    rows = ledger.experiments(f"{tournament.id}-stock-r0")
    codes = [e.measured.crash for e in rows]
    assert codes == [*BREAKS, "nan", None, None]
    assert [e.status for e in rows[: len(BREAKS)]] == ["crash"] * len(BREAKS)
    assert all(e.measured.search_bpb is None for e in rows if e.measured.crash)
    assert rows[-1].kind == "confirm"
    tsv = next(home.root.glob("tournaments/*/runs/*-stock-r0/results.tsv")).read_text()
    assert tsv.count("\t0.000000\t0.0\tcrash\t") == len(BREAKS) + 1


# --- killed -----------------------------------------------------------------------------------


def start(home: Home, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "outer_loop.cli", *words],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "METARESEARCH_HOME": str(home.root)},
        cwd=home.root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def recorded(home: Home) -> dict[tuple[str, int], Experiment]:
    if not (home.root / "ledger.db").exists():
        return {}
    ledger = open_ledger(home)
    found = {
        (run.id, e.index): e.model_copy(update={"status": None, "reason": ""})
        for tournament in ledger.tournaments()
        for run in ledger.runs(tournament.id)
        for e in ledger.experiments(run.id)
    }
    ledger.close()
    return found


def boxes(home: Home) -> list[psutil.Process]:
    """Processes whose working folder is a scratch folder of this home."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(str(home.scratch)):
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill_and_resume(home: Home, kills: int, rng: random.Random, *words: str) -> None:
    before: dict[tuple[str, int], Experiment] = {}
    for _ in range(kills):
        driver = start(home, *words)
        time.sleep(rng.uniform(0.5, 14))
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
        time.sleep(1)
        assert boxes(home) == [], "a box outlived its harness"
        now = recorded(home)
        assert before.items() <= now.items(), "a finished experiment was lost or changed"
        before = now
    last = start(home, *words)
    _, stderr = last.communicate(timeout=600)
    assert last.returncode == 0, stderr.decode()
    after = recorded(home)
    assert before.items() <= after.items()


def test_a_killed_driver_resumes(home: Home, second_home: Home) -> None:
    words = ("run", "optimizer-first", "--track", QUICK, "--slots", "2")
    kill_and_resume(home, 2, random.Random(7), *words)
    undisturbed = start(second_home, *words)
    assert undisturbed.wait(300) == 0
    assert undisturbed.stderr is not None
    undisturbed.stderr.close()
    assert facts(home) == facts(second_home)


@pytest.mark.slow
def test_ten_kills_at_random_moments_lose_and_repeat_nothing(home: Home, second_home: Home) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    kill_and_resume(home, 10, random.Random(seed), *TOURNAMENT, "--experiments", "6")
    undisturbed = start(second_home, *TOURNAMENT, "--experiments", "6")
    assert undisturbed.wait(600) == 0
    assert undisturbed.stderr is not None
    undisturbed.stderr.close()
    assert facts(home) == facts(second_home)


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(home: Home) -> None:
    driver = start(home, "run", "stock", "--track", QUICK)
    time.sleep(6)
    driver.send_signal(signal.SIGINT)
    _, stderr = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert stderr.decode().strip() == "Stopped. The same command continues where it was."
    assert boxes(home) == []

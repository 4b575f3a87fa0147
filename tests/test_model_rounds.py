"""The command line with a language model as researcher and rewriter, over a server, end to end.

Everything is real but the model: a function of the request plays it, and reads what it needs off
the request as a model would.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from model_server import Asked, ModelServer, model_server
from test_model_runs import KEY, leaks

from analysis.wording import OFFLINE, OFFLINE_REWRITER
from inner_loop.home import Home
from inner_loop.ledger import Ledger
from inner_loop.proposal import Proposal
from inner_loop.records import Leaderboard, RunDetail, Tournament
from inner_loop.transcript import spent_in
from tests.conftest import QUICK, Cli

NEW = "After each result, say in one line what it rules out."


def player(rewrite: Callable[[dict[str, list[dict[str, str]]]], object]) -> Callable[[Asked], str]:
    """A model that lowers a learning rate, gives no verdict, and rewrites as it is told to."""

    def answer(asked: Asked) -> str:
        if is_rewriter(asked):
            return f"Here it is:\n{json.dumps(rewrite(data_blocks(asked.said)))}"
        (line, value), *_ = re.findall(r"^(MATRIX_LR = (\S+).*)$", asked.said, re.MULTILINE)
        changed = line.replace(value, str(float(value) / 2))
        return (
            f"DESCRIPTION: halve MATRIX_LR\nHYPOTHESIS: smaller steps\n<<<<<<< SEARCH\n{line}\n"
            f"=======\n{changed}\n>>>>>>> REPLACE\n"
        )

    return answer


def is_rewriter(asked: Asked) -> bool:
    return "BEGIN DATA champion" in asked.said


def data_blocks(said: str) -> dict[str, list[dict[str, str]]]:
    """The quoted rows of a rewriter's request, by block."""
    found = re.findall(r"^BEGIN DATA (\w+) (\w+)\n(.*?)\nEND DATA \1 \2$", said, re.M | re.S)
    return {name: [json.loads(row) for row in rows.splitlines()] for name, _, rows in found}


def proposal(operation: dict[str, object]) -> dict[str, object]:
    return {"focus": "learn from losses", "hypothesis": "It helps.", "operations": [operation]}


def good(data: dict[str, list[dict[str, str]]]) -> object:
    strategy = [row for row in data["champion"] if row["role"] == "strategy" and "note" not in row]
    return proposal(
        {
            "kind": "ADD",
            "texts": [NEW],
            "after": strategy[-1]["id"],
            "hypothesis": "Less is tried twice.",
            "evidence": [data["evidence"][0]["id"]],
        }
    )


def bad(_: object) -> object:
    operation = {"kind": "ADD", "texts": [NEW], "hypothesis": "It may.", "evidence": ["E-999"]}
    return proposal(operation)


def command(server: ModelServer, *more: str) -> list[str]:
    words = ["--track", str(QUICK), "--rounds", "2", "--replicates", "1", "--experiments", "1"]
    words += ["--researcher", "openai", "--model", "m", "--base-url", server.url]
    return ["tournament", *more, *words, "--rewriter", "openai"]


def environment(home: Home) -> dict[str, str]:
    return {"METARESEARCH_HOME": str(home.root), "OPENAI_API_KEY": KEY}


def last_round(ledger: Ledger) -> tuple[list[Tournament], list[Proposal]]:
    series = ledger.series(ledger.tournament().id)
    return series, ledger.proposals(series[0].id)


def page_of(home: Home, plan: Tournament) -> str:
    return (home.tournament(plan.id) / "report.html").read_text(encoding="utf-8")


def names_the_model_alone(*texts: str) -> None:
    """No text says that this was the offline researcher's or rewriter's work."""
    for text in texts:
        plain = " ".join(text.split())
        assert OFFLINE not in plain
        assert OFFLINE_REWRITER not in plain
        assert "offline" not in plain.lower()


def paid(home: Home, ledger: Ledger, series: Sequence[Tournament]) -> int:
    """Tokens on record: of all runs, and of the rewriter after each round."""
    runs = sum(ledger.spent(run.id).tokens for each in series for run in ledger.runs(each.id))
    return runs + sum(spent_in(home.tournament(t.id) / "rewriter").tokens for t in series)


def handed(server: ModelServer, answer: Callable[[Asked], str]) -> int:
    """Tokens that the server counted, by its own rule."""
    return sum(
        len(asked.said.encode()) // 4 + 1 + -(-len(answer(asked).encode()) // 4)
        for asked in server.requests
    )


def test_a_models_challenger_runs_and_the_same_command_asks_nothing_again(
    cli: Cli, home: Home
) -> None:
    env, answer = environment(home), player(good)
    with model_server(then=answer) as server:
        words = command(server, "stock", "optimizer-first")
        done = cli(*words, env=env)
        assert done.returncode == 0, done.stderr
        asked = len(server.requests)
        again = cli(*words, env=env)
        assert again.returncode == 0, again.stderr
        assert len(server.requests) == asked
    assert again.stdout.count("Already complete") == 2
    ledger = home.ledger()
    series, (made,) = last_round(ledger)
    assert sum(map(is_rewriter, server.requests)) == 1
    # each of the five runs: an edit, and a verdict on it
    assert asked == 1 + 2 * 5

    # a validated challenger ran
    assert (made.rejection, made.rewriter) == ("", "openai m")
    assert NEW in made.text
    assert made.text.replace(f"{NEW}\n", "") != made.text
    assert [[e.name for e in each.entrants] for each in series] == [
        ["stock", "optimizer-first"],
        ["optimizer-first", "challenger-2", "stock"],
    ]
    assert all(run.state == "complete" for t in series for run in ledger.runs(t.id))
    authors = {s.program_id: s.author for s in ledger.submissions()}
    assert authors[made.program_id] == "openai m (rewriter)"
    assert paid(home, ledger, series) == handed(server, answer)

    # and everything says so
    pages = [page_of(home, each) for each in series]
    assert "Rewritten from optimizer-first (learn from losses)" in done.stdout
    assert "Researcher: openai m." in done.stdout
    told = " ".join((done.stdout + done.stderr).split())
    assert told.count("The price of m at 127.0.0.1 is not known") == 1
    assert "the language model openai m" in pages[1]
    assert "--rewriter openai" in pages[1]
    names_the_model_alone(done.stdout, again.stdout, *pages)

    shown = cli("show", "challenger-2-r0", "--transcript", env=env)
    assert shown.returncode == 0, shown.stderr
    assert "DESCRIPTION: halve MATRIX_LR" in shown.stdout
    assert NEW in shown.stdout
    board = Leaderboard.model_validate_json(cli("leaderboard", "--json", env=env).stdout)
    assert {row.name for row in board.standings} >= {"stock", "optimizer-first", "challenger-2"}
    report = cli("report", env=env)
    assert report.returncode == 0, report.stderr
    assert page_of(home, series[1]) == pages[1]
    assert KEY not in done.stdout + done.stderr + shown.stdout
    assert leaks(home.root, KEY) == []


def test_a_refused_rewrite_is_told_and_recorded(cli: Cli, home: Home) -> None:
    env = environment(home)
    with model_server(then=player(bad)) as server:
        words = [*command(server, "optimizer-first"), "--max-tokens", "100000"]
        done = cli(*words, env=env)
        assert done.returncode == 0, done.stderr
        again = cli(*words, env=env)
        assert again.returncode == 0, again.stderr
    # an edit and a verdict on it; then the rewriter's question and its one repair turn
    assert [is_rewriter(asked) for asked in server.requests] == [False, False, True, True]
    assert "cites 'E-999'" in server.requests[-1].said
    ledger = home.ledger()
    series, (refused,) = last_round(ledger)
    assert len(series) == 1
    assert "cites 'E-999'; the rows are E-1 to" in refused.rejection
    page = page_of(home, series[0])
    for text in (done.stdout, again.stdout):
        assert "There is no round 2." in text
        assert "1 refused draft on record:" in text
        assert refused.rejection in text
    assert "E-999" in page
    names_the_model_alone(done.stdout, again.stdout, page)
    found = cli("show", "optimizer-first-r0", "--json", env=env)
    detail = RunDetail.model_validate_json(found.stdout)
    assert (detail.run.exit_reason, detail.answers.edits) == ("budget (experiments)", 1)
    assert detail.answers.usage.calls == 2

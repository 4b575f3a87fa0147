"""What a run's researcher answered, counted and said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from analysis import wording
from analysis.curves import answers, run_detail, run_details
from analysis.frames import runs_frame
from analysis.report import render_report, report_record
from inner_loop.ledger import Ledger
from inner_loop.records import Move, Tournament
from inner_loop.settings import Answers, Usage
from tests.ledger_fixture import AT, TRACK, Plan, Try, open_ledger, write_tournament

MOVES = [
    Move(kind="edit", usage=Usage(calls=2, tokens_in=1000, tokens_out=50, usd=0.5), repaired=1),
    Move(kind="rerun", usage=Usage(calls=1, tokens_in=500, tokens_cached=400, tokens_out=20)),
    Move(kind="unusable", usage=Usage(calls=2, tokens_in=900, tokens_out=9), continued=1),
    Move(kind="failed"),
    Move(kind="close", usage=Usage(calls=1, tokens_in=600, tokens_out=1, estimated=1)),
]


def test_answers_are_counted_by_kind_and_cost_adds_up() -> None:
    found = answers(MOVES)
    assert (found.edits, found.reruns, found.unusable, found.failed) == (1, 1, 1, 1)
    assert (found.repaired, found.continued) == (1, 1)
    assert (found.usage.calls, found.usage.tokens, found.usage.usd) == (6, 3080, 0.5)


def test_the_sentence_has_every_count_and_the_tokens_an_experiment() -> None:
    said = wording.answers(answers(MOVES), experiments=2)
    assert said.startswith("Answers: 1 edit applied, 1 rerun, 1 sent back for repair, 1 told to go")
    assert "3,000 tokens in, 400 of them from the cache, 80 out, $0.50" in said
    assert "1,540 tokens an experiment (1 of the calls uncounted by the server" in said


def test_a_price_that_is_not_known_is_not_zero_dollars() -> None:
    unknown = answers([*MOVES, Move(kind="edit", usage=Usage(calls=1, usd=None))])
    assert unknown.usage.usd is None
    assert "price not known" in wording.answers(unknown, 2)


def test_a_researcher_without_a_model_has_nothing_to_say() -> None:
    assert wording.answers(answers([Move(kind="edit"), Move(kind="close")]), 1) == ""
    assert "without a box" in wording.answers(Answers(edits=1, untrusted=1), 1)


@pytest.mark.parametrize("move", [{"repaired": 1}, {"continued": 1}])
def test_an_agent_in_a_box_whose_answers_were_all_mended_is_not_silent(
    move: dict[str, int],
) -> None:
    said = wording.answers(answers([Move(kind="edit", **move)]), 1)
    assert said.startswith("Answers: 1 edit applied, 1 ")


def test_an_agents_tokens_and_dollars_are_not_known_rather_than_none(tmp_path: Path) -> None:
    ledger, plan = spending(tmp_path, "command", Move(kind="edit"), Move(kind="edit"))
    found = run_details(ledger, plan)
    (run,) = [d for d in found if d.run.role == "entrant"]
    assert run == run_detail(ledger, run.run.id)
    assert (run.run.spent.tokens, run.run.spent.usd, run.answers.usage.usd) == (None, None, None)
    assert "tokens and dollars are not known" in wording.answers(run.answers, 1)
    assert budget_rows(render_report(ledger, plan)) == [
        "alpha: not known, not known",
        "all runs: not known, not known",
        "baselines and confirmations, charged to no run: 0, $0.00",
    ]
    frame = runs_frame(ledger, plan)
    assert frame["tokens"].isna().tolist() == frame["usd"].isna().tolist() == [False, True]


def test_dollars_are_known_for_all_runs_or_for_none(tmp_path: Path) -> None:
    known = Usage(calls=1, tokens_in=1000, usd=0.5)
    unknown = known.model_copy(update={"usd": None})
    assert wording.bill([known, known]) == ("2,000", "$1.00")
    assert wording.bill([known, unknown]) == ("2,000", "price not known")
    assert wording.bill([]) == ("0", "$0.00")
    move = Move(kind="unusable", usage=unknown)
    ledger, plan = spending(tmp_path, "openai", move, move)
    rows = budget_rows(render_report(ledger, plan, rewriter_usage=known))
    assert rows[:2] == ["alpha: 2,000, price not known", "all runs: 2,000, price not known"]
    assert rows[-1] == "rewriter, all rounds together: 1,000, $0.50"
    report = report_record(ledger, plan, rewriter_usage=known)
    assert (report.runs[0].run.spent.usd, report.rewriter_usage) == (None, known)
    assert report_record(ledger, plan, rewriter_usage=Usage()).rewriter_usage is None
    assert "rewriter" not in budget_rows(render_report(ledger, plan, rewriter_usage=Usage()))[-1]


def test_programs_whose_agent_ran_without_a_box_are_named_before_any_number(tmp_path: Path) -> None:
    moves = (Move(kind="edit", untrusted=True), Move(kind="edit"))
    ledger, plan = spending(tmp_path, "command", *moves, names=("alpha", "<beta>"))
    page = render_report(ledger, plan)
    (stamp,) = [label for label in report_record(ledger, plan).labels if "agent" in label]
    assert stamp.startswith("untrusted agent: in 1 of 2 runs (alpha)")
    assert "Untrusted agent: in 1 of 2 runs (alpha)" in page[: page.index("<main")]
    board = page[page.index("<main") : page.index('id="reading"')]
    assert board.count("(agent without a box)") == 1
    ledger, plan = spending(tmp_path / "boxed", "command", Move(kind="edit"))
    assert not any("agent" in label for label in report_record(ledger, plan).labels)


def spending(
    folder: Path, researcher: str, *moves: Move, names: tuple[str, ...] = ("alpha",)
) -> tuple[Ledger, Tournament]:
    """A tournament of one run a program; the moves are dealt to the runs in turn."""
    folder.mkdir(exist_ok=True)
    ledger = open_ledger(folder)
    track = TRACK.model_copy(update={"researcher": researcher})
    plans = [Plan(name, 0, [Try(2.9)], [2.9]) for name in names]
    plan = write_tournament(ledger, plans, [[3.0, 3.0]], track=track)
    runs = [run.id for name in names for run in ledger.runs(plan.id) if run.program_name == name]
    for number, move in enumerate(moves):
        ledger.add_move(runs[number % len(runs)], 1 + number // len(runs), move, AT)
    return ledger, plan


def budget_rows(page: str) -> list[str]:
    """`who: tokens, dollars` of every row of the budget table."""
    table = page[page.index('id="budget"') : page.index('id="baselines"')]
    rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in table.split("<tr>")[2:]]
    return [f"{cells[0]}: {', '.join(cells[-2:])}" for cells in rows]

"""Rounds: who leads, who is asked back, and a real series of two on the quick track."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from analysis.story import rewrite_lines
from inner_loop.errors import UserError
from inner_loop.home import Home
from inner_loop.ledger import Ledger
from inner_loop.records import Tournament
from outer_loop.leading import TAKES_OVER, Seen, program
from outer_loop.rewriter.offline import consider
from outer_loop.rounds import next_round, stayers
from tests.conftest import QUICK, Cli
from tests.ledger_fixture import (
    AT,
    Plan,
    Try,
    instruction_ids,
    open_ledger,
    program_id,
    write_tournament,
)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return open_ledger(tmp_path)


def field(ledger: Ledger, gains: dict[str, tuple[float, ...]], name: str = "one") -> Tournament:
    plans = [
        Plan(
            program,
            block,
            (Try(2.9),),
            (3.0 - gain,),
            role="control" if program == "one-line" else "entrant",
        )
        for program, each in gains.items()
        for block, gain in enumerate(each)
    ]
    notes = dict.fromkeys(gains, "a note")
    return write_tournament(ledger, plans, [[3.0, 3.0]] * 3, name=name, notes=notes)


CLEAR = {"alpha": (0.1, 0.12, 0.11), "beta": (0.3, 0.32, 0.31), "one-line": (0.5, 0.52, 0.51)}


def test_the_leader_is_the_entrant_most_is_expected_of_and_never_a_control(ledger: Ledger) -> None:
    plan = field(ledger, CLEAR)
    assert Seen.of(ledger, plan).leader.name == "beta"
    assert [e.name for e in stayers(ledger, plan)] == ["beta", "one-line"]


def test_a_leader_of_an_earlier_round_stays_one_while_nothing_beats_it(ledger: Ledger) -> None:
    first = field(ledger, CLEAR)
    second = field(ledger, {"gamma": (0.0, 0.01, 0.02), "beta": (0.3, 0.31, 0.3)}, "two")
    ledger.add_round(second.id, first.id)
    assert Seen.of(ledger, second).leader.name == "beta"
    found = Seen.of(ledger, second).leaders()
    assert [(row.round, row.name, row.expected) for row in found] == [
        (1, "beta", 0.0),
        (2, "beta", 0.0),
    ]
    assert {row.since for row in Seen.of(ledger, second).survivors()} == {1}
    assert {row.instruction_id for row in Seen.of(ledger, second).survivors()} <= set(
        instruction_ids("beta")
    )


def test_without_a_score_there_is_nothing_to_rewrite(ledger: Ledger) -> None:
    plan = write_tournament(ledger, [Plan("alpha", 0, state="running")], [[3.0, 3.0]])
    with pytest.raises(UserError, match="nothing to rewrite"):
        _ = Seen.of(ledger, plan).leader


def test_the_same_evidence_gives_the_same_next_round_and_is_asked_once(ledger: Ledger) -> None:
    plan = field(ledger, CLEAR)
    one, again = (next_round(ledger, plan, 2, lambda: AT) for _ in range(2))
    assert one is not None
    assert one == again
    following, admitted = one
    names = [e.name for e in following.entrants]
    assert names == ["beta", "challenger-2", "one-line"]
    assert following.seed != plan.seed
    assert following.track == plan.track
    proposal, *refused = ledger.proposals(plan.id)
    assert all(each.rejection for each in refused)
    assert not proposal.rejection
    assert proposal.base_program_id == program_id("beta")
    assert admitted[1].program.id == proposal.program_id
    assert admitted[1].submission.author == "offline rewriter"


def test_why_nothing_is_proposed_is_recorded_and_outlives_a_resume(
    ledger: Ledger, tmp_path: Path
) -> None:
    plan = field(ledger, {"alpha": (0.1, 0.12)})
    offer_all(ledger, plan)
    assert next_round(ledger, plan, 2, lambda: AT) is None
    nothing, *refused = ledger.proposals(plan.id)
    assert (nothing.operations, nothing.program_id) == ((), program_id("alpha"))
    assert "30 draws for each program" in nothing.rejection
    assert refused
    assert all(f"({each.program_id})" in each.rejection for each in refused)
    first, second, *lines = rewrite_lines(ledger, plan)
    assert first == f"Nothing new is proposed from alpha: {nothing.rejection}"
    assert second == f"{len(refused)} refused draft{'s' * (len(refused) > 1)} on record:"
    assert len(lines) == len(refused)
    ledger.close()
    again = open_ledger(tmp_path)
    assert next_round(again, plan, 2, lambda: "later") is None
    assert again.proposals(plan.id) == [nothing, *refused]
    assert next_round(again, plan, 2, lambda: AT) is None


def offer_all(ledger: Ledger, plan: Tournament) -> None:
    """Make every program known that the rewriter can make of this field."""
    base = program(ledger, plan.entrants[0].program_id, plan.entrants[0].name)
    for seed in range(40):
        for made in consider([base], [], base.id, [], Random(seed), 3).proposals:
            ledger.add_program(made.program_id, f"known-{seed}", made.text.encode())


def test_a_field_that_leaves_nothing_to_change_says_so(
    cli: Cli, home: Home, tmp_path: Path
) -> None:
    (tmp_path / "short.md").write_text("Never stop.\n")
    words = ["tournament", str(tmp_path / "short.md"), "--track", str(QUICK), "--rounds", "2"]
    words += ["--replicates", "1", "--experiments", "1"]
    env = {"METARESEARCH_HOME": str(home.root)}
    done = cli(*words, env=env)
    assert done.returncode == 0, done.stderr
    assert "There is no round 2.\nNothing new is proposed from short: The field" in done.stdout
    page = (home.tournament(home.ledger().tournament().id) / "report.html").read_text("utf-8")
    assert "Nothing new is proposed from short:</strong> The field has no strategy" in page


def test_two_real_rounds_end_in_one_story_and_the_same_command_repeats_nothing(
    cli: Cli, home: Home
) -> None:
    words = ["tournament", "stock", "optimizer-first", "--track", str(QUICK), "--rounds", "2"]
    words += ["--replicates", "1", "--experiments", "1"]
    env = {"METARESEARCH_HOME": str(home.root)}
    done = cli(*words, env=env)
    assert done.returncode == 0, done.stderr
    assert "Rewritten from optimizer-first" in done.stdout
    ledger = home.ledger()
    series = ledger.series(ledger.tournament().id)
    assert [len(t.entrants) for t in series] == [2, 3]
    assert all(run.state == "complete" for t in series for run in ledger.runs(t.id))
    page = (home.tournament(series[-1].id) / "report.html").read_text(encoding="utf-8")
    for words_of_the_page in ("Rounds: before and after", "What is not known yet", "challenger-2"):
        assert words_of_the_page in page
    assert "--rounds 2" in page
    before = sum(len(ledger.experiments(r.id)) for t in series for r in ledger.runs(t.id))
    again = cli(*words, env=env)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("Already complete") == 2
    assert before == sum(len(ledger.experiments(r.id)) for t in series for r in ledger.runs(t.id))


def test_rounds_of_controls_alone_are_refused_before_anything_is_spent(
    cli: Cli, home: Home
) -> None:
    done = cli("tournament", "stock", "one-line", "--track", str(QUICK), "--rounds", "2")
    assert done.returncode == 2
    assert "no control" in done.stderr


def test_a_challenger_never_takes_a_name_of_the_series(ledger: Ledger) -> None:
    plan = field(ledger, {"beta": (0.3, 0.32, 0.31), "challenger-2": (0.0, 0.01, 0.0)})
    following = next_round(ledger, plan, 2, lambda: AT)
    assert following is not None
    assert [e.name for e in following[0].entrants] == ["beta", "challenger-2b"]


def test_another_program_leads_only_when_it_is_likely_enough_to_be_better(ledger: Ledger) -> None:
    first = field(ledger, {"beta": (0.3, 0.1, 0.2), "one-line": (0.0, 0.1, 0.0)})
    second = field(ledger, {"beta": (0.2, 0.2, 0.2), "gamma": (0.2, 0.201, 0.2)}, "two")
    ledger.add_round(second.id, first.id)
    assert [lead.entrant.name for lead in Seen.of(ledger, second).leads()] == ["beta", "beta"]
    third = field(ledger, {"beta": (0.1, 0.1, 0.1), "gamma": (0.3, 0.31, 0.3)}, "three")
    ledger.add_round(third.id, second.id)
    newest = Seen.of(ledger, third).leads()[-1]
    assert newest.entrant.name == "gamma"
    assert newest.round == 3
    assert newest.p_better is not None
    assert newest.p_better > TAKES_OVER


def test_a_round_without_a_score_leaves_the_others_told(ledger: Ledger) -> None:
    first = field(ledger, CLEAR)
    plans = [Plan("gamma", 0, state="running"), Plan("beta", 0, state="running")]
    second = write_tournament(ledger, plans, [[3.0, 3.0]], name="two")
    ledger.add_round(second.id, first.id)
    lineage = Seen.of(ledger, second).lineage()
    assert lineage is not None
    assert [row.round for row in lineage.leaders] == [1]
    assert Seen.of(ledger, first).lineage() is None

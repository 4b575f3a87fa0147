"""The story of a series of rounds, from a synthetic ledger."""

from __future__ import annotations

import math
import re
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.report import render_report, report_record
from analysis.story import (
    Leader,
    Lineage,
    Survivor,
    rewrite_lines,
    runs_to_settle,
    story_of,
)
from inner_loop.ledger import Ledger
from inner_loop.program import unit_id
from inner_loop.proposal import Operation, Proposal, proposal_id
from inner_loop.records import Tournament
from tests.ledger_fixture import (
    AT,
    Plan,
    Try,
    instruction_ids,
    open_ledger,
    program_body,
    program_id,
    write_tournament,
)

GAINS = {"alpha": (0.10, 0.20, 0.15), "challenger-2": (0.30, 0.24, 0.33), "one-line": (0.0, 0.1)}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return open_ledger(tmp_path)


def field(ledger: Ledger, name: str, gains: dict[str, tuple[float, ...]]) -> Tournament:
    """A tournament in which the programs' runs have these gains, in bits per byte."""
    plans = [
        Plan(program, block, (Try(2.9),), (3.0 - gain,))
        for program, each in gains.items()
        for block, gain in enumerate(each)
    ]
    blocks = max(len(each) for each in gains.values())
    return write_tournament(ledger, plans, [[3.0, 3.0]] * blocks, name=name)


def proposal(base: str, new: str, rejection: str = "") -> Proposal:
    gone = instruction_ids(base)[0]
    operations = (
        Operation(kind="REMOVE", instruction_ids=(gone,), hypothesis="it lost in both files"),
        Operation(
            kind="ADD",
            texts=("Try \x1b[31mbigger\nsteps",),
            source_program_id=program_id("one-line"),
            hypothesis="it won",
        ),
    )
    return Proposal(
        id=proposal_id(program_id(base), operations),
        rewriter="offline",
        base_program_id=program_id(base),
        parents=(program_id(base),),
        operations=operations,
        focus="fewer rules",
        hypothesis="fewer rules leave more room",
        text=program_body(new).decode(),
        program_id=program_id(new),
        rejection=rejection,
    )


@pytest.fixture
def two_rounds(ledger: Ledger) -> Tournament:
    first = field(ledger, "first", {"alpha": (0.1, 0.2), "one-line": (0.0, 0.1)})
    ledger.add_proposals(first.id, [proposal("alpha", "challenger-2")], AT)
    second = field(ledger, "second", GAINS)
    ledger.add_round(second.id, first.id)
    return second


def test_one_round_without_a_proposal_is_no_story(ledger: Ledger) -> None:
    alone = field(ledger, "alone", {"alpha": (0.1, 0.2)})
    assert story_of(ledger, alone) is None
    assert ledger.series(alone.id) == [alone]


def test_a_series_is_told_in_order_with_what_was_changed_and_why(
    ledger: Ledger, two_rounds: Tournament
) -> None:
    story = story_of(ledger, two_rounds)
    assert story is not None
    assert [r.leaderboard.tournament.id for r in story.rounds] == [
        t.id for t in ledger.series(two_rounds.id)
    ]
    (rewrite,) = story.rounds[0].rewrites
    assert (rewrite.base, rewrite.focus) == ("alpha", "fewer rules")
    removed, added = rewrite.changes
    assert (removed.kind, removed.text) == ("REMOVE", "Tune the optimiser first.")
    assert (added.kind, added.where_from) == ("ADD", "one-line")
    assert story.rounds[1].rewrites == ()


def test_the_duel_is_the_difference_with_the_rounds_pooled_spread(
    ledger: Ledger, two_rounds: Tournament
) -> None:
    story = story_of(ledger, two_rounds)
    assert story is not None
    (duel,) = story.rounds[-1].duels
    groups = [1000 * np.array(each) for each in GAINS.values()]
    squares = sum(((g - g.mean()) ** 2).sum() for g in groups)
    sd, df = math.sqrt(squares / 5), 5
    half = stats.t.ppf(0.975, df) * sd * math.sqrt(2 / 3)
    difference = 1000 * (fmean(GAINS["challenger-2"]) - fmean(GAINS["alpha"]))
    assert duel.difference == pytest.approx(difference)
    assert (duel.ci_low, duel.ci_high) == pytest.approx((difference - half, difference + half))
    assert story.known[0].startswith("challenger-2 against alpha")
    assert not any(line.startswith("Whether challenger-2") for line in story.unknown)


def test_a_difference_that_may_be_none_is_named_as_unknown(ledger: Ledger) -> None:
    first = field(ledger, "first", {"alpha": (0.1, 0.2), "one-line": (0.0,)})
    ledger.add_proposals(first.id, [proposal("alpha", "challenger-2")], AT)
    close = {"alpha": (0.1, 0.2, 0.15), "challenger-2": (0.22, 0.11, 0.19)}
    second = field(ledger, "second", close)
    ledger.add_round(second.id, first.id)
    story = story_of(ledger, second)
    assert story is not None
    assert any("runs of each would settle" in line for line in story.unknown)


def test_single_runs_are_said_to_show_nothing_rather_than_no_difference(ledger: Ledger) -> None:
    first = field(ledger, "first", {"alpha": (0.1,), "one-line": (0.0,)})
    ledger.add_proposals(first.id, [proposal("alpha", "challenger-2")], AT)
    second = field(ledger, "second", {"alpha": (0.1,), "challenger-2": (0.5,)})
    ledger.add_round(second.id, first.id)
    story = story_of(ledger, second)
    assert story is not None
    assert "nobody knows how much of it is luck" in story.unknown[0]
    assert any("came together" in line for line in story.unknown)


def test_a_refused_rewrite_is_told_with_its_reason_and_has_no_duel(ledger: Ledger) -> None:
    first = field(ledger, "first", {"alpha": (0.1, 0.2), "one-line": (0.0,)})
    ledger.add_proposals(first.id, [proposal("alpha", "challenger-2", "equals alpha.")], AT)
    story = story_of(ledger, first)
    assert story is not None
    assert story.rounds[0].rewrites[0].rejection == "equals alpha."
    assert story.rounds[0].duels == ()
    assert rewrite_lines(ledger, first) == [
        "1 refused draft on record:",
        "  fewer rules: equals alpha.",
    ]
    page = render_report(ledger, first)
    assert "1 refused draft on record:" in page
    assert "<li>fewer rules: equals alpha.</li>" in page


def test_refused_drafts_beside_a_rewrite_change_nothing_that_is_said_of_its_run(
    ledger: Ledger,
) -> None:
    first = field(ledger, "first", {"alpha": (0.1, 0.2), "one-line": (0.0,)})
    whole = proposal("alpha", "challenger-2")
    kept = whole.model_copy(update={"operations": whole.operations[:1]})
    ledger.add_proposals(first.id, [kept, proposal("alpha", "alpha", "equals\nalpha.")], AT)
    second = field(ledger, "second", GAINS)
    ledger.add_round(second.id, first.id)
    story = story_of(ledger, second)
    assert story is not None
    assert [d.challenger for d in story.rounds[-1].duels] == ["challenger-2"]
    assert not any("came together" in line for line in story.unknown)
    assert rewrite_lines(ledger, first)[-2:] == [
        "1 refused draft on record:",
        "  fewer rules: equals alpha.",
    ]
    assert render_report(ledger, second).count("<h4>Rewritten from alpha</h4>") == 1


def test_why_nothing_was_proposed_is_told(ledger: Ledger) -> None:
    first = field(ledger, "first", {"alpha": (0.1, 0.2), "one-line": (0.0,)})
    nothing = proposal("alpha", "alpha", "All is known.").model_copy(update={"operations": ()})
    ledger.add_proposals(first.id, [nothing], AT)
    assert rewrite_lines(ledger, first) == ["Nothing new is proposed from alpha: All is known."]
    page = render_report(ledger, first)
    assert "<strong>Nothing new is proposed from alpha:</strong> All is known." in page
    assert "refused draft" not in page
    assert "Changes of the rewrite" not in page


def test_the_terminals_lines_are_lines_and_show_no_control_characters(
    ledger: Ledger, two_rounds: Tournament
) -> None:
    first = ledger.series(two_rounds.id)[0]
    lines = rewrite_lines(ledger, first)
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert "(from one-line): it won" in lines[2]
    assert rewrite_lines(ledger, two_rounds) == [
        "The rewriter has not been asked about this evidence."
    ]


CITED = "E-3 effect I-0123abcd: +12 [-3, +27] mbpb, P(above zero) 0.91"


def written(base: str, new: str) -> Proposal:
    """What a model might answer: every kind of operation that replaces or moves a text."""
    first, second = instruction_ids(base)
    operations = (
        Operation(kind="EDIT", instruction_ids=(first,), texts=("Tune <it>.",),
                  hypothesis="shorter", evidence=(CITED, "E-4 \x1b[2J")),
        Operation(kind="SPLIT", instruction_ids=(unit_id("Tune <it>."),),
                  texts=("Tune.", "x" * 400), hypothesis="y" * 400),
        Operation(kind="MERGE", instruction_ids=(first, second), texts=("Tune, then shape.",),
                  hypothesis="one idea", evidence=(CITED,)),
        Operation(kind="MOVE", instruction_ids=(first,), after=second, hypothesis="later"),
        Operation(kind="MOVE", instruction_ids=(first,), section="alpha / Last", hypothesis="last"),
    )  # fmt: skip
    update = {"rewriter": "openai gpt-x", "operations": operations}
    return proposal(base, new).model_copy(update=update)


def test_a_models_rewrite_shows_what_was_there_and_what_it_cites(ledger: Ledger) -> None:
    first = field(ledger, "first", {"alpha": (0.1, 0.2), "one-line": (0.0, 0.1)})
    ledger.add_proposals(first.id, [written("alpha", "challenger-2")], AT)
    report = report_record(ledger, first)
    assert report.story is not None
    edit, split, merge, moved, last = report.story.rounds[0].rewrites[0].changes
    assert (edit.text, edit.was) == ("Tune <it>.", "Tune the optimiser first.")
    assert edit.evidence[0] == CITED
    assert split.was == "Tune <it>."
    assert merge.was == "Tune the optimiser first. / Then change the shape of alpha."
    assert (moved.text, moved.was) == ("Tune the optimiser first.", "")
    assert moved.where_to == 'behind "Then change the shape of alpha."'
    assert last.where_to == "to alpha / Last"
    page = render_report(ledger, first)
    assert "was: Tune the optimiser first." in page
    assert CITED in page
    assert "evidence it cites" in page
    assert '<th scope="col">from</th>' not in page
    lines = rewrite_lines(ledger, first)
    assert lines[1] == '  edit "Tune <it>." (was: "Tune the optimiser first."): shorter'
    assert lines[2] == f"    cites {CITED}"
    assert all(line.isprintable() for line in lines)


def test_a_proposal_without_evidence_has_no_column_for_it(
    ledger: Ledger, two_rounds: Tournament
) -> None:
    page = render_report(ledger, two_rounds)
    assert "evidence it cites" not in page
    assert "was: " not in page


def test_long_words_of_a_model_can_break_in_every_cell(ledger: Ledger) -> None:
    first = field(ledger, "first", {"alpha": (0.1, 0.2), "one-line": (0.0, 0.1)})
    ledger.add_proposals(first.id, [written("alpha", "challenger-2")], AT)
    page = render_report(ledger, first, lineage=lineage("z" * 300))
    story = page[page.index('id="rounds"') : page.index('id="reading"')]
    cells = re.findall(r"<td([^>]*)>([^<]*)", story)
    long = [attributes for attributes, text in cells if len(text) > 100]
    assert long == [' class="told"'] * 3


@pytest.mark.parametrize("kinds", [("offline",), ("model",), ("offline", "model")])
def test_the_page_describes_the_rewriter_that_wrote(ledger: Ledger, kinds: tuple[str, ...]) -> None:
    first = field(ledger, "first", {"alpha": (0.1, 0.2), "one-line": (0.0, 0.1)})
    both = {"offline": proposal("alpha", "challenger-2"), "model": written("alpha", "challenger-3")}
    ledger.add_proposals(first.id, [both[kind] for kind in kinds], AT)
    page = render_report(ledger, first, lineage=lineage("Tune."))
    assert ("Thompson" in page) == ("offline" in kinds)
    assert ("the language model openai gpt-x is asked" in page) == ("model" in kinds)
    assert ("They stay while a draw" in page) == (kinds == ("offline",))


def lineage(text: str) -> Lineage:
    """One leader with one instruction."""
    leader = Leader(round=1, name="alpha", program_id="a", expected=0, low=0, high=0)
    kept = Survivor(
        instruction_id="I-1", text=text, since=1, effect=1, low=0, high=2, p_helps=0.9
    )  # fmt: skip
    return Lineage(leaders=(leader,), survivors=(kept,))


@given(st.floats(0.1, 100), st.floats(-300, 300).filter(lambda d: d == 0 or abs(d) > 1e-6))
def test_runs_to_settle_follow_the_formula_or_say_that_it_is_not_worth_it(
    sd: float, difference: float
) -> None:
    runs = runs_to_settle(sd, difference)
    exact = 15.7 * (sd / difference) ** 2 if difference else math.inf
    if runs is None:
        assert exact > 999
    else:
        assert max(2.0, exact) <= runs < max(2.0, exact) + 1

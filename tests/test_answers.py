"""What a run's researcher answered, counted and said."""

from __future__ import annotations

from analysis import wording
from analysis.curves import answers
from inner_loop.records import Move
from inner_loop.settings import Answers, Usage

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

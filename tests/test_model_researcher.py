"""A language model as researcher, from the ask to the move and its effect in a real run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from model_world import World, commit_in, edit, queue
from reply_queue import ReplyQueue, cut, refusal, said

from inner_loop import briefing
from inner_loop.errors import UserError
from inner_loop.home import REPOSITORY
from inner_loop.messages import Ask, NoReply, Reply
from inner_loop.meter import Meter, OutOfBudget
from inner_loop.model_researcher import ModelResearcher
from inner_loop.records import Track
from inner_loop.researcher import Brief, Setup, make_researcher
from inner_loop.settings import Usage

BETTER = edit("A = 1", "A = 222", description="better")
"""From 2.8 to 2.7."""
WORSE = edit("B = 1", "B = 3", description="worse")
BETTER_STILL = edit("B = 1", "B = 2", description="better still")
QUESTION = "Shall I begin? Please confirm the setup first."


@pytest.fixture
def world(tmp_path: Path, quick: Track) -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(chat: ReplyQueue, **fields: Any) -> World:
        made.append(World(tmp_path, quick, chat, **fields))
        return made[-1]

    yield make
    for each in made:
        each.desk.repository.close()


# --- moves ------------------------------------------------------------------------------------


def test_an_edit_is_made_measured_and_told_of_in_the_next_ask(world: Callable[..., World]) -> None:
    chat = queue(edit("A = 1", "A = 222", "CITES: I-00000000", description="better"), BETTER_STILL)
    run = world(chat).work()
    assert run.outcomes == [("better", "keep"), ("better still", "keep")]
    assert [m.kind for m in run.moves] == ["edit", "edit", "close"]
    assert run.moves[0].hypothesis == "it helps"
    assert run.moves[0].usage.tokens_in == len(said(chat.asks[0])) // 4
    second = said(chat.asks[1])
    assert "1\tedit\t" in second
    assert "+A = 222" in second
    assert "A = 222\nB = 1\n" in second


def test_only_instructions_of_the_program_are_cited(world: Callable[..., World]) -> None:
    def cite(ask: Ask) -> str:
        listed = [line[:10] for line in said(ask).splitlines() if line.startswith("I-")]
        return edit("A = 1", "A = 2", f"CITES: I-00000000, {listed[1]}, {listed[0]}")

    run = world(queue(cite), experiments=1).work()
    first, second = (unit.id for unit in run.program.instructions)
    assert run.moves[0].cites == (second, first)


def test_a_rerun_and_a_return_name_commits_by_their_first_digits(
    world: Callable[..., World],
) -> None:
    chat = queue(
        BETTER,
        lambda ask: f"DESCRIPTION: again\nACTION: rerun {commit_in(ask, 1)}",
        lambda ask: f"DESCRIPTION: back\nACTION: return {commit_in(ask, 0)}",
        BETTER_STILL,
    )
    run = world(chat, experiments=3).work()
    assert [m.kind for m in run.moves] == ["edit", "rerun", "return", "edit", "close"]
    assert run.experiments[1].commit == run.experiments[0].commit
    assert run.experiments[2].parent_commit == run.base


def test_a_rerun_without_a_commit_is_of_the_tip(world: Callable[..., World]) -> None:
    run = world(queue("ACTION: rerun"), experiments=1).work()
    assert run.experiments[0].commit == run.base


def test_upstreams_text_works_as_it_is(world: Callable[..., World]) -> None:
    text = (REPOSITORY / "programs" / "stock" / "program.md").read_text(encoding="utf-8")
    text += "\nRun `uv run train.py > run.log`, confirm with the human, NEVER STOP.\n"
    chat = queue(QUESTION, BETTER, "I am done.\nLet me know.", BETTER_STILL)
    run = world(chat, program=text).work()
    assert run.outcomes == [("better", "keep"), ("better still", "keep")]
    assert [m.continued for m in run.moves] == [1, 1, 0]
    assert text in said(chat.asks[0])
    assert "branch autoresearch/T-1-p-r0 exists" in said(chat.asks[0])


# --- the program's own rules ------------------------------------------------------------------


def test_a_verdict_with_an_edit_must_fit_the_train_py_it_leaves(
    world: Callable[..., World],
) -> None:
    on_what_was_kept = edit("A = 222", "A = 2222", "VERDICT: discard")
    on_the_base = edit("A = 1", "A = 2222", "VERDICT: discard", description="second")
    chat = queue(BETTER, on_what_was_kept, on_the_base)
    run = world(chat).work()
    assert run.outcomes == [("better", "discard"), ("second", "keep")]
    assert "(train.py as VERDICT: discard leaves it)" in said(chat.asks[2])
    assert run.experiments[1].parent_commit == run.base
    assert run.moves[1].repaired == 1


def test_a_verdict_alone_overturns_and_costs_no_experiment(world: Callable[..., World]) -> None:
    chat = queue(WORSE, "The program accepts it.\nVERDICT: keep", edit("A = 1", "A = 2"))
    run = world(chat).work()
    assert run.outcomes == [("worse", "keep"), ("a change", "keep")]
    assert [m.kind for m in run.moves] == ["edit", "return", "edit", "close"]
    assert run.moves[1].description == "kept by the program's rule"
    assert "A = 1\nB = 3\n" in said(chat.asks[2])
    assert "VERDICT" not in chat.asks[2].messages[0].parts[-1].text.rpartition("history-")[2]


def test_a_verdict_alone_that_agrees_is_no_action(world: Callable[..., World]) -> None:
    chat = queue(BETTER, "VERDICT: keep", BETTER_STILL)
    run = world(chat).work()
    assert run.outcomes == [("better", "keep"), ("better still", "keep")]
    assert (run.moves[1].kind, run.moves[1].continued) == ("edit", 1)


def test_a_verdict_on_a_crash_counts_for_nothing(world: Callable[..., World]) -> None:
    chat = queue(WORSE, "VERDICT: keep", BETTER)
    run = world(chat, score=lambda text: None if "B = 3" in text else 2.0).work()
    assert run.outcomes == [("worse", "crash"), ("better", "keep")]
    assert run.moves[1].verdict is None
    assert "Traceback: boom" in said(chat.asks[1])


def test_the_last_experiment_has_the_programs_verdict_too(world: Callable[..., World]) -> None:
    chat = queue(BETTER, "VERDICT: discard")
    run = world(chat, experiments=1).work()
    assert run.outcomes == [("better", "discard")]
    assert run.confirmed == run.base
    assert "No experiments are left" in said(chat.asks[1])


def test_a_return_at_the_end_decides_what_is_confirmed(world: Callable[..., World]) -> None:
    chat = queue(BETTER, lambda ask: f"ACTION: return {commit_in(ask, 0)}")
    assert (run := world(chat, experiments=1).work()).confirmed == run.base
    assert run.outcomes == [("better", "keep")]


@pytest.mark.parametrize(
    "answer", [QUESTION, "", BETTER_STILL, "<<<<<<< SEARCH\n", "ACTION: return 1234567", refusal()]
)
def test_the_closing_question_is_asked_once_whatever_comes(
    world: Callable[..., World], answer: str | Reply
) -> None:
    chat = ReplyQueue(BETTER, answer)
    run = world(chat, experiments=1).work()
    assert run.outcomes == [("better", "keep")]
    assert run.confirmed == run.experiments[0].commit
    assert (run.moves[-1].kind, len(chat.asks)) == ("close", 2)


def test_notes_are_kept_shown_and_changed_only_by_notes(world: Callable[..., World]) -> None:
    notes = "<<<<<<< NOTES\nstate: {}\n>>>>>>> NOTES\n"
    chat = queue(
        notes.format("searching") + BETTER, WORSE, notes.format("stuck"), BETTER_STILL, BETTER
    )
    run = world(chat, experiments=3).work()
    assert [m.notes for m in run.moves[:3]] == ["state: searching", None, "state: stuck"]
    assert "state: searching" in said(chat.asks[1])
    assert "state: searching" in said(chat.asks[2])
    assert run.moves[2].continued == 1
    assert "state: searching" not in said(chat.asks[-1])


# --- replies without an action ----------------------------------------------------------------


@pytest.mark.parametrize("answer", [QUESTION, "", "   \n", refusal("I cannot"), refusal(BETTER)])
def test_whatever_is_no_action_gets_the_same_continuation(
    world: Callable[..., World], answer: str | Reply
) -> None:
    chat = queue(answer, BETTER)
    run = world(chat, experiments=1).work()
    assert chat.asks[1].messages[-1].parts[0].text == briefing.continuation()
    assert chat.asks[1].messages[0] == chat.asks[0].messages[0]
    assert run.outcomes == [("better", "keep")]
    assert (run.moves[0].continued, run.moves[0].repaired, run.moves[0].usage.calls) == (1, 0, 2)


def test_a_researcher_that_only_talks_is_unusable_and_ends_stalled(
    world: Callable[..., World],
) -> None:
    chat = queue(then="What should I do next?")
    run = world(chat).work()
    assert {m.kind for m in run.moves} == {"unusable"}
    assert run.moves[0].description == "the reply held no action"
    assert len(chat.asks) == 2 * len(run.moves)
    assert run.exit_reason == "stalled"


# --- replies that cannot be carried out ---------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (edit("Z = 1", "Z = 2"), "SEARCH"),
        (edit("A = 1", "A = ("), "not valid Python"),
        (edit("A = 1", "A = 1"), "changes nothing"),
        ("<<<<<<< SEARCH\nA = 1\n", "======="),
        ("ACTION: edit", "no SEARCH/REPLACE block"),
        ("ACTION: return fffffff", "commit fffffff is not one of this run's"),
        ("ACTION: rerun fffffff", "commit fffffff is not one of this run's"),
        (edit("A = 1", "A = 2", "VERDICT: maybe"), "neither keep nor discard"),
        (cut("I think at length about"), "your reply was cut at 16,000 tokens; answer shorter"),
        (cut("<<<<<<< SEARCH\nA = 1\n"), "your reply was cut at 16,000 tokens; answer shorter"),
    ],
)
def test_one_repair_turn_has_the_exact_reason(
    world: Callable[..., World], answer: str | Reply, reason: str
) -> None:
    chat = queue(answer, BETTER)
    run = world(chat, experiments=1).work()
    assert reason in chat.asks[1].messages[-1].parts[0].text
    assert run.outcomes == [("better", "keep")]
    assert (run.moves[0].repaired, run.moves[0].continued) == (1, 0)


def test_a_cut_reply_whose_action_is_whole_counts(world: Callable[..., World]) -> None:
    run = world(queue(cut(BETTER + "\nand then I th")), experiments=1).work()
    assert run.outcomes == [("better", "keep")]
    assert run.moves[0].repaired == 0


def test_a_second_wrong_reply_is_unusable_with_its_reason(world: Callable[..., World]) -> None:
    chat = queue(edit("Y = 1", "Y = 2"), edit("A = 1", "A = ("), BETTER)
    run = world(chat, experiments=1).work()
    assert run.moves[0].kind == "unusable"
    assert "not valid Python" in run.moves[0].description
    assert (run.moves[0].repaired, run.moves[0].usage.calls) == (1, 2)
    assert run.outcomes == [("better", "keep")]


def test_a_move_has_one_continuation_and_one_repair_turn(world: Callable[..., World]) -> None:
    chat = queue(QUESTION, edit("Z = 1", "Z = 2"), QUESTION, BETTER)
    run = world(chat, experiments=1).work()
    assert [len(ask.messages) for ask in chat.asks] == [1, 3, 5, 1, 1]
    first = run.moves[0]
    assert (first.kind, first.continued, first.repaired, first.usage.calls) == ("unusable", 1, 1, 3)


def test_a_crashed_commit_cannot_be_returned_to(world: Callable[..., World]) -> None:
    chat = queue(WORSE, lambda ask: f"ACTION: return {commit_in(ask, 1)}", BETTER)
    run = world(chat, score=lambda text: None if "B = 3" in text else 2.0).work()
    assert "has no val_bpb" in chat.asks[2].messages[-1].parts[0].text
    assert run.outcomes == [("worse", "crash"), ("better", "keep")]


def test_a_verdict_survives_a_move_that_is_unusable(world: Callable[..., World]) -> None:
    wrong = edit("Z = 1", "Z = 2", "VERDICT: discard")
    run = world(queue(BETTER, wrong, wrong, edit("A = 1", "A = 2"))).work()
    assert run.outcomes[0] == ("better", "discard")


@pytest.mark.parametrize("answer", ["x" * 200_000, "\u202e\x00\x1b[2J", "<" * 5_000])
def test_any_text_at_all_is_read_or_sent_back(world: Callable[..., World], answer: str) -> None:
    chat = queue(answer, BETTER)
    assert world(chat, experiments=1).work().outcomes == [("better", "keep")]
    assert len(said(chat.asks[1])) < len(said(chat.asks[0])) + briefing.REPLY + 3_000


# --- the loop's own objection ---------------------------------------------------------------------


def a_brief(world: World) -> Brief:
    return world.session._brief()


def test_a_fault_that_the_loop_found_gets_the_repair_turn_that_is_left(
    world: Callable[..., World],
) -> None:
    chat = ReplyQueue(BETTER, WORSE)
    run = world(chat)
    brief = a_brief(run)
    first = asyncio.run(run.researcher.next_move(brief))
    again = brief.model_copy(update={"repair": "it is not to be had"})
    second = asyncio.run(run.researcher.next_move(again))
    assert "it is not to be had" in chat.asks[1].messages[-1].parts[0].text
    assert (first.description, second.description) == ("better", "worse")
    assert (second.usage.calls, second.repaired) == (1, 0)  # the loop counts its own objection
    third = asyncio.run(run.researcher.next_move(again))
    assert (third.kind, third.description, third.usage.calls) == (
        "unusable",
        "it is not to be had",
        0,
    )


def test_an_objection_to_a_conversation_that_never_was_is_unusable(
    world: Callable[..., World],
) -> None:
    run = world(ReplyQueue())
    brief = a_brief(run).model_copy(update={"repair": "no"})
    assert asyncio.run(run.researcher.next_move(brief)).kind == "unusable"


# --- services, caps, resuming -----------------------------------------------------------------


def test_a_service_that_fails_is_no_fault_of_the_program(world: Callable[..., World]) -> None:
    chat = queue(NoReply("the server is away"), NoReply("still away"), BETTER)
    run = world(chat, experiments=1).work()
    assert [(m.kind, m.description) for m in run.moves[:2]] == [
        ("failed", "the server is away"),
        ("failed", "still away"),
    ]
    assert run.outcomes == [("better", "keep")]


def test_three_failures_in_a_row_stop_and_the_run_goes_on_later(
    world: Callable[..., World],
) -> None:
    run = world(ReplyQueue(QUESTION, then=NoReply("the server is away")), experiments=1)
    with pytest.raises(UserError, match=r"3 times in a row .*server is away.*same command"):
        run.work()
    assert [(m.kind, m.usage.calls) for m in run.moves] == [("failed", 1), ("failed", 0)]
    assert world(queue(BETTER), experiments=1).work().outcomes == [("better", "keep")]


def test_the_closing_verdict_waits_for_the_service(world: Callable[..., World]) -> None:
    away = NoReply("the server is away")
    run = world(ReplyQueue(BETTER, away, away, "VERDICT: discard"), experiments=1).work()
    assert run.outcomes == [("better", "discard")]
    with pytest.raises(UserError, match="same command continues"):
        asyncio.run(_close_without_an_answer(world))


async def _close_without_an_answer(world: Callable[..., World]) -> None:
    run = world(ReplyQueue(then=NoReply("away")), experiments=1)
    await run.researcher.next_move(run.session._brief(run_has_ended=True))


def test_a_cap_that_allows_no_question_at_all_stops_before_anything_is_spent(
    world: Callable[..., World],
) -> None:
    chat = ReplyQueue()
    run = world(chat, tokens=1000)
    with pytest.raises(UserError, match="does not allow a single call"):
        run.work()
    assert (chat.asks, run.moves) == ([], [])


def test_what_a_move_used_is_on_record_though_the_cap_left_no_second_turn(
    world: Callable[..., World],
) -> None:
    probe = queue(QUESTION, BETTER)
    asked = world(probe, experiments=1)
    brief = a_brief(asked)
    first = probe.bound(briefing.first_ask(brief)).tokens
    chat = ReplyQueue(Reply(text=QUESTION, stop="end", usage=Usage(calls=1, tokens_in=500)))
    run = world(chat, experiments=1, tokens=first + 100).work()
    assert [(m.kind, m.usage.tokens) for m in run.moves] == [("unusable", 500)]
    assert "no action" in run.moves[0].description
    assert "tokens" in run.moves[0].description
    assert run.exit_reason.startswith("budget (run cap")
    assert run.meter.spent(run.session.run.id).tokens == 500


def test_a_killed_driver_does_not_ask_again_what_was_answered(world: Callable[..., World]) -> None:
    class Killed(BaseException):
        pass

    def die(_: Ask) -> str:
        raise Killed

    with pytest.raises(Killed):
        world(ReplyQueue(QUESTION, die), experiments=1).work()
    chat = queue(BETTER)
    run = world(chat, experiments=1).work()
    assert run.outcomes == [("better", "keep")]
    assert len(chat.asks[0].messages) == 3  # the first turn's reply was on disk
    assert run.moves[0].usage.calls == 2
    assert run.meter.spent(run.session.run.id).calls == sum(m.usage.calls for m in run.moves)


# --- what it is made of -----------------------------------------------------------------------


def test_the_protocol_changes_with_the_client_library_and_with_the_wording(
    world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(ReplyQueue):
        sdk = "queue 2"

    first = world(ReplyQueue()).researcher.protocol
    assert world(ReplyQueue()).researcher.protocol == first
    assert world(Other()).researcher.protocol != first
    briefing.wording.cache_clear()
    monkeypatch.setattr(briefing, "LAYOUT", 0)
    assert world(ReplyQueue()).researcher.protocol != first
    briefing.wording.cache_clear()


@pytest.mark.parametrize("kind", ["anthropic", "openai"])
def test_without_a_key_or_a_model_it_cannot_be_made(kind: str) -> None:
    with pytest.raises(UserError, match=f"{kind.upper()}_API_KEY"):
        make_researcher(Setup(kind, "some-model", environ={}))
    with pytest.raises(UserError, match="model"):
        ModelResearcher(Setup(kind, None, environ={}))


def test_out_of_budget_is_not_hidden_in_the_first_turn(world: Callable[..., World]) -> None:
    run = world(ReplyQueue())
    meter = Meter()
    meter.open("r", Usage(calls=1, tokens_in=999_999))
    budget = run.setup.budget.model_copy(update={"tokens": 1_000_000})
    setup = Setup("openai", "m", run_id="r", budget=budget, meter=meter)
    with pytest.raises(OutOfBudget):
        asyncio.run(ModelResearcher(setup, ReplyQueue()).next_move(a_brief(run)))

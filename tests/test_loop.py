"""The order of effects in a run, on the real ledger and git; only the slot is an instant one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from inner_loop.errors import UserError
from inner_loop.execute import Job
from inner_loop.experiment import Desk
from inner_loop.ledger import Ledger
from inner_loop.loop import Session
from inner_loop.meter import OutOfBudget
from inner_loop.program import parse_program
from inner_loop.records import Edit, Entrant, Experiment, Measured, Move, Run, Tournament, Track
from inner_loop.repo import Repository
from inner_loop.researcher import Brief
from inner_loop.settings import Usage

SOURCE = "A = 1\nB = 1\n"
AT = "2026-01-01T00:00:00+00:00"


class InstantSlot:
    """An executor whose measurement is a function of train.py: for the loop's bookkeeping only."""

    def __init__(self, score: Callable[[str], float]) -> None:
        self.score, self.jobs = score, 0

    def capacity(self) -> int:
        return 1

    async def submit(self, job: Job) -> Measured:
        self.jobs += 1
        value = self.score(job.files["train.py"])
        return Measured(search_bpb=value, audit_bpb=value if "audit" in job.shards else None)

    async def close(self) -> None: ...


class Scripted:
    """Answers with its moves in order; remembers the briefs."""

    def __init__(self, *moves: Move) -> None:
        self.moves, self.briefs = list(moves), list[Brief]()

    async def next_move(self, brief: Brief) -> Move:
        self.briefs.append(brief)
        if not brief.experiments_left and len(self.briefs) > len(self.moves):
            return Move(kind="close")
        return self.moves[len(self.briefs) - 1]


def edit(old: str, new: str, **fields: object) -> Move:
    return Move(kind="edit", edits=(Edit(search=old, replace=new),), **fields)  # type: ignore[arg-type]


def score(source: str) -> float:
    """Lower with every `2`."""
    return 3.0 - 0.1 * source.count("2")


@pytest.fixture
def session(tmp_path: Path, quick: Track) -> Iterator[Callable[..., Session]]:
    repository = Repository(tmp_path / "repository.git")
    base = repository.commit({"train.py": SOURCE, "prepare.py": "", "task.json": "{}"}, "base\n")
    ledger = Ledger.at(tmp_path / "ledger.db")
    program = parse_program(b"- improve\n", "p")
    ledger.add_program(program.id, "p", b"- improve\n")

    def make(researcher: Scripted, experiments: int = 2) -> Session:
        budget = quick.budget.model_copy(update={"experiments": experiments})
        track = quick.model_copy(update={"budget": budget, "base_commit": base.sha})
        entrant = Entrant(program_id=program.id, name="p", role="entrant")
        plan = Tournament(id="T-1", track=track, entrants=(entrant,), replicates=1, seed=0)
        ledger.add_tournament(plan, AT)
        run = Run(
            id="T-1-p-r0",
            tournament_id="T-1",
            program_id=program.id,
            program_name="p",
            role="entrant",
            replicate=0,
            seed=1,
            branch="autoresearch/T-1-p-r0",
        )
        ledger.add_run(run)
        desk = Desk(
            ledger=ledger,
            repository=repository,
            executor=InstantSlot(score),
            track=track,
            data="none",
            folder=lambda r: tmp_path / r.id,
            now=lambda: AT,
        )
        return Session(desk, ledger.run(run.id), program, researcher, 2.8)

    yield make
    repository.close()


def work(session: Session) -> list[tuple[str, str | None]]:
    """Run it and return (description, status) of each experiment."""
    asyncio.run(session.work())
    rows = session.desk.ledger.experiments(session.run.id)
    return [(e.description, e.status) for e in rows]


def test_a_kept_edit_is_built_upon_and_a_discarded_one_is_not(
    session: Callable[..., Session],
) -> None:
    worse = edit("A = 1", "A = 2", description="worse")  # the baseline measured 2.8
    better = edit("A = 1\nB = 1", "A = 222\nB = 1", description="better")
    run = session(Scripted(worse, better))
    assert work(run) == [("worse", "discard"), ("better", "keep"), ("confirm", None)]
    assert run.desk.ledger.run(run.run.id).state == "complete"
    worktree = run.desk.folder(run.run) / "worktree" / "train.py"
    assert worktree.read_text() == "A = 222\nB = 1\n"


def test_an_edit_that_does_not_fit_gets_one_repair_turn_with_the_reason(
    session: Callable[..., Session],
) -> None:
    researcher = Scripted(edit("Z = 1", "Z = 2"), edit("A = 1", "A = 222", description="mended"))
    run = session(researcher, experiments=1)
    assert work(run)[0] == ("mended", "keep")
    assert "occurs 0 times" in researcher.briefs[1].repair


def test_a_second_bad_answer_is_unusable_and_costs_no_training(
    session: Callable[..., Session],
) -> None:
    bad, good = (
        edit("Z = 1", "Z = 2", usage=Usage(tokens_out=5)),
        edit("A = 1", "A = 222", description="good"),
    )
    run = session(Scripted(bad, bad, good), experiments=1)
    assert work(run)[0] == ("good", "keep")
    first = run.desk.ledger.moves(run.run.id)[0]
    assert (first.kind, first.usage.tokens) == ("unusable", 10)


def test_an_edit_is_checked_against_the_tip_its_own_verdict_leaves(
    session: Callable[..., Session],
) -> None:
    kept_by_rule = edit("A = 1", "A = 222", description="first")
    on_top_of_it = edit("A = 222", "A = 2222", verdict="discard")
    on_the_base = edit("A = 1", "A = 2222", verdict="discard", description="second")
    researcher = Scripted(kept_by_rule, on_top_of_it, on_the_base)
    run = session(researcher)
    assert work(run)[:2] == [("first", "discard"), ("second", "keep")]
    assert "occurs 0 times" in researcher.briefs[2].repair


def test_a_researcher_that_only_talks_ends_the_run_as_stalled(
    session: Callable[..., Session],
) -> None:
    run = session(Scripted(*[Move(kind="unusable")] * 12))
    assert work(run) == [("confirm", None)]
    assert run.desk.ledger.run(run.run.id).exit_reason == "stalled"


def test_a_move_is_on_record_before_its_experiment_and_is_not_asked_for_twice(
    session: Callable[..., Session],
) -> None:
    class Killed(BaseException):
        pass

    def die(_: str) -> float:
        raise Killed

    first = session(Scripted(edit("A = 1", "A = 222", description="once")), experiments=1)
    first.desk.executor.score = die  # type: ignore[attr-defined]
    with pytest.raises(Killed):
        asyncio.run(first.work())
    again = session(Scripted(), experiments=1)
    assert work(again)[0] == ("once", "keep")


def test_no_brief_ever_shows_the_audit_shard(session: Callable[..., Session]) -> None:
    researcher = Scripted(edit("A = 1", "A = 222"), edit("B = 1", "B = 2"))
    work(session(researcher))
    assert all(e.measured.audit_bpb is None for b in researcher.briefs for e in b.history)
    assert researcher.briefs[1].tip_bpb == pytest.approx(2.7)


def test_the_last_experiment_has_the_programs_own_verdict_and_nothing_more_is_tried(
    session: Callable[..., Session],
) -> None:
    better = edit("A = 1", "A = 222", description="better")
    no = edit("B = 1", "B = 2222", verdict="discard", description="one more")
    run = session(Scripted(better, no), experiments=1)
    assert work(run) == [("better", "discard"), ("confirm", None)]
    (row, confirmed) = run.desk.ledger.experiments(run.run.id)
    assert row.reason == "the program's verdict"
    assert confirmed.commit == run.desk.track.base_commit
    assert run.desk.ledger.moves(run.run.id)[-1].kind == "close"


def test_a_return_after_the_last_experiment_decides_what_is_confirmed(
    session: Callable[..., Session],
) -> None:
    base = session(Scripted(), experiments=0).desk.track.base_commit
    back = Move(kind="return", commit=base, description="back")
    run = session(Scripted(edit("A = 1", "A = 222"), back), experiments=1)
    work(run)
    assert run.desk.ledger.experiments(run.run.id)[-1].commit == base


def test_a_killed_run_asks_about_its_last_experiment_once(session: Callable[..., Session]) -> None:
    class Killed(BaseException):
        pass

    first = session(Scripted(edit("A = 1", "A = 222"), Move(kind="close")), experiments=1)

    def die_at_the_end(source: str) -> float:
        if first.desk.ledger.moves(first.run.id)[-1].kind == "close":
            raise Killed
        return score(source)

    first.desk.executor.score = die_at_the_end  # type: ignore[attr-defined]
    with pytest.raises(Killed):
        asyncio.run(first.work())
    again = session(Scripted(), experiments=1)
    assert [status for _, status in work(again)] == ["keep", None]
    assert len(again.desk.ledger.moves(again.run.id)) == 2


def test_a_run_without_words_left_is_not_asked_about_its_last_experiment(
    session: Callable[..., Session],
) -> None:
    run = session(Scripted(edit("A = 1", "A = 222", usage=Usage(tokens_in=50))), experiments=1)
    budget = run.desk.track.budget.model_copy(update={"tokens": 50})
    run.desk = replace(run.desk, track=run.desk.track.model_copy(update={"budget": budget}))
    work(run)
    assert len(run.desk.ledger.moves(run.run.id)) == 1


def test_the_brief_shows_what_the_other_verdict_would_leave(
    session: Callable[..., Session],
) -> None:
    researcher = Scripted(
        edit("A = 1", "A = 222"), edit("A = 222", "A = 2"), edit("A = 2", "A = 1")
    )
    work(session(researcher, experiments=3))
    first, second, third, closing = researcher.briefs
    assert first.overturned_train_py == ""
    assert (second.train_py, second.overturned_train_py) == ("A = 222\nB = 1\n", SOURCE)
    assert (third.train_py, third.overturned_train_py) == ("A = 222\nB = 1\n", "A = 2\nB = 1\n")
    assert closing.overturned_train_py
    assert "+A = 2\n" in third.last_diff
    assert "+A = 222\n" in third.best_diff
    assert second.best_diff == ""


def test_notes_stay_until_they_are_written_anew(session: Callable[..., Session]) -> None:
    moves = [edit("A = 1", "A = 2", notes="one"), edit("A = 1", "A = 22"), edit("B = 1", "B = 3")]
    researcher = Scripted(*moves)
    run = session(researcher, experiments=3)
    work(run)
    assert [b.notes for b in researcher.briefs] == ["", "one", "one", "one"]
    assert (run.desk.folder(run.run) / "notes.md").read_text() == "one"


def test_a_researcher_out_of_budget_ends_the_run_and_what_it_has_is_confirmed(
    session: Callable[..., Session],
) -> None:
    class Poor(Scripted):
        async def next_move(self, brief: Brief) -> Move:
            if len(self.briefs) == 1:
                raise OutOfBudget("night cap of $1")
            return await super().next_move(brief)

    run = session(Poor(edit("A = 1", "A = 222")), experiments=5)
    assert [status for _, status in work(run)] == ["keep", None]
    assert run.desk.ledger.run(run.run.id).exit_reason == "budget (night cap of $1)"


def test_a_service_that_fails_is_a_row_and_no_idleness_of_the_program(
    session: Callable[..., Session],
) -> None:
    failed = [Move(kind="failed", description="the service is down")] * 7
    run = session(Scripted(*failed, edit("A = 1", "A = 222")), experiments=1)
    assert [status for _, status in work(run)] == ["keep", None]
    assert [m.kind for m in run.desk.ledger.moves(run.run.id)][:7] == ["failed"] * 7


def test_a_service_that_fails_does_not_take_away_the_verdict(
    session: Callable[..., Session],
) -> None:
    failed = Move(kind="failed", description="down")
    better, other = edit("A = 1", "A = 222"), edit("A = 1", "A = 2", verdict="discard")
    researcher = Scripted(better, failed, failed, other)
    run = session(researcher, experiments=2)
    work(run)
    assert [e.status for e in run.desk.ledger.experiments(run.run.id)][:2] == ["discard", "discard"]
    assert researcher.briefs[3].overturned_train_py == SOURCE


def test_a_failure_at_the_closing_question_is_asked_again_by_the_next_driver(
    session: Callable[..., Session],
) -> None:
    class Down(Scripted):
        async def next_move(self, brief: Brief) -> Move:
            if not brief.experiments_left:
                raise UserError("the service is down")
            return await super().next_move(brief)

    with pytest.raises(UserError):
        work(session(Down(edit("A = 1", "A = 222")), experiments=1))
    again = session(Scripted(Move(kind="close", verdict="discard")), experiments=1)
    assert [status for _, status in work(again)] == ["discard", None]


def test_a_run_that_ended_at_a_cap_stays_ended_for_a_driver_with_more(
    session: Callable[..., Session],
) -> None:
    class Killed(BaseException):
        pass

    class Poor(Scripted):
        async def next_move(self, brief: Brief) -> Move:
            if self.briefs:
                raise OutOfBudget("run cap of 9 tokens")
            return await super().next_move(brief)

    first = session(Poor(edit("A = 1", "A = 222")), experiments=3)
    confirms = first.desk.on_experiment

    def die(e: Experiment) -> None:
        confirms(e)
        if e.kind == "confirm":
            raise Killed

    first.desk = replace(first.desk, on_experiment=die)
    with pytest.raises(Killed):
        asyncio.run(first.work())
    again = session(Scripted(edit("A = 222", "A = 2")), experiments=3)
    assert [kind for kind, _ in work(again)] == ["", "confirm"]
    assert again.desk.ledger.run(again.run.id).exit_reason == "budget (run cap of 9 tokens)"

"""The inner loop: brief -> move -> experiment -> verdict, until the run's budget is spent.

Owns: the order of effects, so that a driver killed anywhere resumes: a move is written down before
it has any effect, a measurement before its verdict, and every step is derived from the ledger.
Does not own: the keep rule (`position.py`), the choke point (`experiment.py`), researchers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from inner_loop.edits import CannotApply, apply_edits
from inner_loop.experiment import Desk, Trial, run_experiment
from inner_loop.meter import OutOfBudget
from inner_loop.position import Position, answer_after, fold, start
from inner_loop.records import (
    Budget,
    Experiment,
    Move,
    Program,
    Run,
    Spent,
    derive_seed,
)
from inner_loop.repo import Commit
from inner_loop.researcher import Brief, Researcher
from inner_loop.results_tsv import results_tsv

FACTS = Path(__file__).parent / "prompts" / "facts.md"


@dataclass
class Session:
    """One run in progress. All state that matters is in the ledger."""

    desk: Desk
    run: Run
    program: Program
    researcher: Researcher
    baseline_bpb: float
    """What the base commit measured, search shard: mean of the block's opening baselines."""

    async def work(self) -> None:
        """Run, or resume, until the budget is spent; then confirm the final train.py."""
        self._open()
        reason = await self._research()
        self._settle(run_has_ended=True)
        await self._confirm()
        self._close(reason)

    async def _research(self) -> str:
        """Move after move; returns why no further one is made."""
        try:
            while not (reason := self._exit_reason()):
                move = self._pending_move() or await self._next_move()
                self._settle()
                if move.kind in ("edit", "rerun"):
                    await self._try(move)
            await self._ask_about_the_last()
        except OutOfBudget as end:
            reason = self._exit_reason() or f"budget ({end})"
            self.desk.ledger.set_run(self.run.id, exit_reason=reason)  # a resumed run ends there
        return reason

    # --- one step -----------------------------------------------------------------------------

    async def _next_move(self) -> Move:
        """Ask; one repair turn with the exact reason; then it is unusable. Recorded before use."""
        brief = self._brief()
        move = await self.researcher.next_move(brief)
        problem = self._problem(move)
        if problem:
            first = move
            move = await self.researcher.next_move(brief.model_copy(update={"repair": problem}))
            move = move.model_copy(
                update={
                    "usage": first.usage + move.usage,
                    "repaired": first.repaired + 1 + move.repaired,
                    "continued": first.continued + move.continued,
                }
            )
            problem = self._problem(move)
        if problem:
            move = move.model_copy(
                update={"kind": "unusable", "description": problem, "edits": (), "commit": None}
            )
        return self._record(move)

    async def _ask_about_the_last(self) -> None:
        """The last experiment has the program's verdict like any other; nothing more is tried."""
        ledger, budget = self.desk.ledger, self.desk.track.budget
        if not self._last_is_open() or self._charged()[-1].measured.search_bpb is None:
            return
        if exhausted(budget, ledger.spent(self.run.id), ("tokens", "usd")):
            return
        move = await self.researcher.next_move(self._brief(run_has_ended=True))
        if move.kind != "return" or self._problem(move):
            move = move.model_copy(update={"kind": "close", "edits": (), "commit": None})
        self._record(move)

    def _record(self, move: Move) -> Move:
        number = len(self._moves()) + 1
        self.desk.ledger.add_move(self.run.id, number, move, self.desk.now())
        if move.notes is not None:
            _write(self.desk.folder(self.run) / "notes.md", move.notes)
        return move

    async def _try(self, move: Move) -> None:
        position = self._position()
        commit = self._commit(move, position)
        trial = Trial(
            run=self.run,
            index=len(position.history) + 1,
            kind="rerun" if move.kind == "rerun" else "edit",
            commit=commit,
            parent=position.parents.get(commit.sha, commit.sha)
            if move.kind == "rerun"
            else position.tip,
            move=move,
            move_number=len(self._moves()),
        )
        await run_experiment(self.desk, trial)
        self._write_results()

    def _commit(self, move: Move, position: Position) -> Commit:
        repository = self.desk.repository
        if move.kind == "rerun":
            sha = move.commit or position.tip
            return Commit(sha, position.trees[sha])
        files = repository.files(position.tip)
        files["train.py"] = apply_edits(files["train.py"], move.edits)
        return repository.commit(files, _message(move), parent=position.tip)

    def _settle(self, *, run_has_ended: bool = False) -> None:
        """Write the verdicts that are due: an experiment's is fixed by the move that follows it."""
        ledger, moves = self.desk.ledger, self._moves()
        numbers = ledger.move_numbers(self.run.id)
        due = {e.index for e in self._charged() if e.status is None}
        for e in self._position().history:
            is_judged = run_has_ended or answer_after(moves, numbers[e.index]) is not None
            if e.index in due and e.status and is_judged:
                ledger.add_verdict(self.run.id, e.index, e.status, e.reason, self.desk.now())
        self._show_tip()

    def _problem(self, move: Move) -> str:
        """Why a move cannot be carried out; empty if it can. Its own verdict counts already."""
        position = self._position(then=move)
        if move.kind == "edit":
            try:
                apply_edits(self._train_py(position), move.edits)
            except CannotApply as error:
                return str(error)
        if move.kind == "rerun" and not position.has(move.commit or position.tip):
            return f"commit {move.commit} is not one of this run's"
        if move.kind == "return" and not position.has_measured(move.commit):
            return f"commit {move.commit} is not one of this run's that has a measurement"
        return ""

    # --- the end ------------------------------------------------------------------------------

    def _exit_reason(self) -> str:
        if self._pending_move():
            return ""
        if self.run.exit_reason:
            return self.run.exit_reason
        if self._position().is_stalled:
            return "stalled"
        return exhausted(self.desk.track.budget, self.desk.ledger.spent(self.run.id))

    async def _confirm(self) -> None:
        """Retrain the final train.py on fresh seeds; the run's score comes from these alone."""
        position = self._position()
        done = [e for e in self._experiments() if e.kind == "confirm"]
        commit = Commit(position.tip, position.trees[position.tip])
        parent = position.parents.get(position.tip, position.tip)
        for k in range(len(done), self.desk.track.confirm_seeds):
            index = len(position.history) + 1 + k
            await run_experiment(self.desk, Trial(self.run, index, "confirm", commit, parent))

    def _open(self) -> None:
        folder = self.desk.folder(self.run)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "program.md").write_bytes(self.program.text.encode("utf-8"))
        if self.run.state == "waiting":
            self.desk.ledger.set_run(self.run.id, state="running", started_at=self.desk.now())
        if notes := self._notes():
            _write(folder / "notes.md", notes)
        self._show_tip()
        self._write_results()

    def _close(self, reason: str) -> None:
        self._show_tip()
        self._write_results()
        self.desk.ledger.set_run(
            self.run.id,
            state="complete",
            exit_reason=reason,
            tip=self._position().tip,
            ended_at=self.desk.now(),
        )

    # --- what the ledger says -----------------------------------------------------------------

    def _brief(self, *, run_has_ended: bool = False) -> Brief:
        position, number = self._position(), len(self._moves()) + 1
        left = self.desk.track.budget.experiments - len(position.history)
        left = 0 if run_has_ended else left
        last = position.history[-1] if position.history else None
        best = _best_keep(position.history)
        return Brief(
            program=self.program,
            train_py=self._train_py(position),
            overturned_train_py=self._overturned(position),
            base_commit=self.desk.track.base_commit,
            tip_commit=position.tip,
            baseline_bpb=self.baseline_bpb,
            tip_bpb=position.tip_bpb,
            history=position.history,
            last_diff=self._diff(last),
            best_diff=self._diff(best) if best != last else "",
            notes=self._notes(),
            facts=self._facts(left),
            last_error=last.measured.error if last else "",
            experiments_left=left,
            move_number=number,
            seed=derive_seed(self.run.seed, "move", number),
        )

    def _overturned(self, position: Position) -> str:
        """train.py at the tip that the other verdict on the last experiment would leave."""
        last = position.history[-1] if position.history else None
        if not self._last_is_open() or last is None or last.status not in ("keep", "discard"):
            return ""
        other: Literal["keep", "discard"] = "discard" if last.status == "keep" else "keep"
        return self._train_py(self._position(then=Move(kind="close", verdict=other)))

    def _last_is_open(self) -> bool:
        """Whether the last experiment waits for the answer that may judge it."""
        numbers = self.desk.ledger.move_numbers(self.run.id).values()
        return bool(numbers) and answer_after(self._moves(), max(numbers)) is None

    def _diff(self, experiment: Experiment | None) -> str:
        if experiment is None:
            return ""
        return self.desk.repository.diff(experiment.parent_commit, experiment.commit)

    def _notes(self) -> str:
        return next((m.notes for m in reversed(self._moves()) if m.notes is not None), "")

    def _facts(self, experiments_left: int) -> tuple[str, ...]:
        track = self.desk.track
        unit = {"cpu": "CPU seconds", "wall": "seconds", "steps": "steps"}[track.clock]
        text = FACTS.read_text(encoding="utf-8").format(
            branch=self.run.branch,
            budget=f"{track.time_budget:g} {unit}",
            experiments_left=experiments_left,
        )
        return tuple(line.removeprefix("- ") for line in text.splitlines())

    def _position(self, then: Move | None = None) -> Position:
        base = self.desk.track.base_commit
        begin = start(base, self.desk.repository.tree(base), self.baseline_bpb)
        numbers = self.desk.ledger.move_numbers(self.run.id)
        moves = self._moves() + ([then] if then else [])
        return fold(begin, moves, self._charged(), numbers)

    def _pending_move(self) -> Move | None:
        """A move that was written down but whose experiment has no row yet."""
        moves = self._moves()
        done = self.desk.ledger.move_numbers(self.run.id).values()
        if moves and moves[-1].kind in ("edit", "rerun") and len(moves) not in done:
            return moves[-1]
        return None

    def _train_py(self, position: Position) -> str:
        return self.desk.repository.files(position.tip)["train.py"]

    def _moves(self) -> list[Move]:
        return self.desk.ledger.moves(self.run.id)

    def _experiments(self) -> list[Experiment]:
        return self.desk.ledger.experiments(self.run.id)

    def _charged(self) -> list[Experiment]:
        return [e for e in self._experiments() if e.kind in ("edit", "rerun")]

    # --- what people read ---------------------------------------------------------------------

    def _show_tip(self) -> None:
        self.desk.repository.set_branch(self.run.branch, self._position().tip)
        self.desk.repository.checkout(self.desk.folder(self.run) / "worktree", self.run.branch)

    def _write_results(self) -> None:
        base = self.desk.track.base_commit
        text = results_tsv(base, self.baseline_bpb, self._position().history)
        _write(self.desk.folder(self.run) / "results.tsv", text)


def exhausted(budget: Budget, spent: Spent, names: Iterable[str] = Budget.model_fields) -> str:
    """Which cap of `budget` is reached, or an empty string; `names` are the caps asked about.

    What is not known counts as nothing here: the meter refuses a cap that it cannot hold.
    """
    for name in names:
        cap = getattr(budget, name)
        if cap is not None and (getattr(spent, name) or 0) >= cap:
            return f"budget ({name})"
    return ""


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8", errors="replace")
    os.replace(partial, path)  # noqa: PTH105  # atomic; Path.replace is the same call


def _best_keep(history: Sequence[Experiment]) -> Experiment | None:
    kept = [e for e in history if e.status == "keep" and e.measured.search_bpb is not None]
    return min(kept, key=lambda e: e.measured.search_bpb or 0.0, default=None)


def _message(move: Move) -> str:
    cites = f"\n\nCites: {', '.join(move.cites)}" if move.cites else ""
    body = f"\n\n{move.hypothesis}" if move.hypothesis else ""
    return f"{' '.join(move.description.split()) or 'edit'}{body}{cites}\n"

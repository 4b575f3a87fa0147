"""The `command` researcher: any coding agent, started once for each move in a folder of its own.

Owns: what a call's remains mean: the change to train.py as exact edits, MOVE.md as the rest of the
move, and the reason where there is none.
Does not own: the command line (`agent_command.py`), the box (`agent_box.py`), the process
(`agent_run.py`), what the agent is told (`agent_brief.py`).
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from inner_loop.agent_box import RULES, Mounts
from inner_loop.agent_brief import MOVE, NOTES, OPEN, PROMPT, agent_files, wording
from inner_loop.agent_command import agent_command
from inner_loop.agent_folder import LeftBehind, Unfit, agent_folder
from inner_loop.agent_presets import PRESETS
from inner_loop.agent_run import Finished, run_agent
from inner_loop.errors import UserError
from inner_loop.line_edits import edits_between
from inner_loop.messages import Ask, Message, Part, Reply
from inner_loop.meter import Cap
from inner_loop.protocol import BASE, NOTES_CAP, Said, Unreadable, read_reply
from inner_loop.quoting import one_line
from inner_loop.record import Record, content_hash
from inner_loop.records import Move
from inner_loop.researcher import Brief, Setup
from inner_loop.settings import Usage
from inner_loop.transcript import Exchange, Redactor, Transcript, secrets_in

__all__ = ["PRESETS", "CommandResearcher"]

SDK = f"agent box {RULES}"
# bounded: an agent may leave a megabyte of blanks
_ACTION_EDIT = re.compile(
    r"(?im)^[ \t>*_#`+-]{0,12}ACTION[ \t*_`]{0,8}:[ \t*_`]{0,8}edit[ \t*_`.\r]{0,8}$"
)
_MARK = "\n=== move\n"


class _Answer(Record):
    """What a call came to."""

    move: Move
    may_mend: bool = False
    """Whether the agent can put it right if it is told the reason."""
    train_py: str = ""
    """As the agent left it; empty if it did not change it, or it cannot be read."""


class CommandResearcher:
    """The researcher registered as `command`; `settings.command` says which agent.

    Raises:
        UserError: there is no such preset or program, a box would hide it, a variable is not set,
            or tokens or dollars are capped: what an agent spends is not known here.
    """

    def __init__(self, setup: Setup) -> None:
        budget, night = setup.budget, setup.meter.night
        caps = [night.tokens, night.usd, *([budget.tokens, budget.usd] if budget else [])]
        if any(cap is not None for cap in caps):
            raise UserError(
                "A cap in tokens or dollars, of a run or of the night, cannot be held for a coding "
                "agent, whose use of a model is not seen here; cap the experiments, or set a limit "
                "at its provider."
            )
        self._setup = setup
        self._agent = agent_command(setup)
        self.protocol = content_hash([RULES, wording(), self._agent.identity])
        handed = [self._agent.variables[name] for name in sorted(self._agent.variables)]
        self._redact = Redactor([*secrets_in(setup.environ), *handed])
        self._left: dict[int, str] = {}
        """Move number -> train.py as the agent left it in its last try, if it changed it."""

    async def next_move(self, brief: Brief) -> Move:
        """Start the agent; once more with the reason where it can put something right."""
        if brief.repair:
            return (await self._ask(brief, turn=3)).move
        first = await self._ask(brief, turn=1)
        if not first.may_mend or brief.experiments_left == 0:
            return first.move
        again = brief.model_copy(update={"repair": first.move.description})
        second = await self._ask(again, turn=2)
        return second.move.model_copy(update={"repaired": 1})

    async def _ask(self, brief: Brief, turn: int) -> _Answer:
        """One call, or what an earlier driver stored of it; on record before it has any effect."""
        name = f"{brief.move_number:04d}-{turn}"
        async with self._setup.meter.call(self._setup.run_id, Cap("run"), Usage()):
            with agent_folder(self._parent, name) as mounts:
                files = self._files(brief, mounts)
                ask = _as_ask(self._agent.words, files)
                answer = self._stored(name, ask) or await self._call(
                    brief, name, ask, files, mounts
                )
        self._left = {brief.move_number: answer.train_py}
        if answer.move.kind == "unusable":
            self._setup.tell(f"{self._agent.name}: {answer.move.description}")
        return answer

    async def _call(
        self, brief: Brief, name: str, ask: Ask, files: Mapping[str, bytes], mounts: Mounts
    ) -> _Answer:
        """Start the agent, end it, read what it left, and put that on record."""
        settings, started = self._setup.settings, datetime.now(UTC)
        for file, content in files.items():
            (mounts.worktree / file).write_bytes(content)
        with LeftBehind(mounts.worktree) as left:
            finished = await run_agent(
                self._agent.line(mounts, self._setup.model or ""),
                folder=mounts.worktree.parent,
                environment=self._agent.environment(mounts),
                cwd=mounts.worktree,
                stdin=mounts.worktree / PROMPT if self._agent.reads_stdin else None,
                seconds=60 * settings.agent_minutes,
            )
            answer = self._answer(brief, files, finished, left)
            others = left.others([*files, MOVE])
        self._store(name, ask, answer, _told(finished, others), started)
        return answer

    # --- what a call came to ------------------------------------------------------------------

    def _answer(
        self, brief: Brief, files: Mapping[str, bytes], finished: Finished, left: LeftBehind
    ) -> _Answer:
        """The move, without secrets, and with the stamp it needs."""
        source, may_mend = "", not finished.killed
        try:
            if finished.killed:
                raise Unfit(finished.killed)
            source = self._train_py(brief, left)
            self._unchanged(files, left)
            move, may_mend = self._move(brief, finished, left, source), False
        except (Unfit, Unreadable) as error:
            move = Move(kind="unusable", description=str(error))
        if brief.experiments_left == 0 and move.kind != "return":
            words = move.description if move.kind == "unusable" else ""  # nothing was tried
            move = Move(kind="close", description=words, verdict=move.verdict, notes=move.notes)
        stamped = {
            "description": self._redact(move.description),
            "hypothesis": self._redact(move.hypothesis),
            "notes": None if move.notes is None else self._redact(move.notes),
            "untrusted": not self._agent.is_boxed,
        }
        return _Answer(
            move=move.model_copy(update=stamped),
            may_mend=may_mend,
            train_py="" if source == brief.train_py else source,
        )

    def _move(self, brief: Brief, finished: Finished, left: LeftBehind, source: str) -> Move:
        """What the agent did; raises Unfit or Unreadable where it cannot be used."""
        said = _said(left)
        tip = _tip(brief, said)
        is_changed = source not in (tip, brief.train_py)
        claims = {
            "description": said.description or self._last_line(finished),
            "hypothesis": said.hypothesis,
            "cites": said.cites,
            "verdict": said.verdict,
            "notes": _notes(brief, said, left),
        }
        if said.kind in ("rerun", "return"):
            if is_changed:
                raise Unfit(f"{MOVE} asks for a {said.kind}, but train.py was changed too")
            return Move(kind=said.kind, commit=_full(said.commit, brief), **claims)
        if not is_changed:
            nothing = _nothing(finished, said)
            return Move(kind="unusable", **claims | {"description": nothing})
        return Move(kind="edit", edits=edits_between(tip, source), **claims)

    def _train_py(self, brief: Brief, left: LeftBehind) -> str:
        source = left.text("train.py")
        if source is None:
            raise Unfit("train.py was deleted")
        if self._redact(source) != source and self._redact(brief.train_py) == brief.train_py:
            raise Unfit("train.py holds a key or another secret of this machine")
        return source

    @staticmethod
    def _unchanged(files: Mapping[str, bytes], left: LeftBehind) -> None:
        for name in sorted(set(files) - OPEN):
            if left.read(name) != files[name]:
                raise Unfit(f"{name} was changed; only train.py may be")

    def _last_line(self, finished: Finished) -> str:
        lines = [line for line in finished.output.splitlines() if line.strip()]
        return one_line(lines[-1], 200) if lines else f"edit by {self._agent.name}"

    # --- its folder and its record ------------------------------------------------------------

    @property
    def _parent(self) -> Path | None:
        return self._setup.folder / "agent" if self._setup.folder else None

    def _files(self, brief: Brief, mounts: Mounts) -> dict[str, bytes]:
        left = self._left.get(brief.move_number, "") if brief.repair else ""
        minutes = self._setup.settings.agent_minutes
        return agent_files(brief, self._fixed(), left, str(self._agent.worktree(mounts)), minutes)

    def _fixed(self) -> dict[str, bytes]:
        """The run's files beside train.py, which the agent may read and not change."""
        worktree = self._setup.worktree
        if worktree is None:
            return {}
        found = [p for p in worktree.iterdir() if p.is_file() and not p.is_symlink()]
        return {p.name: p.read_bytes() for p in found if p.name not in (".git", "train.py")}

    def _stored(self, name: str, ask: Ask) -> _Answer | None:
        """A killed driver does not pay twice."""
        if self._setup.folder is None:
            return None
        model = self._setup.model or ""
        found = Transcript(self._setup.folder).find(name, ask.key, "command", model)
        if found is None or found[1].reply is None:
            return None
        with suppress(ValidationError):
            return _Answer.model_validate_json(found[1].reply.text.rpartition(_MARK)[2])
        return None

    def _store(self, name: str, ask: Ask, answer: _Answer, told: str, started: datetime) -> None:
        if self._setup.folder is None:
            return
        text = self._redact(told) + _MARK + answer.model_dump_json()
        exchange = Exchange(
            name=name,
            key=ask.key,
            provider="command",
            model=self._setup.model or "",
            sdk=SDK,
            started=started.isoformat(timespec="seconds"),
            ended=datetime.now(UTC).isoformat(timespec="seconds"),
            ask=self._redact.ask(ask),
            reply=Reply(text=text, stop="end", usage=Usage()),
        )
        Transcript(self._setup.folder).write(exchange)


def _said(left: LeftBehind) -> Said:
    text = left.text(MOVE)
    said = read_reply(_ACTION_EDIT.sub("", text or ""))
    if said.blocks:
        raise Unreadable(f"{MOVE} holds SEARCH/REPLACE blocks; change train.py itself instead")
    return said


def _tip(brief: Brief, said: Said) -> str:
    """train.py at the tip that the agent's own verdict leaves: edits must fit it."""
    if brief.overturned_train_py and said.verdict not in (None, brief.history[-1].status):
        return brief.overturned_train_py
    return brief.train_py


def _notes(brief: Brief, said: Said, left: LeftBehind) -> str | None:
    """The notes file if it is another one than before; a NOTES block of MOVE.md comes first."""
    if said.notes is not None:
        return said.notes
    text = (left.text(NOTES) or "")[:NOTES_CAP]
    return None if text == brief.notes else text


def _nothing(finished: Finished, said: Said) -> str:
    """Why there is no move where nothing was changed and nothing asked for."""
    if finished.code:
        lines = [line for line in finished.error.splitlines() if line.strip()]
        last = one_line(lines[-1], 200) if lines else "it printed no error"
        return f"it exited with code {finished.code}: {last}"
    return "it gave only a verdict" if said.verdict else "it changed nothing and asked for nothing"


def _full(commit: str | None, brief: Brief) -> str | None:
    """The commit of this run that `commit` begins; as it is where that is none, or not clear."""
    if commit is None:
        return None
    if commit == BASE:
        return brief.base_commit
    known = {brief.base_commit, brief.tip_commit, *(e.commit for e in brief.history)}
    found = [full for full in known if full.startswith(commit)]
    return found[0] if len(found) == 1 else commit


def _as_ask(words: tuple[str, ...], files: Mapping[str, bytes]) -> Ask:
    """Command and folder as one request, for the record."""
    shown = [PROMPT, *sorted(set(files) - {PROMPT})]
    texts = [f"=== {name}\n{_recorded(name, files[name])}\n" for name in shown]
    message = Message(role="user", parts=tuple(Part(text=text) for text in texts))
    return Ask(system=shlex.join(words), messages=(message,))


def _recorded(name: str, content: bytes) -> str:
    """A file of the folder for the record; the fixed ones are the same every time."""
    if name in OPEN:
        return content.decode("utf-8", "replace")
    return f"(fixed; sha256 {hashlib.sha256(content).hexdigest()})"


def _told(finished: Finished, others: list[str]) -> str:
    """How a call ended, for people."""
    end = finished.killed or f"exit code {finished.code}"
    also = f"\nleft without effect: {', '.join(others)}" if others else ""
    return (
        f"{end}, after {finished.seconds:.1f} s{also}\n=== standard output\n{finished.output}\n"
        f"=== standard error\n{finished.error}"
    )

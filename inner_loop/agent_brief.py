"""A brief as a coding agent gets it: the files of its folder, and the text it is started with.

Owns: which files there are and the wording around them. Pure.
Does not own: the facts, the table and the list of instructions (`briefing.py`), or the folder.
"""

from __future__ import annotations

from collections.abc import Mapping

from inner_loop.briefing import history_table, template, verdict_leaves
from inner_loop.quoting import mark, one_line, plain, quote, shortened
from inner_loop.record import content_hash
from inner_loop.records import Program
from inner_loop.researcher import Brief
from inner_loop.results_tsv import results_tsv

LAYOUT = 1
"""Raise it when an agent is told something else although no template changed."""
PROMPT, MOVE, NOTES = "PROMPT.md", "MOVE.md", "notes.md"
OTHER, REJECTED = "train.other.py", "train.rejected.py"
ERROR = 16_000
"""Characters of the last crash's trace."""
MOST_LISTED, EXCERPT = 300, 60
"""Instructions that are listed, and characters of each."""

_NEXT = "Make the next experiment, as program.md has it: change train.py, or ask for an ACTION."
_FILES = {
    OTHER: "train.py as it is if the last experiment gets the other verdict.",
    REJECTED: "train.py as you left it in your last try at this turn, which could not be used.",
    "last.diff": "what the last experiment changed.",
    "best.diff": "what the kept experiment with the lowest val_bpb changed.",
    "last_error.txt": "the end of the output of the last experiment, which crashed.",
}

OPEN = {"train.py", "program.md", "results.tsv", NOTES, PROMPT, *_FILES}
"""Files that the agent may write, whether that has an effect or not; all others are fixed."""


def wording() -> str:
    """Hash of everything an agent is told that does not come from the run."""
    return content_hash([LAYOUT, template("agent"), template("facts"), _NEXT, _FILES])


def agent_files(
    brief: Brief, fixed: Mapping[str, bytes], rejected: str, worktree: str, minutes: float
) -> dict[str, bytes]:
    """What lies in the folder when an agent starts, by name.

    Args:
        brief: what there is to tell.
        fixed: the run's other files, such as prepare.py; they may not change.
        rejected: train.py as the agent left it in its last try at this turn; empty on the first.
        worktree: where the folder is, as the agent sees it.
        minutes: its time limit.
    """
    texts = {
        "train.py": brief.train_py,
        "program.md": brief.program.text,
        "results.tsv": results_tsv(brief.base_commit, brief.baseline_bpb, brief.history),
        NOTES: brief.notes,
    }
    extra = {
        OTHER: brief.overturned_train_py,
        REJECTED: rejected,
        "last.diff": brief.last_diff,
        "best.diff": brief.best_diff,
        "last_error.txt": shortened(plain(brief.last_error), ERROR),
    }
    extra = {name: text for name, text in extra.items() if text}
    prompt = _prompt(brief, extra, worktree, minutes)
    written = {name: text.encode("utf-8") for name, text in (texts | extra).items()}
    return {**fixed, **written, PROMPT: prompt.encode("utf-8")}


def _prompt(brief: Brief, extra: Mapping[str, str], worktree: str, minutes: float) -> str:
    return template("agent").format(
        move_number=brief.move_number,
        worktree=worktree,
        files="".join(f"- {name}: {_FILES[name]}\n" for name in extra),
        facts="\n".join(f"- {fact}" for fact in brief.facts),
        minutes=f"{minutes:g}",
        tip=brief.tip_commit[:7],
        tip_bpb=f"{brief.tip_bpb:.6f}",
        baseline_bpb=f"{brief.baseline_bpb:.6f}",
        history=_quoted("history", history_table(brief)),
        task=_task(brief),
        instructions=_quoted("instructions", _instructions(brief.program)),
    )


def _quoted(name: str, text: str) -> str:
    return quote(name, text, mark([text], name))


def _instructions(program: Program) -> str:
    """Id and first words of each instruction."""
    lines = {unit.id: one_line(unit.text, EXCERPT) for unit in program.instructions[:MOST_LISTED]}
    return "\n".join(f"{id_}  {text}" for id_, text in lines.items()) or "(it has none)"


def _task(brief: Brief) -> str:
    """What this turn is for."""
    if brief.experiments_left == 0:
        return _closing(brief)
    told = [_NEXT]
    if brief.repair:
        reason = shortened(plain(brief.repair), ERROR)
        told.insert(0, f"Your last try at this turn could not be used: {reason}. Put it right.")
    if brief.overturned_train_py:
        told.append(_open_question(brief))
    return "\n\n".join(told)


def _closing(brief: Brief) -> str:
    text = "No experiments are left, and nothing more is trained; leave train.py as it is."
    if not brief.history:
        return text
    last = brief.history[-1]
    return (
        f"{text} Only the last result is still to be judged: the harness's rule says {last.status} "
        f"for experiment {last.index}. If your program's own rule says otherwise, write a VERDICT "
        "into MOVE.md; if by your program the branch should end at an older commit of the table, "
        "write ACTION: return COMMIT."
    )


def _open_question(brief: Brief) -> str:
    last = brief.history[-1]
    other = "discard" if last.status == "keep" else "keep"
    return (
        f"The harness's rule says {last.status} for experiment {last.index}. If your program's own "
        f"rule says {other}, write VERDICT: {other} into MOVE.md, and begin from {OTHER}, which is "
        f"then the tip (commit {verdict_leaves(brief)[:7]}): copy it over train.py, then change "
        "train.py."
    )

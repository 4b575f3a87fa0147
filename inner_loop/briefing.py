"""What a language model is told before a move: a brief as an ask.

Owns: the order of its parts (what stays the same first, for a provider's cache), the table of
experiments, and every cap on length, so that an ask does not grow with the experiments before it.
Does not own: the wording (`prompts/*.md`), quotation (`quoting.py`), what becomes of the reply.

The program is the user's word and is shown to the byte. Everything else is quoted as data.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from statistics import fmean

from inner_loop.messages import Ask, Message, Part
from inner_loop.quoting import mark, one_line, plain, quote, shortened
from inner_loop.record import content_hash
from inner_loop.records import Experiment, Program
from inner_loop.researcher import Brief

PROMPTS = Path(__file__).parent / "prompts"
TEMPLATES = ("researcher", "brief", "facts", "continue", "repair", "closing")
"""Those that an ask is made of."""
LAYOUT = 1
"""Raise it when an ask changes although no template does: another layout is another track."""

MOST_ROWS = 20
"""Of the table: so many kept experiments and so many of the last."""
MOST_INSTRUCTIONS = 300
EXCERPT = 60
DESCRIPTION = 80
DIFF = 6_000
ERROR = 2_000
NOTES = 4_000
REPLY = 8_000
"""Characters of the model's own reply in the conversation about it."""

_HEADER = ("n", "kind", "commit", "val_bpb", "gain", "memory_gb", "status", "description")


@cache
def template(name: str) -> str:
    """The text of `prompts/NAME.md`."""
    return (PROMPTS / f"{name}.md").read_text(encoding="utf-8")


@cache
def wording() -> str:
    """Hash of everything in an ask that does not come from the run."""
    return content_hash([LAYOUT, {name: template(name) for name in TEMPLATES}])


def first_ask(brief: Brief) -> Ask:
    """What a move begins with: rules, program, train.py, state of the run, question."""
    parts = (
        Part(text=_program_part(brief.program), stable=True),
        Part(text=_train_part(brief), stable=True),
        Part(text=_state_part(brief)),
    )
    return Ask(system=template("researcher"), messages=(Message(role="user", parts=parts),))


def sent_back(ask: Ask, reply: str, answer: str) -> Ask:
    """`ask` with the model's own reply, and what is said to it."""
    said = shortened(plain(reply).strip(), REPLY) or "(an empty reply)"
    turns = (
        Message(role="assistant", parts=(Part(text=said),)),
        Message(role="user", parts=(Part(text=answer),)),
    )
    return ask.model_copy(update={"messages": (*ask.messages, *turns)})


def continuation() -> str:
    """What every reply without an action gets, whatever it said."""
    return template("continue").strip()


def repair(reason: str) -> str:
    """What a reply that could not be carried out gets."""
    return template("repair").format(reason=shortened(plain(reason), ERROR)).strip()


def verdict_leaves(brief: Brief) -> str:
    """The commit at the tip if the last experiment gets the verdict that the rule did not give."""
    last = brief.history[-1]
    return last.parent_commit if last.status == "keep" else last.commit


def instruction_list(program: Program) -> str:
    """The ids of a program's instructions with a few words of each, one a line."""
    texts = {unit.id: unit.text for unit in reversed(program.instructions)}
    listed = list(dict.fromkeys(unit.id for unit in program.instructions))
    lines = [f"{id_}  {one_line(texts[id_], EXCERPT)}" for id_ in listed[:MOST_INSTRUCTIONS]]
    more = len(listed) - len(lines)
    return "\n".join([*lines, *([f"and {more} more"] if more else [])]) or "(it has none)"


# --- the parts --------------------------------------------------------------------------------


@cache
def _sections() -> dict[str, str]:
    pieces = re.split(r"^=== (\w+)\n", template("brief"), flags=re.MULTILINE)
    return dict(zip(pieces[1::2], (piece.strip() for piece in pieces[2::2]), strict=True))


def _program_part(program: Program) -> str:
    tag = mark([program.text], "program")
    return _sections()["program"].format(
        program=quote("program", program.text, tag),
        instructions=quote("instructions", instruction_list(program), tag),
    )


def _train_part(brief: Brief) -> str:
    tag = mark([brief.train_py], "train.py")
    return _sections()["train"].format(train_py=quote("train.py", brief.train_py, tag))


def _state_part(brief: Brief) -> str:
    data = _data(brief)
    known = (mark([brief.program.text], "program"), mark([brief.train_py], "train.py"))
    tag = mark(data.values(), f"{brief.seed}")
    shown = {name: quote(name, _without(text, known), tag) for name, text in data.items() if text}
    fields = _numbers(brief) | shown
    names = ("facts", "history", "best_diff", "last_diff", "error", "notes")
    told = [_sections()[name].format(**fields) for name in names if name in shown]
    if brief.experiments_left == 0 and brief.history:
        return "\n\n".join([*told, template("closing").format(**fields).strip()])
    if brief.overturned_train_py:
        told.append(_sections()["open"].format(**fields))
    return "\n\n".join([*told, _sections()["ask"]])


def _without(text: str, marks: tuple[str, ...]) -> str:
    """`text` unable to imitate the tags of the program and of train.py."""
    for known in marks:
        text = re.sub(known, "[digits]", text, flags=re.IGNORECASE)
    return text


def _data(brief: Brief) -> dict[str, str]:
    """What is quoted, by the name of its tag; nothing here is an instruction to the model."""
    return {
        "facts": "\n".join(f"- {fact}" for fact in brief.facts),
        "history": history_table(brief),
        "best_diff": shortened(plain(brief.best_diff).strip(), DIFF),
        "last_diff": shortened(plain(brief.last_diff).strip(), DIFF),
        "error": shortened(plain(brief.last_error).strip(), ERROR),
        "notes": shortened(plain(brief.notes).strip(), NOTES),
    }


def _numbers(brief: Brief) -> dict[str, object]:
    """Fields of the templates that are the harness's own words."""
    fields: dict[str, object] = {"tip": brief.tip_commit[:7], "tip_bpb": f"{brief.tip_bpb:.6f}"}
    if not brief.history:
        return fields
    last = brief.history[-1]
    has_diff = last.kind == "edit" and brief.last_diff
    return fields | {
        "index": last.index,
        "bpb": _bpb(last),
        "gain": _gain(gains(brief)[-1]),
        "status": last.status,
        "other": "discard" if last.status == "keep" else "keep",
        "commit": verdict_leaves(brief)[:7],
        "which": (
            f", the one above {'without' if last.status == 'keep' else 'with'} the last change"
            if has_diff
            else ""
        ),
    }


# --- the table --------------------------------------------------------------------------------


def history_table(brief: Brief) -> str:
    """The baseline, the last experiments and the last kept ones, one a line; the rest as counts."""
    kept = [e for e in brief.history if e.status == "keep"][-MOST_ROWS:]
    shown = {e.index for e in (*kept, *brief.history[-MOST_ROWS:])}
    lines = ["\t".join(_HEADER), _baseline(brief)]
    for experiment, gain in zip(brief.history, gains(brief), strict=True):
        if experiment.index in shown:
            lines.append(_row(experiment, gain))
    left_out = [e for e in brief.history if e.index not in shown]
    return "\n".join([*lines, *([_counts(left_out)] if left_out else [])])


def gains(brief: Brief) -> list[float | None]:
    """Gain of each experiment over its parent as measured until then, mbpb; None after a crash."""
    trees = {e.commit: e.tree for e in brief.history}
    trees.setdefault(brief.base_commit, brief.base_commit)
    measured = {trees[brief.base_commit]: [brief.baseline_bpb]}
    found: list[float | None] = []
    for e in brief.history:
        before, bpb = measured.get(trees.get(e.parent_commit, ""), []), e.measured.search_bpb
        found.append(1000 * (fmean(before) - bpb) if before and bpb is not None else None)
        if bpb is not None:
            measured.setdefault(e.tree, []).append(bpb)
    return found


def _baseline(brief: Brief) -> str:
    commit, bpb = brief.base_commit[:7], f"{brief.baseline_bpb:.6f}"
    return "\t".join(("0", "baseline", commit, bpb, "-", "-", "keep", "train.py as it was given"))


def _row(e: Experiment, gain: float | None) -> str:
    status = f"crash ({e.measured.crash})" if e.measured.crash else e.status or "-"
    text = one_line(e.description, DESCRIPTION)
    memory = "-" if e.measured.search_bpb is None else f"{e.measured.memory_gb:.1f}"
    cells = (str(e.index), e.kind, e.commit[:7], _bpb(e), _gain(gain), memory, status, text)
    return "\t".join(cells)


def _counts(experiments: list[Experiment]) -> str:
    names = [e.status or "open" for e in experiments]
    counts = ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(sorted(names)))
    return f"and {len(experiments)} earlier ones: {counts}"


def _bpb(e: Experiment) -> str:
    return "-" if e.measured.search_bpb is None else f"{e.measured.search_bpb:.6f}"


def _gain(gain: float | None) -> str:
    return "-" if gain is None else f"{gain:+.1f}"

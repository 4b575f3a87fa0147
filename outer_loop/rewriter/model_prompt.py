"""What a language model is shown when it rewrites a program.

Owns: the request and its blocks of data, the repair turn's words. Does not own: the rows of the
evidence (`table`), the templates (`outer_loop/prompts`), asking, or judging what comes back
(`model`).

Shown: the champion with the roles of its instructions, the evidence table (what its rows are made
of is said there), strategy instructions of the field, earlier proposals with what came of them.
Never shown: a score of one run or experiment, audit or locked text, a judge's rule, a train.py.

All that others wrote is JSON between two lines with a key that is a hash of what stands between
them, so no text can hold the line that would end its own block.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from analysis.wording import visible
from inner_loop.messages import Ask, Message, Part, Reply
from inner_loop.program import MAX_PROGRAM_BYTES
from inner_loop.proposal import Proposal
from inner_loop.record import content_hash
from inner_loop.records import Program
from outer_loop.rewriter.model_reply import MAX_OPERATIONS, MAX_TEXT
from outer_loop.rewriter.offline import Composer
from outer_loop.rewriter.pool import reading
from outer_loop.rewriter.seam import Case
from outer_loop.rewriter.table import Row, believed, offered

PROMPTS = Path(__file__).parent.parent / "prompts"
HISTORY = 10
"""Earlier proposals that are shown."""
MAX_SHOWN = 600
"""Characters of a reason, and of a long text from the field once `MAX_FIELD` is used up."""
MAX_FIELD = 30_000
"""Characters of texts from the field that are shown as they are."""
MAX_PAST = 200
"""Characters of a text in the history."""
MAX_ECHO = 20_000
"""Characters of a refused reply that are sent back with the reason."""


def request(case: Case, composer: Composer, rows: Sequence[Row], focus: str) -> Ask:
    """The request for one proposal; what is the same for all of a night comes first."""
    blocks: dict[str, Iterable[Mapping[str, Any]]] = {
        "champion": _champion(composer.base),
        "evidence": (row.model_dump() for row in rows),
        "field": _field(composer),
    }
    stable = "\n".join(block(name, each) for name, each in blocks.items())
    changing = (
        f"{block('history', _history(case, composer))}\n"
        f"The focus of this proposal: {focus}. If the evidence speaks clearly for something else, "
        "do that and say so in `focus`. Reply with the JSON object."
    )
    parts = (Part(text=f"{stable}\n", stable=True), Part(text=changing))
    return Ask(system=_system(), messages=(Message(role="user", parts=parts),))


def repair(first: Ask, reply: Reply, reason: str) -> Ask:
    """The same request with the refused reply and why it was refused."""
    said = reply.text if len(reply.text) <= MAX_ECHO else f"{reply.text[:MAX_ECHO]}\n[cut]"
    why = _template("rewriter_repair.md").substitute(reason=cut(visible(reason), MAX_SHOWN))
    turns = (
        Message(role="assistant", parts=(Part(text=said.strip() or "(no text)"),)),
        Message(role="user", parts=(Part(text=why),)),
    )
    return Ask(system=first.system, messages=(*first.messages, *turns))


def block(name: str, rows: Iterable[Mapping[str, Any]]) -> str:
    """Quoted data, one JSON object a line, between lines that nothing in it can imitate."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    body = visible("\n".join(lines) or "{}")
    key = content_hash([name, body], length=16)
    return f"BEGIN DATA {name} {key}\n{body}\nEND DATA {name} {key}"


def cut(text: str, most: int) -> str:
    """At most so many characters of `text`."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def _champion(program: Program) -> Iterator[dict[str, Any]]:
    structure, roles = reading(program)
    ids = [unit.id for unit in program.instructions]
    for unit in program.instructions:
        row = {"id": unit.id, "role": roles[unit.index].role, "section": unit.section}
        above = structure.under[unit.index]
        if above is not None:
            row["under"] = ids[above]
        if ids.count(unit.id) > 1:
            row["note"] = "stands more than once, so no operation can name it"
        yield {**row, "text": unit.text}


def _field(composer: Composer) -> Iterator[dict[str, Any]]:
    """Texts of other programs; one that is cut says so."""
    used = 0
    for family in offered(composer):
        source, text = composer.addable[family]
        shown = cut(text, MAX_TEXT)
        if used + len(shown) > MAX_FIELD:
            shown = cut(text, MAX_SHOWN)
        used += len(shown)
        row = {"id": family, "program": source.id, "text": shown}
        yield row if shown == text else {**row, "note": f"cut; it has {len(text):,} characters"}


def _history(case: Case, composer: Composer) -> Iterator[dict[str, Any]]:
    for each in case.history[-HISTORY:]:
        operations = [
            {
                "kind": operation.kind,
                "ids": operation.instruction_ids,
                "texts": [cut(text, MAX_PAST) for text in operation.texts],
            }
            for operation in each.operations
        ]
        outcome = _outcome(each, case, composer)
        yield {"focus": cut(each.focus, MAX_PAST), "operations": operations, "outcome": outcome}


def _outcome(proposal: Proposal, case: Case, composer: Composer) -> str:
    """What became of a proposal, without any single run."""
    if proposal.rejection:
        return f"refused: {cut(proposal.rejection, MAX_SHOWN)}"
    new, old = proposal.program_id, proposal.base_program_id
    if new not in {each.id for each in case.pool}:
        return "accepted, not run yet"
    if not {row.program_id for row in case.evidence}.issuperset({new, old}):
        return "ran without a score"
    gain = composer.posterior.difference(new, old, composer.pool.held)
    return f"ran; against the program it was made from: {believed(gain)}"


def _system() -> str:
    return _template("rewriter.md").substitute(
        operations=MAX_OPERATIONS, text=f"{MAX_TEXT:,}", bytes=f"{MAX_PROGRAM_BYTES:,}"
    )


def _template(name: str) -> Template:
    return Template((PROMPTS / name).read_text(encoding="utf-8").strip())

"""What the offline catalogue reads in a program: topics, and how each is spoken of.

Owns: the split into clauses and the marks of favour, ban, order and condition.
Does not own: the vocabulary (`catalog_words.py`), the rules of conduct a program states
(`catalog_policy.py`), and what is done about either (`catalog.py`).

This is a bag-of-words reader, not a language model. It sees which topics a clause names, whether
the clause forbids (never, do not, avoid, leave, nothing but ...), and whether it says first,
before, later, until or only if. It reads no reasons, examples in fences or irony, and it knows no
topic outside its vocabulary. In doubt about a ban it obeys.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from inner_loop.catalog_edits import EDITS
from inner_loop.catalog_words import SINGLE, alternatives, plain, topics_in
from inner_loop.program import segments
from inner_loop.records import Program

_BAN = alternatives(
    *(
        "never",
        "do not",
        "don't",
        "dont",
        r"(?<!never )(?<!not )(?<!don't )(?<!dont )(?:avoid|leave)",
        "cannot",
        "can't",
        "can not",
    ),
    *("must not", "mustn't", "should not", "shouldn't", "forbidden", "prohibited"),
    *("may not", "shall not", "off limits", "out of bounds", "not allowed", "hands off", "taboo"),
    *("frozen", "freeze", "refrain from", "stay away", "keep away", "steer clear", "banned"),
    *("without (?:changing|touching|tuning)", "no (?:more )?changes? to", "not to be", "not yours"),
    *("under no circumstances", "no (?:touching|changing|tuning|editing)", "exclude"),
    *("(?:change|touch|alter|modify|edit) (?:nothing|none)", "nothing (?=except)"),
    r"no (?!limits? |end |bounds? )(?=(?:[^ ]+ ){1,4}(?:changes?|edits?|tuning|experiments?)\b)",
    "(?:is|are) (?:fixed|given|sacred|closed)(?=[ .;:!]*$)",
    "(?:keep|hold|stays?|remains?)(?= (?:[^ ]+ ){0,6}(?:fixed|constant|unchanged|as is|as it is))",
)
_NOT_A_BAN = re.compile(
    r"\s+(?:\w+ )?(?:only|just|merely|solely|afraid|hesitate|forget|neglect|overlook|ignore|skip"
    r"|judge|trust|stop|pause|ask|assume|expect|commit|give up|conclude|compare|underestimate"
    r"|leave|avoid|go wrong|hurt|harm|combine|mix|more than one|two|several|both|many|multiple)\b"
)
_GAP = r"(?:(?!\b(?:or|nor|that|which|was|were|is|are|has|have|it|they|as|even)\b)[^,;:])*?"
_LIMIT = re.compile(
    rf"{_GAP}\b(?:more than (?:\d+|once|twice|one|two|three|four|five|a (?:few|couple|factor))"
    r"|in the same (?:experiment|edit|commit|change|move|step)|at the same time|simultaneously"
    r"|together|twice|a second time|in a row)\b"
    rf"|\s+(?:ever )?(?:try|test|use|repeat|retry|revisit|return to|re ?run)\b{_GAP}"
    r"\b(?:that (?:(?:was|were|is|are|has|have|been|already) ){0,3})?"
    r"(?:discarded|rejected|failed|lost|crashed)\b"
)
_LIMITING = re.compile(r"never|dont|avoid|(?:do|must|should|may|shall|can) ?not|\w+n't|can't")
_ONE_EACH = re.compile(r"\b(?:one|a single) (?:\w+ ){1,3}(?:per|in each|in every|an) experiment\b")
_FOR_LATER = re.compile(r"\bfor (?:later|last|the (?:very )?end)\b")
_LINK = re.compile(
    r"\b(?:until|till|before|unless|after|if|when|while|because|since|as long as|so that"
    r"|instead of|rather than|once(?= (?:the|you|that|this|all|both|these) ))\b"
)
_BUT = re.compile(r"\b(anything|everything|nothing|all|any of it) but\b")
_EXCEPT = alternatives(
    "except(?:ing)?(?: for)?", "with the exception of", "excluding", "apart from", "other than"
)
_ONLY = re.compile(
    r"^(?:only (?:ever )?(?:change|touch|edit|tune|modify|vary|adjust)"
    r"|(?:change|touch|edit|tune|modify|vary|adjust) only)\b"
)
_A_PHASE = alternatives(
    "first", "early", "phase", "stage", "step", "begin", "start", "now", "today"
)
_HELPED = alternatives(
    *("help", "helps", "helped", "kept", "keeps?", "gain", "gains", "gained", "improve[sd]?"),
    *("works?", "worked", "pays? off", "paid off", "wins?", "won", "better", "lower", "lowered"),
)
_CONDITIONAL = ("if", "when", "after", "once")
_DEFERRING = ("until", "till", "before", "unless")
_ELIDED = re.compile(
    r"\s*(?:(?:touch|change|edit|tune|modify|alter|adjust|vary|try|do|raise|lower)\s*)?"
    r"(?:(?:any of )?(?:them|it|this|that|these|those|the following)\s*)?[ .:;!?]*"
)
_EARLY = alternatives("first", "start with", "begin with", "early", "prioriti[sz]e", "focus on")
_LATE = alternatives(
    "later", "^last", "finally", "at the end", "afterwards", "^then", "^after that"
)
_FIRST_SECTION = alternatives(
    "first", "(?:phase|step|stage|part) (?:one|1|i)", "start with", "begin with"
)
_CLAUSE_END = re.compile(
    r"(?<=[.;!?:])\s+|\s+[\u2013\u2014-]+\s+|,?\s+(?:but|however|yet)\s+|,\s+(?:and\s+)?(?=then\b)"
    r"|,?\s+and\s+(?=(?:never|do not|don't|avoid|leave|keep|hold)\b)"
)
_ITEM = re.compile(r"[\s>]*(?:[-+*]|\d{1,9}[.)])\s")


class Spoken(NamedTuple):
    """An instruction as the catalogue hears it."""

    id: str
    text: str
    """`plain` text."""
    section: str
    """The nearest heading, plain."""
    banned: bool
    """Whether it stands under a heading or an announcement that forbids."""


class Condition(NamedTuple):
    """Some topics depend on what happened to others in this run."""

    topics: frozenset[str]
    after: frozenset[str]
    needs: Literal["tried", "kept"]
    id: str


@dataclass
class Reading:
    """A program as the catalogue understands it: topic -> instruction ids that say so."""

    favoured: dict[str, list[str]] = field(default_factory=dict)
    banned: dict[str, list[str]] = field(default_factory=dict)
    deferred: dict[str, list[str]] = field(default_factory=dict)
    """Forbidden early in a run only: `not before ...`, `not until ...`."""
    waits: list[Condition] = field(default_factory=list)
    """Forbidden until a condition holds: `not before the depth`, `only if the depth helped`."""
    follow_ups: list[Condition] = field(default_factory=list)
    """Favoured once a condition holds: `if the depth helped, try the width`."""
    only: dict[str, list[str]] = field(default_factory=dict)
    """`Change only these`: every other edit is forbidden."""
    early: dict[str, list[str]] = field(default_factory=dict)
    late: dict[str, list[str]] = field(default_factory=dict)
    breadth: dict[str, int] = field(default_factory=dict)
    """Instruction id -> number of topics it names; fewer is more specific."""


class _Clause(NamedTuple):
    """One clause with its parts: what is said, and what comes after until, before, if ..."""

    head: str
    link: str
    tail: str


@functools.lru_cache(maxsize=64)
def read(program: Program) -> Reading:
    """Everything the catalogue can make of `program`; never fails, whatever the text."""
    reading = Reading()
    for spoken in listen(program):
        _read_unit(reading, spoken)
        if _FIRST_SECTION.search(spoken.section) and not spoken.banned:
            _note(reading.early, topics_in(_cut(spoken.text).head), spoken.id)
    for edit in EDITS:
        if reading.only and edit.topics.isdisjoint(reading.only):
            _note(reading.banned, [edit.name], next(iter(reading.only.values()))[0])
    return reading


def listen(program: Program) -> Iterator[Spoken]:
    """The instructions of `program` in plain words, and whether each stands under a ban."""
    under_ban: str | None = None
    for unit, source in _sources(program):
        instruction = program.instructions[unit]
        text, section = plain(source), plain(instruction.section.rsplit(" / ", 1)[-1])
        if not _ITEM.match(source) or under_ban != instruction.section:
            under_ban = None
        banned = under_ban is not None or bool(bans(_cut(section).head))
        yield Spoken(instruction.id, text, section, banned)
        if _announces_a_ban(text):
            under_ban = instruction.section


def clauses(text: str) -> list[str]:
    """A plain text cut where one thought ends and the next begins."""
    return _CLAUSE_END.split(text)


def _sources(program: Program) -> Iterator[tuple[int, str]]:
    for piece in segments(program):
        if piece.unit is not None:
            yield piece.unit, piece.text


def _read_unit(reading: Reading, spoken: Spoken) -> None:
    reading.breadth[spoken.id] = len(set(topics_in(spoken.text)))
    before: list[str] = []
    pending = False
    for clause in map(_cut, clauses(_BUT.sub(r"\1 except", spoken.text))):
        topics = topics_in(clause.head)
        ban = bans(clause.head, limits=False)
        if spoken.banned or pending:
            _note(reading.banned, topics, spoken.id)
        elif _EXCEPT.search(clause.head) and topics:
            _note_exception(reading, clause.head, bool(ban), spoken.id)
        elif ban:
            _note_ban(reading, clause, ban, before, spoken.id)
        elif not bans(clause.head):  # a limit speaks neither for its topic nor against it
            _note_favour(reading, clause, spoken)
        pending = clause.head.endswith(":") and not topics and _elides(clause, ban)
        before = topics or before


def _note_exception(reading: Reading, head: str, is_ban: bool, unit_id: str) -> None:
    """`Everything except A` forbids A; `nothing except A` forbids all but A."""
    match = _EXCEPT.search(head)
    assert match is not None
    before, after = head[: match.start()].strip(), head[match.end() :]
    spared, _, rest = (after, "", "") if before else after.partition(",")
    exempt, others = topics_in(spared), topics_in(before or rest)
    if not is_ban:
        _note(reading.banned, exempt, unit_id)
        _note(reading.favoured, others, unit_id)
    elif others:
        _note(reading.banned, [topic for topic in others if topic not in exempt], unit_id)
        _note(reading.favoured, exempt, unit_id)
    else:
        _note(reading.only, exempt, unit_id)
        _note(reading.favoured, exempt, unit_id)


def _note_ban(
    reading: Reading, clause: _Clause, ban: re.Match[str], before: list[str], unit_id: str
) -> None:
    """A ban holds for what follows it; if nothing does, for what precedes it."""
    following = clause.head[ban.end() :]
    topics = topics_in(following) or topics_in(clause.head[: ban.start()])
    if not topics and _elides(clause, ban):
        topics = before
    condition = topics_in(clause.tail) if clause.link in _DEFERRING else []
    if condition and topics:
        reading.waits.append(_condition(topics, clause.tail, unit_id))
    else:
        later = clause.link in _DEFERRING or (ban[0] == "leave" and _FOR_LATER.search(following))
        _note(reading.deferred if later else reading.banned, topics, unit_id)


def _condition(topics: list[str], tail: str, unit_id: str) -> Condition:
    needs: Literal["tried", "kept"] = "kept" if _HELPED.search(tail) else "tried"
    return Condition(frozenset(topics), frozenset(topics_in(tail)), needs, unit_id)


def _elides(clause: _Clause, ban: re.Match[str] | None) -> bool:
    """`Do not touch them`: what is forbidden stands in the clause beside it."""
    return ban is not None and bool(_ELIDED.fullmatch(clause.head, ban.end()))


def _note_favour(reading: Reading, clause: _Clause, spoken: Spoken) -> None:
    head, tail = topics_in(clause.head), topics_in(clause.tail)
    _note(reading.favoured, head, spoken.id)
    if head and tail and clause.link in _CONDITIONAL:
        _note_condition(reading, clause, spoken.id)
    if clause.link in ("before", "after"):
        _note(reading.favoured, tail, spoken.id)
        first, second = (head, tail) if clause.link == "before" else (tail, head)
        _note(reading.early, first, spoken.id)
        _note(reading.late, second, spoken.id)
    elif _LATE.search(clause.head):
        _note(reading.late, head, spoken.id)
    elif _EARLY.search(clause.head):
        _note(reading.early, head, spoken.id)
    elif _ONLY.search(clause.head) and not clause.link and not _is_loose(clause, spoken):
        _note(reading.only, head, spoken.id)


def _note_condition(reading: Reading, clause: _Clause, unit_id: str) -> None:
    """`Only if A helped, try B` holds B back; `if A helped, try B` speaks for B then."""
    condition = _condition(topics_in(clause.head), clause.tail, unit_id)
    if clause.head.endswith("only") or clause.head.startswith("only "):
        reading.waits.append(condition)
    elif condition.needs == "kept" or clause.link == "once":
        reading.follow_ups.append(condition)


def _is_loose(clause: _Clause, spoken: Spoken) -> bool:
    """Whether an `only` holds for a phase, or says how many at a time instead of which."""
    said = clause.head.partition(",")[0]
    if SINGLE.search(said) or _ONE_EACH.search(said):
        return True
    return bool(_A_PHASE.search(clause.head) or _A_PHASE.search(spoken.section))


def _note(where: dict[str, list[str]], topics: Iterable[str], unit_id: str) -> None:
    for topic in topics:
        ids = where.setdefault(topic, [])
        if unit_id not in ids:
            ids.append(unit_id)


def _cut(clause: str) -> _Clause:
    """`A until B` is A, until, B; and so is `until B, A`."""
    link = _LINK.search(clause)
    if link is None:
        return _Clause(clause, "", "")
    before, after = clause[: link.start()].strip(), clause[link.end() :]
    if before == "only":
        condition, _, rest = after.partition(",")
        return _Clause(f"only {rest.strip()}", link[0], condition)
    if before:
        return _Clause(before, link[0], after)
    condition, _, rest = after.partition(",")
    return _Clause(rest.strip(), link[0], condition)


def bans(clause: str, *, limits: bool = True) -> re.Match[str] | None:
    """The word that forbids, unless it forbids something else than a kind of edit.

    `limits=False` passes over what forbids only some of it: twice, in the same experiment.
    """
    for match in _BAN.finditer(clause):
        limiting = not limits and _LIMITING.fullmatch(match[0])
        if limiting and _LIMIT.match(clause, match.end()):
            continue
        if not _NOT_A_BAN.match(clause, match.end()):
            return match
    return None


def _announces_a_ban(text: str) -> bool:
    """`What you must not change:`, said of the list that follows."""
    return text.endswith(":") and bool(bans(text)) and not topics_in(text)

"""What the offline catalogue reads in a program: topics, and how each is spoken of.

Owns: the vocabulary, the split into clauses and the marks of favour, ban, order and reruns.
Does not own: what is done about it (`catalog.py`).

This is a bag-of-words reader, not a language model. It sees which topics a clause names, whether
the clause forbids (never, do not, avoid, leave ...), and whether it says first, before, later or
until. It reads no reasons, numbers, conditions, examples in fences or irony, and it knows no topic
outside its vocabulary. In doubt about a ban it obeys.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from inner_loop.catalog_edits import CATEGORIES, EDITS
from inner_loop.program import segments
from inner_loop.records import Program

_ARCHITECTURE = ("depth", "width", "heads", "activation", "normalisation", "embeddings")
_HYPERPARAMETERS = ("learning-rate", "schedule", "batch", "regularisation")
_NO_TOPIC = ("output head", "every layer", "each layer", "per layer", "the layers")
_CATEGORY_WORDS = {
    "learning-rate": ("learning rate", "learning rates", "lr", "lrs", "step size", "step sizes"),
    "schedule": (
        *("schedule", "schedules", "learning rate schedule", "lr schedule", "annealing"),
        *("learning rate decay", "learning rate warmup", "warmup", "warm up", "cosine"),
    ),
    "batch": ("batch", "batches", "batch size", "batch sizes", "gradient accumulation"),
    "depth": ("depth", "layer", "layers", "deeper", "shallower"),
    "width": ("width", "wider", "narrower", "channels", "hidden size", "model dimension"),
    "heads": ("heads", "attention head", "head dim", "head dimension", "head size", "head count"),
    "activation": ("activation", "activations", "nonlinearity", "non linearity"),
    "normalisation": ("normalisation", "normalization", "norm", "norms", "norm placement"),
    "embeddings": ("embedding", "embeddings", "token embeddings", "positional encoding"),
    "initialisation": ("initialisation", "initialization", "init", "inits", "initial weights"),
    "regularisation": ("regularisation", "regularization", "regulariser", "regularizer", "dropout"),
    "optimiser": ("optimiser", "optimizer", "optimisers", "optimizers", "muon", "adam", "adamw"),
}
_GROUP_WORDS = {
    ("architecture", "architectures", "architectural", "model structure"): _ARCHITECTURE,
    ("hyperparameter", "hyperparameters", "hyper parameters"): _HYPERPARAMETERS,
    ("model size", "capacity", "bigger model", "larger model", "smaller model"): ("depth", "width"),
}


def _vocabulary() -> dict[str, tuple[str, ...]]:
    """Phrase -> topics; a topic is a category or a knob."""
    phrases: dict[str, tuple[str, ...]] = dict.fromkeys(_NO_TOPIC, ())
    for words, topics in _GROUP_WORDS.items():
        phrases |= dict.fromkeys(words, topics)
    for category in CATEGORIES:
        phrases |= dict.fromkeys(_CATEGORY_WORDS[category], (category,))
    for edit in EDITS:
        for phrase in (*edit.words, edit.knob.lower().replace("_", " ")):
            phrases.setdefault(phrase, (edit.knob,))
    return phrases


PHRASES = _vocabulary()


def _words(*alternatives: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(alternatives)})\b")


_TOPIC = _words(*sorted((re.escape(p) for p in PHRASES), key=len, reverse=True))
_BAN = _words(
    *("never", "do not", "don't", "dont", "avoid", "leave", "cannot", "can't", "can not"),
    *("must not", "mustn't", "should not", "shouldn't", "forbidden", "prohibited"),
    *("off limits", "not allowed", "hands off", "frozen", "freeze", "refrain from", "stay away"),
    *("without (?:changing|touching|tuning)", "no (?:more )?changes? to", "not to be"),
    "(?:keep|hold|stays?|remains?)(?= (?:[^ ]+ ){0,6}(?:fixed|constant|unchanged|as is|as it is))",
)
_NOT_A_BAN = re.compile(
    r"\s+(?:\w+ )?(?:only|just|merely|solely|afraid|hesitate|forget|neglect|overlook|ignore|skip"
    r"|judge|trust|stop|pause|ask|assume|expect|commit|give up|conclude|compare|underestimate"
    r"|combine|mix|more than one|two|several|both|many|multiple)\b"
)
_LINK = re.compile(
    r"\b(?:until|till|before|unless|after|if|when|while|because|since|as long as|so that"
    r"|instead of|rather than)\b"
)
_DEFERRING = ("until", "till", "before", "unless")
_ELIDED = re.compile(
    r"\s*(?:(?:touch|change|edit|tune|modify|alter|adjust|vary|try|do|raise|lower)\s*)?"
    r"(?:(?:any of )?(?:them|it|this|that|these|those|the following)\s*)?[ .:;!?]*"
)
_EARLY = _words("first", "start with", "begin with", "early", "prioriti[sz]e", "focus on")
_LATE = _words("later", "^last", "finally", "at the end", "afterwards", "^then", "^after that")
_FIRST_SECTION = _words(
    "first", "(?:phase|step|stage|part) (?:one|1|i)", "start with", "begin with"
)
_CLAUSE_END = re.compile(
    r"(?<=[.;!?:])\s+|\s+[\u2013\u2014-]+\s+|,?\s+(?:but|however|yet)\s+|,\s+(?:and\s+)?(?=then\b)"
    r"|,?\s+and\s+(?=(?:never|do not|don't|avoid|leave|keep|hold)\b)"
)
_RERUN = _words(
    *("re ?runs?", "run (?:it|the same|the tip)(?: \\w+)? again", "train it again"),
    "(?:another|second|different|new|fresh|more|two|three|several) (?:random )?seeds?",
)
_CONFIRM = _words("confirm", "confirms", "confirmed", "replicate", "retest", "verify")
_OF_A_KEEP = _words("keeps?", "kept", "improvements?", "gains?", "wins?")
_REPAIRING = _words("crash", "crashes", "crashed", "fix", "bug", "typo", "error")
_ITEM = re.compile(r"[\s>]*(?:[-+*]|\d{1,9}[.)])\s")
_FENCE = re.compile(r"^[ \t>]*(?:[-+*] +)?(```|~~~).*?(?:^[ \t>]*\1|\Z)", re.DOTALL | re.MULTILINE)


@dataclass
class Reading:
    """A program as the catalogue understands it: topic -> instruction ids that say so."""

    favoured: dict[str, list[str]] = field(default_factory=dict)
    banned: dict[str, list[str]] = field(default_factory=dict)
    deferred: dict[str, list[str]] = field(default_factory=dict)
    """Forbidden early in a run only: `not before ...`, `not until ...`."""
    early: dict[str, list[str]] = field(default_factory=dict)
    late: dict[str, list[str]] = field(default_factory=dict)
    reruns: list[str] = field(default_factory=list)
    """Instructions that ask for a second training of what was kept."""
    breadth: dict[str, int] = field(default_factory=dict)
    """Instruction id -> number of topics it names; fewer is more specific."""


class _Clause(NamedTuple):
    """One clause with its parts: what is said, and what comes after until, before, if ..."""

    head: str
    link: str
    tail: str


def read(program: Program) -> Reading:
    """Everything the catalogue can make of `program`; never fails, whatever the text."""
    reading = Reading()
    under_ban: str | None = None
    for unit, source in _sources(program):
        instruction = program.instructions[unit]
        is_item = bool(_ITEM.match(source))
        heading = instruction.section.rsplit(" / ", 1)[-1]
        if not is_item or under_ban != instruction.section:
            under_ban = None
        banned = under_ban is not None or bool(_bans(_cut(plain(heading)).head))
        _read_unit(reading, instruction.id, plain(source), banned=banned)
        if _FIRST_SECTION.search(plain(heading)) and not banned:
            _note(reading.early, _topics(_cut(plain(source)).head), instruction.id)
        if _announces_a_ban(plain(source)):
            under_ban = instruction.section
    return reading


def plain(text: str) -> str:
    """`text` as one lower-case line of words: fences, emphasis, code marks and hyphens dropped."""
    prose = _FENCE.sub("", text).lower().replace("\u2019", "'")
    prose = re.sub(r"^[\s>]*(?:[-+*]|\d{1,9}[.)])\s", "", prose)
    prose = re.sub(r"[*`#|>\"()\[\]]", " ", prose)
    return " ".join(re.sub(r"(?<=\w)[_/-](?=\w)", " ", prose).split())


def _sources(program: Program) -> Iterator[tuple[int, str]]:
    for piece in segments(program):
        if piece.unit is not None:
            yield piece.unit, piece.text


def _read_unit(reading: Reading, unit_id: str, text: str, *, banned: bool) -> None:
    reading.breadth[unit_id] = len(set(_topics(text)))
    if _asks_for_reruns(text) and not banned:
        reading.reruns.append(unit_id)
    before: list[str] = []
    pending = False
    for clause in map(_cut, _CLAUSE_END.split(text)):
        topics = _topics(clause.head)
        ban = _bans(clause.head)
        if banned or pending:
            _note(reading.banned, topics, unit_id)
        elif ban:
            _note_ban(reading, clause, ban, before, unit_id)
        else:
            _note_favour(reading, clause, unit_id)
        pending = clause.head.endswith(":") and not topics and _elides(clause, ban)
        before = topics or before


def _note_ban(
    reading: Reading, clause: _Clause, ban: re.Match[str], before: list[str], unit_id: str
) -> None:
    """A ban holds for what follows it; if nothing does, for what precedes it."""
    following = clause.head[ban.end() :]
    topics = _topics(following) or _topics(clause.head[: ban.start()])
    if not topics and _elides(clause, ban):
        topics = before
    later = clause.link in _DEFERRING
    _note(reading.deferred if later else reading.banned, topics, unit_id)


def _elides(clause: _Clause, ban: re.Match[str] | None) -> bool:
    """`Do not touch them`: what is forbidden stands in the clause beside it."""
    return ban is not None and bool(_ELIDED.fullmatch(clause.head, ban.end()))


def _note_favour(reading: Reading, clause: _Clause, unit_id: str) -> None:
    head = _topics(clause.head)
    _note(reading.favoured, head, unit_id)
    if clause.link in ("before", "after"):
        tail = _topics(clause.tail)
        _note(reading.favoured, tail, unit_id)
        first, second = (head, tail) if clause.link == "before" else (tail, head)
        _note(reading.early, first, unit_id)
        _note(reading.late, second, unit_id)
    elif _LATE.search(clause.head):
        _note(reading.late, head, unit_id)
    elif _EARLY.search(clause.head):
        _note(reading.early, head, unit_id)


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
    if before:
        return _Clause(before, link[0], after)
    condition, _, rest = after.partition(",")
    return _Clause(rest.strip(), link[0], condition)


def _topics(text: str) -> list[str]:
    return [topic for match in _TOPIC.finditer(text) for topic in PHRASES[match[0]]]


def _bans(clause: str) -> re.Match[str] | None:
    """The word that forbids, unless it forbids something else than a kind of edit."""
    for match in _BAN.finditer(clause):
        if not _NOT_A_BAN.match(clause, match.end()):
            return match
    return None


def _announces_a_ban(text: str) -> bool:
    """`What you must not change:`, said of the list that follows."""
    return text.endswith(":") and bool(_bans(text)) and not _topics(text)


def _asks_for_reruns(text: str) -> bool:
    clauses = [c for c in _CLAUSE_END.split(text) if not _REPAIRING.search(c) and not _bans(c)]
    return any(_RERUN.search(c) or (_CONFIRM.search(c) and _OF_A_KEEP.search(c)) for c in clauses)

"""How the offline catalogue reads one sentence for rules of conduct.

Owns: the patterns, and what a sentence that fits one says. `docs/catalogue.md` lists them in plain
words. Does not own: the record they add up to (`catalog_policy.py`), topics and bans
(`catalog_reading.py`).
"""

from __future__ import annotations

import math
import re
from typing import Literal, NamedTuple

from inner_loop.catalog_reading import bans, clauses
from inner_loop.catalog_words import SINGLE, alternatives, topics_in

Action = Literal["switch", "jump", "refine", "back", "combine"]
Rule = Literal[
    "stride", "single", "combine", "min_gain", "simpler", "worse", "confirm", "base",
    "breadth", "follow", "plateau",
]  # fmt: skip
Unit = Literal["", "bpb", "share", "noise"]

SMALL, BIG = 0.5, 2.5
"""Strides of small and of bold steps where no factor is stated; BIG is drawn as 2 or 3."""
LEAST, MOST = 0.125, 3.0


class Said(NamedTuple):
    """One rule of one sentence."""

    rule: Rule
    number: float = 0.0
    """`stride`: how far; `min_gain`: how much; `confirm`: how often; `plateau`: losses or 0."""
    flag: bool = False
    """`confirm`: small gains only; `plateau`: on one part; `worse`: with cooling."""
    unit: Unit = ""
    actions: frozenset[Action] = frozenset()


# --- patterns ---------------------------------------------------------------------------------

_NUMBERS = {
    **{"a": 1, "one": 1, "once": 1, "two": 2, "twice": 2, "three": 3, "four": 4, "five": 5},
    **{"six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "half": 0.5, "hundred": 100},
}
_N = rf"(\d+(?:\.\d+)?|{'|'.join(_NUMBERS)})"
_STEPS = (
    r"(?=,? (?:(?!(?:more|fewer|less) )[^ ,]+ ){0,2}"
    r"(?:steps?|changes?|moves?|edits?|jumps?|leaps?|strides?|adjustments?|increments?|ideas?|bets?)\b)"
)
_BIG = alternatives(
    *("bold", "boldly", "bolder", "radical", "radically", "drastic", "drastically", "ambitious"),
    f"(?:big|bigger|large|larger|huge|long|wide|giant){_STEPS}",
    *("several doublings", "(?:make|take|prefer|try|dare)(?: \\w+)? (?:jumps|leaps)"),
)
_SMALL = alternatives(
    *("cautious", "cautiously", "incremental", "incrementally", "little by little", "nudges?"),
    f"(?:small|smaller|tiny|little|modest|gentle|minor|careful|fine|finer|short|shorter){_STEPS}",
)
_NOT_ADVICE = alternatives(
    *("too", "suggests?", "means?", "noise", "drown", "risk", "risky", "rarely", "wastes?"),
    *("useless", "costs?", "not worth", "gain nothing", "than"),
)
_FACTOR = re.compile(
    rf"\bfactors? of {_N}\b"
    r"|\bby (?:about |around |roughly |up to |at most |only )?(\d+(?:\.\d+)?) ?(?:%|percent\b)"
    r"(?! of (?:the |your |all )?(?:\w+ )?(?:budget|experiments?|time|runs?)\b)"
    r"|\b(doubl(?=e\b|ing\b)|quadrupl)"
)
_COMBINE = re.compile(
    r"\bcombin(?:e|es|ing)\b.{0,160}\b(?:two|best|near miss|lost|almost|both|worked|helped)\b"
)
_KEEPING = alternatives(
    *("keep", "keeps", "kept", "accept", "accepted", "advance", "counts?", "real", "adopt"),
)
_DROPPING = alternatives(
    *("discard", "discarded", "ignore", "ignored", "noise", "reject", "rejected", "luck", "undo"),
    *("revert", "reverted", "drop", "dropped", "no gain", "not count", "not a keep", "not keep"),
)
_GAINING = alternatives(
    *("gains?", "improve(?:s|d|ments?)?", "better", "lower", "lowers", "drops?", "falls?", "fell"),
    *("differences?", "wins?", "beats?", "by at least", "by more than"),
)
_AMOUNT = r"(\d*\.\d+|\d+(?:\.\d+)?(?:e-\d+)?) ?(mbpb|millibits?|bpb|bits|%|percent)?"
_AT_LEAST = re.compile(
    rf"\b(?:at least|more than|over|by|exceed\w*|of|above) {_AMOUNT}(?=[ ,.;:!]|$)"
)
_LESS_THAN = re.compile(rf"\b(?:less than|below|under|smaller than) {_AMOUNT}(?=[ ,.;:!]|$)")
_NOISE = r"(?:noise|standard deviations?|sds?|sigmas?|scatter)\b"
_NOISES = re.compile(
    rf"\b{_N}(?: times)? (?:of )?(?:the |its |your )?(?:\w+ )?{_NOISE}|(?P<plain>\b{_NOISE})"
)
_BEYOND = alternatives(
    *("more than", "at least", "by", "beyond", "exceeds?", "above", "outside", "over", "clear of"),
    *("larger than", "less than", "below", "under", "within", "smaller than"),
)
_SIMPLER = alternatives(
    *("simpl\\w+", "shorter", "smaller", "fewer", "delet\\w+", "remov\\w+", "less code", "cleaner"),
)
_EQUAL = alternatives(
    *("equal", "equally", "ties?", "tied", "no loss", "no worse", "not worse", "as good"),
    *("without (?:a |any )?loss", "same (?:val bpb|score|quality|result)", "costs? nothing"),
)
_WORSE = re.compile(
    r"\bmetropolis\b|\bsimulated annealing\b"
    r"|\b(?:accept|keep|take|allow)\b.{0,160}\b(?:worse|higher|loss|losing|lost)\b"
)
_SOMETIMES = alternatives(
    *("sometimes", "occasionally", "now and then", "once in a while", "chance", "probability"),
    *("temperature", "metropolis", "simulated annealing"),
)
_COOLING = alternatives("cool\\w*", "anneal\\w*", "less and less", "more rarely", "temperature")
_RERUN = alternatives(
    *("re ?run(?:s|ning)?", "run (?:it|the same|the tip)(?: \\w+)? again", "repeat (?:each|every)"),
    *("train (?:it|each|every)(?: \\w+)? (?:again|twice)", "(?:run|train|measure)\\w* it twice"),
    "(?:another|second|different|new|fresh|more|two|three|several) (?:random )?seeds?",
)
_CONFIRM = alternatives("confirm", "confirms", "confirmed", "replicate", "retest", "verify")
_OF_A_KEEP = alternatives("keeps?", "kept", "improvements?", "gains?", "wins?")
_REPAIRING = alternatives("crash", "crashes", "crashed", "fix", "bug", "typo", "error")
_DOUBTFUL = alternatives(
    *("small", "smaller", "close", "narrow", "doubt", "doubtful", "unsure", "unclear", "tiny"),
    *("barely", "within", "marginal", "slight", "slightly"),
)
_TIMES = re.compile(rf"\b{_N} (?:more|other|further|fresh|new|additional|extra|reruns)\b")
_BASE = alternatives(
    "baseline", "unmodified", "unchanged", "untouched", "starting (?:script|point)"
)
_TWICE = alternatives(
    *("twice", "two times", "three times", "again", "a second time", "more than once"),
    "re ?run(?:s|ning)?",
)
_BREADTH = re.compile(
    r"\bbreadth ?first\b"
    r"|\bone (?:experiment|try|attempt|edit) (?:for|in|per|on|from|to) (?:each|every)\b"
    r"|\b(?:each|every|all)(?: of the)?(?: \w+){0,3} (?:categor(?:y|ies)|kinds?|areas?|parts?"
    r"|knobs?|groups?|topics?|famil(?:y|ies))(?: \w+){0,5} (?:once|one experiment)\b"
)
_FOLLOW = re.compile(
    r"\bdepthfirst\b|\bstay with (?:what|it|the)\b|\bstick (?:with|to) (?:what|it)\b|\bfollow up\b"
    r"|\bsame (?:step|direction|category|knob|part)\b.{0,160}\bagain\b|\bin the same direction\b"
    r"|\btake the same step again\b|\bbuild on what\b|\bexploit what\b"
)
_LOSSES = alternatives(
    *("discard\\w*", "loss", "losses", "lost", "fail\\w*", "without", "worse", "no gain"),
    *("unsuccessful", "rejected", "in vain", "did not help"),
)
_IN_A_ROW = re.compile(
    rf"\b{_N} (?:\w+ ){{0,3}}(?:in a row|running|in succession|one after (?:another|the other))"
    rf"|\b{_N} (?:consecutive|successive)"
    rf"|\b{_N} (?:\w+ ){{1,2}}without (?:an? |any )?(?:gain|improvement|keep|progress|success)"
)
_STUCK = alternatives(
    *("plateau", "plateaus", "plateaued", "stuck", "stalls?", "stalled", "ideas run (?:out|dry)"),
    *("run out of ideas", "no progress", "stops? improving", "stopped improving"),
)
_ON_ONE_PART = alternatives(
    "(?:on|in|with|of) (?:one|the same|a|that) (?:part|category|knob|area|kind|topic|group)"
)
_ACTIONS: dict[Action, re.Pattern[str]] = {
    "switch": alternatives(
        r"(?:another|other|different|new|next) (?:part|category|categories|knob|area|kind|topic)",
        r"(?:another|other|different|new|next) (?:group|family|direction|place)",
        *("elsewhere", "move on", "something else", "switch", "change (?:the )?(?:category|topic)"),
    ),
    "jump": alternatives(
        *("bold", "bolder", "boldly", "radical", "drastic", "jump", "leap", "far away"),
        f"(?:big|bigger|large|larger|huge){_STEPS}",
    ),
    "refine": alternatives(f"(?:small|smaller|finer){_STEPS}", "halve the step"),
    "back": alternatives(
        *("(?:go|step|fall) back", "return to", "revert to", "backtrack", "restart from"),
    ),
    "combine": alternatives("combin\\w+", "put together"),
}
_SENTENCE_END = re.compile(r"(?<=[.;!?])\s+")


# --- one sentence -----------------------------------------------------------------------------


def sentences(text: str) -> list[str]:
    """A plain text cut at its full stops."""
    return _SENTENCE_END.split(text)


def rules(sentence: str) -> list[Said]:
    """The rules of one plain sentence; what forbids is not advice."""
    advice = " ".join(c for c in clauses(sentence) if not bans(c))
    losses = _losses_in_a_row(sentence)
    if losses or _STUCK.search(advice):
        actions = frozenset(a for a, pattern in _ACTIONS.items() if pattern.search(advice))
        on_one_part = bool(_ON_ONE_PART.search(sentence))
        return [Said("plateau", losses, flag=on_one_part, actions=actions)]
    return [
        *_strides(sentence),
        *_joining(sentence, advice),
        *_acceptance(sentence, advice),
        *_reruns(advice),
        *([Said("breadth")] if _BREADTH.search(advice) else []),
        *([Said("follow")] if _FOLLOW.search(advice) else []),
    ]


def _losses_in_a_row(sentence: str) -> float:
    match = _IN_A_ROW.search(sentence)
    if not match or not _LOSSES.search(sentence):
        return 0
    return max(1, int(_number(next(filter(None, match.groups())))))


def _joining(sentence: str, advice: str) -> list[Said]:
    if SINGLE.search(sentence):
        return [Said("single")]
    return [Said("combine")] if _COMBINE.search(advice) else []


def _acceptance(sentence: str, advice: str) -> list[Said]:
    found = _min_gain(sentence)
    if _WORSE.search(advice) and _SOMETIMES.search(advice):
        found.append(Said("worse", flag=bool(_COOLING.search(advice))))
    if _SIMPLER.search(advice) and _EQUAL.search(advice):
        found.append(Said("simpler"))
    return found


def _reruns(advice: str) -> list[Said]:
    if _BASE.search(advice) and _TWICE.search(advice):
        return [Said("base")]
    said = [c for c in clauses(advice) if not _REPAIRING.search(c)]
    if not any(_RERUN.search(c) or (_CONFIRM.search(c) and _OF_A_KEEP.search(c)) for c in said):
        return []
    more = _TIMES.search(advice)
    times = min(3.0, max(1.0, _number(more[1]))) if more else 1.0
    return [Said("confirm", times, flag=bool(_DOUBTFUL.search(advice)))]


def _strides(sentence: str) -> list[Said]:
    """What the sentence says about the size of steps: small, big, or a factor."""
    found: list[Said] = []
    for clause in clauses(sentence):
        ban = bool(bans(clause))
        if _NOT_ADVICE.search(clause):
            continue
        if (factor := _FACTOR.search(clause)) and not ban and not _GAINING.search(clause):
            found.append(Said("stride", _stride_of(factor)))
        elif _BIG.search(clause):
            found.append(Said("stride", SMALL if ban else BIG))
        elif _SMALL.search(clause):
            found.append(Said("stride", BIG if ban else SMALL))
    return found


def _stride_of(match: re.Match[str]) -> float:
    """A factor in plain steps of two."""
    factor, percent, verb = match.groups()
    if percent:
        times = 1 + float(percent) / 100
    else:
        times = _number(factor) if factor else {"doubl": 2.0, "quadrupl": 4.0}[verb]
    return min(MOST, max(LEAST, abs(math.log2(times)))) if times > 0 else 1.0


def _min_gain(sentence: str) -> list[Said]:
    """`Keep what is better by at least X`, or `a gain below X is noise`."""
    keeping, dropping = _KEEPING.search(sentence), _DROPPING.search(sentence)
    if topics_in(sentence) or not _GAINING.search(sentence) or not (keeping or dropping):
        return []
    if noises := _noises(sentence):
        return [Said("min_gain", noises, unit="noise")]
    at_least = _AT_LEAST.search(sentence) if keeping else None
    return _amount(at_least or (_LESS_THAN.search(sentence) if dropping else None))


def _noises(sentence: str) -> float:
    """How many standard deviations: `by more than the noise`, `two standard deviations`."""
    for match in _NOISES.finditer(sentence):
        if match[1]:
            return _number(match[1])
        if _BEYOND.search(sentence[: match.start()][-30:]):
            return 1.0
    return 0.0


def _amount(match: re.Match[str] | None) -> list[Said]:
    if match is None:
        return []
    value, unit = float(match[1]), match[2] or ""
    if unit in ("%", "percent"):
        return [Said("min_gain", value / 100, unit="share")]
    if unit.startswith(("mbpb", "milli")):
        return [Said("min_gain", value / 1000, unit="bpb")]
    return [Said("min_gain", value, unit="bpb")] if unit or 0 < value < 0.5 else []


def _number(word: str) -> float:
    return _NUMBERS[word] if word in _NUMBERS else float(word)

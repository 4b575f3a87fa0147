"""What a rewriter may not write: texts and titles that read as a rule of the run.

Owns: the words by which a new text counts as contract or gate. Does not own: the roles of what an
author wrote (`inner_loop.roles`), or where the check stands (`verify`).

An author may say when a run ends or that a person is asked; a rewriter may not, so these words are
a little more than those that make an author's instruction a rule. They are words all the same.
"""

from __future__ import annotations

import re

from inner_loop.program import normalise, parse_program
from inner_loop.roles import InstructionRole, UnitRole, roles

_PEOPLE = (
    r"(?:users?|humans?|persons?|people|operators?|owners?|supervisors?|authors?|somebody|someone"
    r"|anyone|anybody)"
)
_CHANGE = r"(?:changes?|edits?|experiments?|results?|commits?)"
_RUN = r"(?:runs?|session|search|research|loop|experiments|experimenting|researching|task|job)"
_WHATEVER = r"(?:whatever|regardless|no matter|irrespective|in any case)"
_NO = r"(?:never|do not|don't|must not|may not|cannot|can't)"
_END = r"(?=$|[.,;:!])"
_WHEN = r"(?=$|[.,;:!]| (?:after|when|once|if|as soon|here|now|early|and|at|altogether)\b)"
_WORDS: tuple[tuple[InstructionRole, str, tuple[str, ...]], ...] = (
    (
        "gate",
        "ends the run",
        (
            r"(?:^|[.,;:] |\b(?:then|and|to|may|can|must|should) )"
            rf"(?:stop|finish|quit|halt){_WHEN}",
            r"\b(?:stop|end|finish|quit|terminate|halt|abandon|conclude)(?:s|ing)? "
            rf"(?:(?:the|this|your|all) )?{_RUN}{_WHEN}",
            rf"\b(?:the|this|your) {_RUN} (?:is (?:over|done|finished|complete)|ends|stops) "
            r"(?:after|when|once|if|as soon|here|now)\b",
            r"\bno (?:more|further) (?:experiments|runs|trainings)"
            r"(?=$|[.,;:!]| (?:after|when|once)\b)",
            rf"\b{_NO} (?:run|start|make|try|do) (?:any )?(?:more|further|another)"
            rf"(?: (?:experiments?|runs?|trainings?))?{_END}",
        ),
    ),
    (
        "gate",
        "asks a person",
        (
            r"\b(?:ask|wait for|consult|check with|confirm with|report to|notify|tell|contact)"
            rf" (?:\w+ )?{_PEOPLE}\b",
            r"\b(?:ask for|wait for|seek|request|obtain|await) (?:\w+ )?(?:permission|approval"
            r"|go-ahead|instructions|answer|reply|yes)\b",
            r"\bask (?:for )?(?:feedback|confirmation)\b",
            rf"\b(?:until|unless|if) (?:(?:the|an?) )?{_PEOPLE} (?:says?|confirms?|agrees?"
            r"|answers?|approves?|replies|reply|wants?)\b",
        ),
    ),
    (
        "contract",
        "keeps what measures worse",
        (
            r"\b(?:keep|accept|retain) (?:everything|(?:every|each|all|any)(?: of (?:them|the))? "
            rf"{_CHANGE})[^.;!?]{{0,30}} (?:{_WHATEVER}|anyway|even (?:if|when))\b",
            rf"\b(?:keep|accept|retain) (?:it|them|this|that|everything) {_WHATEVER}\b",
            r"\b(?:keep|accept|retain) (?:everything|(?:every|each|all|any)(?: of (?:them|the))? "
            rf"{_CHANGE}|all of them){_END}",
            rf"\b{_NO} (?:discard|revert|undo|reset|reject) (?:anything|(?:(?:an?|any|your|the) )?"
            rf"{_CHANGE})(?:{_END}| {_WHATEVER}\b)",
            r"\b(?:discard|revert|undo|reject) nothing\b",
        ),
    ),
    (
        "contract",
        "says what must not be edited",
        (
            rf"\b{_NO} (?:edit|change|modify|touch|alter|rewrite) (?:(?:the )?(?:training )?"
            rf"(?:train\.py|script|code)|anything){_END}",
            r"\bleave (?:the )?(?:training )?(?:train\.py|script|code)"
            r"(?=$|[.,;:!]| (?:alone|as|un))",
            rf"\b(?:edit|change|modify|touch|alter) nothing{_END}",
        ),
    ),
)
_RULES = [
    (re.compile("|".join(patterns)), UnitRole(role=role, reason=reason))
    for role, reason, patterns in _WORDS
]
_TITLE = re.compile(
    r"(?:[\d.()]+ )?(?:(?:the|new|my|your|our|ground|basic|general|hard|other|more|important) )*"
    r"(?:rules?|limits?|constraints?|requirements?|polic(?:y|ies)|overrides?|system(?: prompt)?"
    r"|instructions?):?"
)
_ANNOUNCES = UnitRole(role="contract", reason="announces rules")


def rule_in(text: str) -> UnitRole | None:
    """The role that a new text has by its words alone; None for strategy."""
    judged = roles(parse_program(text.encode(), "text"))
    by_role = (role for role in judged if role.role != "strategy")
    words = normalise(text)
    written = (role for pattern, role in _RULES if pattern.search(words))
    return next(by_role, None) or next(written, None)


def rule_in_title(title: str) -> UnitRole | None:
    """The role that a new heading has; a researcher reads headings too."""
    return rule_in(title) or (_ANNOUNCES if _TITLE.fullmatch(normalise(title)) else None)

"""The seam between a finished round and whatever rewrites programs after it.

Owns: `Case` (all that a rewriter may see), the `Rewriter` Protocol, and the record of a proposal
that has no operations. Does not own: any rewriter (`offline`, `model`), or who asks (`rounds`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from analysis.citations import CitationRow
from inner_loop.proposal import Evidence, Proposal, proposal_id
from inner_loop.records import Program


@dataclass(frozen=True)
class Case:
    """What a rewriter is given after a round, none of it a judge's rule or a locked result."""

    pool: Sequence[Program]
    """The programs of all entrants so far, controls included; the champion among them."""
    evidence: Sequence[Evidence]
    """Every finished run; a language model sees only what is estimated from all of them."""
    champion_id: str
    """The program that is rewritten."""
    earlier: frozenset[str]
    """Ids of programs that exist; none of them may be proposed."""
    seed: int
    """The only source of randomness."""
    history: Sequence[Proposal] = ()
    """What was proposed in earlier rounds, oldest first, refused ones included."""
    citations: Sequence[CitationRow] = ()
    """The citation ledger of the rounds so far."""
    answers: Sequence[str] = ()
    """Known train.py files, the starting one first: their code and constants are answers. Only
    checks read them."""
    wanted: int = 1
    """How many programs should run."""

    @property
    def champion(self) -> Program:
        """The program that is rewritten."""
        return next(each for each in self.pool if each.id == self.champion_id)


class Rewriter(Protocol):
    """Answers a case; must be a function of it, so that a killed series can go on."""

    @property
    def label(self) -> str:
        """What its proposals carry: `offline`, or provider and model."""
        ...

    def rewrite(self, case: Case) -> list[Proposal]:
        """What may run first, then what was refused, each with its reason; never nothing at all.

        Raises:
            UserError: no answer will ever come (no key, no such model), or none came this time;
                then the same command asks again.
        """
        ...


def nothing(base: Program, rewriter: str, reason: str, focus: str = "nothing new") -> Proposal:
    """The record that a rewriter gave no operations, for whoever reads the ledger later."""
    return Proposal(
        id=proposal_id(base.id, ()),
        rewriter=rewriter,
        base_program_id=base.id,
        parents=(base.id,),
        operations=(),
        focus=focus,
        hypothesis=reason,
        text=base.text,
        program_id=base.id,
        rejection=reason,
    )

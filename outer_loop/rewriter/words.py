"""The offline rewriter's hypotheses in words, with no more digits than the evidence has.

Owns: the sentences. Does not own: the numbers (`thompson`) or the choice (`offline`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

from inner_loop.proposal import Evidence
from inner_loop.records import Program
from outer_loop.rewriter.pool import Pool
from outer_loop.rewriter.thompson import Belief, Posterior

CLEAR = 0.6  # probability from which an instruction "seems to" help or hurt
SHOWN = 60  # characters of an instruction in a focus line


class Words:
    """Sentences about the instructions of one pool after one body of evidence."""

    def __init__(self, pool: Pool, evidence: Sequence[Evidence], posterior: Posterior) -> None:
        self.pool = pool
        self.posterior = posterior
        self.rows = [row for row in evidence if row.program_id in pool.held]
        margins = field_margins(self.rows)
        self.above = [program for program, margin in margins.items() if margin > 0]
        self.below = [program for program, margin in margins.items() if margin <= 0]

    def take(self, family: str) -> str:
        """Why an instruction is taken up."""
        helps = self.posterior.unit(family).p_positive > CLEAR
        lead = "It seems to help" if helps else "Tried to learn whether it helps"
        return f"{lead}: {self.seen(family)}."

    def drop(self, family: str) -> str:
        """Why an instruction is dropped."""
        hurts = self.posterior.unit(family).p_positive < 1 - CLEAR
        lead = "It seems to hurt" if hurts else "Tried to learn whether it is missed"
        return f"{lead}: {self.seen(family)}."

    def move(self, family: str) -> str:
        """Why an instruction is moved back."""
        return f"Said last, because it seems to matter least here: {self.seen(family)}."

    def seen(self, family: str) -> str:
        """The evidence about an instruction."""
        if not self.rows:
            return "no program has run yet"
        holds = [program for program, names in self.pool.held.items() if family in names]
        counts = f"it is {_among(holds, self.above, 'beat')}"
        if self.below:
            counts += f" and {_among(holds, self.below, 'did not beat')}"
        belief = self.posterior.unit(family)
        return f"{counts}; effect {effect(belief)}, P(helps) {belief.p_positive:.1f}"

    def whole(self, base: Program, gain: Belief) -> str:
        """What is expected of a proposal."""
        runs, programs = len(self.rows), len(self.above) + len(self.below)
        return (
            f"Against {base.name} {effect(gain)} is expected, from {_count(runs, 'run')} of "
            f"{_count(programs, 'program')}."
        )

    def focus(
        self,
        taken: Sequence[str],
        dropped: Sequence[str],
        moved: Sequence[str],
        parents: Sequence[str],
    ) -> str:
        """What a proposal is about, in one line."""
        if len(taken) + len(dropped) + len(moved) == 1:
            verb = "take up" if taken else "drop" if dropped else "say last"
            one = [*taken, *dropped, *moved][0]
            return f"{verb} one instruction: {self._quote(one)}"
        parts = []
        if taken:
            names = _listed([self.pool.programs[parent].name for parent in parents[1:]])
            parts.append(f"take up {_count(len(taken), 'instruction')} of {names}")
        if dropped:
            parts.append(f"drop {_count(len(dropped), 'instruction')}")
        return ", ".join(parts)

    def _quote(self, name: str) -> str:
        family = name if name in self.pool.families else self.pool.family_of(name) or name
        text = " ".join(self.pool.families[family][0].unit.text.split())
        return text if len(text) <= SHOWN else f"{text[: SHOWN - 3].rstrip()}..."


def field_margins(rows: Iterable[Evidence]) -> dict[str, float]:
    """Program id -> mean of its gains, each minus the mean gain of its block."""
    listed = list(rows)
    blocks: dict[str | int, list[float]] = {}
    for row in listed:
        blocks.setdefault(row.block, []).append(row.gain)
    margins: dict[str, list[float]] = {}
    for row in listed:
        margins.setdefault(row.program_id, []).append(row.gain - fmean(blocks[row.block]))
    return {program: fmean(values) for program, values in margins.items()}


def effect(belief: Belief) -> str:
    """A belief with the digits it supports, for example `+3 mbpb (90 % interval -2 to +8)`."""
    digits = max(0, -math.floor(math.log10(belief.sd))) if belief.sd > 0 else 1
    mean, low, high = (_signed(value, digits) for value in (belief.mean, *belief.interval))
    return f"{mean} mbpb (90 % interval {low} to {high})"


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def _among(holds: Sequence[str], group: Sequence[str], verb: str) -> str:
    found = sum(program in holds for program in group)
    files = "file that" if len(group) == 1 else "files that"
    return f"in {found} of {len(group)} {files} {verb} the field"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)

"""Who leads a series of rounds, and which of its instructions survived.

Owns: the rule by which the lead changes, and what all rounds together say of leaders and their
instructions. Does not own: the model behind it (`rewriter`), the next field (`rounds`), or any
verdict about who is better (`analysis.leaderboard`).

The leader is a working parent, moved boldly, and no claim that it is best: another entrant takes
over when the rewriter's model, after all rounds so far, gives it more than 55 % to be better (the
rule of the research notes on promotion, methods 1.4; the published champion's bar is far higher).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from analysis.curves import run_details
from analysis.story import Leader, Lineage, Survivor
from inner_loop.errors import UserError
from inner_loop.ledger import Ledger
from inner_loop.program import parse_program
from inner_loop.proposal import Evidence
from inner_loop.records import Entrant, Program, Tournament
from outer_loop.rewriter.offline import beliefs, differences

TAKES_OVER = 0.55
"""Probability of being better than the leader above which an entrant becomes the leader."""


class Lead(NamedTuple):
    """Who leads after a round."""

    round: int
    entrant: Entrant
    p_better: float | None
    """When it took over: its probability of being better than the leader before; None at first."""


@dataclass(frozen=True)
class Seen:
    """What the rounds so far have shown, read once."""

    series: tuple[Tournament, ...]
    """Oldest first."""
    rows: tuple[tuple[Evidence, ...], ...]
    """Finished runs of each."""
    programs: dict[str, Program]
    """Every program that ran, controls included, by id."""

    @classmethod
    def of(cls, ledger: Ledger, plan: Tournament) -> Seen:
        """The rounds that lead to a tournament, itself included."""
        series = ledger.series(plan.id)
        names = {e.program_id: e.name for each in series for e in each.entrants}
        return cls(
            series=tuple(series),
            rows=tuple(tuple(evidence(ledger, each)) for each in series),
            programs={i: program(ledger, i, name) for i, name in names.items()},
        )

    @property
    def evidence(self) -> list[Evidence]:
        """Every finished run."""
        return [row for rows in self.rows for row in rows]

    @property
    def pool(self) -> list[Program]:
        """Every program that ran."""
        return list(self.programs.values())

    @property
    def leader(self) -> Entrant:
        """The entrant (no control) that leads after the last round.

        Raises:
            UserError: no entrant has a score.
        """
        return self.leads()[-1].entrant

    def leads(self) -> list[Lead]:
        """The lead after each round in which somebody had a score, oldest first.

        Raises:
            UserError: no entrant has a score.
        """
        found: list[Lead] = []
        for number in range(1, len(self.series) + 1):
            if self.rows[number - 1] and (scored := self._scored(number)):
                found.append(self._next_lead(number, scored, found[-1] if found else None))
        if not found:
            raise UserError(
                f"No program of {self.series[-1].id} has a score, so there is nothing to rewrite; "
                "read why with `metaresearch leaderboard`."
            )
        return found

    def leaders(self) -> list[Leader]:
        """The leader after each round, with what all rounds together say of it."""
        found = self.leads()
        expected = differences(self.pool, self.evidence, found[0].entrant.program_id)
        return [
            Leader(
                round=number,
                name=entrant.name,
                program_id=entrant.program_id,
                p_better=p_better,
                expected=expected[entrant.program_id].mean,
                low=expected[entrant.program_id].interval[0],
                high=expected[entrant.program_id].interval[1],
            )
            for number, entrant, p_better in found
        ]

    def survivors(self) -> list[Survivor]:
        """The newest leader's strategy instructions: since when they lead, what is believed."""
        leads = self.leads()
        line = [self.programs[lead.entrant.program_id] for lead in leads]
        believed = beliefs(self.pool, self.evidence)
        held = [{unit.id for unit in each.instructions} for each in line]
        return [
            Survivor(
                instruction_id=unit.id,
                text=unit.text,
                since=leads[_since(unit.id, held)].round,
                effect=believed[unit.id].mean,
                low=believed[unit.id].interval[0],
                high=believed[unit.id].interval[1],
                p_helps=believed[unit.id].p_positive,
            )
            for unit in line[-1].instructions
            if unit.id in believed
        ]

    def lineage(self) -> Lineage | None:
        """Leaders and survivors; None where there was only one round, or no score."""
        if len(self.series) == 1 or not any(self._scored(n + 1) for n in range(len(self.series))):
            return None
        return Lineage(leaders=tuple(self.leaders()), survivors=tuple(self.survivors()))

    def _scored(self, rounds: int) -> list[Entrant]:
        """Entrants that have a score after so many rounds."""
        scored = {row.program_id for rows in self.rows[:rounds] for row in rows}
        series = self.series[:rounds]
        running = {e.program_id: e for each in series for e in each.entrants if e.role == "entrant"}
        return [e for program_id, e in running.items() if program_id in scored]

    def _next_lead(self, number: int, scored: Sequence[Entrant], before: Lead | None) -> Lead:
        reference = before.entrant if before else scored[0]
        ran = {e.program_id for each in self.series[:number] for e in each.entrants}
        rows = [row for rows in self.rows[:number] for row in rows]
        pool = [each for each in self.pool if each.id in ran]
        expected = differences(pool, rows, reference.program_id)
        best = max(scored, key=lambda e: expected[e.program_id].mean)
        if before is None:
            return Lead(number, best, None)
        if best.program_id != reference.program_id:
            p_better = expected[best.program_id].p_positive
            if p_better > TAKES_OVER:
                return Lead(number, best, p_better)
        return before._replace(round=number)


def evidence(ledger: Ledger, tournament: Tournament) -> list[Evidence]:
    """Every finished run of a tournament."""
    return [
        Evidence(
            program_id=detail.run.program_id,
            block=f"{tournament.id}-{detail.run.replicate}",
            gain=detail.gain,
            run_id=detail.run.id,
        )
        for detail in run_details(ledger, tournament)
        if detail.run.program_id and detail.gain is not None
    ]


def program(ledger: Ledger, program_id: str, name: str) -> Program:
    """A program of the ledger, read again."""
    _, body = ledger.program(program_id)
    return parse_program(body, name)


def _since(instruction_id: str, held: Sequence[set[str]]) -> int:
    """The place from which on every leader has an instruction."""
    without = [place for place, units in enumerate(held, start=1) if instruction_id not in units]
    return max(without, default=0)

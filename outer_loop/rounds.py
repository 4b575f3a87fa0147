"""Rounds: from one tournament's evidence to the next tournament's field.

Owns: which program leads, what is asked of the rewriter, what it proposed (in the ledger before it
runs) and who meets in the next round. Does not own: how programs are rewritten (`rewriter`), the
running (`drive.py`), or any verdict about who is better (`analysis.leaderboard`).

The leader is a working parent, moved boldly, and no claim that it is best: another entrant takes
over when the rewriter's model, after all rounds so far, gives it more than 55 % to be better (the
rule of the research notes on promotion, methods 1.4; the published champion's bar is far higher).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from analysis.citations import citations
from analysis.curves import run_details
from analysis.story import Leader, Survivor
from inner_loop.errors import UserError
from inner_loop.ledger import Ledger
from inner_loop.program import Card, parse_program
from inner_loop.proposal import Evidence, Proposal
from inner_loop.records import Entrant, Program, Tournament, derive_seed
from outer_loop.plan import Admitted, admit_program, make_plan
from outer_loop.rewriter.offline import OfflineRewriter, beliefs, differences
from outer_loop.rewriter.seam import Case, Rewriter

OFFLINE = OfflineRewriter()
TAKES_OVER = 0.55
"""Probability of being better than the leader above which an entrant becomes the leader."""


class Lead(NamedTuple):
    """Who leads after a round."""

    entrant: Entrant
    p_better: float | None
    """When it took over: its probability of being better than the leader before; None at first."""


def next_round(
    ledger: Ledger,
    plan: Tournament,
    number: int,
    now: Callable[[], str],
    *,
    rewriter: Rewriter = OFFLINE,
    train_py: Callable[[str], str] | None = None,
    wanted: int = 1,
) -> tuple[Tournament, list[Admitted]] | None:
    """The plan of round `number` that follows a finished one; None if nothing new is proposed.

    The same plan gives the same proposals and the same next plan, which is how a killed series
    goes on.

    Args:
        ledger: with the finished round.
        plan: that round.
        number: of the round that follows.
        now: the clock.
        rewriter: who writes the challengers; asked once, its answer is in the ledger then.
        train_py: commit -> its train.py, for the check that no challenger carries an answer.
        wanted: how many challengers are asked for.

    Raises:
        UserError: no entrant has a score, or the rewriter can never work as it is set up.
    """
    proposals = proposals_from(ledger, plan, now, rewriter, train_py, wanted)
    accepted = [p for p in proposals if not p.rejection]
    if not accepted:
        return None
    field = [known(ledger, plan, entrant) for entrant in stayers(ledger, plan)]
    taken = {e.name for each in ledger.series(plan.id) for e in each.entrants}
    field[1:1] = [
        _challenger(p, _free_name(f"challenger-{number}", taken), rewriter.author) for p in accepted
    ]
    seed = derive_seed(plan.seed, "round", number)
    return make_plan(plan.track, field, replicates=plan.replicates, seed=seed), field


def proposals_from(
    ledger: Ledger,
    plan: Tournament,
    now: Callable[[], str],
    rewriter: Rewriter = OFFLINE,
    train_py: Callable[[str], str] | None = None,
    wanted: int = 1,
) -> list[Proposal]:
    """What the rewriter answers to a tournament; asked once, then read from the ledger.

    What may run comes first, or, where nothing is proposed, one record without operations that
    says why; then the drafts that were refused. So a kill between two rows leaves the first ones,
    and those decide who meets next.
    """
    stored = ledger.proposals(plan.id)
    if not stored:
        stored = rewriter.rewrite(case_of(ledger, plan, train_py, wanted))
        ledger.add_proposals(plan.id, stored, now())
    return stored


def case_of(
    ledger: Ledger,
    plan: Tournament,
    train_py: Callable[[str], str] | None = None,
    wanted: int = 1,
) -> Case:
    """All that a rewriter is given after a round.

    Raises:
        UserError: no entrant has a score.
    """
    series = ledger.series(plan.id)
    programs = pool(ledger, series)
    details = [detail for each in series for detail in run_details(ledger, each)]
    return Case(
        pool=programs,
        evidence=evidence(ledger, series),
        champion_id=leader(ledger, plan).program_id,
        earlier=frozenset(program_id for program_id, _ in ledger.programs()),
        seed=derive_seed(plan.seed, plan.id, "rewrite"),
        history=[p for each in series[:-1] for p in ledger.proposals(each.id)],
        citations=citations({each.id: each for each in programs}, details, None),
        answers=_answers(ledger, series, train_py) if train_py else (),
        wanted=wanted,
    )


def _answers(
    ledger: Ledger, series: Sequence[Tournament], train_py: Callable[[str], str]
) -> tuple[str, ...]:
    """The starting train.py and what every run ended with."""
    bases = [each.track.base_commit for each in series]
    tips = [run.tip for each in series for run in ledger.runs(each.id)]
    return tuple(train_py(commit) for commit in dict.fromkeys([*bases, *tips]) if commit)


def evidence(ledger: Ledger, series: Sequence[Tournament]) -> list[Evidence]:
    """Every finished run of the rounds so far."""
    return [
        Evidence(
            program_id=detail.run.program_id,
            block=f"{tournament.id}-{detail.run.replicate}",
            gain=detail.gain,
            run_id=detail.run.id,
        )
        for tournament in series
        for detail in run_details(ledger, tournament)
        if detail.run.program_id and detail.gain is not None
    ]


def leader(ledger: Ledger, plan: Tournament) -> Entrant:
    """The entrant (no control) that leads this series after this round.

    Raises:
        UserError: no entrant has a score.
    """
    return _leads(ledger, plan)[-1].entrant


def _leads(ledger: Ledger, plan: Tournament) -> list[Lead]:
    """The lead after each round in which somebody had a score, oldest first."""
    series = ledger.series(plan.id)
    found: list[Lead] = []
    for end in range(1, len(series) + 1):
        scored = _scored(ledger, series[:end])
        if scored:
            found.append(_next_lead(ledger, series[:end], scored, found[-1] if found else None))
    if not found:
        raise UserError(
            f"No program of {plan.id} has a score, so there is nothing to rewrite; read why with "
            "`metaresearch leaderboard`."
        )
    return found


def _scored(ledger: Ledger, series: Sequence[Tournament]) -> list[Entrant]:
    scored = {row.program_id for row in evidence(ledger, series)}
    running = {e.program_id: e for each in series for e in each.entrants if e.role == "entrant"}
    return [e for program_id, e in running.items() if program_id in scored]


def _next_lead(
    ledger: Ledger, series: Sequence[Tournament], scored: Sequence[Entrant], before: Lead | None
) -> Lead:
    reference = before.entrant if before else scored[0]
    rows = evidence(ledger, series)
    expected = differences(pool(ledger, series), rows, reference.program_id)
    best = max(scored, key=lambda e: expected[e.program_id].mean)
    if before is None:
        return Lead(best, None)
    if best.program_id == before.entrant.program_id:
        return before
    p_better = expected[best.program_id].p_positive
    return Lead(best, p_better) if p_better > TAKES_OVER else before


def pool(ledger: Ledger, series: Sequence[Tournament]) -> list[Program]:
    """Every program that ran in these rounds, controls included."""
    entrants = {e.program_id: e for each in series for e in each.entrants}
    return [program(ledger, program_id, e.name) for program_id, e in entrants.items()]


def leaders(ledger: Ledger, plan: Tournament) -> list[Leader]:
    """The leader after each round, with what all rounds together say of it."""
    series = ledger.series(plan.id)
    found = _leads(ledger, plan)
    first = found[0].entrant.program_id
    expected = differences(pool(ledger, series), evidence(ledger, series), first)
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
        for number, (entrant, p_better) in enumerate(found, start=1)
    ]


def survivors(ledger: Ledger, plan: Tournament) -> list[Survivor]:
    """The strategy instructions of the newest leader, since when they lead, what is believed."""
    series = ledger.series(plan.id)
    everyone = {each.id: each for each in pool(ledger, series)}
    line = [everyone[each.program_id] for each in leaders(ledger, plan)]
    believed = beliefs(list(everyone.values()), evidence(ledger, series))
    held = [{i.id for i in each.instructions} for each in line]
    return [
        Survivor(
            instruction_id=unit.id,
            text=unit.text,
            since=_since(unit.id, held),
            effect=believed[unit.id].mean,
            low=believed[unit.id].interval[0],
            high=believed[unit.id].interval[1],
            p_helps=believed[unit.id].p_positive,
        )
        for unit in line[-1].instructions
        if unit.id in believed
    ]


def _since(instruction_id: str, held: Sequence[set[str]]) -> int:
    """The round from which on every leader has an instruction."""
    without = [number for number, units in enumerate(held, start=1) if instruction_id not in units]
    return max(without, default=0) + 1


def stayers(ledger: Ledger, plan: Tournament) -> list[Entrant]:
    """Who is in the next round whatever is proposed: the leader, then the controls."""
    return [leader(ledger, plan), *(e for e in plan.entrants if e.role == "control")]


def program(ledger: Ledger, program_id: str, name: str) -> Program:
    """A program of the ledger, read again."""
    _, body = ledger.program(program_id)
    return parse_program(body, name)


def known(ledger: Ledger, plan: Tournament, entrant: Entrant) -> Admitted:
    """A program that was admitted before, as it was."""
    offered = next(s for s in ledger.submissions() if s.program_id == entrant.program_id)
    role = "control" if entrant.role == "control" else "entrant"
    card = Card(author=offered.author, name=offered.name, note=offered.note, role=role)
    return admit_program(program(ledger, entrant.program_id, entrant.name), card)


def _challenger(proposal: Proposal, name: str, author: str) -> Admitted:
    card = Card(author=author, name=name, note=proposal.focus)
    return admit_program(parse_program(proposal.text.encode("utf-8"), name), card)


def _free_name(name: str, taken: set[str]) -> str:
    """`name`, or with a letter where a program of that name is in the field."""
    free = next(n for n in (name, *(f"{name}{c}" for c in "bcdefghij")) if n not in taken)
    taken.add(free)
    return free

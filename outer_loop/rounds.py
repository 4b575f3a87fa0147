"""Rounds: from one tournament's evidence to the next tournament's field.

Owns: what is asked of the rewriter, what it proposed (in the ledger before it runs) and who meets
in the next round. Does not own: who leads (`leading`), how programs are rewritten (`rewriter`), or
the running (`drive.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from analysis.citations import citations
from analysis.curves import run_details
from inner_loop.ledger import Ledger
from inner_loop.program import Card, parse_program
from inner_loop.proposal import Proposal
from inner_loop.records import Entrant, Tournament, derive_seed
from outer_loop.leading import Seen, program
from outer_loop.plan import Admitted, admit_program, make_plan
from outer_loop.rewriter.offline import OfflineRewriter
from outer_loop.rewriter.seam import Case, Rewriter

OFFLINE = OfflineRewriter()


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
    field[1:1] = [_challenger(p, _free_name(f"challenger-{number}", taken)) for p in accepted]
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
    seen = Seen.of(ledger, plan)
    series = seen.series
    details = [detail for each in series for detail in run_details(ledger, each)]
    return Case(
        pool=seen.pool,
        evidence=seen.evidence,
        champion_id=seen.leader.program_id,
        earlier=frozenset(program_id for program_id, _ in ledger.programs()),
        seed=derive_seed(plan.seed, plan.id, "rewrite"),
        history=[p for each in series[:-1] for p in ledger.proposals(each.id)],
        citations=citations(seen.programs, details, None),
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


def stayers(ledger: Ledger, plan: Tournament) -> list[Entrant]:
    """Who is in the next round whatever is proposed: the leader, then the controls."""
    controls = (e for e in plan.entrants if e.role == "control")
    return [Seen.of(ledger, plan).leader, *controls]


def known(ledger: Ledger, plan: Tournament, entrant: Entrant) -> Admitted:
    """A program that was admitted before, as it was."""
    offered = next(s for s in ledger.submissions() if s.program_id == entrant.program_id)
    role = "control" if entrant.role == "control" else "entrant"
    card = Card(author=offered.author, name=offered.name, note=offered.note, role=role)
    return admit_program(program(ledger, entrant.program_id, entrant.name), card)


def _challenger(proposal: Proposal, name: str) -> Admitted:
    offline = proposal.rewriter == OFFLINE.label
    who = OFFLINE.author if offline else f"{proposal.rewriter} (rewriter)"
    card = Card(author=who, name=name, note=proposal.focus)
    return admit_program(parse_program(proposal.text.encode("utf-8"), name), card)


def _free_name(name: str, taken: set[str]) -> str:
    """`name`, or with a letter where a program of that name is in the field."""
    free = next(n for n in (name, *(f"{name}{c}" for c in "bcdefghij")) if n not in taken)
    taken.add(free)
    return free

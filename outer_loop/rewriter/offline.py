"""The rewriter that needs no language model: it composes programs from instructions that exist.

Owns: one joint Thompson draw of all instructions' effects, the operations that bring the champion
towards what the draw favours (or one single change), and the words that go with them.
Does not own: the model (`thompson`), the pool (`pool`), operations (`apply`), the proof (`verify`).
It does no I/O; the same arguments and the same rng give the same proposals.

Contract and gate instructions of the champion always stay. It writes no instruction itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from inner_loop.outline import introduces
from inner_loop.program import MAX_PROGRAM_BYTES
from inner_loop.proposal import Evidence, Operation, Proposal, proposal_id
from inner_loop.records import Instruction, Program
from outer_loop.rewriter.apply import apply_one
from outer_loop.rewriter.places import places
from outer_loop.rewriter.pool import Pool, gather, reading, strategy_units, travels, with_text
from outer_loop.rewriter.rules import rule_in
from outer_loop.rewriter.seam import Case, nothing
from outer_loop.rewriter.surgery import RewriteRefused
from outer_loop.rewriter.thompson import Belief, Posterior, fit
from outer_loop.rewriter.verify import verified
from outer_loop.rewriter.words import Words

REWRITER = "offline"
MAX_CHANGES = 4
"""Instructions that one proposal takes up at most, and as many again that it drops: few enough for
a reader, and the field's many instructions do not swamp the champion's few."""
MAX_STRATEGY = 40
"""Strategy instructions of a composed program at most."""
SINGLE_SHARE = 0.25
"""Share of proposals that change one instruction only."""
TRIES = 30
MAX_REFUSED = 5
"""Refused drafts that are kept: enough to see what goes wrong."""


class Outcome(NamedTuple):
    """What the rewriter proposes, or why it proposes nothing."""

    proposals: list[Proposal]
    """Those that may run."""
    reason: str
    """Why there are fewer than were asked for; empty where there are as many."""
    refused: list[Proposal]
    """The first `MAX_REFUSED` different drafts that may not run, each with its reason."""


def consider(
    pool: Sequence[Program],
    evidence: Sequence[Evidence],
    champion_id: str,
    earlier: Collection[str],
    rng: Random,
    challengers: int = 1,
) -> Outcome:
    """New programs to try against the champion, each verified.

    Args:
        pool: the programs of all entrants, controls included; the champion among them.
        evidence: finished runs, of these programs and of others (which are left out).
        champion_id: the program that is rewritten.
        earlier: ids of programs that exist; none of them is proposed.
        rng: all randomness.
        challengers: how many programs are wanted.
    """
    composer = Composer.of(pool, evidence, champion_id)
    known = [*earlier, *composer.pool.programs]
    found: list[Proposal] = []
    refused: list[Proposal] = []
    for _ in range(TRIES * challengers):
        if len(found) == challengers:
            break
        draft = composer.propose(rng)
        if draft is None:
            continue
        checked = verified(draft, composer.base, known)
        if checked.rejection:
            refused.append(checked)
        else:
            found.append(checked)
            known.append(checked.program_id)
    reason = "" if len(found) == challengers else composer.why_nothing()
    return Outcome(found, reason, _different(refused, found))


class OfflineRewriter:
    """`consider` as a `Rewriter`."""

    label = REWRITER
    author = "offline rewriter"

    def rewrite(self, case: Case) -> list[Proposal]:
        """What may run, or one record that says why nothing is proposed; then refused drafts."""
        rng = Random(case.seed)
        outcome = consider(
            case.pool, case.evidence, case.champion_id, case.earlier, rng, case.wanted
        )
        first = outcome.proposals or [nothing(case.champion, REWRITER, outcome.reason)]
        return [*first, *outcome.refused]


def _different(refused: Iterable[Proposal], found: Iterable[Proposal]) -> list[Proposal]:
    """The first refused drafts without repetition, nor those that are proposed as well."""
    ids = {each.id for each in found}
    told: dict[tuple[str, str], Proposal] = {}
    for each in refused:
        if each.id not in ids:
            ids.add(each.id)
            told.setdefault((each.rejection, each.program_id), each)
    return list(told.values())[:MAX_REFUSED]


def beliefs(pool: Sequence[Program], evidence: Sequence[Evidence]) -> dict[str, Belief]:
    """Instruction id -> the belief about its effect on the gain in mbpb, for all strategy."""
    gathered = gather(pool)
    posterior = fit(evidence, gathered.held, list(gathered.families))
    return {
        member.unit.id: posterior.unit(name)
        for name, members in gathered.families.items()
        for member in members
    }


def differences(
    pool: Sequence[Program], evidence: Sequence[Evidence], reference_id: str
) -> dict[str, Belief]:
    """Program id -> the belief about its gain minus that of the reference, in mbpb."""
    gathered = gather(pool)
    posterior = fit(evidence, gathered.held, list(gathered.families))
    return {
        program: posterior.difference(program, reference_id, gathered.held)
        for program in gathered.programs
    }


@dataclass
class _Draft:
    """The champion while operations are carried out on it."""

    program: Program
    operations: list[Operation] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)

    def carry_out(self, operation: Operation) -> bool:
        """Do it if it can be done and the program stays within its size; say whether it was."""
        try:
            after = apply_one(self.program, operation)
        except RewriteRefused:
            return False
        if len(after.text.encode()) > MAX_PROGRAM_BYTES:
            return False
        self.program = after
        self.operations.append(operation)
        return True


@dataclass(frozen=True)
class Composer:
    """All that is the same for every proposal of one round."""

    pool: Pool
    base: Program
    posterior: Posterior
    words: Words
    removable: dict[str, tuple[Instruction, ...]]
    """Family -> the champion's instructions that go with it."""
    addable: dict[str, tuple[Program, str]]
    """Family -> the program it comes from and its text."""

    @classmethod
    def of(
        cls, pool: Sequence[Program], evidence: Sequence[Evidence], champion_id: str
    ) -> Composer:
        """Read the pool and the evidence.

        Raises:
            KeyError: the champion is not in the pool.
        """
        gathered = gather(pool)
        base = gathered.programs[champion_id]
        posterior = fit(evidence, gathered.held, list(gathered.families))
        removable, addable = dict(_removable(gathered, base)), dict(_addable(gathered, base))
        words = Words(gathered, evidence, posterior)
        return cls(gathered, base, posterior, words, removable, addable)

    def propose(self, rng: Random) -> Proposal | None:
        """One proposal from one draw, not yet verified; None where the draw changes nothing."""
        drawn = self.posterior.draw(rng)
        draft = _Draft(self.base)
        if rng.random() < SINGLE_SHARE:
            self._change_one(draft, drawn, rng)
        else:
            self._compose(draft, drawn)
        self._drop_empty_leads(draft)
        return self._proposal(draft) if draft.operations else None

    def why_nothing(self) -> str:
        """One sentence for the case that too few proposals were found."""
        if not self.addable and not self.removable:
            return "The field has no strategy instruction that the champion lacks or could lose."
        return f"{TRIES} draws for each program asked for gave too few that are new."

    # --- what the draw asks for ---------------------------------------------------------------

    def _compose(self, draft: _Draft, drawn: dict[str, float]) -> None:
        """Take up what the draw favours and drop what it does not, the strongest first."""
        wanted = [name for name in self.addable if drawn[name] > 0]
        unwanted = [name for name in self.removable if drawn[name] <= 0]
        for name in sorted(wanted, key=lambda name: -drawn[name])[:MAX_CHANGES]:
            self._take(draft, name)
        for name in sorted(unwanted, key=lambda name: drawn[name])[:MAX_CHANGES]:
            self._drop(draft, name)

    def _change_one(self, draft: _Draft, drawn: dict[str, float], rng: Random) -> None:
        """Take up, drop or move one instruction, whichever of these is possible."""
        ways = [self._take_best, self._drop_worst, self._move_worst]
        rng.shuffle(ways)
        for way in ways:
            way(draft, drawn)
            if draft.operations:
                return

    def _take_best(self, draft: _Draft, drawn: dict[str, float]) -> None:
        if self.addable:
            self._take(draft, max(self.addable, key=drawn.__getitem__))

    def _drop_worst(self, draft: _Draft, drawn: dict[str, float]) -> None:
        if self.removable:
            self._drop(draft, min(self.removable, key=drawn.__getitem__))

    def _move_worst(self, draft: _Draft, drawn: dict[str, float]) -> None:
        """What is worth least is said last: behind the other strategy of its section."""
        for name in sorted(self.removable, key=drawn.__getitem__):
            unit = self.removable[name][0]
            mates = [u for u in strategy_units(draft.program) if u.section == unit.section]
            if len(mates) < 2 or mates[-1].id == unit.id:
                continue
            operation = Operation(
                kind="MOVE",
                instruction_ids=(unit.id,),
                after=mates[-1].id,
                hypothesis=self.words.move(name),
            )
            if draft.carry_out(operation):
                draft.moved.append(unit.id)
                return

    # --- one instruction ----------------------------------------------------------------------

    def _take(self, draft: _Draft, name: str) -> None:
        source, text = self.addable[name]
        if len(strategy_units(draft.program)) >= MAX_STRATEGY:
            return
        section = self.pool.families[name][0].unit.section
        for after, into in places(draft.program, section):
            operation = Operation(
                kind="ADD",
                texts=(text,),
                after=after,
                section=into,
                source_program_id=source.id,
                hypothesis=self.words.take(name),
            )
            before = draft.program
            if not draft.carry_out(operation):
                continue
            if _same_roles_and_strategy(before, draft.program):
                draft.taken.append(name)
                return
            draft.program = before
            draft.operations.pop()

    def _drop(self, draft: _Draft, name: str) -> None:
        units = self.removable[name]
        if len(strategy_units(draft.program)) <= len(units):
            return
        for unit in units:
            operation = Operation(
                kind="REMOVE", instruction_ids=(unit.id,), hypothesis=self.words.drop(name)
            )
            if draft.carry_out(operation):
                draft.dropped.append(name)

    def _drop_empty_leads(self, draft: _Draft) -> None:
        """A strategy instruction that introduced a list which is gone goes too."""
        structure, judged = reading(self.base)
        for unit in self.base.instructions:
            if judged[unit.index].role != "strategy" or not introduces(unit):
                continue
            there = [u.index for u in draft.program.instructions if u.id == unit.id]
            left = [child for u in there for child in reading(draft.program).outline.children(u)]
            if there and not left and structure.children(unit.index):
                reason = "What it introduces is gone."
                draft.carry_out(
                    Operation(kind="REMOVE", instruction_ids=(unit.id,), hypothesis=reason)
                )

    def _proposal(self, draft: _Draft) -> Proposal:
        sources = [op.source_program_id for op in draft.operations if op.source_program_id]
        parents = tuple(dict.fromkeys([self.base.id, *sources]))
        names = [n for n in self.pool.held[self.base.id] if n not in draft.dropped]
        held = {**self.pool.held, draft.program.id: (*names, *draft.taken)}
        gain = self.posterior.difference(draft.program.id, self.base.id, held)
        return Proposal(
            id=proposal_id(self.base.id, draft.operations),
            rewriter=REWRITER,
            base_program_id=self.base.id,
            parents=parents,
            operations=tuple(draft.operations),
            focus=self.words.focus(draft.taken, draft.dropped, draft.moved, parents),
            hypothesis=self.words.whole(self.base, gain),
            text=draft.program.text,
            program_id=draft.program.id,
        )


def _removable(pool: Pool, base: Program) -> Iterator[tuple[str, tuple[Instruction, ...]]]:
    """Strategy that stands once in the champion and that nothing is nested under."""
    nests = {above for above in reading(base).outline.within if above is not None}
    count = [unit.id for unit in base.instructions]
    for name in pool.held[base.id]:
        own = [unit for program, unit in pool.families[name] if program.id == base.id]
        if not any(count.count(unit.id) > 1 or unit.index in nests for unit in own):
            yield name, tuple(own)


def _addable(pool: Pool, base: Program) -> Iterator[tuple[str, tuple[Program, str]]]:
    """Strategy of others that the champion says nowhere, in a wording that can travel."""
    for name, members in pool.families.items():
        if any(with_text(base.instructions, member.unit.text) for member in members):
            continue
        for member in members:
            text = "\n".join(travels(member) or ())
            if text and rule_in(text) is None:
                yield name, (member.program, text)
                break


def _same_roles_and_strategy(before: Program, after: Program) -> bool:
    """Whether the one new instruction reads as strategy where it stands."""
    old = {unit.id for unit in before.instructions}
    judged = reading(after).roles
    new = [unit for unit in after.instructions if unit.id not in old]
    return all(judged[unit.index].role == "strategy" for unit in new)

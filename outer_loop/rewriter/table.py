"""The evidence table that a language model is shown, each row with an id that it can cite.

Owns: which rows there are, their order and words. Does not own: the estimates (`thompson`), the
citation counts (`analysis.citations`) or the prompt (`model`).

What a row is made of: effects and differences are estimated by the linear model from all finished
runs together, whose gains are of the audit shard (that is what the champion is chosen by). No run's
gain, no score of an experiment and no text of a shard is in the table. Behaviour rows count what
researchers said and what their own rule kept, on the search shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from analysis.citations import CitationRow
from analysis.wording import count
from inner_loop.proposal import Evidence
from inner_loop.records import Record
from outer_loop.rewriter.offline import Composer
from outer_loop.rewriter.thompson import Belief
from outer_loop.rewriter.words import effect

MAX_OFFERED = 40
"""Instructions of other programs that are shown: those that most might be gained from."""
MAX_PROGRAMS = 20

About = Literal["effect", "program", "behaviour"]


class Row(Record):
    """One row."""

    id: str
    """`E-1`, `E-2`, ... in the order shown."""
    about: About
    subject: str
    """Id of the instruction or program."""
    says: str

    @property
    def line(self) -> str:
        """The row as a record cites it."""
        return f"{self.id} {self.about} {self.subject}: {self.says}"


def offered(composer: Composer) -> list[str]:
    """The families of other programs' strategy that are shown, the most promising first."""

    def promise(family: str) -> float:
        belief = composer.posterior.unit(family)
        return belief.mean + belief.sd

    return sorted(composer.addable, key=promise, reverse=True)[:MAX_OFFERED]


def evidence_table(
    composer: Composer, evidence: Sequence[Evidence], citations: Sequence[CitationRow]
) -> tuple[Row, ...]:
    """All rows: effects, then programs, then behaviour."""
    runs = Counter(e.program_id for e in evidence if e.program_id in composer.pool.programs)
    own = composer.pool.held[composer.base.id]
    families = [*own, *offered(composer)]
    rows: list[tuple[About, str, str]] = [
        *_effects(composer, families, runs),
        *_programs(composer, runs),
        *_behaviour(composer, families, citations),
    ]
    return tuple(
        Row(id=f"E-{number}", about=about, subject=subject, says=says)
        for number, (about, subject, says) in enumerate(rows, start=1)
    )


def shown_id(composer: Composer, family: str) -> str:
    """The id by which a family is shown: the champion's wording, else the first one."""
    members = composer.pool.families[family]
    own = (m.unit.id for m in members if m.program.id == composer.base.id)
    return next(own, family)


def believed(belief: Belief) -> str:
    """A belief in words."""
    return f"{effect(belief)}, P(above zero) {belief.p_positive:.2f}"


def _effects(
    composer: Composer, families: Sequence[str], runs: Counter[str]
) -> Iterator[tuple[About, str, str]]:
    for family in families:
        holding = sum(runs[p] for p, held in composer.pool.held.items() if family in held)
        says = (
            f"{believed(composer.posterior.unit(family))}; {count(holding, 'run')} with it, "
            f"{runs.total() - holding} without"
        )
        yield "effect", shown_id(composer, family), says


def _programs(composer: Composer, runs: Counter[str]) -> Iterator[tuple[About, str, str]]:
    """Every program that ran, against the champion; the best expected first."""
    held, champion = composer.pool.held, composer.base.id
    against = {
        program: composer.posterior.difference(program, champion, held)
        for program in runs
        if program != champion
    }
    for program in sorted(against, key=lambda p: -against[p].mean)[:MAX_PROGRAMS]:
        name = composer.pool.programs[program].name[:64]
        says = (
            f"{name}, against the champion: {believed(against[program])}; "
            f"{count(runs[program], 'run')} of it, {runs[champion]} of the champion"
        )
        yield "program", program, says


def _behaviour(
    composer: Composer, families: Sequence[str], citations: Sequence[CitationRow]
) -> Iterator[tuple[About, str, str]]:
    """What became of experiments that cite an instruction, all its wordings together."""
    by_id = {row.id: row for row in citations}
    own = set(composer.pool.held[composer.base.id])
    for family in families:
        members = dict.fromkeys(m.unit.id for m in composer.pool.families[family])
        rows = [by_id[name] for name in members if name in by_id]
        cited, tried = sum(r.cited for r in rows), sum(r.experiments for r in rows)
        if not tried or not (cited or family in own):
            continue
        kept, lost = sum(r.kept for r in rows), sum(r.discarded + r.crashed for r in rows)
        says = (
            f"cited by {cited} of {count(tried, 'experiment')} in "
            f"{count(sum(r.runs for r in rows), 'run')}; of its edits {kept} kept, {lost} not"
        )
        yield "behaviour", shown_id(composer, family), says

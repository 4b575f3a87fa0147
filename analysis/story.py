"""The story of several rounds: who led, what was rewritten and why, and what came of it.

Owns: the facts of each round in order, the difference between a challenger and the program it was
rewritten from (same round, same conditions), and what is not known after it. Does not own: layout
(`report`, templates), how programs are rewritten or who is asked back (`outer_loop`).

Difference: mean gain of the challenger minus its base's, standard error sd * sqrt(1/n1 + 1/n2) with
the round's pooled sd between runs of a program, t interval. Runs to settle a difference d with 80 %
power at 5 %: 15.7 * (sd / d)**2 of each (two-sided, normal).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from scipy import stats

from analysis import wording
from analysis.curves import run_details
from analysis.leaderboard import CONFIDENCE, pooled_spread, standings_of
from inner_loop.ledger import Ledger
from inner_loop.program import parse_program, unit_id
from inner_loop.proposal import Operation, Proposal
from inner_loop.records import Leaderboard, Record, Tournament

OFFLINE_NAME = "offline"
RUNS_PER_SQUARED_RATIO = 15.7
MOST_WORTH_SAYING = 1000  # runs; beyond that a difference is too small to chase


class Change(Record):
    """One operation of a rewrite, as a reader sees it."""

    kind: str
    text: str
    """The instruction it is about, or the text it brings, in one line."""
    was: str = ""
    """What it replaces, in one line; empty where nothing is replaced."""
    where_to: str = ""
    """For a move: the section, or the instruction that it goes behind."""
    where_from: str
    """Name of the program the text comes from; empty if it was there or is new."""
    hypothesis: str
    evidence: tuple[str, ...] = ()
    """Rows of evidence that a model cited for it, as they were shown to it."""


class Rewrite(Record):
    """What a rewriter proposed from a round, drafted in vain, or why it proposed nothing.

    A model's words are shown as it wrote them: its hypotheses and focus are claims.
    """

    base: str
    """Name of the program it started from."""
    rewriter: str = "offline"
    """Who wrote it: `offline`, or the model."""
    focus: str
    hypothesis: str
    changes: tuple[Change, ...]
    """Empty where nothing was proposed."""
    rejection: str
    """Why it was not run; empty if it was."""


class Duel(Record):
    """A challenger against the program it was rewritten from, in one round; mbpb."""

    challenger: str
    base: str
    difference: float
    ci_low: float | None
    ci_high: float | None
    n_challenger: int
    n_base: int
    runs_to_settle: int | None
    """Runs of each that would settle a difference of this size; None where that is not known."""


class Leader(Record):
    """Who led after a round, judged by all rounds together; mbpb over the first leader."""

    round: int
    name: str
    program_id: str
    p_better: float | None = None
    """When it took over: its probability of being better than the leader before; None at first."""
    expected: float
    low: float
    """Lower end of the 90 % interval."""
    high: float


class Survivor(Record):
    """A strategy instruction of the newest leader, and what is believed of it; mbpb."""

    instruction_id: str
    text: str
    since: int
    """Every leader from this round on has it."""
    effect: float
    """Posterior mean of its effect on a program's gain."""
    low: float
    """Lower end of the 90 % interval."""
    high: float
    p_helps: float
    """Probability that the effect is above zero."""


class Lineage(Record):
    """The leaders of a series and what is left of them, as the rewriter's model sees it."""

    leaders: tuple[Leader, ...]
    survivors: tuple[Survivor, ...]


class Round(Record):
    """One tournament of a series."""

    number: int
    leaderboard: Leaderboard
    rewrites: tuple[Rewrite, ...]
    """What was proposed from it, refused drafts included; empty if the rewriter was not asked."""
    duels: tuple[Duel, ...]


class Story(Record):
    """A series of rounds, oldest first."""

    rounds: tuple[Round, ...]
    known: tuple[str, ...]
    """What the last round shows about the rewrite, in plain words."""
    unknown: tuple[str, ...]
    """What it does not show."""


def story_of(ledger: Ledger, tournament: Tournament) -> Story | None:
    """The rounds that led to a tournament; None if there was only one and nothing was proposed."""
    series = ledger.series(tournament.id)
    rounds = [_round(ledger, each, number) for number, each in enumerate(series, start=1)]
    if len(rounds) == 1 and not rounds[0].rewrites:
        return None
    duels = rounds[-1].duels
    return Story(
        rounds=tuple(rounds),
        known=tuple(_finding(duel) for duel in duels),
        unknown=tuple(_unknown(duels, rounds)),
    )


def rewrite_lines(ledger: Ledger, tournament: Tournament) -> list[str]:
    """What was proposed from a round, for a terminal: a line a change, refused draft or row."""
    lines, refused = [], []
    for rewrite in rewrites_of(ledger, tournament):
        if not rewrite.changes:
            lines.append(f"Nothing new is proposed from {rewrite.base}: {rewrite.rejection}")
        elif rewrite.rejection:
            refused.append(f"  {rewrite.focus}: {rewrite.rejection}")
        else:
            lines.append(f"Rewritten from {rewrite.base} ({rewrite.focus})")
            for change in rewrite.changes:
                lines.append(f"  {change.kind.lower()} {_quoted(change)}: {change.hypothesis}")
                lines += [f"    cites {row}" for row in change.evidence]
    if refused:
        lines += [f"{wording.count(len(refused), 'refused draft')} on record:", *refused]
    lines = [wording.visible(line) for line in lines]
    return lines or ["The rewriter has not been asked about this evidence."]


def models(story: Story) -> list[str]:
    """The language models that rewrote, by name."""
    names = {each.rewriter for round_ in story.rounds for each in round_.rewrites}
    return sorted(names - {OFFLINE_NAME})


def is_offline(story: Story) -> bool:
    """Whether no language model rewrote anything."""
    return not models(story)


def rewriting(story: Story) -> str:
    """Who rewrites between the rounds, from what, in one sentence."""
    names = {each.rewriter for round_ in story.rounds for each in round_.rewrites}
    offline = f"the {wording.OFFLINE_REWRITER} composes challengers of instructions that exist"
    asked = [f"the language model {name}" for name in models(story)]
    if not asked:
        who = f"{offline}, starting from the round's leader; it sees"
    else:
        first = f"{offline}, or " if OFFLINE_NAME in names else ""
        who = (
            f"{first}{wording.listed(asked)} is asked for challengers: it declares operations on "
            "single instructions of the round's leader, which code carries out and checks; it sees "
            "the instructions of the other programs,"
        )
    return f"After a round {who} what is estimated from the gains and nothing of the audit text."


def rewrites_of(ledger: Ledger, tournament: Tournament) -> list[Rewrite]:
    """What was proposed from a tournament's evidence."""
    series = ledger.series(tournament.id)
    names = {e.program_id: e.name for each in series for e in each.entrants}
    return [_rewrite(ledger, p, names) for p in ledger.proposals(tournament.id)]


def _round(ledger: Ledger, tournament: Tournament, number: int) -> Round:
    details = run_details(ledger, tournament)
    board = standings_of(tournament, details)
    gains: dict[str, list[float]] = {}
    for detail in details:
        if detail.run.program_id and detail.gain is not None:
            gains.setdefault(detail.run.program_id, []).append(detail.gain)
    return Round(
        number=number,
        leaderboard=board,
        rewrites=tuple(rewrites_of(ledger, tournament)),
        duels=tuple(_duels(ledger, tournament, gains)),
    )


def _duels(ledger: Ledger, tournament: Tournament, gains: dict[str, list[float]]) -> list[Duel]:
    """Every challenger whose base is in the same field, with a score for both."""
    series = ledger.series(tournament.id)
    proposed = ledger.proposals(series[-2].id) if len(series) > 1 else []
    names = {e.program_id: e.name for e in tournament.entrants}
    return [
        duel(names[p.program_id], names[p.base_program_id], gains, p)
        for p in proposed
        if p.program_id in gains and p.base_program_id in gains and not p.rejection
    ]


def duel(challenger: str, base: str, gains: dict[str, list[float]], proposal: Proposal) -> Duel:
    """The difference of two programs' mean gains, with its interval."""
    new, old = gains[proposal.program_id], gains[proposal.base_program_id]
    difference = sum(new) / len(new) - sum(old) / len(old)
    spread, half, needed = pooled_spread(gains.values()), None, None
    if spread.sd is not None:
        error = spread.sd * math.sqrt(1 / len(new) + 1 / len(old))
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, spread.df)) * error
        needed = runs_to_settle(spread.sd, difference)
    return Duel(
        challenger=challenger,
        base=base,
        difference=difference,
        ci_low=None if half is None else difference - half,
        ci_high=None if half is None else difference + half,
        n_challenger=len(new),
        n_base=len(old),
        runs_to_settle=needed,
    )


def runs_to_settle(sd: float, difference: float) -> int | None:
    """Runs of each of two programs that settle a difference; None if it is too small to chase."""
    if abs(difference) * math.sqrt(MOST_WORTH_SAYING / RUNS_PER_SQUARED_RATIO) < sd:
        return None
    return max(2, math.ceil(RUNS_PER_SQUARED_RATIO * (sd / difference) ** 2))


def _rewrite(ledger: Ledger, proposal: Proposal, names: Mapping[str, str]) -> Rewrite:
    return Rewrite(
        base=names.get(proposal.base_program_id, proposal.base_program_id),
        rewriter=wording.one_line(proposal.rewriter),
        focus=wording.one_line(proposal.focus),
        hypothesis=wording.one_line(proposal.hypothesis),
        changes=tuple(_change(ledger, proposal, o, names) for o in proposal.operations),
        rejection=wording.one_line(proposal.rejection),
    )


def _change(
    ledger: Ledger, proposal: Proposal, operation: Operation, names: Mapping[str, str]
) -> Change:
    there = _texts(ledger, proposal, operation.instruction_ids)
    source = operation.source_program_id
    return Change(
        kind=operation.kind,
        text=_joined(operation.texts or there),
        was=_joined(there) if operation.texts else "",
        where_to=_destination(ledger, proposal, operation) if operation.kind == "MOVE" else "",
        where_from=names.get(source, source),
        hypothesis=wording.one_line(operation.hypothesis),
        evidence=tuple(map(wording.one_line, operation.evidence)),
    )


def _texts(ledger: Ledger, proposal: Proposal, ids: Sequence[str]) -> list[str]:
    """The texts of instructions that the base has, or that an operation brings."""
    name, body = ledger.program(proposal.base_program_id)
    known = {unit_id(text): text for each in proposal.operations for text in each.texts}
    known |= {i.id: i.text for i in parse_program(body, name).instructions}
    return [known.get(each, each) for each in ids]


def _destination(ledger: Ledger, proposal: Proposal, operation: Operation) -> str:
    if operation.after:
        return f'behind "{_joined(_texts(ledger, proposal, [operation.after]))}"'
    return f"to {wording.one_line(operation.section)}"


def _joined(texts: Sequence[str]) -> str:
    return " / ".join(map(wording.one_line, texts))


def _quoted(change: Change) -> str:
    source = f" (from {change.where_from})" if change.where_from else ""
    where = f" {change.where_to}" if change.where_to else ""
    was = f' (was: "{change.was}")' if change.was else ""
    return f'"{change.text}"{was}{where}{source}'


def _finding(duel: Duel) -> str:
    runs = f"{wording.count(duel.n_challenger, 'run')} against {duel.n_base}"
    gain = wording.show_gain(duel.difference, duel.ci_low, duel.ci_high)
    against = f"{duel.challenger} against {duel.base}, which it was rewritten from"
    return f"{against}: {gain} mbpb ({runs} in the same round)."


def _unknown(duels: Sequence[Duel], rounds: Sequence[Round]) -> list[str]:
    found = [_open_question(d) for d in duels if not _settled(d)]
    run = [r for each in rounds[-2:-1] for r in each.rewrites if not r.rejection]
    together = any(len(r.changes) > 1 for r in run)
    if duels and together:
        found.append(
            "Which of the changes made any difference: they came together. Only runs with and "
            "without single instructions tell."
        )
    track = rounds[-1].leaderboard.tournament.track
    named = wording.one_line(f"{track.researcher} {track.model or ''}")
    with_what = wording.OFFLINE if track.researcher == "catalog" else named
    return [
        *found,
        "Whether any of it holds on another track, another night or with another researcher: "
        f"these are one machine's runs ({with_what}).",
    ]


def _settled(duel: Duel) -> bool:
    return duel.ci_low is not None and duel.ci_high is not None and duel.ci_low * duel.ci_high > 0


def _open_question(duel: Duel) -> str:
    which = f"Whether {duel.challenger} is better than {duel.base}: "
    if duel.ci_low is None:
        return f"{which}without repeated runs that differ nobody knows how much of it is luck."
    if duel.runs_to_settle is None:
        return f"{which}these data show no difference worth chasing."
    runs = wording.count(duel.runs_to_settle, "run")
    return f"{which}about {runs} of each would settle a difference of this size."

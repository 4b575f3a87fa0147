"""The citation ledger as a reader meets it: what is shown first, what is folded, in a few words.

Owns: the order on the page, the cells' words, the terminal's table. The numbers are `citations`'s;
the page's HTML is in the templates. Strangers' text stays text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from analysis import wording
from analysis.citations import (
    MIN_RUNS,
    PRIOR_KEPT,
    PRIOR_LOST,
    CitationRow,
    Weighing,
    citations,
    edit_gains,
    unknown_citations,
    weighing,
)
from inner_loop.records import Program, RunDetail

SHOWN_ROWS = 12
"""Cited instructions of a table before the rest is folded."""
TERMINAL_ROWS = 8
SHOWN_KINDS = 4
SHOWN_CHARACTERS = 160
"""Of an instruction's text; the program's section of the page has all of it."""
SHOWN_PROGRAMS = 3


class LedgerPart(NamedTuple):
    """One table of citations on the page."""

    first: tuple[CitationRow, ...]
    """The most cited."""
    rest: tuple[CitationRow, ...]
    """Cited too; folded."""
    never: tuple[CitationRow, ...]
    """Never cited; folded."""
    unknown: int
    """Citations of ids that the program does not have."""

    @property
    def cited(self) -> tuple[CitationRow, ...]:
        """All that were cited."""
        return self.first + self.rest


def ledger_part(
    programs: Iterable[Program], details: Sequence[RunDetail], weigh: Weighing | None
) -> LedgerPart:
    """The citations of these runs, cut for a page."""
    by_id = {program.id: program for program in programs}
    rows = citations(by_id, details, weigh)
    cited = tuple(row for row in rows if row.cited)
    return LedgerPart(
        first=cited[:SHOWN_ROWS],
        rest=cited[SHOWN_ROWS:],
        never=tuple(row for row in rows if not row.cited),
        unknown=unknown_citations(by_id, details),
    )


def weighing_of(details: Sequence[RunDetail], noise_sd: float | None) -> Weighing | None:
    """The weighing of gains for a whole tournament."""
    return weighing(edit_gains(d for d in details if d.run.role != "baseline"), noise_sd)


def shortened(text: str) -> str:
    """An instruction on one line, cut at a word."""
    flat = wording.one_line(text)
    if len(flat) <= SHOWN_CHARACTERS:
        return flat
    return flat[:SHOWN_CHARACTERS].rsplit(" ", 1)[0] + " …"


def kinds(row: CitationRow) -> str:
    """What kinds of experiment followed: `schedule 3, batch 1, 2 others`."""
    first = [f"{wording.one_line(k.kind)} {k.count}" for k in row.kinds[:SHOWN_KINDS]]
    others = len(row.kinds) - SHOWN_KINDS
    return ", ".join([*first, wording.count(others, "other")] if others > 0 else first)


def keep_rate(row: CitationRow) -> str:
    """The share kept with its interval, or nothing."""
    rate = row.keep_rate
    return "" if rate is None else wording.show_share(rate.mean, rate.low, rate.high)


def gain(row: CitationRow) -> str:
    """The mean gain with its interval, or why there is none."""
    if row.gain is not None:
        return wording.show_gain(row.gain.mean, row.gain.low, row.gain.high)
    return "too few runs" if 0 < row.gain_runs < MIN_RUNS else ""


def in_programs(row: CitationRow) -> str:
    """The programs that have the instruction: `stock, mine, 3 others`."""
    first = [wording.one_line(name) for name in row.programs[:SHOWN_PROGRAMS]]
    others = len(row.programs) - SHOWN_PROGRAMS
    return ", ".join([*first, wording.count(others, "other")] if others > 0 else first)


def method(weigh: Weighing | None) -> list[str]:
    """How the numbers were made, in sentences."""
    rate = (
        f"Keep rate: (1 + kept) / ({PRIOR_KEPT + PRIOR_LOST:.0f} + kept + lost), where lost is "
        f"discarded or crashed: a Beta({PRIOR_KEPT:.0f}, {PRIOR_LOST:.0f}) prior, one edit in six, "
        "and its 95 % interval. It treats edits as independent, which those of one run are not."
    )
    if weigh is None:
        return [rate, "Mean gain: none, because these data give no noise floor."]
    return [
        rate,
        "Mean gain: of cited edits over the script each one changed, search shard, single "
        "trainings. Each counts in proportion to the probability that it is more than noise, from "
        "a mixture of two normal distributions over all edits of the tournament: the narrow one "
        "has the noise of a difference of two trainings, and "
        f"{100 * weigh.real_share:.0f} % of the edits fall to the wide one. Averaged within runs, "
        f"then over runs, with Student's t interval over runs; {MIN_RUNS} runs at least.",
        "Neither says what an instruction does: early experiments find more than late ones, "
        "whatever they cite; and of so many intervals one in twenty misses.",
    ]


def citations_table(part: LedgerPart) -> Table:
    """The most cited instructions for a terminal."""
    shown = part.cited[:TERMINAL_ROWS]
    table = Table(
        title=Text("Citation ledger (self-report)"),
        title_justify="left",
        caption=Text(_caption(part, len(shown))),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
        expand=True,
    )
    cells = [_cells(row) for row in shown]
    for place, name in enumerate(("instruction", "cited", "kept/lost", "keep rate", "gain, mbpb")):
        widest = max((len(row[place]) for row in cells), default=1)
        justify: Literal["left", "right"] = "right" if place else "left"
        table.add_column(name.replace("/", "/\n"), justify=justify, min_width=widest)
    table.add_column("text", overflow="ellipsis", no_wrap=True, ratio=1)
    for row, words in zip(shown, cells, strict=True):
        table.add_row(*words, Text(wording.visible(wording.one_line(row.text))))
    return table


def _cells(row: CitationRow) -> tuple[str, ...]:
    counts = (str(row.cited), f"{row.kept}/{row.discarded + row.crashed}")
    return (row.id, *counts, keep_rate(row), gain(row))


def _caption(part: LedgerPart, shown: int) -> str:
    more = len(part.cited) - shown
    listed = f"{more} more cited" if more > 0 else "all that were cited"
    return (
        f"{listed.capitalize()}; {wording.count(len(part.never), 'instruction')} never. Intervals "
        f"are 95 %. {wording.SELF_REPORT}"
    )

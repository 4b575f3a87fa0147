"""The door's report for a terminal.

Owns: layout. Does not own: any finding (`door`), printing (the CLI does).
"""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.wording import count, visible
from outer_loop.door import DoorReport
from outer_loop.door_text import Finding


def door_view(report: DoorReport, *, reading: bool = True) -> RenderableType:
    """Outcome, findings, and with `reading` how the program reads."""
    lines: list[RenderableType] = [_outcome(report), *map(_finding, report.findings)]
    if reading and report.instructions:
        lines.append(_table(report))
    return Group(*lines)


def refusal(report: DoorReport) -> str:
    """Why a program is refused: how many reasons, then one line each."""
    reasons = [f.sentence for f in report.refusals]
    head = f"{report.file} is refused for {count(len(reasons), 'reason')}:"
    return "\n".join([head, *(f"  {reason}" for reason in reasons)])


def _outcome(report: DoorReport) -> Text:
    words = f"{report.name}: {report.outcome}"
    if report.notes and not report.refusals:
        words = f"{report.name}: accepted with {count(len(report.notes), 'note')}"
    if report.program_id:
        words += f" (program {report.program_id})"
    return Text(words, style="bold")


def _finding(finding: Finding) -> Text:
    style = "bold red" if finding.severity == "refused" else "bold"
    return Text.assemble((f"{finding.severity}: ", style), visible(finding.sentence))


def _table(report: DoorReport) -> Table:
    units = report.instructions
    roles = ", ".join(
        f"{sum(u.role == role for u in units)} {role}" for role in ("contract", "gate", "strategy")
    )
    table = Table(
        title=Text(f"How it reads: {count(len(units), 'instruction')} ({roles})"),
        title_justify="left",
        caption=Text(
            "Rewriting never touches contract and keeps gate; strategy is what it works on. A "
            "comment such as <!-- role: strategy --> before an instruction corrects a role."
        ),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        expand=True,
    )
    table.add_column("line", justify="right")
    table.add_column("id", no_wrap=True)
    table.add_column("role", no_wrap=True)
    table.add_column("begins", no_wrap=True, overflow="ellipsis", min_width=20, ratio=2)
    table.add_column("why", no_wrap=True, overflow="ellipsis", ratio=1)
    section = ""
    for unit in units:
        if unit.section != section:
            section = unit.section
            table.add_row("", "", "", Text(visible(section), style="bold"), "")
        words = (Text(visible(w)) for w in (unit.words, unit.why))
        table.add_row(str(unit.line), unit.id, unit.role, *words)
    return table

"""The same facts as rich tables and panels for a terminal.

Owns: columns and captions. Strangers' text is shown literally (never as rich markup) and without
control characters; a status is a word, colour only repeats it.
Does not own: sentences and digits (`wording`), printing (the CLI does).
"""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from analysis import wording
from analysis.curves import Step, staircase, status_of
from inner_loop.records import Experiment, ExperimentDetail, Leaderboard, RunDetail

DIFF_STYLE = {"+": "green", "-": "red", "@": "cyan"}
STATUS_STYLE = {"keep": "bold green", "discard": "dim", "crash": "bold red"}


def leaderboard_table(board: Leaderboard) -> Table:
    """The standings, captioned with how much they rest on and what ranks mean."""
    track = board.tournament.track.name
    table = _table(f"Tournament {board.tournament.id}, track {track}", wording.caption(board))
    table.add_column("rank", justify="right")
    table.add_column("program", overflow="fold", min_width=8)
    table.add_column("role")
    table.add_column("gain, mbpb\n[95 % interval]", justify="right", no_wrap=True)
    for name in ("runs", "kept", "crash", "secs"):
        table.add_column(name, justify="right")
    for s in board.standings:
        table.add_row(
            str(s.rank),
            _literal(s.name),
            s.role,
            _literal(wording.show_gain(s.mean_gain, s.ci_low, s.ci_high)),
            str(s.n),
            f"{s.keeps}/{s.experiments}",
            str(s.crashes),
            f"{s.gpu_seconds:.0f}",
        )
    return table


def standings_view(board: Leaderboard, details: Sequence[RunDetail]) -> Group:
    """The standings, and under them what a reader must know before any number."""
    labels = wording.labels(board, details)
    return Group(leaderboard_table(board), *(_literal(f"{x[0].upper()}{x[1:]}") for x in labels))


def run_table(detail: RunDetail, noise_sd: float | None = None) -> Table:
    """A run's experiments in order; gains are against the script each one changed.

    Args:
        detail: the run.
        noise_sd: spread of single trainings in mbpb (`Leaderboard.baseline_sd`); decides digits.
    """
    table = _table(
        f"Run {detail.run.id}: {detail.run.program_name}", _run_caption(detail, noise_sd)
    )
    table.add_column("#", justify="right")
    table.add_column("status", max_width=14)
    for name in ("val_bpb", "gain,\nmbpb", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("description", overflow="fold", min_width=16)
    table.add_column("commit", no_wrap=True)
    steps = {s.index: s for s in staircase(detail)}
    for e in detail.experiments:
        table.add_row(*_run_row(e, steps.get(e.index), noise_sd))
    return table


def experiment_panel(detail: ExperimentDetail) -> Panel:
    """One experiment: what was claimed and what was measured."""
    e = detail.experiment
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for name, value in _facts(detail):
        if value:
            facts.add_row(name, _literal(value))
    title = _literal(f"{e.run_id}, experiment {e.index}")
    return Panel(facts, title=title, title_align="left")


def diff_text(detail: ExperimentDetail) -> Text:
    """The diff of an experiment, coloured by line; print it with `soft_wrap` to keep it whole."""
    text = Text()
    for line in (detail.diff or "no change to train.py\n").splitlines(keepends=True):
        text.append(wording.visible(line), style=DIFF_STYLE.get(line[:1], ""))
    return text


def _table(title: str, caption: str) -> Table:
    return Table(
        title=_literal(title),
        title_justify="left",
        caption=_literal(caption),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
    )


def _literal(text: str) -> Text:
    return Text(wording.visible(text))


def _status(e: Experiment) -> Text:
    status = status_of(e)
    word: str = status or e.kind
    if e.measured.crash:
        word = f"crash ({wording.crash(e.measured.crash)})"
    return Text(word, style=STATUS_STYLE.get(status or "", ""))


def _run_row(e: Experiment, step: Step | None, noise_sd: float | None) -> list[str | Text]:
    audit = e.measured.audit_bpb if e.kind in ("baseline", "confirm") else None
    score = e.measured.search_bpb if audit is None else audit
    return [
        str(e.index),
        _status(e),
        wording.show_bpb(score, noise_sd),
        wording.show_change(step.gain_over_parent if step else None, noise_sd),
        f"{e.measured.clock_seconds:.1f}",
        _literal(wording.one_line(e.description or e.kind)),
        e.commit[:8],
    ]


def _run_caption(detail: RunDetail, noise_sd: float | None) -> str:
    run = detail.run
    start = wording.show_bpb(detail.baseline_search_bpb, noise_sd) or "not measured"
    gain = "not scored"
    if detail.gain is not None:
        gain = f"{wording.show_change(detail.gain, noise_sd)} mbpb on the audit shard"
    ended = f", {run.exit_reason}" if run.exit_reason else ""
    return (
        f"State: {run.state}{ended}. Gain: {gain}. {_answers(detail)}"
        f"Baseline val_bpb on the search shard: {start}. "
        "Confirmations and baselines show the audit shard. Gains are against the script each "
        "experiment changed, from single trainings; higher is better."
    )


def _answers(detail: RunDetail) -> str:
    said = wording.answers(detail.answers, detail.run.spent.experiments)
    return f"{said} " if said else ""


def _facts(detail: ExperimentDetail) -> list[tuple[str, str]]:
    e, move, m = detail.experiment, detail.move, detail.experiment.measured
    printed = {k: v for k, v in m.claims.model_dump().items() if v is not None}
    return [
        ("kind", e.kind),
        ("status", f"{_status(e).plain}{f': {e.reason}' if e.reason else ''}"),
        ("description (claimed)", wording.one_line(e.description)),
        ("hypothesis (claimed)", wording.one_line(move.hypothesis) if move else ""),
        ("cites (claimed)", ", ".join(e.cites)),
        ("val_bpb, search shard", wording.show_bpb(m.search_bpb, 0.1)),
        ("val_bpb, audit shard", wording.show_bpb(m.audit_bpb, 0.1)),
        ("printed by train.py (claimed)", ", ".join(f"{k} {v:g}" for k, v in printed.items())),
        ("measured", f"{m.clock_seconds:.1f} s of training, {m.memory_gb:.2f} GiB peak, {m.trust}"),
        ("commit", f"{e.commit[:12]}, parent {e.parent_commit[:12]}"),
        ("error", m.error),
    ]

"""results.tsv in upstream's five columns, written by the harness from the ledger.

Owns: the format (tab-separated, a crash is 0.000000, memory in GB with one decimal).
Does not own: the facts. A description is the researcher's claim: control characters and a leading
`=`, `+`, `-` or `@` (which a spreadsheet would run) are defused.
"""

from __future__ import annotations

from collections.abc import Iterable

from inner_loop.records import Experiment

HEADER = "commit\tval_bpb\tmemory_gb\tstatus\tdescription\n"


def results_tsv(base_commit: str, baseline_bpb: float, history: Iterable[Experiment]) -> str:
    """The whole file: the baseline, then each charged experiment."""
    baseline = f"{base_commit[:7]}\t{baseline_bpb:.6f}\t0.0\tkeep\tbaseline\n"
    return HEADER + baseline + "".join(_row(e) for e in history)


def _row(e: Experiment) -> str:
    crashed = e.measured.search_bpb is None
    memory = 0.0 if crashed else e.measured.memory_gb
    value = e.measured.search_bpb or 0.0
    text = safe_cell(e.description)
    return f"{e.commit[:7]}\t{value:.6f}\t{memory:.1f}\t{e.status}\t{text}\n"


def safe_cell(text: str) -> str:
    """One line without control characters that no spreadsheet takes for a formula."""
    line = "".join(c if c.isprintable() else " " for c in text).strip()
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line

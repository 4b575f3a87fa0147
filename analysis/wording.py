"""Numbers and findings as words: digits, units, the verdict sentence.

Owns: how many digits are shown and every sentence that a terminal and a page share. A sentence
claims only what ranks and intervals support. Does not own: layout, escaping or any statistics.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable

from inner_loop.records import CrashCode, Leaderboard, RunDetail, Spent, Standing, Track
from inner_loop.settings import Answers, Settings, Usage

NOT_SCORED = "not scored"
NOT_KNOWN = "not known"
MAX_DECIMALS = 3
MAX_LINE = 300  # characters of a stranger's line that are shown; the ledger keeps all
UNTRUSTED = (
    "untrusted: this version's run box limits time, memory and processes, but it does not hide "
    "files or the network from a train.py, so a dishonest one could cheat."
)
OFFLINE = "offline catalogue, no language model"
OFFLINE_REWRITER = "offline rewriter (linear Thompson sampling, no language model)"
RANKS = (
    "Rank = 1 + the number of programs that are better beyond doubt (a 5 % chance of any false "
    "ordering in the whole table). Programs that share a rank cannot be ordered by these data."
)
SELF_REPORT = (
    "Citations are self-report: before the result was known, the researcher said which "
    "instructions an experiment followed. They are no cause: an instruction may be cited often and "
    "do nothing, or do much and never be cited."
)
MBPB = "1 mbpb = 0.001 bits per byte of text; a higher gain is better."

_CRASHES: dict[CrashCode, str] = {
    "exception": "train.py failed",
    "syntax": "train.py does not compile",
    "nan": "numbers not finite",
    "oom": "out of memory",
    "timeout": "killed at the time limit",
    "overtime": "handed over too late",
    "no_result": "no model handed over",
    "bad_logits": "outputs of the wrong shape",
}
_CLOCK_UNITS = {"wall": "seconds of wall time", "cpu": "CPU seconds", "steps": "training steps"}


def supported_decimals(half_width: float | None) -> int:
    """Decimals that an interval of this half width supports; none without an interval."""
    if not half_width or not math.isfinite(half_width):
        return 0
    return min(MAX_DECIMALS, max(0, -math.floor(math.log10(half_width))))


def show_gain(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A gain with its interval and no digit more than that supports: `+152 [+98, +206]`."""
    if value is None:
        return NOT_SCORED
    if low is None or high is None:
        return signed(value, 0)
    places = supported_decimals((high - low) / 2)
    return f"{signed(value, places)} [{signed(low, places)}, {signed(high, places)}]"


def show_share(mean: float, low: float, high: float) -> str:
    """A share with its interval in whole per cent: `27 % [8, 52]`."""
    return f"{100 * mean:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def signed(value: float, decimals: int) -> str:
    """A number with its sign; what rounds to zero is `0`, not `-0`."""
    text = f"{value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text


def show_change(value: float | None, noise_sd: float | None) -> str:
    """A difference of single trainings in mbpb, to the digits their noise supports."""
    return "" if value is None else signed(value, supported_decimals(noise_sd))


def show_bpb(value: float | None, noise_sd: float | None) -> str:
    """A score in bits per byte, to the digits that a noise of `noise_sd` mbpb supports."""
    return "" if value is None else f"{value:.{3 + supported_decimals(noise_sd)}f}"


def clock_budget(track: Track) -> str:
    """The budget of one experiment with its unit."""
    return f"{track.time_budget:g} {_CLOCK_UNITS[track.clock]}"


def crash(code: CrashCode) -> str:
    """A crash code in words."""
    return _CRASHES[code]


def count(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def visible(text: str) -> str:
    """`text` with control, bidirectional and other invisible characters made visible."""
    return "".join("\ufffd" if _hidden(c) else c for c in text)


def one_line(text: str) -> str:
    """A stranger's text on one line, cut at `MAX_LINE` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= MAX_LINE else flat[: MAX_LINE - 1] + "…"


def verdict(board: Leaderboard) -> str:
    """What the standings show, in one to three sentences."""
    scored = [s for s in board.standings if s.n]
    if not scored:
        return "No run is finished and scored yet, so nothing can be said about these programs."
    leader = scored[0]
    return " ".join([_leader(leader), *_order(leader, scored), *_unfinished(board)])


def caption(board: Leaderboard) -> str:
    """How much data a leaderboard rests on, its noise floor, and what its ranks mean."""
    runs = f"{board.finished_runs} of {count(board.planned_runs, 'planned run')} finished."
    return f"{runs} {noise_floor(board)} {MBPB} {RANKS}"


def noise_floor(board: Leaderboard) -> str:
    """The spread of baselines and of runs, as far as the data give it."""
    single = _spread("Noise of one training (sd of baselines)", board.baseline_sd)
    between = _spread("Noise of one run (sd between runs of the same program)", board.run_sd)
    return f"{single} {between}"


def is_untrusted(details: Iterable[RunDetail]) -> bool:
    """Whether any training was measured in a box that does not isolate."""
    return any(e.measured.trust == "untrusted" for d in details for e in d.experiments)


def labels(board: Leaderboard, details: Iterable[RunDetail]) -> list[str]:
    """What a reader must know before any number."""
    found, runs = [], list(details)
    if board.tournament.track.researcher == "catalog":
        found.append(OFFLINE)
    if unboxed(runs):
        found.append(_agent_without_a_box(runs))
    if is_untrusted(runs):
        found.append(UNTRUSTED)
    return found


def unboxed(details: Iterable[RunDetail]) -> list[str]:
    """Names of the programs under which an agent ran without a box, in order, each once."""
    return list(dict.fromkeys(d.run.program_name for d in details if d.answers.untrusted))


def _agent_without_a_box(details: list[RunDetail]) -> str:
    runs = [d for d in details if d.run.role != "baseline"]
    stamped = [d for d in runs if d.answers.untrusted]
    names = one_line(listed(unboxed(stamped), "and"))
    return (
        f"untrusted agent: in {len(stamped)} of {count(len(runs), 'run')} ({names}) the coding "
        "agent ran without a box, so it could read this machine's files, the hidden text and "
        "other runs among them."
    )


def answers(found: Answers, experiments: int) -> str:
    """A run's answers and what they cost, in one sentence or two; empty for a silent researcher.

    Args:
        found: the counts.
        experiments: charged experiments of the run.
    """
    usage = found.usage
    faults = found.failed + found.unusable + found.repaired + found.continued
    if not (usage.calls or faults or found.untrusted or usage.usd is None):
        return ""
    counts = [
        f"{count(found.edits, 'edit')} applied",
        *([count(found.reruns, "rerun")] if found.reruns else []),
        *([count(found.returns, "return")] if found.returns else []),
        *([f"{found.repaired} sent back for repair"] if found.repaired else []),
        *([f"{found.continued} told to go on"] if found.continued else []),
        *([f"{found.unusable} unusable"] if found.unusable else []),
        *([f"{found.failed} without a reply of the service"] if found.failed else []),
    ]
    said = f"Answers: {', '.join(counts)}."
    if found.untrusted:
        said += f" {found.untrusted} of an agent that ran without a box: untrusted."
    if usage.calls:
        return f"{said} {_cost(usage, experiments)}"
    return (
        f"{said} The agent's tokens and dollars are not known here." if usage.usd is None else said
    )


def _cost(usage: Usage, experiments: int) -> str:
    cached = f", {usage.tokens_cached:,} of them from the cache" if usage.tokens_cached else ""
    said = (
        f"{count(usage.calls, 'call')}: {usage.tokens_in:,} tokens in{cached}, "
        f"{usage.tokens_out:,} out, {dollars(usage.usd)}"
    )
    each = f"; {usage.tokens / experiments:,.0f} tokens an experiment" if experiments else ""
    guess = f" ({usage.estimated} of the calls uncounted by the server, estimated)"
    return f"{said}{each}{guess if usage.estimated else ''}."


def asked_with(track: Track) -> str:
    """The settings that are not the defaults, and the hash of SDK and templates."""
    said = [
        f"{name} {', '.join(value) if isinstance(value, tuple) else value}"
        for name, value in track.settings.model_dump().items()
        if value != getattr(Settings(), name)
    ]
    return "; ".join([*said, *([f"protocol {track.protocol}"] if track.protocol else [])])


def dollars(usd: float | None) -> str:
    """`$0.12`; a price that is not known says so."""
    if usd is None:
        return "price not known"
    return f"${usd:.2f}" if usd >= 0.1 or not usd else f"${usd:.2g}"


def tokens(number: int | None) -> str:
    """`12,000`; those of a coding agent, which asks its model itself, are not known."""
    return NOT_KNOWN if number is None else f"{number:,}"


def bill(spent: Iterable[Spent | Usage]) -> tuple[str, str]:
    """Tokens and dollars of all together; one that is not known leaves the sum unknown."""
    each = list(spent)
    counted = [s.tokens for s in each if s.tokens is not None]
    paid = [s.usd for s in each if s.usd is not None]
    if len(counted) < len(each):
        return NOT_KNOWN, NOT_KNOWN
    return tokens(sum(counted)), dollars(sum(paid) if len(paid) == len(each) else None)


def _hidden(character: str) -> bool:
    # U+200D joins emoji; every other format character can only mislead a reader
    if character in "\n\t\u200d":
        return False
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _spread(what: str, sd: float | None) -> str:
    if sd is None:
        return f"{what}: not known from these data."
    return f"{what}: {sd:.{supported_decimals(sd)}f} mbpb."


def _leader(row: Standing) -> str:
    name = f"{row.name} (a control)" if row.role == "control" else row.name
    runs = count(row.n, "run")
    if row.ci_low is None or row.ci_high is None:
        return (
            f"{name}: {show_gain(row.mean_gain)} mbpb over the baseline in {runs}, without an "
            "interval: it takes repeated runs that differ to know how much of that is luck."
        )
    places = supported_decimals((row.ci_high - row.ci_low) / 2)
    ends = f"[{signed(row.ci_low, places)}, {signed(row.ci_high, places)}]"
    first = (
        f"{name}: {signed(row.mean_gain or 0.0, places)} mbpb over the baseline, "
        f"95 % interval {ends}, {runs}."
    )
    if row.ci_low > 0:
        return first
    if row.ci_high < 0:
        return f"{first} That is worse than the baseline."
    return f"{first} The interval includes zero, so this may be no gain at all."


def _order(leader: Standing, scored: list[Standing]) -> list[str]:
    tied = [s.name for s in scored[1:] if s.rank == leader.rank]
    if len(scored) == 1:
        return []
    if tied:
        return [f"The data cannot order it against {listed(tied)}."]
    return ["It is the only program that no other one beats beyond doubt."]


def _unfinished(board: Leaderboard) -> list[str]:
    missing = board.planned_runs - board.finished_runs
    if missing <= 0:
        return []
    verb = "is" if missing == 1 else "are"
    return [f"{missing} of {count(board.planned_runs, 'planned run')} {verb} not finished."]


def listed(names: list[str], joined_by: str = "or") -> str:
    """`a`, `a or b`, `a, b or c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {joined_by} {names[-1]}"

"""What a run's researcher was asked and what it answered, for people and as JSON.

Owns: finding a run's exchanges, and their layout: what was shown whole before is shortened.
Does not own: the files (`inner_loop/transcript.py`), printing (the CLI does).

Everything in an exchange may be a stranger's text: what colours a terminal is taken out, other
control characters are shown as such, and no markup is read in it.
"""

from __future__ import annotations

import re
from datetime import datetime

from rich.text import Text

from analysis.wording import count, one_line, visible
from inner_loop.errors import UserError, unknown
from inner_loop.home import Home
from inner_loop.ledger import Ledger
from inner_loop.record import Record
from inner_loop.records import Run, Tournament
from inner_loop.settings import Usage
from inner_loop.transcript import Exchange, Transcript, read_all
from outer_loop.details import find_run

SHORT = 600
"""Characters that are repeated rather than referred to."""
_COLOURS = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]")
"""Sequences that only colour or move the cursor. Others can hold text, so they are shown."""


class SaidInRun(Record):
    """The exchanges of a run, or of one experiment of it."""

    run_id: str
    experiment: int | None = None
    exchanges: tuple[Exchange, ...]
    """In the order of moves and turns."""
    damaged: tuple[str, ...] = ()
    """One sentence for each file that cannot be read."""


def transcript_of(home: Home, ledger: Ledger, run: Run, experiment: int | None = None) -> SaidInRun:
    """The stored exchanges of a run; with `experiment`, of the move that caused it.

    Raises:
        UserError: there are none, or there is no such experiment.
    """
    stored = Transcript(home.run(run.tournament_id, run.id))
    if not stored.paths():
        raise UserError(
            f"Run {run.id} has no transcript: only researchers that ask a language model through "
            "its API (anthropic, openai) leave one."
        )
    paths = stored.paths(None if experiment is None else _move_number(ledger, run, experiment))
    if not paths:
        raise UserError(f"Experiment {experiment} of run {run.id} has no stored exchange.")
    exchanges, damaged = read_all(paths)
    return SaidInRun(
        run_id=run.id, experiment=experiment, exchanges=tuple(exchanges), damaged=tuple(damaged)
    )


def said_in(home: Home, ledger: Ledger, name: str, experiment: int | None = None) -> SaidInRun:
    """The exchanges of a run by its name, or of the rewriter by a tournament's id.

    Raises:
        UserError: there is nothing of that name, or nothing was said.
    """
    if tournament := next((t for t in ledger.tournaments() if t.id == name), None):
        return rewriter_transcript(home, ledger, tournament)
    return transcript_of(home, ledger, find_run(ledger, name), experiment)


def rewriter_transcript(home: Home, ledger: Ledger, tournament: Tournament) -> SaidInRun:
    """What the rewriter of a series of rounds was asked, and what it answered.

    Raises:
        UserError: no language model rewrote anything there.
    """
    first = ledger.series(tournament.id)[0].id
    exchanges, damaged = read_all(Transcript(home.rewriter(first)).paths())
    if not exchanges and not damaged:
        raise UserError(f"No language model has rewritten a program of {tournament.id}.")
    return SaidInRun(
        run_id=f"{first}, rewriter", exchanges=tuple(exchanges), damaged=tuple(damaged)
    )


def _move_number(ledger: Ledger, run: Run, experiment: int) -> int:
    indices = {e.index for e in ledger.experiments(run.id)}
    if experiment not in indices:
        raise unknown("experiment", str(experiment), map(str, indices))
    number = ledger.move_numbers(run.id).get(experiment)
    if number is None:
        raise UserError(
            f"Experiment {experiment} of run {run.id} is the harness's own; nobody was asked."
        )
    return number


def transcript_text(said: SaidInRun) -> Text:
    """All exchanges, one after the other; print it with `soft_wrap` to keep its lines."""
    text = Text()
    seen: dict[str, str] = {}
    for exchange in said.exchanges:
        _add_exchange(text, exchange, seen)
    for sentence in said.damaged:
        text.append(f"{plain(sentence)}\n", style="red")
    total = sum((e.used for e in said.exchanges), Usage())
    text.append(f"{count(len(said.exchanges), 'exchange')}: {usage_words(total)}\n", style="bold")
    return text


def _add_exchange(text: Text, exchange: Exchange, seen: dict[str, str]) -> None:
    text.append(f"{_title(exchange)}\n", style="bold")
    turns = [("system", [exchange.ask.system])]
    turns += [(m.role, [part.text for part in m.parts]) for m in exchange.ask.messages]
    for who, texts in turns:
        text.append(f"{who}\n", style="bold cyan")
        for words in texts:
            _add(text, words, exchange.name, seen)
    if exchange.reply is None:
        text.append("no reply: ", style="bold red")
        text.append(f"{plain(exchange.error)}\n")
        if exchange.usage.tokens:
            text.append(f"{usage_words(exchange.usage)}\n", style="dim")
        text.append("\n")
        return
    stop = "" if exchange.reply.stop == "end" else f" (stopped by: {exchange.reply.stop})"
    text.append(f"reply{stop}\n", style="bold green")
    text.append(_lines(exchange.reply.text))
    text.append(f"{usage_words(exchange.reply.usage)}\n\n", style="dim")


def _add(text: Text, words: str, name: str, seen: dict[str, str]) -> None:
    """A piece of what was asked; a long one that was shown before only by its beginning."""
    if len(words) > SHORT and words in seen:
        text.append(f"{one_line(plain(words))}\n")
        text.append(f"[{len(words):,} characters, whole in {seen[words]} or with --json]\n", "dim")
        return
    seen.setdefault(words, plain(name))
    text.append(_lines(words))


def _lines(words: str) -> str:
    shown = plain(words)
    return shown if shown.endswith("\n") else f"{shown}\n"


def _title(exchange: Exchange) -> str:
    seconds = _seconds(exchange)
    took = "" if seconds is None else f", {seconds:.1f} s"
    server = exchange.reply.model if exchange.reply else ""
    asked = exchange.model if server in ("", exchange.model) else f"{exchange.model} ({server})"
    whom = one_line(f"{exchange.provider} {asked}")
    return plain(f"--- {exchange.name}: {whom}, {exchange.started}{took}")


def _seconds(exchange: Exchange) -> float | None:
    try:
        start, end = map(datetime.fromisoformat, (exchange.started, exchange.ended))
        return (end - start).total_seconds()
    except (ValueError, TypeError):
        return None


def usage_words(usage: Usage) -> str:
    """`12,345 tokens in (10,000 from the cache), 678 out, $0.0123`."""
    cached = f" ({usage.tokens_cached:,} from the cache)" if usage.tokens_cached else ""
    dollars = "price not known" if usage.usd is None else f"${usage.usd:.4f}"
    guess = " (the server did not count; estimated)" if usage.estimated else ""
    return f"{usage.tokens_in:,} tokens in{cached}, {usage.tokens_out:,} out, {dollars}{guess}"


def plain(words: str) -> str:
    """A stranger's text without colours, and with control characters visible."""
    return visible(_COLOURS.sub("", words.replace("\r\n", "\n")))

"""How a track's researcher is asked, and what its answers cost.

Owns: the settings of researchers that are language models or coding agents, `Usage`, and how a
run's answers are counted.
Does not own: asking (`chat.py`, `command.py`), prices (`prices.py`), caps (`meter.py`).

What can change an answer is part of the track's fingerprint. What only decides how patiently it is
waited for is marked `exclude` and is not.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field

from inner_loop.record import Record


class Settings(Record):
    """Settings of a researcher; those that do not concern its kind keep their defaults."""

    base_url: str = ""
    """Address of an Anthropic- or OpenAI-compatible server; empty = the provider's own."""
    effort: str | None = None
    """Reasoning effort in the provider's own words (`low`, `medium`, `high`); None = not sent."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """None = not sent: the provider's default."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_output_tokens: int = Field(default=16_000, ge=256)
    """Tokens of one reply at most, reasoning included."""
    stream: bool = Field(default=True, exclude=True)
    """Whether replies are read as they are written; no difference to what they say."""
    timeout_seconds: float = Field(default=600.0, gt=0, exclude=True)
    """Without a byte from the server for so long, a request is tried again."""
    max_retries: int = Field(default=4, ge=0, exclude=True)
    """Further tries of a request after 408, 409, 429, 5xx, a timeout or a lost connection."""
    concurrency: int = Field(default=4, ge=1, exclude=True)
    """Requests at a time, all runs together."""
    command: str = ""
    """For `command`: a preset's name, or a command line in which `{prompt_file}` is the brief."""
    agent_minutes: float = Field(default=10.0, gt=0)
    """For `command`: time limit of one call, wall minutes."""
    agent_paths: tuple[str, ...] = ()
    """For `command`: files and folders besides the worktree that the agent may read."""
    agent_variables: tuple[str, ...] = ()
    """For `command`: names of environment variables that the agent gets."""
    agent_network: bool = False
    """For `command`: whether the agent's box has a network (a hosted model needs one)."""


class Usage(Record):
    """What was sent to a model and came back, by the API's own count; adds up."""

    calls: int = 0
    """Requests that were answered."""
    tokens_in: int = 0
    """All input tokens, those from the provider's cache included."""
    tokens_cached: int = 0
    """Input tokens that the provider read from its cache."""
    tokens_written: int = 0
    """Input tokens that the provider wrote to its cache, where it charges more for that."""
    tokens_out: int = 0
    """Output tokens, reasoning included."""
    usd: float | None = 0.0
    """None where a model's price is not known."""
    estimated: int = 0
    """Of `calls`, those whose count the server did not send: tokens are then our estimate."""

    @property
    def tokens(self) -> int:
        """In and out."""
        return self.tokens_in + self.tokens_out

    def __add__(self, other: Self) -> Usage:
        known = self.usd is not None and other.usd is not None
        return Usage(
            calls=self.calls + other.calls,
            tokens_in=self.tokens_in + other.tokens_in,
            tokens_cached=self.tokens_cached + other.tokens_cached,
            tokens_written=self.tokens_written + other.tokens_written,
            tokens_out=self.tokens_out + other.tokens_out,
            usd=(self.usd or 0.0) + (other.usd or 0.0) if known else None,
            estimated=self.estimated + other.estimated,
        )


class Answers(Record):
    """What a run's researcher answered, counted."""

    edits: int = 0
    """Answers that were applied and trained."""
    reruns: int = 0
    returns: int = 0
    """Answers that went back, or overruled the keep rule, without a training."""
    unusable: int = 0
    """Answers that gave no move, after all turns."""
    failed: int = 0
    """Times the service gave no answer."""
    repaired: int = 0
    """Replies that could not be applied and were sent back with the reason."""
    continued: int = 0
    """Refusals, stops and questions, met with the standard continuation."""
    untrusted: int = 0
    """Answers of an agent that ran without a box."""
    usage: Usage = Usage()

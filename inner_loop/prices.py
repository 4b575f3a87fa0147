"""What models cost: a dated table of US dollars per million tokens, and the user's own over it.

Owns: reading both tables, finding a model's entry, and what a usage costs.
Does not own: counting tokens (`Usage`), caps (`meter.py`).

The shipped table holds list prices of the providers' own addresses. For any other address (a local
server, a proxy, a reseller) only the user's own file says a price. Where none is known, dollars are
None and stay None; they are never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from inner_loop.errors import UserError, unknown
from inner_loop.home import Home
from inner_loop.record import Record
from inner_loop.settings import Usage
from inner_loop.tracks import checked, read_toml

SHIPPED = Path(__file__).parent / "prices.toml"
FILE = "prices.toml"
"""The user's own table, in the state folder."""
VARIABLE = "METARESEARCH_PRICES"
"""Names another place for the user's own table."""
HOSTS = {"anthropic": "api.anthropic.com", "openai": "api.openai.com"}
"""Provider -> the host whose prices the shipped table has."""

_MILLION = 1_000_000
_SAME_MODEL = re.compile(r"(?:[-@:]20\d\d-?[01]\d-?[0-3]\d|-latest)?")
"""What may follow an entry's name in the name of the same model: its date, or nothing. A word or a
size after it (`-mini`, `-pro`) is another model."""


class Price(Record):
    """One model's prices, US dollars per million tokens."""

    input: float = Field(ge=0)
    """Input that is neither read from the provider's cache nor written to it."""
    cached: float | None = Field(default=None, ge=0)
    """Input read from the cache; None = like any input."""
    cache_write: float | None = Field(default=None, ge=0)
    """Input written to the cache; None = like any input."""
    output: float = Field(ge=0)
    """Output, reasoning included."""
    long_above: int | None = Field(default=None, gt=0)
    """Requests with more input tokens than this cost more, all of their tokens; None = none do."""
    long_input_times: float = Field(default=1.0, ge=1)
    """How many times as much such a request's input costs, cached or not."""
    long_output_times: float = Field(default=1.0, ge=1)
    """How many times as much its output costs."""
    source: str = ""
    """Where the price was read; for people."""
    as_of: date | None = None
    """When it was read."""

    @model_validator(mode="after")
    def _long_is_whole(self) -> Self:
        if self.long_above is None and (self.long_input_times > 1 or self.long_output_times > 1):
            raise ValueError("long_input_times and long_output_times need long_above")
        return self

    def usd(self, usage: Usage) -> float:
        """Dollars of one request by its counted tokens."""
        cached = self.input if self.cached is None else self.cached
        write = self.input if self.cache_write is None else self.cache_write
        plain = max(0, usage.tokens_in - usage.tokens_cached - usage.tokens_written)
        read = plain * self.input + usage.tokens_cached * cached + usage.tokens_written * write
        return self._total(usage, read)

    def most(self, usage: Usage) -> float:
        """The most that one request of at most `usage` costs, wherever its input comes from."""
        dearest = max(self.input, self.cached or 0.0, self.cache_write or 0.0)
        return self._total(usage, usage.tokens_in * dearest)

    def _total(self, usage: Usage, read: float) -> float:
        written = usage.tokens_out * self.output
        if self.long_above is not None and usage.tokens_in > self.long_above:
            read, written = read * self.long_input_times, written * self.long_output_times
        return (read + written) / _MILLION


Table = Mapping[str, Mapping[str, Price]]
"""Provider -> model name -> price."""


@dataclass(frozen=True)
class Prices:
    """The shipped table and the user's own."""

    shipped: Table = field(default_factory=dict)
    own: Table = field(default_factory=dict)

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Prices:
        """Both tables; the user's own is `prices.toml` in the state folder, if there is one.

        Args:
            environ: `METARESEARCH_PRICES` names another file; `METARESEARCH_HOME` the state folder.

        Raises:
            UserError: a file cannot be read, or says something that is no price.
        """
        named = environ.get(VARIABLE, "")
        path = Path(named).expanduser() if named else Home.from_environment(environ).root / FILE
        return cls(_read(SHIPPED), _read(path) if named or path.exists() else {})

    def find(self, provider: str, base_url: str, model: str) -> Price | None:
        """The entry of a model; None where no table has it for that address."""
        entries = dict(self.own.get(provider, {}))
        if is_own_address(provider, base_url):
            entries = {**self.shipped.get(provider, {}), **entries}
        named = [name for name in entries if _is_named(model, name)]
        return entries[max(named, key=len)] if named else None

    def cost(self, provider: str, base_url: str, model: str, usage: Usage) -> float | None:
        """Dollars of one request; None where the price is not known.

        Args:
            provider: `anthropic` or `openai`, which is also what a compatible server counts as.
            base_url: where it was sent; empty = the provider's own address.
            model: the name that was asked for.
            usage: of that request alone: long requests cost more per token with some models.
        """
        price = self.find(provider, base_url, model)
        return None if price is None else price.usd(usage)

    def most(self, provider: str, base_url: str, model: str, bound: Usage) -> float | None:
        """The most dollars that one request of at most `bound` can cost; None if not known."""
        price = self.find(provider, base_url, model)
        return None if price is None else price.most(bound)

    def remark(self, provider: str, base_url: str, model: str) -> str:
        """One sentence for people where a price is not known; empty where it is."""
        if self.find(provider, base_url, model):
            return ""
        at = "" if is_own_address(provider, base_url) else f" at {_host(base_url)}"
        return (
            f"The price of {model}{at} is not known: tokens are counted, dollars are not. To count "
            f'them, add [{provider}."{model}"] with input and output to {FILE} in the state folder.'
        )


def unknown_price(usd: float) -> UserError:
    """What a cap of `usd` dollars comes to where a model's price is not known."""
    return UserError(
        f"A cap of ${usd:g} cannot be held, for this model's price is not known; add it to "
        f"{FILE}, or cap tokens instead."
    )


def is_own_address(provider: str, base_url: str) -> bool:
    """Whether requests go to the provider itself."""
    return not base_url or _host(base_url) == HOSTS.get(provider, "")


def _host(base_url: str) -> str:
    try:
        return urlsplit(base_url).hostname or base_url
    except ValueError:
        return base_url


def _is_named(model: str, name: str) -> bool:
    return model.startswith(name) and _SAME_MODEL.fullmatch(model[len(name) :]) is not None


def _read(path: Path) -> Table:
    return {provider: _entries(path, provider, e) for provider, e in read_toml(path).items()}


def _entries(path: Path, provider: str, entries: object) -> dict[str, Price]:
    if provider not in HOSTS:
        raise UserError(f"{path}: {unknown('provider', provider, HOSTS)}")
    if not isinstance(entries, dict):
        raise UserError(f'{path}: write prices as [{provider}."model name"], then input = ...')
    return {model: _price(path, provider, model, values) for model, values in entries.items()}


def _price(path: Path, provider: str, model: str, values: object) -> Price:
    if not isinstance(values, dict) or any(isinstance(v, dict) for v in values.values()):
        raise UserError(
            f"{path}: '{model}' is not an entry; put the model's name in quotes, as in "
            f'[{provider}."{model}"], and its prices below.'
        )
    try:
        return checked(Price, values, path)
    except UserError as error:
        detail = str(error).removeprefix(f"{path}: ")
        raise UserError(f'{path}: [{provider}."{model}"]: {detail}') from error

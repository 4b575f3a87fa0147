"""A track with what was typed beside its name: a derived track with its own fingerprint.

Owns: which typed word lands in which field, and the sentence about a word that fits none.
Does not own: track files (`inner_loop.tracks`) or the researcher that reads the settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from inner_loop.errors import UserError, unknown
from inner_loop.record import Record
from inner_loop.records import Budget, Track
from inner_loop.settings import Settings
from inner_loop.tracks import load_track

R = TypeVar("R", bound=Record)


def chosen_track(name: str, chosen: Mapping[str, Any], settings: Sequence[str] = ()) -> Track:
    """The track `name` with overrides.

    Args:
        name: a shipped track, or a file.
        chosen: field of the track, its budget or its settings -> value; None = the track's own.
        settings: `KEY=VALUE` words for its settings.

    Raises:
        UserError: no such track, no such setting, or a value that cannot be one.
    """
    track = load_track(name)
    typed = {key: value for key, value in chosen.items() if value is not None}
    typed |= dict(_pair(word) for word in settings)
    _check_use(typed.get("researcher", track.researcher), typed)
    own: dict[str, Any] = {key: typed[key] for key in ("researcher", "model") if key in typed}
    budget: dict[str, Any] = {key: typed[key] for key in Budget.model_fields if key in typed}
    rest = {key: value for key, value in typed.items() if key not in own | budget}
    return track.model_copy(
        update={
            **own,
            "budget": _changed(track.budget, budget),
            "settings": _changed(track.settings, rest),
        }
    )


def _check_use(researcher: str, typed: Mapping[str, Any]) -> None:
    """Nothing may be typed that the researcher would ignore without a word."""
    models = ("model", "base_url") if researcher == "catalog" else ()
    ignored = [key for key in models if key in typed]
    ignored += ["command"] if "command" in typed and researcher != "command" else []
    if ignored:
        kind = "command" if ignored == ["command"] else "anthropic or openai"
        raise UserError(
            f"Researcher '{researcher}' has no use for --{ignored[0].replace('_', '-')}; add "
            f"--researcher {kind}, or leave it out."
        )


def as_words(track: Track) -> list[str]:
    """What to type beside a track's name so that `chosen_track` gives it again."""
    words = ["--experiments", str(track.budget.experiments), "--researcher", track.researcher]
    words += ["--model", track.model] if track.model else []
    words += ["--max-tokens", str(track.budget.tokens)] if track.budget.tokens else []
    words += ["--max-usd", repr(track.budget.usd)] if track.budget.usd else []
    for key, value in track.settings.model_dump().items():
        if value != getattr(Settings(), key):
            words += ["--set", f"{key}={','.join(value) if isinstance(value, tuple) else value}"]
    return words


def _pair(word: str) -> tuple[str, Any]:
    key, equals, value = word.partition("=")
    if not equals:
        raise UserError(f"--set {word} is no setting; write KEY=VALUE, for example effort=high.")
    if key not in Settings.model_fields:
        raise unknown("setting", key, Settings.model_fields)
    if not value:
        raise UserError(f"--set {key}= has no value; leave it out for the default.")
    several = Settings.model_fields[key].annotation == tuple[str, ...]
    return key, tuple(value.split(",")) if several else value


def _changed(record: R, changes: Mapping[str, Any]) -> R:
    try:
        return type(record).model_validate(record.model_dump() | _kept(record) | dict(changes))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{key} cannot be {first['input']!r}: {first['msg'].lower()}; correct it."
        ) from error


def _kept(record: Record) -> dict[str, Any]:
    """The fields that a dump leaves out."""
    hidden = (name for name, field in type(record).model_fields.items() if field.exclude)
    return {name: getattr(record, name) for name in hidden}

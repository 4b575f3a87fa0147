"""The one exception a user is meant to see.

Owns: `UserError`, one sentence that says what is wrong, which thing, and what to do.
Does not own: failures of an experiment (those are rows, see `records.CrashCode`) or bugs (those
stay tracebacks).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input or a missing tool; the CLI prints the sentence and exits with code 2."""


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not one of `known`, with the nearest match if there is one."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return UserError(f"Unknown {what} '{name}'.{hint} Known: {', '.join(names) or 'none'}.")

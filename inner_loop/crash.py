"""Why an experiment has no number, from where it is noticed to where the row is made.

Owns: the exception. Does not own: the codes (`records.CrashCode`).
"""

from __future__ import annotations

from inner_loop.records import CrashCode


class Crash(Exception):
    """An experiment failed; a row, never a traceback."""

    def __init__(self, code: CrashCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code

"""Failures of the machine, not of the code, as one sentence.

Owns: recognising a full disk, a folder that cannot be written, memory or open files that have run
out, whichever library noticed it. A GPU or compiler that fails is `inner_loop/faults.py`'s.
Does not own: bad input (`UserError` where it is found) and bugs (tracebacks).
"""

from __future__ import annotations

import errno

_FULL = ("No space left on device", "database or disk is full", "Disk quota exceeded")
_FULL_CODES = {errno.ENOSPC, errno.EDQUOT}
_SHORT_CODES = {errno.ENOMEM: "memory", errno.EMFILE: "open files", errno.ENFILE: "open files"}
_DENIED_CODES = {errno.EROFS, errno.EACCES, errno.EPERM}


def as_sentence(error: BaseException) -> str | None:
    """What to tell the user, or None if this is not a failure of the machine."""
    code = error.errno if isinstance(error, OSError) else None
    text = str(error)
    if code in _FULL_CODES or any(words in text for words in _FULL):
        return (
            "The disk is full; nothing recorded is lost. Free some space, or set METARESEARCH_HOME "
            "to another disk, and run the same command again."
        )
    if code in _SHORT_CODES:
        return (
            f"The machine is out of {_SHORT_CODES[code]} ({text}); nothing recorded is lost. End "
            "other work, or use fewer --slots, and run the same command again."
        )
    if code in _DENIED_CODES or "readonly database" in text:
        return f"Cannot write ({text}); give yourself write access, or set METARESEARCH_HOME."
    return None

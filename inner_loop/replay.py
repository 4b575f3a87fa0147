"""The replay researcher: plays back recorded moves, for tests and for repeating a run.

Owns: reading a file of moves and finding the place in it.
Does not own: recording them (the ledger has every move) or whether an edit still applies.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from inner_loop.errors import UserError
from inner_loop.records import Move
from inner_loop.researcher import Brief, Setup
from inner_loop.settings import Usage

_MOVES = TypeAdapter(tuple[Move, ...])


class Replay:
    """The researcher registered as `replay`; its model is the path of a JSON list of moves.

    Raises:
        UserError: there is no such file, or it holds something else.
    """

    protocol = ""

    def __init__(self, setup: Setup) -> None:
        self.moves = read_moves(setup.model)

    async def next_move(self, brief: Brief) -> Move:
        """Move number `brief.move_number` of the recording; `unusable` past its end."""
        if brief.move_number <= len(self.moves):
            return self.moves[brief.move_number - 1].model_copy(update={"usage": Usage()})
        count = len(self.moves)
        return Move(kind="unusable", description=f"the recording ends after {count} moves")


def read_moves(model: str | None) -> tuple[Move, ...]:
    """The moves in file `model`.

    Raises:
        UserError: no file is named, it cannot be read, or it is not a JSON list of moves.
    """
    if not model:
        raise UserError("The replay researcher needs a file of moves; name it as its model.")
    try:
        return _MOVES.validate_json(Path(model).read_bytes())
    except (OSError, ValueError) as error:
        if isinstance(error, ValidationError):
            raise UserError(f"{model} is not a JSON list of moves ({_first(error)}).") from error
        cause = getattr(error, "strerror", None) or error
        raise UserError(f"{model} cannot be read ({cause}); name a file of moves.") from error


def _first(error: ValidationError) -> str:
    """Where and what the first fault is."""
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"])
    return f"{where}: {fault['msg']}" if where else fault["msg"]

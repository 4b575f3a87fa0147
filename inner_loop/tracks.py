"""Tasks and tracks from TOML files; DESIGN.md sections 1 and 6.1.

Owns: reading and checking the files, the task.json that prepare.py reads, and where a task's own
corpus file lies (beside the task file, if the path is relative).
Does not own: the hardware key and the base commit (filled in by whoever starts a tournament).
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from inner_loop.corpora.source import SUFFIXES, corpus_names, is_text_file
from inner_loop.errors import UserError, unknown
from inner_loop.records import Record, Task, Track

TASKS = Path(__file__).parent / "tasks"
TRACKS = Path(__file__).parent / "tracks"
_FILLED_IN = {"name", "hardware", "corpus_sha256", "base_commit", "corpus_file"}
_START = "start"  # the table of constants; pydantic's words for its values name every type
_CONSTANT = "it must be true, false, a finite number, a text or a list of numbers"

R = TypeVar("R", bound=Record)


def load_track(name_or_path: str) -> Track:
    """A shipped track by name, or a track file by path (anything that ends in `.toml`).

    Raises:
        UserError: unknown name, or one sentence naming file, key and remedy.
    """
    path = _find(name_or_path, TRACKS, "track")
    table = _own_keys(path)
    task_name = table.get("task")
    if not isinstance(task_name, str):
        raise UserError(f"{path}: key 'task' must name a task; add for example task = \"tiny\".")
    task_path = _find(task_name, TASKS, "task", beside=path)
    task = checked(Task, {"name": task_path.stem, **_own_keys(task_path)}, task_path)
    _check_words(task, task_path)
    if is_text_file(task.corpus):
        task = task.model_copy(update=_beside(task_path, task.corpus))
    return checked(Track, {**table, "name": path.stem, "task": task}, path)


def task_json(track: Track) -> str:
    """The task.json of a track: the constants prepare.py takes from it, and nothing else."""
    task = track.task
    fields = {
        "name": task.name,
        "corpus": task.corpus,
        "vocab_size": task.vocab_size,
        "max_seq_len": task.max_seq_len,
        "eval_tokens": task.eval_tokens,
        "clock": track.clock,
        "time_budget": track.time_budget,
    }
    return json.dumps(fields, indent=2) + "\n"


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dict.

    Raises:
        UserError: unreadable, not UTF-8 or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {path} ({error}); check the path and the file.") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}; correct that place.") from error


def _check_words(task: Task, path: Path) -> None:
    """What prepare.py would complain about, while the user's own file can still be named."""
    if not task.name.replace("-", "").replace("_", "").isalnum():
        raise UserError(f"{path}: a task file's name is a word; use letters, digits, - and _.")
    known = corpus_names()
    if not is_text_file(task.corpus) and task.corpus not in known:
        files = [f"FILE{suffix}" for suffix in SUFFIXES]
        raise UserError(f"{path}: {unknown('corpus', task.corpus, [*known, *files])}")


def _beside(task_path: Path, corpus: str) -> dict[str, str]:
    file = (task_path.parent / corpus).resolve()
    if not file.is_file():
        raise UserError(f"{task_path}: there is no corpus file {file}; correct key 'corpus'.")
    return {"corpus": file.name, "corpus_file": str(file)}


def _own_keys(path: Path) -> dict[str, Any]:
    table = read_toml(path)
    for key in _FILLED_IN & set(table):
        raise UserError(f"{path}: key '{key}' is filled in by metaresearch; remove it.")
    return table


def checked(kind: type[R], values: dict[str, Any], path: Path) -> R:
    """`values` as a record, or the first thing wrong with them as a sentence.

    Raises:
        UserError: names the file, the key and the remedy.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path}: {_complaint(kind, dict(error.errors()[0]))}") from error


def _complaint(kind: type[Record], first: dict[str, Any]) -> str:
    loc = first["loc"]
    if loc[0:1] == (_START,) and len(loc) > 1:
        return f"key '{_START}.{loc[1]}' cannot be {first['input']!r}: {_CONSTANT}; correct it."
    key = ".".join(str(part) for part in loc)
    known = sorted(set(_fields_at(kind, loc[:-1])) - _FILLED_IN)
    if first["type"] == "extra_forbidden":
        return f"unknown key '{key}'; remove it or use one of: {', '.join(known)}."
    if first["type"] == "missing":
        return f"key '{key}' is missing; add it."
    problem = first["msg"].removeprefix("Value error, ")
    if not key:
        return f"{problem}; correct one of them."
    problem = problem[0].lower() + problem[1:]
    return f"key '{key}' is {first['input']!r}: {problem}; correct it."


def _fields_at(kind: type[Record], loc: tuple[int | str, ...]) -> list[str]:
    for part in loc:
        kind = kind.model_fields[str(part)].annotation  # type: ignore[assignment]
    return list(kind.model_fields)


def _find(name: str, folder: Path, what: str, beside: Path | None = None) -> Path:
    if name.endswith(".toml"):
        path = (beside.parent / name) if beside else Path(name)
        if not path.is_file():
            raise UserError(f"There is no {what} file {path}; check the path.")
        return path
    path = folder / f"{name}.toml"
    if not path.is_file():
        raise unknown(what, name, (p.stem for p in folder.glob("*.toml")))
    return path

"""Track files that `doctor` proposes and writes.

Owns: a track as TOML text (with a task file beside it where no shipped task fits), and putting it
on disk without losing what was there. Does not own: what TOML may say (`inner_loop/tracks.py`,
which reads every file made here before it is used), or sizes.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from inner_loop.errors import UserError
from inner_loop.records import Track
from inner_loop.tracks import TASKS, TRACKS, load_track, read_toml
from outer_loop.sizes import Kind, Start

SHORT_CONTEXT = 512


class TrackFile(NamedTuple):
    """A track as it would stand on disk."""

    name: str
    argument: str
    """What `--track` takes for it; the name, until it is written."""
    table: dict[str, Any]
    """The TOML's content."""
    task: dict[str, Any] | None = None
    """Content of a task file to lie beside it; None where `table` names one that exists."""

    def load(self) -> Track:
        """Read it as any other track file.

        Raises:
            UserError: one sentence about what is wrong with it.
        """
        with tempfile.TemporaryDirectory() as folder:
            return load_track(str(self.write(Path(folder) / f"{self.name}.toml")))

    def with_start(self, start: Mapping[str, Any]) -> TrackFile:
        """The same with constants of train.py changed."""
        changed = {**self.table.get("start", {}), **start}
        return self._replace(table={**self.table, "start": changed})

    def write(self, path: Path, remarks: Sequence[str] = ()) -> Path:
        """Put it at `path`, replacing what is there; returns `path`."""
        table = self.table
        if self.task is not None:
            beside = self.paths(path)[1]
            _replace(beside, toml(self.task))
            table = {**table, "task": beside.name}
        _replace(path, toml(table, remarks))
        return path

    def paths(self, path: Path) -> list[Path]:
        """What `write(path)` writes: the track and perhaps its task.

        The task keeps its name wherever the track goes, since prepared data lie under it.
        """
        task = [] if self.task is None else [path.with_name(f"{self.name}-task.toml")]
        return [path, *task]


def existing(name: str) -> TrackFile:
    """A track by name or path, as a file that can be written elsewhere.

    Raises:
        UserError: there is no such track, or its file is wrong.
    """
    track = load_track(name)
    path = Path(name) if name.endswith(".toml") else TRACKS / f"{name}.toml"
    table = read_toml(path)
    if table["task"].endswith(".toml"):
        table["task"] = str((path.parent / table["task"]).resolve())
    return TrackFile(track.name, name, table)


def proposed(kind: Kind, memory_gb: float, start: Start, main_memory_gb: float) -> TrackFile:
    """The track for a device: a shipped one where that fits, else one derived from it.

    Args:
        kind: the device.
        memory_gb: what `start` was sized for, GiB; part of the name.
        start: the sizes.
        main_memory_gb: the machine's own memory, GiB; caps a training's.
    """
    shipped = existing("tiny-cpu" if kind == "cpu" else "gpu-5min")
    if not start.literals:
        return shipped
    limits = dict(shipped.table["limits"])
    limits["memory_gb"] = round(min(limits["memory_gb"], 0.8 * main_memory_gb), 1)
    table = {**shipped.table, "device": kind, "limits": limits, "start": start.literals}
    name = f"{kind}-{memory_gb:.0f}gb"
    return TrackFile(name, name, table, _short_task() if kind == "mps" else None)


def writable_path(given: str | None, folder: Path, name: str) -> Path:
    """Where a track file will go, checked before anything is spent.

    Raises:
        UserError: it does not end in `.toml`, is a folder, or cannot be written.
    """
    path = Path(given) if given else folder / f"{name}.toml"
    if path.suffix != ".toml" or path.is_dir():
        raise UserError(f"--write {path} must be a file whose name ends in .toml; give another.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        allowed = os.access(path if path.exists() else path.parent, os.W_OK)
    except OSError:
        allowed = False
    if not allowed:
        raise UserError(f"Cannot write to {path}; give --write another path.")
    return path


def set_aside(path: Path) -> Path | None:
    """Keep what is at `path` under another name; returns that name, None if there was nothing."""
    if not path.exists():
        return None
    for number in range(1, 10_000):
        old = path.with_name(f"{path.stem}.old-{number}{path.suffix}")
        if not old.exists():
            return path.rename(old)
    raise UserError(f"There are too many old copies beside {path}; delete some.")


def toml(table: Mapping[str, Any], remarks: Sequence[str] = ()) -> str:
    """A table of scalars and of tables of scalars as TOML, remarks as comments on top."""
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in table.items() if isinstance(value, dict)}
    blocks = ["".join(f"# {' '.join(line.split())}\n" for line in remarks) + _lines(plain)]
    blocks += [f"[{key}]\n{_lines(value)}" for key, value in tables.items() if value]
    return "\n".join(blocks)


def _lines(values: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in values.items())


def _value(value: Any) -> str:
    """A TOML value: JSON's booleans, numbers and strings are TOML's, DEL apart."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")


def _short_task() -> dict[str, Any]:
    """The full task with a shorter context, for a device without fast attention."""
    full = read_toml(TASKS / "gpu.toml")
    cut = full["max_seq_len"] // SHORT_CONTEXT
    return {
        **full,
        "max_seq_len": SHORT_CONTEXT,
        "eval_tokens": full["eval_tokens"] // cut,
        "scored_tokens": full["scored_tokens"] // cut,
    }


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)

"""Runs the train.py of a folder as it is and notes the clock at every batch and optimizer step.

Owns: `Training`, which starts it in a process, and where the clock is read: `Watched` stands in for
the loader that prepare.py gives out, so neither script is edited; on a CPU the run ends once enough
steps are noted. Also the rival loader: upstream's documented packing, written plainly.
Does not own: what is compared (`throughput.py`, `gpu.py`).

Usage: python watched.py FOLDER OUT [--batches N] [--clock wall] [--loader port] [--asks FD]
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}
BUFFER = 1000  # documents upstream chooses from
READ_AT_A_TIME = 128  # documents
Batch = tuple[torch.Tensor, torch.Tensor, int]


class Enough(Exception):
    """All batches that were wanted have been given out."""


class Watched:
    """A loader that notes when it is asked and when it answers.

    Args:
        inner: the loader to watch.
        clock: seconds.
        limit: batches to give out; the next request ends the run. 0 is no limit.
        turn: called before every batch; may wait.
    """

    def __init__(
        self,
        inner: Iterator[Batch],
        clock: Callable[[], float],
        limit: int,
        turn: Callable[[], None],
    ) -> None:
        self.inner, self.clock, self.limit, self.turn = inner, clock, limit, turn
        self.asked: list[float] = []
        self.answered: list[float] = []

    def __iter__(self) -> Watched:
        return self

    def __next__(self) -> Batch:
        self.asked.append(self.clock())
        if self.limit and len(self.answered) == self.limit:
            raise Enough
        self.turn()
        batch = next(self.inner)
        self.answered.append(self.clock())
        return batch


class Stopwatch:
    """Seconds spent in functions, as (when it ended, how long) by name."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.spent: dict[str, list[tuple[float, float]]] = {}

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, its time added to `name`."""

        def run(*args: Any, **options: Any) -> Any:
            began = self.clock()
            try:
                return function(*args, **options)
            finally:
                ended = self.clock()
                self.spent.setdefault(name, []).append((ended, ended - began))

        return run


# --- upstream's packing, written plainly ------------------------------------------------------


def documents_of(tokens: npt.NDArray[np.uint16], bos: int) -> Iterator[list[int]]:
    """The documents of a token file, endlessly, as lists that begin with the BOS."""
    starts = np.flatnonzero(tokens == bos)
    ends = np.append(starts[1:], len(tokens))
    while True:
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            yield tokens[start:end].tolist()


def scan_row(held: list[list[int]], refill: Callable[[], None], length: int) -> list[int]:
    """One row: the longest held document that fits, by looking at all; else the shortest, cropped.

    What is cropped off is dropped, as upstream does.
    """
    row: list[int] = []
    while (space := length - len(row)) > 0:
        refill()
        best, best_size = -1, 0
        for i, document in enumerate(held):
            if best_size < len(document) <= space:
                best, best_size = i, len(document)
        if best < 0:
            best = min(range(len(held)), key=lambda i: len(held[i]))
        row += held.pop(best)[:space]
    return row


def scan_rows(documents: Iterable[list[int]], length: int) -> Iterator[list[int]]:
    """Rows of `length` tokens, chosen from a buffer of `BUFFER` documents."""
    stream, held = iter(documents), list[list[int]]()

    def refill() -> None:
        while len(held) < BUFFER:
            held.extend(islice(stream, READ_AT_A_TIME))

    while True:
        yield scan_row(held, refill, length)


def port_loader(tokens: npt.NDArray[np.uint16], bos: int, B: int, T: int) -> Iterator[Batch]:
    """Batches of `scan_rows`, copied into the same two tensors each time as upstream does."""
    rows = scan_rows(documents_of(tokens, bos), T + 1)
    both = torch.empty((B, T + 1), dtype=torch.long)
    x, y = torch.empty((B, T), dtype=torch.long), torch.empty((B, T), dtype=torch.long)
    while True:
        for i in range(B):
            both[i] = torch.tensor(next(rows))
        x.copy_(both[:, :-1])
        y.copy_(both[:, 1:])
        yield x, y, 1


# --- a training, seen from outside ------------------------------------------------------------

Texts = Mapping[str, str]


class Training:
    """A train.py under `watched.py`, in a process of its own; with `turns`, one that takes turns.

    Args:
        folder: an empty one; the files go there.
        files: train.py, prepare.py, task.json.
        words: options of `watched.py`.
        env: variables to add.
        turns: whether it waits before every batch until `step` is called.
    """

    def __init__(
        self, folder: Path, files: Texts, words: Sequence[str], env: Texts, turns: bool = False
    ) -> None:
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        self.out, self.said = folder / "noted.json", folder / "said.txt"
        self.asks, theirs = os.pipe()
        command = [sys.executable, str(Path(__file__)), str(folder), str(self.out), *words]
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                [*command, *(["--asks", str(theirs)] if turns else [])],
                env={**os.environ, **env},
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs,),
            )
        os.close(theirs)

    def waits(self) -> bool:
        """Block until it waits for its turn; False when it has ended."""
        return bool(os.read(self.asks, 1))

    def step(self) -> bool:
        """Give it its turn; see `waits`."""
        assert self.process.stdin is not None
        self.process.stdin.write(b".")
        self.process.stdin.flush()
        return self.waits()

    def noted(self) -> dict[str, Any]:
        """What it noted, once it has ended, and its `output`.

        Raises:
            RuntimeError: it failed; the end of what it said.
        """
        code = self.process.wait()
        self.close()
        said = self.said.read_text(encoding="utf-8", errors="replace")
        if code:
            raise RuntimeError(f"watched.py failed:\n{said[-2000:]}")
        found: dict[str, Any] = json.loads(self.out.read_text(encoding="utf-8"))
        return found | {"output": said}

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin and not self.process.stdin.closed:
            self.process.stdin.close()
            os.close(self.asks)


def take_turns(trainings: Sequence[Training]) -> None:
    """One batch each, until all have ended; who was last goes first in the next round."""
    waiting = [training for training in trainings if training.waits()]
    while waiting:
        waiting = [training for training in reversed(waiting) if training.step()]


# --- and from inside --------------------------------------------------------------------------


def watch_optimizers(stopwatch: Stopwatch) -> None:
    """Time the two halves of a torch.optim optimizer that has them, from its first step on."""

    def before(optimizer: Any, *_: Any) -> None:
        for name in ("muon", "adamw"):
            method = f"step_{name}"
            if hasattr(optimizer, method) and method not in vars(optimizer):
                setattr(optimizer, method, stopwatch.timed(name, getattr(optimizer, method)))

    register_optimizer_step_pre_hook(before)


def turns(asks: int) -> Callable[[], None]:
    """Asks for a turn with a byte to `asks` and waits for one from standard input."""

    def turn() -> None:
        os.write(asks, b".")
        if not os.read(0, 1):
            raise Enough  # whoever gives the turns is gone

    return turn


def run(
    folder: Path, stopwatch: Stopwatch, limit: int, loader: str, turn: Callable[[], None]
) -> Watched:
    """Run the folder's train.py to its end, or until `limit` batches are noted."""
    sys.path.insert(0, str(folder))
    prepare: Any = importlib.import_module("prepare")
    theirs, kept = prepare.make_dataloader, list[Watched]()

    def make(tokenizer: Any, B: int, T: int, split: str, **options: Any) -> Watched:
        inner = theirs(tokenizer, B, T, split, **options)
        if loader == "port":
            inner = port_loader(prepare.release_train(), tokenizer.get_bos_token_id(), B, T)
        kept.append(Watched(inner, stopwatch.clock, limit, turn))
        return kept[0]

    prepare.make_dataloader = make
    watch_optimizers(stopwatch)
    try:
        train: Any = importlib.import_module("train")
        if hasattr(train, "main"):
            train.Muon.step = stopwatch.timed("muon", train.Muon.step)
            train.AdamW.step = stopwatch.timed("adamw", train.AdamW.step)
            train.main()
    except Enough:
        pass
    return kept[0]


def attention() -> str:
    """What computed the attention: both scripts choose in the same order."""
    found = [name for name in ("flash_attn_interface", "flash_attn") if name in sys.modules]
    return found[0] if found else "FlexAttention" if torch.cuda.is_available() else "SDPA"


def main() -> None:
    """Run and write what was noted as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--batches", type=int, default=0)
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    parser.add_argument("--loader", choices=("own", "port"), default="own")
    parser.add_argument("--asks", type=int, help="file descriptor: wait for a turn, batch by batch")
    args = parser.parse_args()
    stopwatch = Stopwatch(CLOCKS[args.clock])
    turn = (lambda: None) if args.asks is None else turns(args.asks)
    noted = run(args.folder, stopwatch, args.batches, args.loader, turn)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    found = {
        "asked": noted.asked,
        "answered": noted.answered,
        "spent": stopwatch.spent,
        "torch": torch.__version__,
        "device": device,
        "attention": attention(),
    }
    args.out.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()

"""The climbmix corpus: which shards, and having them on disk.

Owns: the shards' names and roles, downloading them side by side, and keeping them.
Does not own: one file's download (`fetch`), what is in a shard (`documents`).

Facts are those of upstream's prepare.py (karpathy/autoresearch): parquet files of already shuffled
documents, of which the last is the validation shard, here the search shard.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread

from inner_loop.corpora.cache import folder_lock
from inner_loop.corpora.documents import is_parquet
from inner_loop.corpora.fetch import Transfers, fetch, fetched_sha256, is_fetched
from inner_loop.corpora.meter import Meter, Meters
from inner_loop.corpora.source import ALL_SHARDS, Source
from inner_loop.corpora.splits import Split
from inner_loop.errors import UserError

LAST_SHARD = 6542
"""Number of the search shard; the shards before it are for training, but for two."""
GOODBYE_SECONDS = 1.0
"""For downloads to stop in, once one has failed or the user interrupts."""


def shard_names(shards: int, salt: str) -> dict[Split, list[str]]:
    """The files of each split.

    The two hidden ones come first, by hash of salt and name, whatever the number of training
    shards: so runs on more text are still scored on the same.

    Args:
        shards: training shards: the first ones that are not hidden; -1 = all.
        salt: another one hides other shards.

    Raises:
        UserError: more shards than there are.
    """
    others = [_name(i) for i in range(LAST_SHARD)]
    ranked = sorted(others, key=lambda name: hashlib.sha256(f"{salt}:{name}".encode()).digest())
    training = sorted(ranked[2:])
    if shards > len(training):
        raise UserError(
            f"climbmix has {len(training)} training shards, not {shards}; {ALL_SHARDS} means all."
        )
    return {
        "train": training if shards == ALL_SHARDS else training[:shards],
        "search": [_name(LAST_SHARD)],
        "audit": [ranked[0]],
        "locked": [ranked[1]],
    }


def download(names: Iterable[str], folder: Path, source: Source, meters: Meters) -> dict[str, str]:
    """Have shards on disk: finished ones are kept, the others are fetched side by side.

    Args:
        names: of shards.
        folder: where they are kept.
        source: base URL and downloads at a time.
        meters: shows progress.

    Returns:
        The sha256 of each shard, by name.

    Raises:
        UserError: a shard cannot be had.
    """
    wanted = list(names)

    def waiting() -> None:
        meters.say(f"Another process is downloading to {folder}; waiting for it.")

    with folder_lock(folder, waiting):
        missing = [name for name in wanted if not is_fetched(folder / name)]
        if missing:
            label = f"Downloading {len(missing)} of {len(wanted)} shards"
            with meters.meter(label, None) as meter:
                _fetch_all(missing, folder, source, meter)
    return {name: fetched_sha256(folder / name) for name in wanted}


def _fetch_all(names: list[str], folder: Path, source: Source, meter: Meter) -> None:
    sizes: dict[Path, int] = {}

    def expect(part: Path, size: int) -> None:
        sizes[part] = size
        meter.expect(sum(sizes.values()) * len(names) // len(sizes))  # the others are about as big

    transfers = Transfers(meter.advance, expect)

    def get(name: str) -> None:
        fetch(f"{source.base_url}/{name}", folder / name, transfers, _not_parquet)

    _side_by_side(get, names, source.workers, transfers.stop)


def _side_by_side(
    work: Callable[[str], None], names: Sequence[str], workers: int, stop: Event
) -> None:
    """Do `work` for all names; the first failure, or Ctrl-C, stops it all and is raised.

    A thread that is waiting for a server then is left behind: as a daemon, it does not keep the
    process from ending.
    """
    waiting, ended = iter(names), SimpleQueue[BaseException | None]()

    def go_on() -> None:
        try:
            while not stop.is_set() and (name := next(waiting, None)):
                work(name)
            ended.put(None)
        except BaseException as error:
            ended.put(error)

    threads = [Thread(target=go_on, daemon=True) for _ in range(min(workers, len(names)))]
    try:
        for thread in threads:
            thread.start()
        for _ in threads:
            if (error := ended.get()) is not None:
                raise error
    except BaseException:
        stop.set()
        end = time.monotonic() + GOODBYE_SECONDS
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        raise


def _not_parquet(path: Path) -> str:
    return "" if is_parquet(path) else "sends something that is no whole parquet file"


def _name(number: int) -> str:
    return f"shard_{number:05}.parquet"

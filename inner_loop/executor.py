"""Where jobs run. A slot is one GPU, or one core of a CPU track.

Owns: the Executor seam and the local one: N slots, first come first served, so that runs of a
block take turns. Does not own: what a job does (`execute.py`), retries (the ledger owns attempts)
or other machines (a cluster executor is step 9).
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from inner_loop.execute import Job, Site, execute
from inner_loop.records import Measured


class Executor(Protocol):
    """Runs jobs on slots."""

    def capacity(self) -> int:
        """How many jobs run at a time."""
        ...

    async def submit(self, job: Job) -> Measured:
        """Wait for a slot, run the job there, and return what was measured."""
        ...

    async def close(self) -> None:
        """End what is running and free the slots."""
        ...


class LocalExecutor:
    """N slots on this machine, each a long-lived thread.

    The threads live as long as the executor: a box dies with the thread that spawned it
    (PR_SET_PDEATHSIG follows the thread, not the process).
    """

    def __init__(self, site: Site, slots: int) -> None:
        self._site, self._slots = site, slots
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix="slot")
        self._turn = asyncio.Semaphore(slots)  # first come, first served; a Queue is not
        self._free = list(range(slots))

    def capacity(self) -> int:
        """How many jobs run at a time."""
        return self._slots

    async def submit(self, job: Job) -> Measured:
        """Wait for a slot, run the job there, and return what was measured."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            slot = self._free.pop(0)
            try:
                return await loop.run_in_executor(
                    self._pool, execute, job, self._site, slot, self._stop.is_set
                )
            finally:
                self._free.append(slot)

    async def close(self) -> None:
        """Kill what is running and end the threads."""
        self._stop.set()
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)

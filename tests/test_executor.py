from __future__ import annotations

import asyncio
from pathlib import Path

from inner_loop.execute import Job, Site
from inner_loop.executor import LocalExecutor
from inner_loop.records import Track


def test_runs_take_turns_on_the_slots(prepared: Path, quick: Track, tmp_path: Path) -> None:
    """No run gets its second experiment before every run has had its first."""
    order: list[str] = []
    (data,) = [p.name for p in prepared.iterdir()]

    async def run(executor: LocalExecutor, name: str) -> None:
        for index in range(3):
            job = Job(
                run_id=name,
                index=index,
                files={"train.py": "raise SystemExit(1)", "prepare.py": "", "task.json": "{}"},
                track=quick,
                seed=1,
                shards=("search",),
                data=data,
            )
            measured = await executor.submit(job)
            assert measured.crash == "exception"
            order.append(name)

    async def main() -> None:
        executor = LocalExecutor(Site(prepared, tmp_path / "scratch"), slots=2)
        await asyncio.gather(*(run(executor, name) for name in "abcdef"))
        await executor.close()

    asyncio.run(main())
    for k in range(3):
        seen_before_the_kth_round_ends = order[: 6 * (k + 1)]
        # the two slots finish in either order, so a round may overlap the next by one
        assert all(abs(seen_before_the_kth_round_ends.count(n) - (k + 1)) <= 1 for n in "abcdef")
    assert set(order[:7]) == set("abcdef")

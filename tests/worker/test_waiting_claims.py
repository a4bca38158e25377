"""Where a claim may wait in the store: how long each waits, and how much it may take with it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

from culm import App
from culm.store import Claimed, ClaimOrder
from culm.stores.memory import MemoryStore
from culm.worker.claimer import BRIEF_MS, MOST_AFTER_A_WAIT
from tests.tasks.harness import run, until

POLL_S = 2.0


class Patience(MemoryStore):
    """Its claims wait there. Notes of each how long it may, its limit, and what it found."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[tuple[int, int, int]] = []

    async def claim_within(
        self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int, order: ClaimOrder = "priority", wait_ms: int
    ) -> Claimed:
        await self.wait(queues, for_ms=wait_ms)
        claimed = await self.claim(queues, lease=lease, limit=limit, for_ms=for_ms, order=order)
        self.waited.append((wait_ms, limit, len(claimed.deliveries)))
        return claimed

    async def hurry(self, lease: str) -> None: ...


def test_a_busy_worker_waits_briefly_for_all_it_has_room_for_and_an_idle_one_long_for_a_few() -> None:
    async def main() -> None:
        store = Patience()
        app = App(store=store, rng=random.Random(1))

        @app.task
        async def quick(n: int) -> None: ...

        async with app.worker(concurrency=30, poll=POLL_S):
            await until(lambda: len(store.waited) >= 1)  # nothing was found, and it waits long by now
            jobs = await quick.map(range(20))
            for job in jobs:
                await job.result()
            await until(lambda: store.waited[-1][2] == 0)
            await (await quick.enqueue(1)).result()

        (first, *_), waits = store.waited, store.waited
        assert first == (BRIEF_MS, 30, 0)
        assert waits[1][:2] == (round(POLL_S * 1000), MOST_AFTER_A_WAIT)
        assert waits[1][2] > 0
        after = waits[2:]
        assert after[0][0] == BRIEF_MS
        assert after[0][1] > MOST_AFTER_A_WAIT, "all that has a free slot"
        for (_, _, found), (wait_ms, limit, _) in pairwise(after):
            assert (wait_ms <= BRIEF_MS) is (found > 0)
            assert limit == MOST_AFTER_A_WAIT or wait_ms <= BRIEF_MS

    run(main())

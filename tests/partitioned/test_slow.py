"""A partition that has work and is slow to answer neither makes its claimer turn without a pause, nor keeps what it grants too late."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from culm import App
from culm.commit import Commit
from culm.job import Job
from culm.store import Claimed, ClaimOrder
from culm.stores.memory import MemoryStore
from culm.stores.partitioned.place import place_of
from culm.stores.partitioned.store import PartitionedStore

SLOW_ID = next(f"j{n}" for n in range(100) if place_of(f"j{n}", 2) == 0)


class Slow(MemoryStore):
    """Its claims take effect at once, and are answered when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = asyncio.Event()
        self.answer.set()
        self.owing = asyncio.Event()
        self.claims = self.asked_to_wait = 0

    async def claim(self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int, order: ClaimOrder = "priority") -> Claimed:
        self.claims += 1
        claimed = await super().claim(queues, lease=lease, limit=limit, for_ms=for_ms, order=order)
        if not self.answer.is_set():
            self.owing.set()
        await self.answer.wait()
        return claimed

    async def wait(self, queues: Sequence[str], *, for_ms: int) -> None:
        self.asked_to_wait += 1
        await super().wait(queues, for_ms=for_ms)


async def send(store: PartitionedStore, *ids: str, number: int) -> None:
    await store.commit([Commit(send=(Job(id=i, task="t"),)) for i in ids], batch=("app", number))


def test_while_a_partition_with_work_owes_an_answer_its_claimer_rests() -> None:
    async def main() -> None:
        slow = Slow()
        store = PartitionedStore([slow, MemoryStore()], patience_s=0.05)
        await send(store, SLOW_ID, number=1)
        assert len((await store.claim(["default"], lease="w/1", limit=10, for_ms=60_000)).deliveries) == 1
        slow.answer.clear()
        await send(store, *(f"{SLOW_ID}~{n}" for n in range(40)), number=2)
        turns = 0
        ends_at = asyncio.get_running_loop().time() + 0.5
        while (left := ends_at - asyncio.get_running_loop().time()) > 0:
            turns += 1
            claimed = await store.claim(["default"], lease=f"w/{turns + 1}", limit=10, for_ms=60_000)
            assert claimed.deliveries == []
            assert claimed.next_ms != 0
            await store.wait(["default"], for_ms=min(200, claimed.next_ms or 200, round(left * 1000) + 1))
        assert turns < 100
        assert slow.asked_to_wait < 100
        slow.answer.set()
        await store.wait(["default"], for_ms=5_000)
        assert (await store.claim(["default"], lease=f"w/{turns + 2}", limit=10, for_ms=60_000)).deliveries

    asyncio.run(main())


def test_a_worker_that_stops_gives_back_what_a_slow_partition_grants_it() -> None:
    async def main() -> None:
        slow = Slow()
        store = PartitionedStore([slow, MemoryStore()], patience_s=1)
        app = App(store=store)
        app.task(name="t")(lambda: None)
        worker = app.worker(poll=0.05, grace=0)
        await worker.start()
        slow.answer.clear()
        await send(store, SLOW_ID, number=1)
        await slow.owing.wait()
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0.2)  # the pace of the fault: it is answered while the worker stops
        slow.answer.set()
        await stopping
        assert slow.tables.leased == {}

    asyncio.run(main())

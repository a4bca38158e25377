"""What the simulation has found in the worker, each as the shortest history that shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from culm import App
from culm.commit import Held
from culm.errors import StoreUnavailable
from culm.store import Claimed, ClaimOrder, LeaseState
from culm.stores.memory import MemoryStore
from culm.worker.worker import Worker


def a_worker() -> tuple[App, MemoryStore, Worker]:
    store = MemoryStore()
    app = App(store=store)

    @app.task(name="nothing")
    async def nothing() -> None: ...

    return app, store, app.worker(queues=["elsewhere"], concurrency=1, heart="loop", lease=5, heartbeat=1, grace=0)


@pytest.mark.parametrize(("state", "ends_as"), [("cancelled", "cancelled"), ("lost", "open")])
def test_an_attempt_that_is_stopped_before_its_first_step_frees_its_slot(state: LeaseState, ends_as: str) -> None:
    async def main() -> None:
        app, store, worker = a_worker()
        job = await app.tasks["nothing"].enqueue()
        async with worker:
            claimed = await store.claim(["default"], lease=f"{worker.name}/x", limit=1, for_ms=60_000)
            worker._slots.feed(claimed.deliveries)
            worker._slots.leases_are([Held(job.id, f"{worker.name}/x")], [state])
            await worker._gatherer.flush()
            assert (worker.info().running, worker.held()) == (0, [])
            assert await job.status() == ends_as

    asyncio.run(main())


class LosesReplies(MemoryStore):
    """Each claim takes effect, and the replies of the first ones are lost."""

    lost = 0

    async def claim(self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int, order: ClaimOrder = "priority") -> Claimed:
        answer = await super().claim(queues, lease=lease, limit=limit, for_ms=for_ms, order=order)
        if answer.deliveries and self.lost < 2:
            self.lost += 1
            raise StoreUnavailable("the reply is lost")
        return answer


def test_a_worker_that_stops_gives_back_what_a_claim_with_a_lost_reply_granted() -> None:
    async def main() -> None:
        store = LosesReplies()
        app = App(store=store)

        @app.task(name="nothing")
        async def nothing() -> None: ...

        job = await nothing.enqueue()
        worker = app.worker(concurrency=1, heart="loop", lease=60, heartbeat=20)
        await worker.start()
        while not store.lost:
            await asyncio.sleep(0)
        await worker.stop()
        assert store.lost == 2
        assert await job.status() != "leased"

    asyncio.run(main())

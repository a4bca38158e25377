"""The claimer takes what it can run soon and leaves the rest to others; high priorities first, and the low ones do not starve."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from culm import App
from culm.store import Claimed, ClaimOrder
from culm.stores.memory import MemoryStore
from culm.worker.claimer import AGE_EVERY
from tests.tasks.harness import Bench, run, until


def test_slow_jobs_are_not_hoarded_so_that_a_second_worker_gets_half() -> None:
    async def main() -> None:
        bench, gate, started = Bench(), asyncio.Event(), []

        @bench.app.task
        async def slow(n: int) -> None:
            started.append(n)
            await gate.wait()

        async with bench.working(concurrency=4) as first:
            jobs = await slow.map(range(100))
            await until(lambda: len(started) == 4)
            for _ in range(20):
                await asyncio.sleep(0)
            assert held(first) <= 8
            async with bench.working(concurrency=4) as second:
                await until(lambda: len(started) == 8)
                assert held(second) <= 8
                gate.set()
                for job in jobs:
                    await job.result()
                assert min(first.done, second.done) > 10

    run(main())


def held(worker: Any) -> int:
    return len(worker.held())


class Watched(MemoryStore):
    """Notes the order and the limit of each claim that found something."""

    def __init__(self) -> None:
        super().__init__()
        self.claims: list[tuple[ClaimOrder, int, int]] = []

    async def claim(self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int, order: ClaimOrder = "priority") -> Claimed:
        claimed = await super().claim(queues, lease=lease, limit=limit, for_ms=for_ms, order=order)
        self.claims.append((order, limit, len(claimed.deliveries)))
        return claimed


def test_quick_jobs_are_claimed_by_the_hundred() -> None:
    async def main() -> None:
        store = Watched()
        app = App(store=store, rng=random.Random(1))

        @app.task
        async def quick(n: int) -> None: ...

        async with app.worker(concurrency=4):
            jobs = await quick.map(range(5_000))
            await jobs[-1].result()
        assert max(found for _, _, found in store.claims) >= 50
        assert len([c for c in store.claims if c[2]]) < 500

    run(main())


def test_every_eighth_claim_takes_the_oldest_so_that_low_priorities_do_not_starve() -> None:
    async def main() -> None:
        store, ran = Watched(), []
        app = App(store=store, rng=random.Random(1))

        @app.task(name="note")
        async def note(what: str) -> None:
            ran.append(what)
            await asyncio.sleep(0.001)
            if what == "high" and len(ran) < 200:
                await note.using(priority=9).enqueue("high")  # there is always one of high priority

        low = await note.using(priority=0).enqueue("low")
        await app.enqueue_many([note.using(priority=9).bind("high") for _ in range(3)])
        async with app.worker(concurrency=1, poll=0.01):
            await low.result()
        orders = [order for order, *_ in store.claims]
        assert [n for n, order in enumerate(orders, 1) if order == "age"] == list(range(AGE_EVERY, len(orders) + 1, AGE_EVERY))
        assert ran.index("low") <= 40

    run(main())


def test_a_paused_queue_gives_nothing_until_it_is_resumed() -> None:
    async def main() -> None:
        bench, ran = Bench(), []

        @bench.app.task
        async def note(n: int) -> int:
            ran.append(n)
            return n

        await bench.store.pause("default")
        async with bench.working():
            job = await note.enqueue(1)
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert ran == []
            await bench.store.resume("default")
            assert await job.result() == 1

    run(main())


def test_a_worker_takes_the_queues_of_its_tasks_unless_told() -> None:
    app = App("memory://")
    app.task(name="a", queue="mail")(lambda: None)
    app.task(name="b", queue="sums")(lambda: None)
    assert app.worker().queues == ("mail", "sums")
    assert app.worker(queues=["x", "y", "x"]).queues == ("x", "y")
    assert App("memory://").worker().queues == ("default",)

"""Where a claim may wait in the store: how long each waits, and how much it may take with it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from culm import App
from culm.store import Claimed, ClaimOrder
from culm.stores.memory import MemoryStore
from culm.task import Task
from culm.worker.claimer import BELIEVED_S, BRIEF_MS, MOST_AFTER_A_WAIT
from tests.tasks.harness import run, until

POLL_S = 2.0


class Noting(MemoryStore):
    """Notes of each claim its limit and what it found, and each wait."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, int] | str] = []

    async def claim(self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int, order: ClaimOrder = "priority") -> Claimed:
        claimed = await super().claim(queues, lease=lease, limit=limit, for_ms=for_ms, order=order)
        self.asked.append((limit, len(claimed.deliveries)))
        return claimed

    async def wait(self, queues: Sequence[str], *, for_ms: int) -> None:
        self.asked.append("waits")
        await super().wait(queues, for_ms=for_ms)


class Patience(Noting):
    """Its claims may wait there. Notes of those that do how long they may, their limit, and what they found."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[tuple[int, int, int]] = []
        self.stale_at = 0  # which wait is ended by a marker of what is claimed already; 0: none

    async def claim_within(
        self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int, order: ClaimOrder = "priority", wait_ms: int
    ) -> Claimed:
        if not self.stale_at or len(self.waited) != self.stale_at:
            await MemoryStore.wait(self, queues, for_ms=wait_ms)
        claimed = await MemoryStore.claim(self, queues, lease=lease, limit=limit, for_ms=for_ms, order=order)
        self.waited.append((wait_ms, limit, len(claimed.deliveries)))
        return claimed

    async def hurry(self, lease: str) -> None: ...


def working_on(store: Noting) -> tuple[App, Task[[int], None]]:
    app = App(store=store, rng=random.Random(1))

    @app.task
    async def quick(n: int) -> None: ...

    return app, quick


def test_a_busy_worker_waits_briefly_for_all_it_has_room_for_and_an_idle_one_long_for_a_few() -> None:
    async def main() -> None:
        store = Patience()
        app, quick = working_on(store)
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


def test_a_job_that_ends_a_wait_alone_runs_before_the_next_claim_and_several_do_not() -> None:
    class Ordered(Patience):
        async def claim_within(self, *args: Any, **kwargs: Any) -> Claimed:
            self.asked.append("claims")
            return await super().claim_within(*args, **kwargs)

    async def main() -> None:
        store = Ordered()
        app = App(store=store, rng=random.Random(1))

        @app.task
        async def noted(n: int) -> None:
            store.asked.append("runs")

        async with app.worker(concurrency=30, poll=POLL_S):
            await until(lambda: len(store.waited) >= 1)
            store.asked.clear()
            await (await noted.enqueue(1)).result()
            await until(lambda: store.waited[-1][2] == 0)
            assert store.asked[:2] == ["runs", "claims"]
            store.asked.clear()
            await app.enqueue_many(noted.bind(n) for n in range(3))
            await until(lambda: store.asked.count("runs") == 3)
            assert store.asked[0] == "claims"

    run(main())


def test_what_took_the_last_is_followed_by_a_wait_although_it_took_all_that_it_could() -> None:
    """A wave of callers is often just what there is room for; to ask for more at once would be a claim for nothing, with each of them."""

    async def main() -> None:
        store = Patience()
        app, quick = working_on(store)
        async with app.worker(concurrency=30, poll=POLL_S):
            await until(lambda: len(store.waited) >= 1)
            jobs = await quick.map(range(MOST_AFTER_A_WAIT))
            for job in jobs:
                await job.result()
            more = await quick.map(range(MOST_AFTER_A_WAIT + 3))
            for job in more:
                await job.result()

        assert store.waited[1] == (round(POLL_S * 1000), MOST_AFTER_A_WAIT, MOST_AFTER_A_WAIT)
        assert store.waited[2][0] == BRIEF_MS
        assert store.asked == [(30, 0)], "but for the first, every claim waited"

    run(main())


def test_a_brief_wait_that_was_woken_for_nothing_is_followed_by_another() -> None:
    """Else the next wave would find a worker that takes a few of it, and the rest with a second claim, and then it stays in two parts."""

    async def main() -> None:
        store = Patience()
        store.stale_at = 3
        app, quick = working_on(store)
        async with app.worker(concurrency=30, poll=POLL_S):
            await until(lambda: len(store.waited) >= 1)
            for n in (1, 2):
                await (await quick.enqueue(n)).result()
            await until(lambda: len(store.waited) >= 5)
            await (await quick.enqueue(3)).result()

        waits = [(wait_ms, found) for wait_ms, _, found in store.waited]
        long_ms = round(POLL_S * 1000)
        assert waits[1:6] == [(long_ms, 1), (BRIEF_MS, 1), (BRIEF_MS, 0), (BRIEF_MS, 0), (long_ms, 1)]

    run(main())


def test_a_claim_does_not_wait_for_what_was_said_before_all_slots_were_busy() -> None:
    """What came due meanwhile may have rung for another worker."""

    async def main() -> None:
        store = Patience()
        app = App(store=store, rng=random.Random(1))

        @app.task
        async def slow() -> None:
            await asyncio.sleep(20 * BELIEVED_S)

        async with app.worker(concurrency=1, poll=POLL_S):
            await until(lambda: len(store.waited) >= 1)
            await (await slow.enqueue()).result()
            await until(lambda: len(store.waited) >= 3)

        assert store.waited[1] == (round(POLL_S * 1000), 1, 1)
        assert store.asked == [(1, 0), (1, 0)], "at first, and when the slot was free again"
        assert store.waited[2][0] == BRIEF_MS

    run(main())


def test_a_backlog_is_claimed_ahead_and_only_what_ends_it_is_followed_by_a_wait() -> None:
    async def main() -> None:
        store = Patience()
        app = App(store=store, rng=random.Random(1))

        @app.task(keep=0)
        async def quick(n: int) -> None: ...

        await app.enqueue_many(quick.bind(n) for n in range(20_000))
        async with app.worker(concurrency=10, poll=POLL_S) as worker:
            await until(lambda: worker.done == 20_000)
        claims = [claim for claim in store.asked if isinstance(claim, tuple)]
        assert max(limit for limit, _ in claims) > 100, "it measures how quick they are"
        assert sum(found for _, found in claims) + sum(found for _, _, found in store.waited) == 20_000
        assert sum(found for _, _, found in store.waited) < 2_000

    run(main())


def test_where_no_claim_waits_a_full_one_is_followed_by_another() -> None:
    """Not every store knows of all that is due when it has given as much as it was asked for."""

    async def main() -> None:
        store = Noting()
        app, quick = working_on(store)
        async with app.worker(concurrency=4, poll=POLL_S):
            await until(lambda: "waits" in store.asked)
            jobs = await quick.map(range(4))
            for job in jobs:
                await job.result()
            await until(lambda: store.asked.count("waits") == 2)

        assert store.asked[:2] == [(4, 0), "waits"]
        assert store.asked[2] == (4, 4)
        assert isinstance(store.asked[3], tuple)

    run(main())


def test_jobs_whose_lease_ran_out_are_claimed_without_a_wait_between() -> None:
    """Nothing rings for them, nor says whether more of them are due."""

    async def main() -> None:
        store = Patience()
        app, quick = working_on(store)
        jobs = await quick.map(range(20))
        assert len((await store.claim(["default"], lease="dead/1", limit=20, for_ms=50)).deliveries) == 20
        async with app.worker(concurrency=1, poll=0.1):
            for job in jobs:
                await job.result()

        assert len([found for _, _, found in store.waited if found]) <= 1

    run(main())

"""A partition that is away, or slow, stops only its own part."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from culm import App
from culm.commit import BatchId, Commit, Committed, Event, Held
from culm.errors import StoreUnavailable
from culm.job import Job
from culm.outcome import Succeeded
from culm.store import Claimed, ClaimOrder, FullStore, LeaseState, QueueCounts, WorkerInfo
from culm.stores.memory import MemoryStore
from culm.stores.partitioned.crossing import GRACE_MS
from culm.stores.partitioned.place import OUTBOX
from culm.stores.partitioned.store import PartitionedStore
from culm.testing.clock import ManualClock
from tests.partitioned.mortal import PARTITIONS, root_in

LEASE_MS = 60_000
PATIENCE_S = 1.0


class Fragile(MemoryStore):
    """A partition that may be away, lose a reply, or be slow."""

    away = False
    loses_replies = False
    slow: asyncio.Event | None = None  # it answers when this is set

    async def _reached(self) -> None:
        if self.away:
            raise StoreUnavailable("it is away")

    async def _replied(self) -> None:
        if self.slow is not None:
            await self.slow.wait()
        if self.loses_replies:
            raise StoreUnavailable("the reply was lost")

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        await self._reached()
        answers = await super().commit(commits, batch=batch)
        await self._replied()
        return answers

    async def claim(self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int, order: ClaimOrder = "priority") -> Claimed:
        await self._reached()
        claimed = await super().claim(queues, lease=lease, limit=limit, for_ms=for_ms, order=order)
        await self._replied()
        return claimed

    async def extend(self, held: Sequence[Held], *, for_ms: int) -> list[LeaseState]:
        await self._reached()
        return await super().extend(held, for_ms=for_ms)

    async def counts(self) -> list[QueueCounts]:
        await self._reached()
        return await super().counts()

    async def register(self, worker: WorkerInfo, *, for_ms: int) -> None:
        await self._reached()
        await super().register(worker, for_ms=for_ms)


class World:
    def __init__(self, clock: ManualClock | None = None) -> None:
        self.partitions = [Fragile(clock) for _ in range(PARTITIONS)]
        self.store: FullStore = PartitionedStore(self.partitions, patience_s=PATIENCE_S)
        self.numbers = 0

    async def send(self, *ids: str) -> None:
        self.numbers += 1
        sends = [Commit(send=(Job(id=i, task="t"),)) for i in ids]
        assert await self.store.commit(sends, batch=("app", self.numbers)) == ["applied"] * len(ids)

    async def claim(self, *, limit: int = 10) -> list[Held]:
        self.numbers += 1
        claimed = await self.store.claim(["default"], lease=f"w/{self.numbers}", limit=limit, for_ms=LEASE_MS)
        return [Held(d.job.id, d.lease) for d in claimed.deliveries]

    async def claim_ids(self, *, limit: int = 10) -> set[str]:
        return {h.job_id for h in await self.claim(limit=limit)}


IDS = [root_in(place, f"in-{place}-") for place in range(PARTITIONS)]


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


async def when_it_is_asked_again() -> None:
    """The pause after an error is 50 ms at first; it has no event."""
    await asyncio.sleep(0.12)


def test_the_others_give_what_they_have_and_the_error_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        world = World()
        await world.send(*IDS)
        world.partitions[1].away = True
        assert await world.claim_ids() == {IDS[0], IDS[2]}
        for _ in range(3):
            await when_it_is_asked_again()
            assert await world.claim_ids() == set()
        world.partitions[1].away = False
        await asyncio.sleep(0.5)
        assert await world.claim_ids() == {IDS[1]}

    with caplog.at_level(logging.INFO, logger="culm.partitions"):
        run(test())
    said = [record.message for record in caplog.records]
    assert [line.split(":")[0] for line in said] == ["partition.away", "partition.back"]
    assert said[0].startswith("partition.away: partition 1 (memory")
    assert said[0].endswith("it is away")


def test_what_a_lost_reply_granted_comes_with_a_later_claim() -> None:
    async def test() -> None:
        world = World()
        await world.send(*IDS)
        world.partitions[1].loses_replies = True
        assert await world.claim_ids() == {IDS[0], IDS[2]}
        world.partitions[1].loses_replies = False
        await when_it_is_asked_again()
        (found,) = await world.claim()
        assert found.job_id == IDS[1]
        assert await world.store.commit([Commit(fence=found, outcome=Succeeded())], batch=("w", 1)) == ["applied"]

    run(test())


def test_all_that_the_last_claim_of_a_dead_process_was_granted_is_found_from_another() -> None:
    """From each partition, also what one gave when it was asked a second time; and nothing else is granted for it."""

    async def test() -> None:
        world = World()
        ids = [root_in(place, f"{n}-{i}-") for n in range(6) for i, place in enumerate((0, 1, 1, 1, 2))]
        await world.send(*ids)
        held = await world.claim(limit=25)
        more = root_in(1, "later-")
        await world.send(more)
        assert len({h.lease for h in held}) > 1
        other = PartitionedStore(world.partitions, patience_s=PATIENCE_S)
        found = await other.granted(["default"], lease=f"w/{world.numbers - 1}")
        assert sorted((d.job.id, d.lease) for d in found) == sorted((h.job_id, h.lease) for h in held)
        world.partitions[1].away = True
        assert {d.job.id for d in await other.granted(["default"], lease=f"w/{world.numbers - 1}")} < {h.job_id for h in held}
        for partition in world.partitions:
            partition.away = True
        with pytest.raises(StoreUnavailable):
            await other.granted(["default"], lease="w/1")

    run(test())


def test_a_slow_partition_holds_up_no_claim_and_what_it_grants_comes_with_the_next() -> None:
    async def test() -> None:
        world, loop = World(), asyncio.get_running_loop()
        await world.send(*IDS)
        slow = world.partitions[1].slow = asyncio.Event()
        began = loop.time()
        assert await world.claim_ids() == {IDS[0], IDS[2]}
        assert loop.time() - began < PATIENCE_S, "it is not awaited when others have something"
        assert await world.claim_ids() == set()
        slow.set()
        await asyncio.sleep(0)
        assert await world.claim_ids() == {IDS[1]}

    run(test())


def test_a_wait_ends_when_a_slow_partition_has_answered() -> None:
    async def test() -> None:
        world = World()
        await world.send(*IDS)
        slow = world.partitions[1].slow = asyncio.Event()
        assert await world.claim_ids() == {IDS[0], IDS[2]}
        waiting = asyncio.create_task(world.store.wait(["default"], for_ms=60_000))
        await asyncio.sleep(0)
        slow.set()
        await waiting
        assert await world.claim_ids() == {IDS[1]}

    run(test())


def test_what_a_slow_partition_granted_is_returned_once_although_the_claim_was_repeated() -> None:
    async def test() -> None:
        world = World()
        await world.send(IDS[1])
        for partition in world.partitions:
            partition.slow = asyncio.Event()
        with pytest.raises(StoreUnavailable, match=r"^no partition answered in time$"):
            await world.store.claim(["default"], lease="w/900", limit=10, for_ms=LEASE_MS)
        for partition in world.partitions:
            assert partition.slow is not None
            partition.slow.set()
        await asyncio.sleep(0)
        claimed = await world.store.claim(["default"], lease="w/900", limit=10, for_ms=LEASE_MS)
        assert [d.job.id for d in claimed.deliveries] == [IDS[1]]

    run(test())


def test_a_claim_fails_when_no_partition_answers() -> None:
    async def test() -> None:
        world = World()
        await world.send(*IDS)
        for partition in world.partitions:
            partition.away = True
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match=r"^partition \d: it is away$"):
                await world.claim()

    run(test())


def test_what_lies_in_a_partition_that_is_away_is_still_held() -> None:
    async def test() -> None:
        world = World()
        await world.send(*IDS)
        held = sorted(await world.claim(), key=lambda h: h.job_id)
        await world.store.commit([Commit(cancel=(IDS[2],))], batch=("app", 99))
        world.partitions[1].away = True
        assert await world.store.extend(held, for_ms=LEASE_MS) == ["held", "held", "cancelled"]
        for partition in world.partitions:
            partition.away = True
        with pytest.raises(StoreUnavailable):
            await world.store.extend(held, for_ms=LEASE_MS)

    run(test())


def test_a_commit_that_crosses_to_a_partition_that_is_away_is_applied_and_arrives_later() -> None:
    async def test() -> None:
        clock = ManualClock()
        world = World(clock)
        await world.send(IDS[0])
        (fence,) = await world.claim()
        world.partitions[1].away = True
        commit = Commit(fence=fence, outcome=Succeeded(), send=(Job(id=IDS[1], task="t"),), emit=(Event("", "said", "x"),))
        assert await world.store.commit([commit], batch=("w", 1)) == ["applied"]
        world.partitions[1].away = False
        assert await world.store.job(IDS[1]) is None
        clock.advance(ms=GRACE_MS)
        await asyncio.sleep(0.1)
        assert await world.claim_ids() == {IDS[1]}
        assert await world.store.jobs(queue=OUTBOX) == []

    run(test())


def test_a_list_that_lacks_a_partition_is_an_error_that_names_it() -> None:
    async def test() -> None:
        world = World()
        world.partitions[2].away = True
        with pytest.raises(StoreUnavailable, match=r"^partition 2: it is away$"):
            await world.store.counts()

    run(test())


def test_a_worker_is_registered_with_the_next_partition_while_its_own_is_away() -> None:
    async def test() -> None:
        world = World()
        info = WorkerInfo("worker-1", "host", 1, ("default",), (), 10)
        for partition in world.partitions[:2]:
            partition.away = True
            await world.store.register(info, for_ms=1_000)
        for partition in world.partitions:
            partition.away = False
        assert await world.store.workers() == [info]

    run(test())


def test_no_partition_starves_when_each_has_more_than_is_asked_for() -> None:
    async def test() -> None:
        world = World()
        names = [f"job-{n}" for n in range(300)]
        await world.send(*names)
        for limit in (1, 2, 5):
            turns: Counter[int] = Counter()
            for _ in range(30):
                turns.update(world.store._place(h.job_id) for h in await world.claim(limit=limit))  # type: ignore[attr-defined]
            assert max(turns.values()) - min(turns.values()) <= 12 * limit
            assert sum(turns.values()) == 30 * limit

    run(test())


def test_jobs_of_the_others_end_while_a_partition_is_away() -> None:
    async def test() -> None:
        world = World()
        app = App(store=world.store)
        started, gate = asyncio.Event(), asyncio.Event()

        @app.task(name="stuck")
        async def stuck() -> None:
            started.set()
            await gate.wait()

        @app.task(name="quick")
        async def quick() -> int:
            return 1

        async with app, app.worker(poll=0.05, lease=30, heartbeat=10):
            job = await stuck.using(id=IDS[1]).enqueue()
            await started.wait()
            world.partitions[1].away = True
            gate.set()  # its end cannot be committed now
            others = [await quick.using(id=root_in(place, f"quick-{n}-")).enqueue() for n in range(20) for place in (0, 2)]
            assert [await other.result(timeout=5) for other in others] == [1] * 40
            world.partitions[1].away = False
            await job.result(timeout=10)

    run(test())

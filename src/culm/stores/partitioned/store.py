"""A store made of stores: `FullStore` over partitions. docs/partitions.md says what lies where, what crosses, and what holds.

Map: `place.py` the hash; `crossing.py` how a commit is split; `commits.py`, `outbox.py` how it is applied and delivered; `claims.py`
the ring; `partition.py` one partition, which may be away. Here is the rest: to whom a question goes, and how answers are merged.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from heapq import merge
from typing import TypeVar

from culm.commit import BatchId, Commit, Committed, Event, Held, Record
from culm.errors import ConfigError, StoreUnavailable
from culm.job import Delivery, Job
from culm.store import (
    Absent,
    Blobs,
    Claimed,
    ClaimOrder,
    Condition,
    Ended,
    FullStore,
    Hint,
    JobView,
    KeepsBlobs,
    LeaseState,
    Pending,
    QueueCounts,
    Shown,
    Subscription,
    Waits,
    WorkerInfo,
)
from culm.stores.partitioned.address import MOST_PARTITIONS
from culm.stores.partitioned.blobs import PartitionedBlobs
from culm.stores.partitioned.claims import Claims, Question
from culm.stores.partitioned.commits import Commits
from culm.stores.partitioned.marks import Marks
from culm.stores.partitioned.outbox import Outbox
from culm.stores.partitioned.partition import Partition
from culm.stores.partitioned.place import OUTBOX, RESERVED, Place, place_of, place_of_job
from culm.stores.partitioned.waits import EachWaits, Waiter

LOOK_S = 0.02  # between two looks while a partition has work and owes an answer
T = TypeVar("T")


class PartitionedStore:
    """The whole of `FullStore` over several of them.

    Args:
        stores: the partitions, in the order that they will always have.
        waiter: waits for work in all of them at once; None: each waits.
        patience_s: how long a partition that does not answer may hold up what needs it not.
        now: seconds that only grow, by which one that is away is left alone for a while.
        rng: names what this process asks for itself; None: nobody ever has the same names.

    Raises:
        ConfigError: there are none; at first use: one of them is no partition, or another one.
    """

    def __init__(
        self,
        stores: Sequence[FullStore],
        *,
        waiter: Waiter | None = None,
        patience_s: float = 1.0,
        now: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        if not 1 <= len(stores) <= MOST_PARTITIONS:
            raise ConfigError(f"a store is made of 1 to {MOST_PARTITIONS:,} partitions, got {len(stores)}")
        names = random.SystemRandom() if rng is None else rng
        self._marks = marks = Marks(stores, names)
        said = set[str]()
        self._partitions = [Partition(store, place, marks, said, patience_s=patience_s, now=now) for place, store in enumerate(stores)]
        self._count = len(stores)
        outbox = self._outbox = Outbox(self._partitions, names)
        self._commits = Commits(self._partitions, outbox)
        self._claims = Claims(self._partitions, outbox)
        self._waiter = waiter or EachWaits(self._partitions)
        self._stores = stores

    def __str__(self) -> str:
        return f"{self._count} partitions, the first of them {self._stores[0]}"

    @property
    def blobs(self) -> Blobs:
        """Raises AttributeError, as if it were not there, when a partition has no place for them."""
        if not all(isinstance(store, KeepsBlobs) for store in self._stores):
            raise AttributeError("blobs")
        return PartitionedBlobs(self._at, self._count)

    # -- whom to ask ----------------------------------------------------------------------------------------------------------

    async def _at(self, place: Place, question: Callable[[FullStore], Awaitable[T]]) -> T:
        partition = self._partitions[place]
        store = await partition.store()

        async def asked() -> T:
            return await question(store)

        return await partition.ask(asked())

    async def _all(self, question: Callable[[FullStore], Awaitable[T]]) -> list[T]:
        """The answers of all. Raises when one is missing, after all were asked."""
        found = await asyncio.gather(*(self._at(p.place, question) for p in self._partitions), return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException):
                raise one
        return [one for one in found if not isinstance(one, BaseException)]

    def _place(self, job_id: str) -> Place:
        return place_of_job(job_id, self._count)

    def _by_place(self, job_ids: Sequence[str]) -> dict[Place, list[str]]:
        found: dict[Place, list[str]] = {}
        for job_id in dict.fromkeys(job_ids):
            found.setdefault(self._place(job_id), []).append(job_id)
        return found

    # -- Store --------------------------------------------------------------------------------------------------------------

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        return await self._commits.commit(commits, batch=batch)

    def lane(self, commit: Commit) -> int:
        """The partition that applies it; -1: several do."""
        if commit.fence is not None:
            return self._place(commit.fence.job_id)
        places = {*(self._place(job.id) for job in commit.send), *(self._place(job_id) for job_id in commit.cancel)}
        return places.pop() if len(places) == 1 else -1

    async def claim(self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int, order: ClaimOrder = "priority") -> Claimed:
        await self._marks.open()
        return await self._claims.claim(Question(queues, lease, limit, for_ms, order))

    async def granted(self, queues: Sequence[str], *, lease: str) -> list[Delivery]:
        await self._marks.open()
        return await self._claims.granted(queues, lease)

    async def owed(self, claimer: str) -> list[Delivery]:
        return await self._claims.owed(claimer)

    async def extend(self, held: Sequence[Held], *, for_ms: int) -> list[LeaseState]:
        """Of a partition that is away nobody can take anything: what lies there is held. Raises when all are away."""
        places: dict[Place, list[int]] = {}
        for n, h in enumerate(held):
            places.setdefault(self._place(h.job_id), []).append(n)
        states: list[LeaseState] = ["held"] * len(held)

        async def extended(place: Place, which: list[int]) -> None:
            def question(store: FullStore) -> Awaitable[list[LeaseState]]:
                return store.extend([held[n] for n in which], for_ms=for_ms)

            for n, state in zip(which, await self._at(place, question), strict=True):
                states[n] = state

        found = await asyncio.gather(*(extended(place, which) for place, which in places.items()), return_exceptions=True)
        errors = [e for e in found if e is not None]
        for e in errors:
            if len(errors) == len(places) or not isinstance(e, StoreUnavailable):
                raise e
        return states

    async def wait(self, queues: Sequence[str], *, for_ms: int) -> None:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + for_ms / 1000
        while True:
            late = self._claims.late()
            waiting = asyncio.ensure_future(self._waiter.wait((*queues, OUTBOX), for_ms=for_ms))
            try:
                done, _ = await asyncio.wait([waiting, *late], return_when=asyncio.FIRST_COMPLETED)
                if done != {waiting}:
                    return
                self._claims.rung(found := waiting.result())
            finally:
                waiting.cancel()
            for_ms = round((ends_at - loop.time()) * 1000)
            if not found or not found <= set(late.values()) or for_ms <= 0:
                return
            # What is there is asked for already, and cannot be asked for twice: until that is answered, a look at the others now and then.
            if (await asyncio.wait(late, timeout=LOOK_S))[0]:
                return

    # -- Hints --------------------------------------------------------------------------------------------------------------

    async def publish(self, hints: Sequence[Hint]) -> None:
        places: dict[Place, list[Hint]] = {}
        for hint in hints:
            places.setdefault(place_of(hint.channel, self._count), []).append(hint)
        for place, some in places.items():
            await self._at(place, lambda store, some=some: store.publish(some))  # type: ignore[misc]

    async def subscribe(self, channel: str) -> Subscription:
        return await self._at(place_of(channel, self._count), lambda store: store.subscribe(channel))

    # -- Reader -------------------------------------------------------------------------------------------------------------

    async def job(self, job_id: str) -> JobView | None:
        return await self._at(self._place(job_id), lambda store: store.job(job_id))

    async def sent(self, job_id: str) -> Job | None:
        return await self._at(self._place(job_id), lambda store: store.sent(job_id))

    async def outcome(self, job_id: str, *, for_ms: int = 0) -> Ended | Pending | Absent:
        return await self._at(self._place(job_id), lambda store: store.outcome(job_id, for_ms=for_ms))

    async def deliveries(self, held: Sequence[Held]) -> list[Delivery]:
        places: dict[Place, list[Held]] = {}
        for h in dict.fromkeys(held):
            places.setdefault(self._place(h.job_id), []).append(h)
        some = await asyncio.gather(*(self._at(p, lambda store, of=of: store.deliveries(of)) for p, of in places.items()))  # type: ignore[misc]
        found = {Held(d.job.id, d.lease): d for of_one in some for d in of_one}
        return [found[h] for h in dict.fromkeys(held) if h in found]

    async def waits(self, job_id: str) -> Waits:
        """Ahead of it are those of its own partition."""
        return await self._at(self._place(job_id), lambda store: store.waits(job_id))

    async def jobs(
        self,
        *,
        state: Shown | None = None,
        queue: str | None = None,
        task: str | None = None,
        scope: str | None = None,
        after: str = "",
        limit: int = 100,
    ) -> list[JobView]:
        """What lies in the outbox only when it is asked for by the name of its queue, or is a dead letter."""

        async def page(store: FullStore) -> list[JobView]:
            found: list[JobView] = []
            start = after
            while len(found) < limit:
                views = await store.jobs(state=state, queue=queue, task=task, scope=scope, after=start, limit=limit)
                found += [v for v in views if v.queue not in RESERVED or queue is not None or v.state in ("failed", "lost")]
                if len(views) < limit:
                    break
                start = views[-1].id
            return found

        return list(merge(*await self._all(page), key=lambda v: v.id))[:limit]

    async def events(self, scope: str, topic: str, *, after: str = "", limit: int = 1000) -> list[Event]:
        return await self._at(place_of(scope, self._count), lambda store: store.events(scope, topic, after=after, limit=limit))

    async def records(self, flow: str, *, after: int = -1, limit: int = 1000) -> list[Record]:
        return await self._at(self._place(flow), lambda store: store.records(flow, after=after, limit=limit))

    async def counts(self) -> list[QueueCounts]:
        queues: dict[str, list[QueueCounts]] = {}
        for counts in await self._all(lambda store: store.counts()):
            for one in counts:
                if one.queue not in RESERVED:
                    queues.setdefault(one.queue, []).append(one)
        return [_sum(queues[name]) for name in sorted(queues)]

    # -- Admin --------------------------------------------------------------------------------------------------------------

    async def condition(self) -> Condition:
        conditions = await self._all(lambda store: store.condition())
        outbox = await self._all(lambda store: store.jobs(queue=OUTBOX, limit=1_000))
        first, states = conditions[0], Counter(view.state for views in outbox for view in views)
        more = {**first.more, "partitions": str(self._count)}
        more["outbox"] = ", ".join(f"{n:,} {state}" for state, n in sorted(states.items())) or "empty"
        return Condition(
            place=f"{self._count} partitions, the first at {first.place}",
            engine=_either([c.engine for c in conditions]),
            durability=_either([c.durability for c in conditions]),
            layout=first.layout,
            now_ms=first.now_ms,
            more=more,
        )

    async def replay(self, job_ids: Sequence[str]) -> int:
        return await self._of_each(job_ids, lambda store, some: store.replay(some))

    async def discard(self, job_ids: Sequence[str]) -> int:
        return await self._of_each(job_ids, lambda store, some: store.discard(some))

    async def _of_each(self, job_ids: Sequence[str], question: Callable[[FullStore, list[str]], Awaitable[int]]) -> int:
        places = self._by_place(job_ids)
        counted = await asyncio.gather(
            *(self._at(place, lambda store, some=some: question(store, some)) for place, some in places.items())  # type: ignore[misc]
        )
        return sum(counted)

    async def purge(self, queue: str) -> int:
        return sum(await self._all(lambda store: store.purge(queue)))

    async def pause(self, queue: str) -> None:
        await self._all(lambda store: store.pause(queue))

    async def resume(self, queue: str) -> None:
        await self._all(lambda store: store.resume(queue))

    async def register(self, worker: WorkerInfo, *, for_ms: int) -> None:
        """With one partition: its own, or while that is away the next."""
        first = place_of(worker.id, self._count)
        places = sorted(range(self._count), key=lambda p: (p - first) % self._count + self._count * self._partitions[p].is_away())
        for n, place in enumerate(places):
            try:
                return await self._at(place, lambda store: store.register(worker, for_ms=for_ms))
            except StoreUnavailable:
                if n == min(2, self._count - 1):
                    raise
        return None

    async def workers(self) -> list[WorkerInfo]:
        found = {w.id: w for workers in await self._all(lambda store: store.workers()) for w in workers}
        return [found[worker_id] for worker_id in sorted(found)]

    async def sweep(self, *, limit: int = 1000) -> int:
        swept, failed = 0, None
        for p in self._partitions:
            left = limit - swept
            try:
                swept += await self._at(p.place, lambda store, left=left: store.sweep(limit=left))  # type: ignore[misc]
            except StoreUnavailable as e:
                failed = e
            if swept >= limit:
                break
        if failed is not None and not swept:
            raise failed
        return swept

    async def close(self) -> None:
        await self._outbox.flush()
        await asyncio.gather(*(p.close() for p in self._partitions))


def _sum(some: Sequence[QueueCounts]) -> QueueCounts:
    oldest = [c.oldest_ms for c in some if c.oldest_ms is not None]
    return QueueCounts(
        queue=some[0].queue,
        paused=any(c.paused for c in some),
        ready=sum(c.ready for c in some),
        delayed=sum(c.delayed for c in some),
        waiting=sum(c.waiting for c in some),
        leased=sum(c.leased for c in some),
        oldest_ms=max(oldest, default=None),
    )


def _either(some: Sequence[str]) -> str:
    """What all say, or what each kind says."""
    return " / ".join(dict.fromkeys(some))

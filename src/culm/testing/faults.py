"""What goes wrong between a client and its store, seeded; and clocks that lie.

A store call can fail before it took effect, fail after it (the reply is lost; the client cannot tell which), or be late, on
either way. `dead` is the client's side of SIGKILL: from then on each call waits for ever and changes nothing. A Faulty is also dead
for whoever is `gone()`: a killed node, and the `finally` blocks that run when a virtual loop closes.
`bitten` counts what really bit, so that a test can refuse a run in which nothing did. `calls` counts the calls that a fault could
have met: run once without a crash, then once for each of its crash points.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextvars import copy_context
from random import Random
from typing import Any, Generic, Literal, TypeVar

from msgspec import Struct

from culm.clock import Clock
from culm.commit import BatchId, Commit, Committed, Event, Held, Record
from culm.errors import StoreUnavailable
from culm.job import Delivery, Job
from culm.store import (
    Absent,
    AtOnce,
    Claimed,
    ClaimOrder,
    Condition,
    Ended,
    FullStore,
    Hint,
    JobView,
    LeaseState,
    Pending,
    QueueCounts,
    Shown,
    Subscription,
    Waits,
    WorkerInfo,
)
from culm.testing.virtual_loop import NODE, VirtualLoop, gone, never

T = TypeVar("T")

HOUR_MS = 3_600_000


class Crash(Struct, frozen=True):
    """Kill the caller's node at its `at`-th call, counted from 1, before the call takes effect or after it did."""

    at: int
    when: Literal["before", "after"]


class Plan(Struct, frozen=True, kw_only=True):
    """How probable each fault is, per call: 0.0 to 1.0."""

    before: float = 0.0  # StoreUnavailable, and nothing happened
    after: float = 0.0  # StoreUnavailable, but it happened
    slow: float = 0.0  # the request is late; and as probably, the reply
    slow_ms: int = 1_000  # by up to so much
    calls: tuple[str, ...] = ("commit", "claim", "extend", "wait")  # the methods of FullStore that faults may hit
    crash: Crash | None = None


CALM = Plan()


class Faulty:
    """One client's way to the store; give each node its own.

    Args:
        store: where the truth lives; what it schedules belongs to no node, as a server outlives its clients.
        rng: decides which fault bites, and when.
        plan: may be replaced at any time.
    """

    in_order: Literal[True] = True  # unless a plan makes calls late: what gathers its commits must bear that, too

    def __init__(self, store: FullStore, rng: Random, plan: Plan = CALM) -> None:
        self.plan = plan
        self.dead = False
        self.calls = 0
        self.bitten: Counter[str] = Counter()  # "commit.after" -> how often a reply of commit was lost
        self._store, self._rng = store, rng
        self._asked: set[asyncio.Task[list[Committed]]] = set()

    def calm(self) -> None:
        """No faults from now on. The dead stay dead."""
        self.plan = CALM

    # -- how a call goes wrong -----------------------------------------------------------------------------------------------

    async def _call(self, name: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        await self._alive(name)
        if name not in self.plan.calls:
            unharmed = await Outside(call())
            await self._alive(name)
            return unharmed
        self.calls += 1
        number = self.calls
        await self._crash_point(number, "before")
        await self._delay(name)
        self._fail(name, "before")
        answer = await Outside(call())
        await self._alive(name)  # the call itself may have waited
        await self._crash_point(number, "after")
        self._fail(name, "after")
        await self._delay(name)
        return answer

    async def _alive(self, name: str) -> None:
        if self.dead or gone():
            self.bitten[f"{name}.dead"] += 1
            await never()

    def _fail(self, name: str, when: Literal["before", "after"]) -> None:
        if self._rng.random() < (self.plan.before if when == "before" else self.plan.after):
            self.bitten[f"{name}.{when}"] += 1
            raise StoreUnavailable(f"injected: {name} failed {when} it took effect")

    async def _delay(self, name: str) -> None:
        late_s = 0.0
        if self._rng.random() < self.plan.slow:
            self.bitten[f"{name}.slow"] += 1
            late_s = self._rng.random() * self.plan.slow_ms / 1000
        await asyncio.sleep(late_s)  # even 0: a call over a wire lets others run, one of the memory store does not
        await self._alive(name)

    async def _crash_point(self, number: int, when: Literal["before", "after"]) -> None:
        crash = self.plan.crash
        if crash is not None and crash.at == number and crash.when == when:
            self.bitten[f"crash.{when}"] += 1
            self.dead = True
            loop = asyncio.get_running_loop()
            if isinstance(loop, VirtualLoop) and NODE.get():
                loop.kill(NODE.get())
            await never()

    # -- Store ---------------------------------------------------------------------------------------------------------------

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        return await self._call("commit", lambda: self._store.commit(commits, batch=batch))

    def commit_at_once(
        self,
        commits: Sequence[Commit],
        *,
        batch: BatchId,
        alone: bool,  # noqa: ARG002
        fresh: bool,  # noqa: ARG002
        then: AtOnce,
    ) -> bool:
        """Every other batch; a fault of it is one more batch whose answer is not known."""
        if batch[1] % 2:
            return False
        asked = asyncio.get_running_loop().create_task(self.commit(commits, batch=batch))
        self._asked.add(asked)

        def answered(asked: asyncio.Task[list[Committed]]) -> None:
            self._asked.discard(asked)
            then(None if asked.cancelled() or asked.exception() is not None else asked.result())

        asked.add_done_callback(answered)
        return True

    async def claim(self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int, order: ClaimOrder = "priority") -> Claimed:
        return await self._call("claim", lambda: self._store.claim(queues, lease=lease, limit=limit, for_ms=for_ms, order=order))

    async def extend(self, held: Sequence[Held], *, for_ms: int) -> list[LeaseState]:
        return await self._call("extend", lambda: self._store.extend(held, for_ms=for_ms))

    async def wait(self, queues: Sequence[str], *, for_ms: int) -> None:
        return await self._call("wait", lambda: self._store.wait(queues, for_ms=for_ms))

    # -- Hints ---------------------------------------------------------------------------------------------------------------

    async def publish(self, hints: Sequence[Hint]) -> None:
        return await self._call("publish", lambda: self._store.publish(hints))

    async def subscribe(self, channel: str) -> Subscription:
        return _Subscribed(self, await self._call("subscribe", lambda: self._store.subscribe(channel)))

    # -- Reader --------------------------------------------------------------------------------------------------------------

    async def job(self, job_id: str) -> JobView | None:
        return await self._call("job", lambda: self._store.job(job_id))

    async def sent(self, job_id: str) -> Job | None:
        return await self._call("sent", lambda: self._store.sent(job_id))

    async def deliveries(self, held: Sequence[Held]) -> list[Delivery]:
        return await self._call("deliveries", lambda: self._store.deliveries(held))

    async def outcome(self, job_id: str, *, for_ms: int = 0) -> Ended | Pending | Absent:
        return await self._call("outcome", lambda: self._store.outcome(job_id, for_ms=for_ms))

    async def waits(self, job_id: str) -> Waits:
        return await self._call("waits", lambda: self._store.waits(job_id))

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
        return await self._call(
            "jobs", lambda: self._store.jobs(state=state, queue=queue, task=task, scope=scope, after=after, limit=limit)
        )

    async def events(self, scope: str, topic: str, *, after: str = "", limit: int = 1000) -> list[Event]:
        return await self._call("events", lambda: self._store.events(scope, topic, after=after, limit=limit))

    async def records(self, flow: str, *, after: int = -1, limit: int = 1000) -> list[Record]:
        return await self._call("records", lambda: self._store.records(flow, after=after, limit=limit))

    async def counts(self) -> list[QueueCounts]:
        return await self._call("counts", self._store.counts)

    # -- Admin ---------------------------------------------------------------------------------------------------------------

    async def condition(self) -> Condition:
        return await self._call("condition", self._store.condition)

    async def replay(self, job_ids: Sequence[str]) -> int:
        return await self._call("replay", lambda: self._store.replay(job_ids))

    async def discard(self, job_ids: Sequence[str]) -> int:
        return await self._call("discard", lambda: self._store.discard(job_ids))

    async def purge(self, queue: str) -> int:
        return await self._call("purge", lambda: self._store.purge(queue))

    async def pause(self, queue: str) -> None:
        return await self._call("pause", lambda: self._store.pause(queue))

    async def resume(self, queue: str) -> None:
        return await self._call("resume", lambda: self._store.resume(queue))

    async def register(self, worker: WorkerInfo, *, for_ms: int) -> None:
        return await self._call("register", lambda: self._store.register(worker, for_ms=for_ms))

    async def workers(self) -> list[WorkerInfo]:
        return await self._call("workers", self._store.workers)

    async def sweep(self, *, limit: int = 1000) -> int:
        return await self._call("sweep", lambda: self._store.sweep(limit=limit))

    async def close(self) -> None:
        return await self._call("close", self._store.close)


class _Subscribed:
    def __init__(self, faulty: Faulty, subscription: Subscription) -> None:
        self._faulty, self._subscription = faulty, subscription

    async def next(self, *, for_ms: int) -> Sequence[Hint]:
        return await self._faulty._call("next", lambda: self._subscription.next(for_ms=for_ms))  # noqa: SLF001  # one noun, two faces

    async def close(self) -> None:
        return await self._faulty._call("unsubscribe", self._subscription.close)  # noqa: SLF001


class Outside(Generic[T]):
    """`await Outside(coro)`: what the coroutine schedules belongs to no node, as what a server does is not stopped with its client.

    Else a ring of the store's bell would die with the client whose commit rang it.
    """

    def __init__(self, coro: Coroutine[Any, Any, T]) -> None:
        self._coro = coro

    def __await__(self) -> Generator[Any, Any, T]:
        coro, context = self._coro, copy_context()
        context.run(NODE.set, "")
        step: Callable[[Any], Any] = coro.send
        value: Any = None
        while True:
            try:
                waits_for = context.run(step, value)
            except StopIteration as e:
                answer: T = e.value
                return answer
            try:
                step, value = coro.send, (yield waits_for)
            except BaseException as e:  # noqa: BLE001  # a cancel travels on into the coroutine, and so does the end of the loop
                step, value = coro.throw, e


class VirtualClock:
    """A store's clock in virtual time: milliseconds of `loop.time()`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now_ms(self) -> int:
        return int(self._loop.time() * 1000 + 1e-3)  # a microsecond on top: a timer of 30 ms must not wake at 29.999999


class DriftingClock:
    """A worker's wall clock: another clock that somebody sets an hour forward or back, again and again.

    Args:
        clock: the true one.
        rng: its own, for it draws when it is read.
        every_ms: between two steps, on average.
        by_ms: each step, forward or back.
    """

    def __init__(self, clock: Clock, rng: Random, *, every_ms: int = 60_000, by_ms: int = HOUR_MS) -> None:
        self.stepped = 0  # how often, so that a test can refuse a clock that told the truth
        self._clock, self._rng, self._every_ms, self._by_ms = clock, rng, every_ms, by_ms
        self._off_ms = 0
        self._next_ms = self._after(clock.now_ms())

    def now_ms(self) -> int:
        now = self._clock.now_ms()
        while now >= self._next_ms:
            self._off_ms += self._rng.choice((-self._by_ms, self._by_ms))
            self._next_ms = self._after(self._next_ms)
            self.stepped += 1
        return now + self._off_ms

    def _after(self, ms: int) -> int:
        return ms + 1 + int(self._rng.expovariate(1 / self._every_ms))

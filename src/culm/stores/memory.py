"""`memory://`: a store that lives in this process and dies with it. Its logic is `tables.py`, by way of `quick_tables.py`.

The lock makes each call atomic among threads (the heart of a worker extends leases from its own). Nothing is awaited
while it is held.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from typing import Literal

from culm.clock import Clock, SystemClock
from culm.commit import BatchId, Commit, Committed, Event, Held, Record
from culm.job import Delivery, Job
from culm.outcome import ENDINGS, FINAL
from culm.store import (
    Absent,
    Claimed,
    ClaimOrder,
    Condition,
    Ended,
    Hint,
    JobView,
    LeaseState,
    Pending,
    QueueCounts,
    Shown,
    State,
    Waits,
    WorkerInfo,
)
from culm.stores.bells import Bells
from culm.stores.memory_blobs import MemoryBlobs
from culm.stores.quick_tables import QuickTables
from culm.stores.rows import Row
from culm.stores.tables import Tables
from culm.stores.waits import waits

DURABILITY = "D0: survives nothing"


class MemoryStore:
    """The whole of `FullStore` over `Tables`.

    Args:
        clock: the store's clock; leases and delays are judged by it alone.
        ledger: receives (job id, lease) of each final commit, for tests.
        tables: its logic; `Tables` for the specification to the letter.
    """

    in_order: Literal[True] = True

    def __init__(
        self, clock: Clock | None = None, *, ledger: list[tuple[str, str]] | None = None, tables: type[Tables] = QuickTables
    ) -> None:
        self._clock = clock or SystemClock()
        self.tables = tables(self._clock.now_ms, ledger=ledger)
        self.blobs = MemoryBlobs(self._clock.now_ms)
        self._lock = threading.Lock()
        self._bells = Bells()
        self._channels: dict[str, list[_Subscription]] = {}
        self._workers: dict[str, tuple[WorkerInfo, int]] = {}

    def __str__(self) -> str:
        return f"memory ({DURABILITY})"

    # -- Store --------------------------------------------------------------------------------------------------------------

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        with self._lock:
            answers = self.tables.commit(commits, batch=batch)
            self._ring()
        return answers

    def _ring(self) -> None:
        rung, bells = self.tables.rung, self._bells
        if bells:
            for name in bells.names():
                if name.partition("/")[2] in rung:
                    bells.ring(name)
        rung.clear()

    async def claim(self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int, order: ClaimOrder = "priority") -> Claimed:
        with self._lock:
            claimed = self.tables.claim(queues, lease=lease, limit=limit, for_ms=for_ms, order=order)
            self._ring()
        return claimed

    async def extend(self, held: Sequence[Held], *, for_ms: int) -> list[LeaseState]:
        with self._lock:
            return self.tables.extend(held, for_ms=for_ms)

    async def wait(self, queues: Sequence[str], *, for_ms: int) -> None:
        with self._lock:
            listening = self._bells.listen([f"queue/{q}" for q in queues])
            due = any(lane and lane[0][0] <= self.tables.now() for (q, _), lane in self.tables.ready.items() if q in queues)
        if due and not self.tables.paused.issuperset(queues):
            listening.stop()
            await asyncio.sleep(0)
        else:
            await listening.wait(for_ms=for_ms)

    # -- Hints --------------------------------------------------------------------------------------------------------------

    async def publish(self, hints: Sequence[Hint]) -> None:
        for hint in hints:
            for subscription in self._channels.get(hint.channel, ()):
                subscription.arrived.append(hint)
                self._bells.ring(subscription.bell)

    async def subscribe(self, channel: str) -> _Subscription:
        subscription = _Subscription(self._channels, self._bells, channel)
        self._channels.setdefault(channel, []).append(subscription)
        return subscription

    # -- Reader -------------------------------------------------------------------------------------------------------------

    async def job(self, job_id: str) -> JobView | None:
        with self._lock:
            row = self.tables.rows.get(job_id)
            return None if row is None else _view(row, self.tables.now())

    async def sent(self, job_id: str) -> Job | None:
        with self._lock:
            row = self.tables.rows.get(job_id)
            return None if row is None else row.job

    async def deliveries(self, held: Sequence[Held]) -> list[Delivery]:
        with self._lock:
            return self.tables.deliveries(held)

    async def outcome(self, job_id: str, *, for_ms: int = 0) -> Ended | Pending | Absent:
        with self._lock:
            found = self._outcome(job_id)
            if not isinstance(found, Pending) or not for_ms:
                return found
            listening = self._bells.listen([f"job/{job_id}"])
        await listening.wait(for_ms=for_ms)
        with self._lock:
            return self._outcome(job_id)

    def _outcome(self, job_id: str) -> Ended | Pending | Absent:
        row = self.tables.rows.get(job_id)
        if row is None:
            return Absent()
        return Ended(row.last) if isinstance(row.last, FINAL) and row.finished else Pending()

    async def waits(self, job_id: str) -> Waits:
        with self._lock:
            return waits(self.tables, job_id)

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
        with self._lock:
            now = self.tables.now()
            found = [
                _view(row, now)
                for row in self.tables.rows.values()
                if row.job.id > after
                and queue in (None, row.job.queue)
                and task in (None, row.job.task)
                and scope in (None, row.job.scope)
                and state in (None, _state(row), "dead" if row.died is not None else None)
            ]
        return sorted(found, key=lambda v: v.id)[:limit]

    async def events(self, scope: str, topic: str, *, after: str = "", limit: int = 1000) -> list[Event]:
        with self._lock:
            return [e for e in self.tables.events(scope, topic) if e.key > after][:limit]

    async def records(self, flow: str, *, after: int = -1, limit: int = 1000) -> list[Record]:
        with self._lock:
            return [r for r in self.tables.flow_records(flow) if r.seq > after][:limit]

    async def counts(self) -> list[QueueCounts]:
        with self._lock:
            now, rows = self.tables.now(), [r for r in self.tables.rows.values() if not r.finished]
            names = sorted({r.job.queue for r in rows} | self.tables.paused)
            return [_count(name, [r for r in rows if r.job.queue == name], now, paused=name in self.tables.paused) for name in names]

    # -- Admin --------------------------------------------------------------------------------------------------------------

    async def condition(self) -> Condition:
        return Condition(place="memory://", engine="this process", durability=DURABILITY, layout=0, now_ms=self._clock.now_ms())

    async def replay(self, job_ids: Sequence[str]) -> int:
        with self._lock:
            replayed = self.tables.replay(job_ids)
            self._ring()
        return replayed

    async def discard(self, job_ids: Sequence[str]) -> int:
        with self._lock:
            return self.tables.discard(job_ids)

    async def purge(self, queue: str) -> int:
        with self._lock:
            purged = self.tables.purge(queue)
            self._ring()
        return purged

    async def pause(self, queue: str) -> None:
        with self._lock:
            self.tables.paused.add(queue)

    async def resume(self, queue: str) -> None:
        with self._lock:
            self.tables.paused.discard(queue)
            self.tables.rung.add(queue)
            self._ring()

    async def register(self, worker: WorkerInfo, *, for_ms: int) -> None:
        with self._lock:
            self._workers[worker.id] = (worker, self.tables.now() + for_ms)

    async def workers(self) -> list[WorkerInfo]:
        with self._lock:
            now = self.tables.now()
            self._workers = {i: w for i, w in self._workers.items() if w[1] > now}
            return [w for _, (w, _) in sorted(self._workers.items())]

    async def sweep(self, *, limit: int = 1000) -> int:
        with self._lock:
            return self.tables.sweep(limit)

    async def close(self) -> None:
        """Nothing to let go: the memory of it lives as long as the object."""


class _Subscription:
    def __init__(self, channels: dict[str, list[_Subscription]], bells: Bells, channel: str) -> None:
        self.arrived: deque[Hint] = deque(maxlen=10_000)
        self.bell = f"hints/{id(self)}"
        self._channels, self._bells, self._channel = channels, bells, channel

    async def next(self, *, for_ms: int) -> Sequence[Hint]:
        if not self.arrived:
            await self._bells.listen([self.bell]).wait(for_ms=for_ms)
        hints = tuple(self.arrived)
        self.arrived.clear()
        return hints

    async def close(self) -> None:
        listeners = self._channels.get(self._channel, [])
        if self in listeners:
            listeners.remove(self)
        if not listeners:
            self._channels.pop(self._channel, None)


def _state(row: Row) -> State:
    if row.finished and isinstance(row.last, FINAL):
        return ENDINGS[type(row.last)]
    return "leased" if row.lease else "open"


def _view(row: Row, now: int) -> JobView:
    job = row.job
    return JobView(
        id=job.id,
        task=job.task,
        queue=job.queue,
        priority=job.priority,
        state=_state(row),
        attempt=row.attempt,
        expiries=row.expiries,
        due_in_ms=None if row.due is None else max(0, row.due - now),
        age_ms=now - row.sent,
        last=row.last,
        lease=row.lease,
        topic=job.topic,
        claims=row.fence,
        replays=row.replays,
        dead_ms=None if row.died is None else now - row.died,
    )


def _count(queue: str, rows: Sequence[Row], now: int, *, paused: bool) -> QueueCounts:
    due = [r.due for r in rows if not r.lease and r.due is not None]
    ready = [d for d in due if d <= now]
    return QueueCounts(
        queue=queue,
        paused=paused,
        ready=len(ready),
        delayed=len(due) - len(ready),
        waiting=sum(1 for r in rows if not r.lease and r.due is None),
        leased=sum(1 for r in rows if r.lease),
        oldest_ms=now - min(ready) if ready else None,
    )

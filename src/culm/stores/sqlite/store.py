"""`sqlite:///file`: one file, in WAL, shared by all processes of a machine. One writing desk gathers what is asked into transactions.

Map: `schema.sql` the tables; `desk.py` the thread and its transactions; `commits.py`, `rows.py` and `leases.py` the kernel;
`reads.py` and `upkeep.py` the rest; `watch.py` hears other processes. An acknowledged commit has been fsynced, unless the
durability is relaxed.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from culm.clock import Clock, SystemClock
from culm.commit import BatchId, Commit, Committed, Event, Held, Record
from culm.errors import ConfigError
from culm.forks import tell_of_forks
from culm.job import Delivery, Job
from culm.store import (
    Absent,
    AtOnce,
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
    Waits,
    WorkerInfo,
)
from culm.stores.bells import Bells
from culm.stores.sqlite import leases as leasing
from culm.stores.sqlite import reads, upkeep
from culm.stores.sqlite.alone import send_alone, sent_alone
from culm.stores.sqlite.blobs import SqliteBlobs
from culm.stores.sqlite.columns import MAX_BYTES
from culm.stores.sqlite.commits import Commits, are_short, how_many
from culm.stores.sqlite.desk import Desk
from culm.stores.sqlite.file import SCHEMA, Reserve, connect, connect_to_write, prepare
from culm.stores.sqlite.lanes import Lanes
from culm.stores.sqlite.leases import Claim, Leases
from culm.stores.sqlite.line import Line
from culm.stores.sqlite.rows import Rows
from culm.stores.sqlite.spot import SMALL, SMALL_BYTES, Small
from culm.stores.sqlite.sql import SQL
from culm.stores.sqlite.watch import Watch

T = TypeVar("T")
Durability = Literal["full", "relaxed"]

_CLASS = {"full": "D2: survives a power cut", "relaxed": "D1: survives a crash of the process, not a power cut"}

_encode = msgspec.msgpack.Encoder().encode
_decode_hint = msgspec.msgpack.Decoder(Hint).decode
_decode_worker = msgspec.msgpack.Decoder(WorkerInfo).decode


class SqliteStore:
    """The whole of `FullStore` over one SQLite file.

    Args:
        path: the file; made if it is not there.
        durability: "full" survives a power cut (synchronous=FULL), "relaxed" a crash of the process (NORMAL).
        clock: the store's clock.
        ledger: write a row into `ledger` with every final commit, in its transaction: for tests and demonstrations.
        on_loop: do small writes on the event loop as long as the disk is quick. A disk that hangs then stops the loop; else never.

    Raises:
        ConfigError: the path cannot be written, or the file is something else, or newer. StoreUnavailable: it is locked.
    """

    def __init__(
        self, path: str | Path, *, durability: Durability = "full", clock: Clock | None = None, ledger: bool = False, on_loop: bool = True
    ) -> None:
        if durability not in ("full", "relaxed"):
            raise ConfigError(f"durability must be 'full' or 'relaxed', got {durability!r}")
        self.path = Path(path).absolute()
        self._durability = durability
        prepare(self.path)
        self._now = (clock or SystemClock()).now_ms
        self._ledger = ledger
        self._on_loop = on_loop
        self._lanes = Lanes()
        self._leases = Leases()
        self._bells = Bells()
        self._rung: set[str] = set()  # touched by whoever has the writing line
        self._seen: dict[object, tuple[str, int]] = {}
        begun = Reserve(self.path) if durability == "full" else lambda: False
        writing = Line(self.path, lambda: connect_to_write(self.path, durability))
        reading, watching = (Line(self.path, lambda: connect(self.path, durability)) for _ in range(2))
        self._writes = Desk(writing, begin="IMMEDIATE", begun=begun, done=self._written)
        self._reads = Desk(reading, begin="DEFERRED")
        self.blobs = SqliteBlobs(self._writes, self._reads, self._now)
        self._watch = Watch(watching, self._bells, self._now, self._seen)
        tell_of_forks(self)

    def __str__(self) -> str:
        return f"{self.path} ({_CLASS[self._durability]})"

    def forked(self) -> None:
        """In the child of a fork. Whoever waits in the parent waits there."""
        self._bells.forget()
        self._rung.clear()
        for part in (self._writes, self._reads, self._watch):
            part.forked()

    def _written(self, committed: bool) -> None:  # the desk's callback
        rung = self._rung
        if not committed:
            self._lanes.forget()
        elif self._bells and rung:
            for name in self._bells.names():
                if name.partition("/")[2] in rung:
                    self._bells.ring(name)
        rung.clear()

    # -- Store --------------------------------------------------------------------------------------------------------------

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        def applying(connection: sqlite3.Connection) -> Commits:
            return Commits(connection, self._lanes, self._leases, self._now(), self._rung, ledger=self._ledger)

        def at_once(connection: sqlite3.Connection) -> list[Committed] | None:
            if job is not None:
                return self._send_alone(connection, job, batch)
            return applying(connection).at_once(commits, batch)

        def on_the_spot(connection: sqlite3.Connection) -> list[Committed] | None:
            if job is not None:
                return self._send_on_the_spot(connection, job, batch)
            return applying(connection).at_once(commits, batch, on_the_spot=True)

        job = sent_alone(commits)
        jobs = 1 if job is not None else how_many(commits)
        small = Small(on_the_spot, jobs, counts=True) if self._on_loop and jobs <= SMALL and are_short(commits) else None
        return await self._writes.do(lambda c: applying(c).apply(commits, batch), at_once, small=small, is_large=jobs > SMALL)

    def commit_at_once(
        self,
        commits: Sequence[Commit],
        *,
        batch: BatchId,
        alone: bool,  # noqa: ARG002
        fresh: bool,  # noqa: ARG002
        then: AtOnce,
    ) -> bool:
        """As `commit`, of a short job that is sent alone, while the disk is quick."""
        job = sent_alone(commits)
        if job is None or not self._on_loop or not are_short(commits):
            return False
        done: list[Committed] | None = self._writes.do_on_the_spot(Small(lambda c: self._send_on_the_spot(c, job, batch), 1, counts=True))
        if done is None:
            return False
        then(done)
        return True

    def _send_alone(self, connection: sqlite3.Connection, job: Job, batch: BatchId) -> list[Committed] | None:
        return send_alone(connection, self._lanes, self._now(), self._rung, job, batch)

    def _send_on_the_spot(self, connection: sqlite3.Connection, job: Job, batch: BatchId) -> list[Committed] | None:
        return self._send_alone(connection, job, batch) if self._lanes.knows(job.queue) else None

    async def claim(self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int, order: ClaimOrder = "priority") -> Claimed:
        def claim(connection: sqlite3.Connection, room: int = MAX_BYTES) -> Claim:
            return Claim(connection, self._lanes, self._now(), self._rung, lease=lease, for_ms=for_ms, ledger=self._ledger, room=room)

        def at_once(connection: sqlite3.Connection, room: int = MAX_BYTES) -> tuple[Claimed, Claim] | None:
            claimed = (first := claim(connection, room)).at_once(queues, limit=limit, order=order)
            return None if claimed is None else (claimed, first)

        def work(connection: sqlite3.Connection) -> tuple[Claimed, Claim]:
            return (again := claim(connection)).take(queues, limit=limit, order=order), again

        # A claim that finds nothing does not reach the disk.
        small = Small(lambda c: at_once(c, SMALL_BYTES), limit, counts=False) if self._on_loop and limit <= SMALL else None
        claimed, done = await self._writes.do(work, at_once, small=small, is_large=limit > SMALL)
        if done.rids:
            self._leases.learn(lease, done.rids)
        return claimed

    async def extend(self, held: Sequence[Held], *, for_ms: int) -> list[LeaseState]:
        return await self._writes.do(lambda connection: leasing.extend(connection, held, self._now() + for_ms))

    async def wait(self, queues: Sequence[str], *, for_ms: int) -> None:
        listening = self._bells.listen([f"queue/{q}" for q in queues])
        self._watch.wanted()  # its first look, now that we listen, finds what is due already
        await listening.wait(for_ms=for_ms)

    # -- Hints --------------------------------------------------------------------------------------------------------------

    async def publish(self, hints: Sequence[Hint]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            for hint in hints:
                connection.execute(SQL["publish"], (hint.channel, self._now(), _encode(hint)))
                self._rung.add(hint.channel)

        await self._writes.do(work)

    async def subscribe(self, channel: str) -> _Subscription:
        newest: int = await self._reads.do(lambda connection: connection.execute(SQL["newest_hint"]).fetchone()[0])
        return _Subscription(self._reads, self._bells, self._watch, self._seen, channel, newest)

    # -- Reader -------------------------------------------------------------------------------------------------------------

    async def job(self, job_id: str) -> JobView | None:
        return await self._reads.do(lambda connection: reads.job(connection, job_id, self._now()))

    async def sent(self, job_id: str) -> Job | None:
        return await self._reads.do(lambda connection: reads.sent(connection, job_id))

    async def deliveries(self, held: Sequence[Held]) -> list[Delivery]:
        return await self._reads.do(lambda connection: leasing.deliveries(connection, held, self._now()))

    async def outcome(self, job_id: str, *, for_ms: int = 0) -> Ended | Pending | Absent:
        listening = self._bells.listen([f"job/{job_id}"]) if for_ms else None
        try:
            found = await self._reads.do(lambda connection: reads.outcome(connection, job_id))
            if listening is None or not isinstance(found, Pending):
                return found
            self._watch.wanted()
            await listening.wait(for_ms=for_ms)
        finally:
            if listening is not None:
                listening.stop()
        return await self._reads.do(lambda connection: reads.outcome(connection, job_id))

    async def waits(self, job_id: str) -> Waits:
        return await self._reads.do(lambda connection: reads.waits(connection, job_id, self._now()))

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
        return await self._reads.do(
            lambda c: reads.jobs(c, self._now(), state=state, queue=queue, task=task, scope=scope, after=after, limit=limit)
        )

    async def events(self, scope: str, topic: str, *, after: str = "", limit: int = 1000) -> list[Event]:
        return await self._reads.do(lambda connection: reads.events(connection, scope, topic, after, limit))

    async def records(self, flow: str, *, after: int = -1, limit: int = 1000) -> list[Record]:
        return await self._reads.do(lambda connection: reads.records(connection, flow, after, limit))

    async def counts(self) -> list[QueueCounts]:
        return await self._reads.do(lambda connection: reads.counts(connection, self._now()))

    # -- Admin --------------------------------------------------------------------------------------------------------------

    async def condition(self) -> Condition:
        durability = _CLASS[self._durability]
        engine = f"SQLite {sqlite3.sqlite_version}"
        return Condition(place=str(self.path), engine=engine, durability=durability, layout=SCHEMA, now_ms=self._now())

    async def replay(self, job_ids: Sequence[str]) -> int:
        def work(connection: sqlite3.Connection) -> int:
            now = self._now()
            return upkeep.replay(connection, job_ids, now, Rows(connection, self._lanes, now, self._rung, ledger=self._ledger))

        return await self._writes.do(work)

    async def discard(self, job_ids: Sequence[str]) -> int:
        return await self._writes.do(lambda connection: upkeep.discard(connection, job_ids))

    async def purge(self, queue: str) -> int:
        def work(connection: sqlite3.Connection) -> int:
            return upkeep.purge(connection, queue, Rows(connection, self._lanes, self._now(), self._rung, ledger=self._ledger))

        return await self._writes.do(work)

    async def pause(self, queue: str) -> None:
        await self._writes.do(lambda connection: upkeep.set_paused(connection, queue, self._lanes, paused=True))

    async def resume(self, queue: str) -> None:
        def work(connection: sqlite3.Connection) -> None:
            upkeep.set_paused(connection, queue, self._lanes, paused=False)
            self._rung.add(queue)

        await self._writes.do(work)

    async def register(self, worker: WorkerInfo, *, for_ms: int) -> None:
        await self._writes.do(lambda connection: connection.execute(SQL["register"], (worker.id, _encode(worker), self._now() + for_ms)))

    async def workers(self) -> list[WorkerInfo]:
        rows = await self._reads.do(lambda connection: connection.execute(SQL["workers"], (self._now(),)).fetchall())
        return [_decode_worker(info) for (info,) in rows]

    async def sweep(self, *, limit: int = 1000) -> int:
        return await self._writes.do(lambda connection: upkeep.sweep(connection, limit, self._now()))

    async def close(self) -> None:
        self._watch.close()
        for name in self._bells.names():
            self._bells.ring(name)  # whoever waits looks again, and hears that the store is closed
        await asyncio.gather(self._writes.close(), self._reads.close())


class _Subscription:
    def __init__(self, desk: Desk, bells: Bells, watch: Watch, seen: dict[object, tuple[str, int]], channel: str, newest: int) -> None:
        self._desk, self._bells, self._watch, self._seen = desk, bells, watch, seen
        self._channel = channel
        self._last = newest
        seen[self] = (channel, newest)

    async def next(self, *, for_ms: int) -> Sequence[Hint]:
        listening = self._bells.listen([f"hints/{self._channel}"])
        try:
            hints = await self._news()
            if not hints and for_ms:
                self._watch.wanted()
                await listening.wait(for_ms=for_ms)
                hints = await self._news()
        finally:
            listening.stop()
        return hints

    async def _news(self) -> Sequence[Hint]:
        last = self._last
        rows = await self._desk.do(lambda connection: connection.execute(SQL["hints_after"], (self._channel, last)).fetchall())
        if rows:
            self._last = rows[-1][0]
            self._seen[self] = (self._channel, self._last)
        return tuple(_decode_hint(hint) for _, hint in rows)

    async def close(self) -> None:
        self._seen.pop(self, None)

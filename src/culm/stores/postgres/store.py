"""`postgresql://host/database`: a store that many machines share. What has to be atomic is a function of the schema; this calls them.

Map: docs/postgres.md the tables; `migrations/` them and the kernel; `wire.py` commits as columns; `link.py` the connections; `news.py`,
`outcomes.py` and `hints.py` who is told of what; `reads.py` the rest; `within.py` a commit in somebody's own transaction. Durability is
the server's, and is said at the first connection.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import asyncpg
import msgspec

from culm.clock import Clock
from culm.commit import BatchId, Commit, Committed, Event, Held, Record
from culm.errors import StoreError, StoreUnavailable
from culm.job import Delivery, Job, as_delivered, scope_of
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
    Waits,
    WorkerInfo,
)
from culm.stores.bells import Bells
from culm.stores.per_loop import PerLoop
from culm.stores.postgres import reads, wire
from culm.stores.postgres.address import Address
from culm.stores.postgres.blobs import PostgresBlobs
from culm.stores.postgres.faults import NOT_PLAIN, state_of, translated
from culm.stores.postgres.hints import Subscription, publish
from culm.stores.postgres.link import Link
from culm.stores.postgres.migrate import LAYOUT
from culm.stores.postgres.news import News
from culm.stores.postgres.outcomes import Outcomes
from culm.stores.postgres.server import Server
from culm.stores.postgres.wire import Leases
from culm.stores.postgres.within import Transaction, begin, commit_within

log = logging.getLogger("culm.postgres")

MAX_BYTES = 16 << 20  # of jobs in one claim, unless one alone has more
POLL_MS = 100  # of a wait without listening
PURGE_AT_ONCE = 2_000
_STATES: dict[str, LeaseState] = {"h": "held", "l": "lost", "c": "cancelled"}

_encode = msgspec.msgpack.Encoder().encode
_decode_worker = msgspec.msgpack.Decoder(WorkerInfo).decode


class _Ends:
    """What a store has on one event loop."""

    def __init__(self, store: PostgresStore) -> None:
        address = store.address
        self.link = Link(address, store.rng, store.connected)
        self.transactions = Link(address, store.rng, store.connected)  # tasks keep one for long: it must not be one of the others
        self.who = f"culm/{uuid.uuid4().hex}"
        self.bells = Bells()
        self.news = News(self.link, self._returned)
        self.outcomes = Outcomes(self.link, store.now, lambda: self.who if self.news.is_listening() else "")
        self._everybody = f"culm/{address.schema}"
        self._listening: asyncio.Task[None] | None = None

    async def listen(self) -> bool:
        """Hear of queues and outcomes, from the first wait on. False: not now, so whoever waits polls."""
        if not self.link.address.listen:
            return False
        if self._listening is None or (self._listening.done() and self._listening.exception() is not None):
            self._listening = self.link.loop.create_task(self._begin())
        with suppress(StoreUnavailable):
            await asyncio.shield(self._listening)
        return self.news.is_listening()

    async def _begin(self) -> None:
        await self.news.subscribe(self.who, self._told)
        await self.news.subscribe(self._everybody, self._told)

    def _told(self, payload: str) -> None:
        if payload.startswith("q"):
            self.bells.ring(payload[1:])
        else:
            self.outcomes.told(payload[1:])

    def _returned(self) -> None:
        """What was said meanwhile is lost: all look."""
        for name in self.bells.names():
            self.bells.ring(name)
        self.outcomes.look_again()

    def close(self) -> None:
        self.news.close()
        self.link.close()
        self.transactions.close()
        self._returned()


class PostgresStore:
    """The whole of `FullStore` over one schema of a PostgreSQL database.

    Args:
        address: where, as whom, and which schema.
        clock: the store's clock; None: the server's.
        rng: spreads the return of many clients.

    Raises:
        ConfigError: at first use; the server is too old, may lose what it acknowledged, or refuses the user; the schema is missing, or of
            another version.
    """

    def __init__(self, address: Address, *, clock: Clock | None = None, rng: random.Random | None = None) -> None:
        self.address = address
        self.rng = rng or random.Random()
        self._clock = clock
        self._leases = Leases()
        self._server: Server | None = None
        self._ends = PerLoop(lambda: _Ends(self))
        self._here = self._ends.here
        self.blobs = PostgresBlobs(lambda: self._here().link, self.now)

    def __str__(self) -> str:
        durability = self._server.durability if self._server is not None else "the first connection says how durable it is"
        return f"{self.address} schema {self.address.schema} ({durability})"

    def now(self) -> int | None:
        """What functions take for now; None: the server's clock."""
        return None if self._clock is None else self._clock.now_ms()

    def connected(self, server: Server) -> None:
        first, self._server = self._server is None, server
        if first:
            log.info("store: %s", self)
            if server.pooled and self.address.listen:
                log.warning("postgres.pooler: %s is a pooler; unless it keeps sessions, add ?listen=off to the address", self.address)

    async def _run(self, name: str, *args: Any) -> Any:
        return await self._here().link.run(name, *args)

    # -- Store --------------------------------------------------------------------------------------------------------------

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        try:
            letters = await self._commit_plainly(commits, batch)
            if letters is None:
                letters = await self._run("commit", self.now(), *batch, self.address.ledger, False, *wire.anything(commits))
        except UnicodeEncodeError as e:
            raise StoreError(f"refused: {e.object[e.start : e.end]!r} is no text that UTF-8 can carry") from None
        answers = wire.answers(letters)
        self._leases.forget(commits, answers)
        return answers

    async def _commit_plainly(self, commits: Sequence[Commit], batch: BatchId) -> str | None:
        """The answers; None: it is not plain, and nothing was written."""
        try:
            if (columns := wire.finishing(commits, self._leases, ledger=self.address.ledger)) is not None:
                return str(await self._run("finish_plain", self.now(), *batch, self._leases.take_gone(), *columns))
            if (columns := wire.sending(commits)) is not None:
                return str(await self._run("send_plain", self.now(), *batch, *columns))
        except asyncpg.PostgresError as e:
            if state_of(e) != NOT_PLAIN:
                raise translated(e, str(self.address)) from None
        return None

    async def claim(self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int, order: ClaimOrder = "priority") -> Claimed:
        args = (lease, limit, for_ms, order, MAX_BYTES, list(queues), self._leases.take_gone(), self.address.ledger)
        (row,) = await self._here().link.rows("claim", self.now(), *args)
        moment, next_due, ids, ns, attempts, expiries, fences, sent, bodies, turns = row
        next_ms = None if next_due is None else max(0, next_due - moment)
        if not ids:
            return Claimed([], next_ms)
        self._leases.learn(lease, ids, ns, fences)
        found: list[Delivery] = []
        for job_id, attempt, expired, fence, at, body in zip(ids, attempts, expiries, fences, sent, bodies, strict=True):
            job, broken = as_delivered(body, job_id=job_id, queue=queues[0])
            found.append(Delivery(job, lease, attempt, expired, fence, moment - at, broken))
        if turns is not None and turns != ids:
            by_id = {d.job.id: d for d in found}
            found = [by_id[job_id] for job_id in turns if job_id in by_id]
        return Claimed(found, next_ms)

    async def extend(self, held: Sequence[Held], *, for_ms: int) -> list[LeaseState]:
        if not held:
            return []
        letters = await self._run("extend", self.now(), for_ms, [h.job_id for h in held], [h.lease for h in held])
        return [_STATES[letter] for letter in letters]

    async def wait(self, queues: Sequence[str], *, for_ms: int) -> None:
        ends = self._here()
        is_listening = await ends.listen()
        rung = ends.bells.listen(queues)
        try:
            next_ms = await self._run("arm", self.now(), ends.who, list(queues), for_ms)
            for_ms = for_ms if next_ms is None else min(for_ms, max(0, next_ms))
            if for_ms:
                await rung.wait(for_ms=for_ms if is_listening else min(for_ms, POLL_MS))
        finally:
            rung.stop()

    # -- Transactional ------------------------------------------------------------------------------------------------------

    async def begin(self) -> Transaction:
        return await begin(self._here().transactions, self.now)

    async def commit_within(self, commit: Commit, within: Any) -> Committed:
        return await commit_within(within, self.address.schema, self.now(), commit, ledger=self.address.ledger)

    # -- Hints --------------------------------------------------------------------------------------------------------------

    async def publish(self, hints: Sequence[Hint]) -> None:
        if hints:
            await publish(self._here().link, hints)

    async def subscribe(self, channel: str) -> Subscription:
        ends = self._here()
        subscription = Subscription(ends.link, ends.news, channel)
        if self.address.listen:
            await subscription.begin()
        return subscription

    # -- Reader -------------------------------------------------------------------------------------------------------------

    async def job(self, job_id: str) -> JobView | None:
        found = await reads.views(self._here().link, [job_id], self.now())
        return found[0] if found else None

    async def sent(self, job_id: str) -> Job | None:
        return await reads.sent(self._here().link, job_id)

    async def deliveries(self, held: Sequence[Held]) -> list[Delivery]:
        return await reads.deliveries(self._here().link, held, self.now())

    async def waits(self, job_id: str) -> Waits:
        return await reads.waits(self._here().link, job_id, self.now())

    async def outcome(self, job_id: str, *, for_ms: int = 0) -> Ended | Pending | Absent:
        ends = self._here()
        if not for_ms:
            return reads.outcome(await ends.outcomes.look(job_id))
        await ends.listen()
        return reads.outcome(await ends.outcomes.wait(job_id, for_ms=for_ms))

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
        return await reads.jobs(self._here().link, self.now(), state=state, queue=queue, task=task, scope=scope, after=after, limit=limit)

    async def events(self, scope: str, topic: str, *, after: str = "", limit: int = 1000) -> list[Event]:
        rows = await self._here().link.rows("events", scope, topic, after, limit)
        return [Event(scope, topic, key, value) for key, value in rows]

    async def records(self, flow: str, *, after: int = -1, limit: int = 1000) -> list[Record]:
        rows = await self._here().link.rows("records", scope_of(flow), flow, after, limit)
        return [Record(flow, seq, value) for seq, value in rows]

    async def counts(self) -> list[QueueCounts]:
        return reads.counts(await self._here().link.rows("counts", self.now()))

    # -- Admin --------------------------------------------------------------------------------------------------------------

    async def condition(self) -> Condition:
        now = await self._run("now")
        server = self._server
        assert server is not None  # the connection that told the time was inspected
        return Condition(
            place=str(self.address),
            engine=f"PostgreSQL {server.version}",
            durability=server.durability,
            layout=LAYOUT,
            now_ms=self.now() or now,
            more={"schema": self.address.schema, "wakes": self._wakes(server)},
        )

    def _wakes(self, server: Server) -> str:
        """How whoever waits hears of it."""
        how = "LISTEN" if self.address.listen else f"by polling, every {POLL_MS} ms (listen=off)"
        return f"{how}, behind a pooler" if server.pooled else how

    async def replay(self, job_ids: Sequence[str]) -> int:
        return int(await self._run("replay", self.now(), list(job_ids)))

    async def discard(self, job_ids: Sequence[str]) -> int:
        return int(await self._run("discard", list(job_ids)))

    async def purge(self, queue: str) -> int:
        purged = 0
        while some := int(await self._run("purge", self.now(), queue, PURGE_AT_ONCE, self.address.ledger)):
            purged += some
            if some < PURGE_AT_ONCE:
                break
        return purged

    async def pause(self, queue: str) -> None:
        await self._run("pause", queue)

    async def resume(self, queue: str) -> None:
        await self._run("resume", queue)

    async def register(self, worker: WorkerInfo, *, for_ms: int) -> None:
        await self._run("register", worker.id, _encode(worker), for_ms, self.now())

    async def workers(self) -> list[WorkerInfo]:
        return [_decode_worker(info) for (info,) in await self._here().link.rows("workers", self.now())]

    async def sweep(self, *, limit: int = 1000) -> int:
        return int(await self._run("sweep", self.now(), limit))

    async def close(self) -> None:
        await self._ends.close()

"""`redis://host`: a store that many machines share. What has to be atomic is a script; this is what calls them.

Map: docs/redis.md the keys; `lua/` the kernel; `wire.py` commits as words; `connection.py` and `link.py` the transport;
`news.py`, `outcomes.py` and `expected.py` who is told of what; `reads.py` the rest. Durability is the server's, and is said at the first
connection.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Sequence
from functools import partial
from typing import Literal

import msgspec

from culm.clock import Clock
from culm.commit import BatchId, Commit, Committed, Event, Held, Record
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
from culm.stores.per_loop import PerLoop
from culm.stores.redis import reads, wire
from culm.stores.redis.address import LAYOUT, Address
from culm.stores.redis.blobs import RedisBlobs
from culm.stores.redis.cluster import Cluster, SlotLink
from culm.stores.redis.connection import Reply
from culm.stores.redis.hints import Subscription, publish
from culm.stores.redis.link import Link
from culm.stores.redis.news import News
from culm.stores.redis.outcomes import LOOK_MS, Outcomes
from culm.stores.redis.records import TOLD, channels, read_record, read_records
from culm.stores.redis.server import Server
from culm.stores.redis.way import Way
from culm.stores.redis.wire import Granted, Leases, Word

log = logging.getLogger("culm.redis")

PURGE_AT_ONCE = 2_000
HURRY_MS = 1_000  # how long a claim that is yet to arrive finds that it is to hurry
_STATES: dict[int, LeaseState] = {ord("h"): "held", ord("l"): "lost", ord("c"): "cancelled"}

_encode = msgspec.msgpack.Encoder().encode
_decode_worker = msgspec.msgpack.Decoder(WorkerInfo).decode


class _Ends:
    """What a store has on one event loop."""

    def __init__(self, store: RedisStore) -> None:
        prefix = store.address.prefix
        self.link: Way
        if store.cluster is None:
            self.link = link = Link(store.address, store.rng, store.connected)
            self.news, self._own_news = News(link), True
        else:
            here = store.cluster.here()
            self.link = SlotLink(here, store.address)
            self.news, self._own_news = here.news, False
        self.outcomes = Outcomes(self.link, self.news, store.now, prefix, TOLD + secrets.token_urlsafe(6))
        self.jobs = reads.Jobs(self.link, prefix, store.now)

    def close(self) -> None:
        if self._own_news:
            self.news.close()
        self.link.close()


class RedisStore:
    """The whole of `FullStore` over one Redis server, in one namespace of it.

    Args:
        address: where, as whom, and which namespace.
        clock: the store's clock; None: the server's.
        rng: spreads the return of many clients.
        cluster: what this partition shares with the others; None: a server of its own.

    Raises:
        ConfigError: at first use; the server is too old, a replica, may drop keys, or refuses the user.
    """

    in_order: Literal[True] = True

    def __init__(
        self, address: Address, *, clock: Clock | None = None, rng: random.Random | None = None, cluster: Cluster | None = None
    ) -> None:
        self.address = address
        self.cluster = cluster
        self.rng = rng or random.Random()
        self._clock = clock
        self._prefix = address.prefix
        self._ledger = "1" if address.ledger else ""
        self._leases = Leases()
        self.blobs = RedisBlobs(lambda: self._here().link, self._prefix, self.now)
        self._server: Server | None = None
        self._ends = PerLoop(lambda: _Ends(self))
        self._here = self._ends.here

    def __str__(self) -> str:
        durability = self._server.durability if self._server is not None else "the first connection says how durable it is"
        return f"{self.address} namespace {self.address.namespace} ({durability})"

    def now(self) -> Word:
        """What scripts take for now; the empty word: the server's clock."""
        return "" if self._clock is None else self._clock.now_ms()

    def connected(self, server: Server) -> None:
        first, self._server = self._server is None, server
        if first:
            log.info("store: %s", self)

    async def _run(self, name: str, *words: Word) -> Reply:
        return await self._here().link.run(name, self.now(), *words)

    # -- Store --------------------------------------------------------------------------------------------------------------

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        client, number = batch
        letters: bytes | int = 0
        if (words := wire.finishing(commits, self._leases, self._ledger)) is not None:
            letters = await self._run("finish", client, number, *words)
        elif (sent := wire.sending(commits)) is not None:
            letters = await self._run(sent.script, client, number, *sent.words)
        if not isinstance(letters, bytes):
            letters = await self._run("commit", client, number, *wire.anything(commits, self._ledger))
        assert isinstance(letters, bytes)
        self._leases.forget(commits)
        return wire.answers(letters)

    def commit_at_once(self, commits: Sequence[Commit], *, batch: BatchId, alone: bool, fresh: bool, then: AtOnce) -> bool:
        """As `commit`, of what is plain; whatever turns out not to be is not known."""
        here = self._here()
        link, outcomes = here.link, here.outcomes
        if not isinstance(link, Link) or not link.is_open:
            return False
        if (words := wire.finishing(commits, self._leases, self._ledger)) is not None:

            def finished(letters: Reply) -> None:
                if isinstance(letters, bytes):
                    self._leases.forget(commits)
                then(wire.answers(letters) if isinstance(letters, bytes) else None)

            return link.start("finish", self.now(), *batch, *words, then=finished)
        # Only here: what is sent again may have ended, and been told.
        channel = outcomes.asks(len(commits[0].send) if len(commits) == 1 else sum([len(c.send) for c in commits]))
        if alone and self._clock is None and (one := wire.packed_one(commits, channel)) is not None:
            ids: Sequence[str] = [commits[0].send[0].id]
            send = partial(link.start_one, *batch, one)
        elif (sent := wire.sending(commits, channel, fresh=fresh)) is not None:
            ids = sent.ids
            send = partial(link.start, sent.script, self.now(), *batch, *sent.words)
        else:
            return False
        outcomes.sends(ids, channel)

        def answered(letters: Reply) -> None:
            if channel:
                outcomes.sent(ids, asked=isinstance(letters, bytes))
            then(wire.answers(letters) if isinstance(letters, bytes) else None)

        return send(then=answered)

    async def claim(self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int, order: ClaimOrder = "priority") -> Claimed:
        return await self._granted(queues, lease, await self._run("claim", *self._asked(queues, lease, limit, for_ms, order)))

    async def claim_within(
        self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int, order: ClaimOrder = "priority", wait_ms: int
    ) -> Claimed:
        """The server keeps the claim behind its wait for a marker, on one connection."""
        markers = [f"{self._prefix}m:{queue}" for queue in queues]
        own, link = f"{self._prefix}w:{lease.rpartition('/')[0]}", self._here().link
        claim = self._asked(queues, lease, limit, for_ms, order)
        reply = await link.wait([*markers, own], queues, self.now(), for_ms=wait_ms, then=("claim", claim))
        return await self._granted(queues, lease, reply)

    async def hurry(self, lease: str) -> None:
        await self._run("hurry", lease.rpartition("/")[0], HURRY_MS)

    def _asked(self, queues: Sequence[str], lease: str, limit: int, for_ms: int, order: ClaimOrder) -> list[Word]:
        return [lease, limit, for_ms, order, self._ledger, *dict.fromkeys(queues)]

    async def _granted(self, queues: Sequence[str], lease: str, reply: Reply) -> Claimed:
        moment, next_ms, ids, blob, special = reply
        if not ids:
            return Claimed([], int(next_ms) if next_ms else None)
        names, now = ids.decode().split("\n"), int(moment)
        stored = blob or await self._here().link.ask("HMGET", f"{self._prefix}jobs", *names)
        if (found := read_records(names, stored)) is not None:
            deliveries = [Delivery(r.job, lease, 1, 0, 1, now - r.sent) for r in found]
        else:  # whoever runs the broken one must hear of it, and the others are as good as ever
            each = [read_record(name, record) for name, record in zip(names, stored, strict=True)]
            deliveries = [Delivery(job, lease, 1, 0, 1, now - sent, broken) for job, sent, broken in each]
        known = dict.fromkeys(names, queues[0]) if len(queues) == 1 else {d.job.id: d.job.queue for d in deliveries}
        for at in range(0, len(special), 5):
            place, attempt, expiries, fence, sent = (int(n) for n in special[at : at + 5])
            d = deliveries[place - 1]
            deliveries[place - 1] = Delivery(d.job, lease, attempt, expiries, fence, now - sent, d.broken)
            known.pop(d.job.id, None)
        if found is not None:  # else they end the general way: that knows whom to tell of the broken one
            self._leases.learn(lease, Granted(known, channels(found), len(names)))
        return Claimed(deliveries, int(next_ms) if next_ms else None)

    async def extend(self, held: Sequence[Held], *, for_ms: int) -> list[LeaseState]:
        if not held:
            return []
        letters = await self._run("extend", for_ms, *[word for h in held for word in (h.job_id, h.lease)])
        return [_STATES[letter] for letter in letters]

    async def wait(self, queues: Sequence[str], *, for_ms: int) -> None:
        markers = [f"{self._prefix}m:{queue}" for queue in queues]
        await self._here().link.wait(markers, queues, self.now(), for_ms=for_ms)

    # -- Hints --------------------------------------------------------------------------------------------------------------

    async def publish(self, hints: Sequence[Hint]) -> None:
        if hints:
            await publish(self._here().link, self._prefix, hints)

    async def subscribe(self, channel: str) -> Subscription:
        subscription = Subscription(self._here().news, f"{self._prefix}h:{channel}")
        await subscription.begin()
        return subscription

    # -- Reader -------------------------------------------------------------------------------------------------------------

    async def job(self, job_id: str) -> JobView | None:
        found = await self._here().jobs.views([job_id])
        return found[0] if found else None

    async def sent(self, job_id: str) -> Job | None:
        record = await self._here().link.ask("HGET", f"{self._prefix}jobs", job_id)
        job = read_record(job_id, record)[0]
        return job if job.task else None

    async def deliveries(self, held: Sequence[Held]) -> list[Delivery]:
        return await self._here().jobs.deliveries(held) if held else []

    async def outcome(self, job_id: str, *, for_ms: int = 0) -> Ended | Pending | Absent:
        outcomes = self._here().outcomes
        if not for_ms:
            return await outcomes.look(job_id)
        if not outcomes.is_listening:
            began = time.monotonic()
            await outcomes.listen(for_ms=for_ms)
            for_ms = max(1, for_ms - round((time.monotonic() - began) * 1000))
        found = await outcomes.wait(job_id, for_ms=for_ms)
        while isinstance(found, Pending) and (for_ms := for_ms - LOOK_MS) > 0:
            found = await outcomes.wait(job_id, for_ms=for_ms)
        return found

    def told(self, job_id: str) -> asyncio.Future[Ended | Pending | Absent] | None:
        outcomes = self._here().outcomes
        return outcomes.wait(job_id) if outcomes.is_listening else None

    async def waits(self, job_id: str) -> Waits:
        ahead, *triggers = await self._run("waits", job_id, *reads.scopes_of(job_id))
        return reads.waits(ahead, triggers)

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
        return await self._here().jobs.find(state=state, queue=queue, task=task, scope=scope, after=after, limit=limit)

    async def events(self, scope: str, topic: str, *, after: str = "", limit: int = 1000) -> list[Event]:
        size = len(scope.encode())
        pairs = await self._here().link.ask("HGETALL", f"{self._prefix}e:{size}:{scope}{topic}")
        found = sorted((key.decode(), value) for key, value in zip(pairs[::2], pairs[1::2], strict=True))
        return [Event(scope, topic, key, value) for key, value in found if key > after][:limit]

    async def records(self, flow: str, *, after: int = -1, limit: int = 1000) -> list[Record]:
        pairs = await self._here().link.ask("HGETALL", f"{self._prefix}f:{flow}")
        found = sorted((int(seq), value) for seq, value in zip(pairs[::2], pairs[1::2], strict=True))
        return [Record(flow, seq, value) for seq, value in found if seq > after][:limit]

    async def counts(self) -> list[QueueCounts]:
        return reads.counts(await self._run("counts"))

    # -- Admin --------------------------------------------------------------------------------------------------------------

    async def condition(self) -> Condition:
        seconds, micros = await self._here().link.ask("TIME")
        server = self._here().link.server
        assert server is not None  # the connection that told the time was inspected
        return Condition(
            place=str(self.address),
            engine=f"Redis {server.version}",
            durability=server.durability,
            layout=LAYOUT,
            now_ms=int(self.now() or int(seconds) * 1000 + int(micros) // 1000),
            more={"namespace": self.address.namespace, "eviction": server.policy},
        )

    async def replay(self, job_ids: Sequence[str]) -> int:
        return int(await self._run("replay", *dict.fromkeys(job_ids)))

    async def discard(self, job_ids: Sequence[str]) -> int:
        return int(await self._run("discard", *dict.fromkeys(job_ids)))

    async def purge(self, queue: str) -> int:
        purged = 0
        while some := int(await self._run("purge", queue, self._ledger, PURGE_AT_ONCE)):
            purged += some
            if some < PURGE_AT_ONCE:
                break
        return purged

    async def pause(self, queue: str) -> None:
        await self._here().link.ask("SADD", self._prefix + "paused", queue)

    async def resume(self, queue: str) -> None:
        marker = f"{self._prefix}m:{queue}"
        ring: tuple[Word, ...] = ("PUBLISH", marker, "") if self.cluster is not None else ("ZADD", marker, 0, "1")
        await self._here().link.ask_all([("SREM", self._prefix + "paused", queue), ring])

    async def register(self, worker: WorkerInfo, *, for_ms: int) -> None:
        await self._run("register", worker.id, _encode(worker), for_ms)

    async def workers(self) -> list[WorkerInfo]:
        pairs = await self._run("workers")
        found = {worker_id: _decode_worker(info) for worker_id, info in zip(pairs[::2], pairs[1::2], strict=True)}
        return [found[worker_id] for worker_id in sorted(found)]

    async def sweep(self, *, limit: int = 1000) -> int:
        return int(await self._run("sweep", limit))

    async def close(self) -> None:
        await self._ends.close()

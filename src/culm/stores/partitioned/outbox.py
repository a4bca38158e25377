"""The outbox: what crosses is delivered by whoever committed it, or else by whoever claims the outbox job. Both may: it counts once.

A delivery to a partition is the batch `(outbox job, 1)` there, which the partition remembers. Only when that was refused, by an
item that conflicts, each item goes for itself, as batch 2.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from random import Random
from weakref import WeakKeyDictionary

from culm.commit import Commit, Held, Trigger
from culm.errors import StoreError, StoreFull, StoreUnavailable
from culm.job import WIRE, Delivery
from culm.outcome import Failed, Fault, Outcome, Released, Retried, Snoozed, Succeeded
from culm.store import Pending
from culm.stores.partitioned.crossing import BODY, RELAY_LOOK_MS, Parcel, read_body
from culm.stores.partitioned.partition import Partition
from culm.stores.partitioned.place import OUTBOX, Place, place_of, place_of_job

log = logging.getLogger("culm.partitions")

SETTLE_AT_ONCE = 100
SETTLE_MS = 5_000  # doing it twice is harmless: others need not wait for long
NEWER_MS = 60_000  # until a newer worker may have come
LONGEST_RETRY_MS = 5_000


class Outbox:
    def __init__(self, partitions: Sequence[Partition], rng: Random) -> None:
        self._rng = rng
        self._partitions = partitions
        self._name = _named_by(rng)
        self._leases = 0
        self._removers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Place, _Remover]] = WeakKeyDictionary()

    # -- delivering -----------------------------------------------------------------------------------------------------------

    async def deliver(self, outbox: str, parcels: Sequence[Parcel]) -> list[str]:
        """Deliver all of it. Returns what conflicts, by name. Raises StoreUnavailable: some of it may be missing."""
        found = await asyncio.gather(*(self._deliver(outbox, parcel) for parcel in parcels), return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException):
                raise one
        return [conflict for one in found if not isinstance(one, BaseException) for conflict in one]

    async def _deliver(self, outbox: str, parcel: Parcel) -> list[str]:
        partition = self._partitions[parcel.place]
        partition.refuse_while_away()
        store = await partition.store()
        (answer,) = await partition.ask_soon(store.commit([parcel.commit()], batch=(outbox, 1)))
        if answer == "applied":
            return []
        each = parcel.each()
        answers = await partition.ask_soon(store.commit(each, batch=(outbox, 2)))
        return [_named(commit) for commit, one in zip(each, answers, strict=True) if one != "applied"]

    async def deliver_at_once(self, outbox: str, parcels: Sequence[Parcel]) -> None:
        """By who committed it. What fails is left to who claims."""
        try:
            conflicts = await self.deliver(outbox, parcels)
        except StoreError as e:
            log.info("outbox.later: %s: %s", outbox, e)
            return
        if not conflicts:
            self._remove(outbox)
        for place in {parcel.place for parcel in parcels if parcel.emit}:
            await self.settle(place)

    def _remove(self, outbox: str) -> None:
        loop, place = asyncio.get_running_loop(), place_of_job(outbox, len(self._partitions))
        removers = self._removers.setdefault(loop, {})
        if place not in removers:
            removers[place] = _Remover(self._partitions[place], self._rng)
        removers[place].remove(outbox)

    # -- what was left ----------------------------------------------------------------------------------------------------------

    async def settle(self, place: Place) -> None:
        """Deliver what lies in that outbox and is due: relays that an event has just released."""
        partition = self._partitions[place]
        try:
            while True:
                partition.refuse_while_away()
                self._leases += 1
                store = await partition.store()
                lease = f"{self._name}/{self._leases}"
                claimed = await partition.ask_soon(store.claim([OUTBOX], lease=lease, limit=SETTLE_AT_ONCE, for_ms=SETTLE_MS))
                await self.run(place, claimed.deliveries)
                if len(claimed.deliveries) < SETTLE_AT_ONCE:
                    return
        except StoreError as e:  # what was committed is committed; whoever claims goes on
            log.info("outbox.later: %s", e)

    async def run(self, place: Place, deliveries: Sequence[Delivery]) -> set[Place]:
        """Deliver what was claimed, and end it. Returns the partitions that may have received something."""
        if not deliveries:
            return set()
        ran = await asyncio.gather(*(self._run(d) for d in deliveries))
        ends = [Commit(fence=Held(d.job.id, d.lease), outcome=outcome, keep_ms=0) for d, (outcome, _) in zip(deliveries, ran, strict=True)]
        partition = self._partitions[place]
        store = await partition.store()
        self._leases += 1
        await partition.ask(store.commit(ends, batch=(f"{self._name}-{self._leases}", 1)))
        return {touched for _, places in ran for touched in places}

    async def _run(self, d: Delivery) -> tuple[Outcome, set[Place]]:
        if d.job.v > WIRE:
            return Released(after_ms=NEWER_MS), set()
        try:
            body = read_body(d.job.args)
        except StoreError as e:
            return Failed(Fault("Crossing", str(e))), set()
        if d.broken or body.v > BODY:
            return (Failed(Fault("Crossing", d.broken)) if d.broken else Released(after_ms=NEWER_MS)), set()
        places = {parcel.place for parcel in body.parcels}
        try:
            if body.waits is not None and d.age_ms >= RELAY_LOOK_MS and (outcome := await self._looked(body.waits)) is not None:
                return outcome, set()
            conflicts = await self.deliver(d.job.id, body.parcels)
        except (StoreUnavailable, StoreFull) as e:
            return Retried(min(LONGEST_RETRY_MS, 250 << min(d.attempt, 7)), Fault(type(e).__name__, str(e))), places
        except StoreError as e:
            return Failed(Fault(type(e).__name__, str(e))), places
        if conflicts:
            log.error("outbox.conflict: %s: refused %s; the rest was delivered", d.job.id, ", ".join(conflicts))
            return Failed(Fault("Conflict", f"refused: {', '.join(conflicts)}; the rest was delivered")), places
        return Succeeded(), places

    async def _looked(self, waits: Trigger) -> Outcome | None:
        """A relay is due by time: how it ends when nothing has released it. None: it was released."""
        n = len(self._partitions)
        here, there = self._partitions[place_of_job(waits.job_id, n)], self._partitions[place_of(waits.scope, n)]
        if not isinstance(await here.ask((await here.store()).outcome(waits.job_id)), Pending):
            return Succeeded()
        store, reached = await there.store(), 0
        for topic, count in waits.topics:
            if topic.startswith("done/"):
                reached += not isinstance(await there.ask(store.outcome(topic[5:])), Pending)
            else:
                reached += len(await there.ask(store.events(waits.scope, topic, limit=count))) >= count
        return None if reached >= waits.need else Snoozed(RELAY_LOOK_MS)

    async def flush(self) -> None:
        """Until the outbox jobs that this event loop delivered are removed."""
        for remover in self._removers.pop(asyncio.get_running_loop(), {}).values():
            await remover.flush()


class _Remover:
    """Removes outbox jobs of one partition that were delivered: many at once, and nobody waits for it. What is left, a claim ends."""

    def __init__(self, partition: Partition, rng: Random) -> None:
        self._partition = partition
        self._client = _named_by(rng)
        self._number = 0
        self._ids: list[str] = []
        self._removing: asyncio.Task[None] | None = None

    def remove(self, outbox: str) -> None:
        self._ids.append(outbox)
        if self._removing is None:
            self._removing = asyncio.get_running_loop().create_task(self._remove())

    async def _remove(self) -> None:
        try:
            while self._ids:
                ids, self._ids = self._ids, []
                self._number += 1
                store = await self._partition.store()
                await self._partition.ask(store.commit([Commit(cancel=tuple(ids))], batch=(self._client, self._number)))
        except StoreError as e:
            log.info("outbox.later: %s", e)
        finally:
            self._removing = None

    async def flush(self) -> None:
        if self._removing is not None:
            await asyncio.wait([self._removing])


def _named_by(rng: Random) -> str:
    return f"outbox-{rng.getrandbits(128):032x}"


def _named(c: Commit) -> str:
    """The one item of the commit."""
    if c.send:
        return f"job {c.send[0].id!r} (another task's job has that id)"
    if c.triggers:
        return f"a trigger of job {c.triggers[0].job_id!r} (there is no such job)"
    return f"record {c.records[0].seq} of {c.records[0].flow!r} (it holds another value)" if c.records else "an item"

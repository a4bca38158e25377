"""The claimer keeps the buffer filled, about 50 ms of work ahead: quick jobs are claimed by the hundred, long ones only for free slots.

So a job of high priority waits behind about 50 ms of others. A buffer that turns out to wait behind long jobs is given back
within a third of a second: another worker may have room.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import attrgetter

from culm.errors import StoreError
from culm.job import Delivery
from culm.store import Claimed, ClaimOrder, Laned, Patient, Store
from culm.worker.slots import Slots

log = logging.getLogger("culm.worker")

_lease = attrgetter("lease")
AHEAD_S = 0.05
ROUNDS = 8  # of all slots, to measure over less time: a few jobs that end together look like thousands a second
MOST_AHEAD = 1_000  # deliveries in the buffer
MOST_AT_ONCE = 500  # deliveries of one claim
AGE_EVERY = 8  # every eighth claim takes the oldest due, so that low priorities do not starve
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
BRIEF_MS = 50  # a wait after a claim that found something, or was woken for nothing: a busy queue's next job comes within it
BELIEVED_S = 0.01  # without room for longer, a claim does not wait: what came due meanwhile, and another worker heard of, rings no more
MOST_AFTER_A_WAIT = 8  # of a claim that waits longer than that in the store: a worker that stands still takes no more with it
LAST_TRIES = 5  # of a claim that is under way when the worker stops: what it granted would be nobody's for the rest of the lease


class Claimer:
    """Claims for the slots.

    Args:
        name: names the worker to the store; its leases are `name/1`, `name/2`, ...
        poll_ms: how often it looks behind the hints.

    Attributes:
        claiming: told of each lease before the store is asked for it.
        answered: when the store last answered a claim, by the system's monotonic clock; 0: never.
        rests: it asks for nothing, since there is no room, or it is to stop.
    """

    def __init__(self, store: Store, queues: Sequence[str], *, name: str, for_ms: int, poll_ms: int, rng: random.Random) -> None:
        self.claiming: Callable[[str], None] = lambda _: None
        self.answered = 0.0
        self.rests = False
        self._store = store
        self._patient = store if isinstance(store, Patient) else None
        self._laned = store if isinstance(store, Laned) else None
        self._wait_ms = 0  # how long the next claim may wait in the store
        self._queues = tuple(queues)
        self._name = name
        self._for_ms = for_ms
        self._poll_ms = poll_ms
        self._rng = rng
        self._room = asyncio.Event()
        self._stopping = False
        self._waiting: asyncio.Task[None] | None = None
        self._waits_under = ""  # the lease of a claim that waits in the store
        self._hurrying: asyncio.Task[None] | None = None
        self._claims = 0
        self._ahead = 0
        self._measured = (0.0, 0)  # when, and how many were done then

    def hungry(self) -> None:
        """There is room in the buffer."""
        self._room.set()

    def slow(self) -> None:
        """The jobs at hand take long: claim for free slots only, until they are measured anew."""
        self._ahead = 0

    def stop(self) -> None:
        """Claim no more. A claim that is under way is still awaited: what it grants must be given back."""
        self._stopping = self.rests = True
        self._room.set()
        if self._waiting is not None:
            self._waiting.cancel()
        if self._patient is not None and self._waits_under:
            self._hurrying = asyncio.get_running_loop().create_task(self._hurry(self._patient, self._waits_under))

    async def _hurry(self, store: Patient, lease: str) -> None:
        with contextlib.suppress(StoreError):  # then it ends when its time is over
            await store.hurry(lease)

    async def run(self, slots: Slots) -> None:
        loop, answered_at = asyncio.get_running_loop(), 0.0  # by its clock, which may be a simulated one
        while not self._stopping:
            limit = slots.free + self._ahead - len(slots.buffer)
            if limit <= self._ahead // 2:
                self._room.clear()
                slots.low_water = self._ahead // 2
                self.rests = True
                await self._room.wait()
                self.rests = self._stopping
                continue
            if loop.time() - answered_at > min(BELIEVED_S, self._wait_ms / 1000):
                self._wait_ms = 0
            waited = self._wait_ms
            if waited:
                limit = min(limit, max(1, slots.free))
            limit = min(limit, MOST_AFTER_A_WAIT if waited > BRIEF_MS else MOST_AT_ONCE)
            began = loop.time()
            claimed = await self._claim(limit)
            answered_at, self.answered = loop.time(), time.monotonic()
            if waited:
                self._measured = (answered_at, slots.done)
            else:
                self._measure(answered_at, slots)
            self._feed(slots, claimed.deliveries)
            if waited and len(claimed.deliveries) == 1:
                await asyncio.sleep(0)  # its first step goes before the next claim: somebody may wait for that job alone
            if not self._stopping and (len(claimed.deliveries) < limit or self._took_the_last(claimed)):
                was_woken = waited <= BRIEF_MS and answered_at - began < waited / 2_000
                await self._wait(claimed.next_ms, brief=not waited or bool(claimed.deliveries) or was_woken)
                self._measured = (loop.time(), slots.done)
        if self._laned is not None:  # what a part of it owes would be nobody's for the rest of the lease
            for delivery in await self._laned.owed(self._name):
                slots.feed([delivery])

    def _feed(self, slots: Slots, deliveries: Sequence[Delivery]) -> None:
        if self._laned is None:
            slots.feed(deliveries)
            return
        for _, some in groupby(deliveries, _lease):  # nearly always one
            slots.feed(list(some))

    async def rest(self) -> None:
        """Claim nothing, until `stop`: what runs here is brought."""
        while not self._stopping:
            self._room.clear()
            await self._room.wait()

    def _took_the_last(self, claimed: Claimed) -> bool:
        """Although it took all that it could. Jobs of leases that ran out come first, and nothing says whether there are more of these."""
        return self._patient is not None and claimed.next_ms != 0 and not claimed.deliveries[0].expiries

    def _measure(self, now: float, slots: Slots) -> None:
        """How much is 50 ms of work, by what was done since the last claim."""
        since, done = self._measured
        passed, ended = now - since, slots.done - done
        if passed >= AHEAD_S or (passed >= AHEAD_S / 10 and ended >= ROUNDS * slots.concurrency):
            self._ahead = min(MOST_AHEAD, int(ended / passed * AHEAD_S))
            self._measured = (now, slots.done)

    async def _claim(self, limit: int) -> Claimed:
        """One claim, repeated under its lease until the store answers, so that a lost reply loses no job."""
        self._claims += 1
        order: ClaimOrder = "age" if self._claims % AGE_EVERY == 0 else "priority"
        lease, pause, last_tries = f"{self._name}/{self._claims}", FIRST_PAUSE_S, LAST_TRIES
        self.claiming(lease)
        while True:
            try:
                if self._patient is not None and self._wait_ms:
                    return await self._claim_within(self._patient, lease, limit, order)
                return await self._store.claim(self._queues, lease=lease, limit=limit, for_ms=self._for_ms, order=order)
            except StoreError as e:
                log.warning("claim.failed: %s", e)
            except Exception:
                log.exception("claim.failed: a defect of the store; the claimer goes on")
            if self._stopping:
                last_tries -= 1
                if not last_tries:
                    return Claimed()
                pause = min(pause, 4 * FIRST_PAUSE_S)
            await asyncio.sleep(pause * (0.5 + self._rng.random() / 2))
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _claim_within(self, store: Patient, lease: str, limit: int, order: ClaimOrder) -> Claimed:
        wait_ms, self._wait_ms, self._waits_under = self._wait_ms, 0, lease
        try:
            return await store.claim_within(self._queues, lease=lease, limit=limit, for_ms=self._for_ms, order=order, wait_ms=wait_ms)
        finally:
            self._waits_under = ""

    async def _wait(self, next_ms: int | None, *, brief: bool) -> None:
        """Until there may be something to claim; where a claim may wait in the store, that of the next one."""
        for_ms = self._poll_ms if next_ms is None else min(self._poll_ms, next_ms)
        if self._patient is not None:
            self._wait_ms = min(for_ms, BRIEF_MS) if brief else for_ms
            return
        if not for_ms:
            return
        self._waiting = asyncio.get_running_loop().create_task(self._store.wait(self._queues, for_ms=for_ms))
        try:
            await self._waiting
        except asyncio.CancelledError:
            if not self._stopping:
                raise
        except StoreError as e:
            log.warning("wait.failed: %s", e)
            if self._stopping:
                return
            self._room.clear()  # a stop sets it
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._room.wait(), self._poll_ms / 1000)
        finally:
            self._waiting = None

"""Claims go round the partitions: each call takes some in turn, and all of them before it says that there is no more.

Rule 1: a claim that returns less than its limit has asked every partition that is not away. Rule 2: the reply of a partition may be
lost or late while the others answer; then the same lease is asked again there before any new one, and what it granted comes with
a later claim. Rule 3: the outbox is claimed along, and never leaves here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TypeAlias

from culm.commit import Commit, Held
from culm.errors import StoreError, StoreUnavailable
from culm.job import Delivery
from culm.outcome import Released
from culm.store import Claimed, ClaimOrder
from culm.stores.partitioned.outbox import Outbox
from culm.stores.partitioned.partition import Partition
from culm.stores.partitioned.place import OUTBOX, Place, place_of_job

log = logging.getLogger("culm.partitions")

BRIEFLY = 0.1  # of its patience a claim has when others granted something
STALE_S = 0.05  # a partition that was not asked for so long may have something
LEAST_SHARE = 32  # a claim asks fewer partitions rather than each for less
TRIES = 5  # of what nobody would ask again
MOST_CLAIMERS = 1_000  # of this process, remembered
MOST_TIMES = 5  # one claim asks one partition

Asked: TypeAlias = "asyncio.Task[Claimed | StoreError]"


class Question:
    """One claim, as each partition is asked."""

    __slots__ = ("for_ms", "lease", "limit", "order", "queues")

    def __init__(self, queues: Sequence[str], lease: str, limit: int, for_ms: int, order: ClaimOrder) -> None:
        self.queues = (*queues, OUTBOX)
        self.lease = lease
        self.limit = limit
        self.for_ms = for_ms
        self.order = order


class Claimer:
    """What this process knows of one claimer."""

    def __init__(self) -> None:
        self.lease = ""  # the last that was granted something
        self.asked: Question | None = None  # its last claim
        self.granted: dict[tuple[Place, str], None] = {}  # by whom, and under which name of it
        self.owed: dict[Place, str] = {}  # a lease whose reply is missing
        self.late: dict[Place, Asked] = {}
        self.due_at: dict[Place, float | None] = {}  # by the loop's clock; None: nothing is known to come
        self.asked_at: dict[Place, float] = {}
        self.names: dict[Place, tuple[str, int]] = {}  # the claim for which each was asked last, and how often: also if that was repeated
        self.first: Place = 0  # to be asked next
        self.queues: Sequence[str] = ()  # of `due_at`

    def may_have(self, place: Place, now: float) -> bool:
        due = self.due_at.get(place)
        return (due is not None and due <= now) or now - self.asked_at.get(place, 0.0) > STALE_S


class Round:
    """One call of `claim` under way."""

    def __init__(self, partitions: Sequence[Partition], outbox: Outbox, me: Claimer, asked: Question) -> None:
        self._partitions = partitions
        self._outbox = outbox
        self._me = me
        self._asked = asked
        self._loop = asyncio.get_running_loop()
        self._began_at = self._loop.time()
        self._patience_s = partitions[0].patience_s
        self.found: list[Delivery] = []
        self.granted: dict[tuple[Place, str], None] = {}
        self._next_ms: dict[Place, int | None] = {}  # what the partitions that were asked have said
        self.answered = 0
        self.failed: StoreError | None = None

    # -- which --------------------------------------------------------------------------------------------------------------

    def left(self) -> int:
        return self._asked.limit - len(self.found)

    def _up(self) -> list[Place]:
        """Those to ask, in turn."""
        n, me = len(self._partitions), self._me
        places = [(me.first + i) % n for i in range(n)]
        return [p for p in places if p not in me.late and not self._partitions[p].is_away()]

    async def run(self) -> None:
        me = self._me
        await self._collect()
        up, now = self._up(), self._loop.time()
        likely = [p for p in up if me.may_have(p, now)]
        some = (likely or up)[: max(1, self._asked.limit // LEAST_SHARE)]
        if some:
            me.first = (some[-1] + 1) % len(self._partitions)
        for places in (some, [p for p in likely if p not in some], [p for p in up if p not in some and p not in likely]):
            if self.left() > 0:
                await self._share(places)
        while self.left() > 0:
            now, before = self._loop.time(), len(self.found)
            more = [p for p in self._up() if (due := me.due_at.get(p)) is not None and due <= now and not self._is_tired(p)]
            touched = await self._share(more)
            if not more or (len(self.found) == before and not touched):
                break

    async def run_at(self, places: set[Place]) -> bool:
        """Ask these alone. True: they had something, and no more of them than was asked for."""
        await self._share([p for p in self._up() if p in places])
        return 0 < len(self.found) <= self._asked.limit

    # -- asking -------------------------------------------------------------------------------------------------------------

    async def _share(self, places: Sequence[Place]) -> bool:
        """Ask them for what is left. True: the outbox has moved something meanwhile."""
        left, touched = self.left(), False
        if len(places) > left:
            touched = await self._ask([(p, 1) for p in places[:left]])
            places = places[left:] if self.left() > 0 else ()
            return await self._ask([(p, 1) for p in places]) or touched
        shares = [(p, left // len(places) + (i < left % len(places))) for i, p in enumerate(places)]
        return await self._ask(shares)

    async def _ask(self, shares: Sequence[tuple[Place, int]]) -> bool:
        if not shares:
            return False
        me, now = self._me, self._loop.time()
        tasks = {place: self._loop.create_task(self._ask_one(place, limit)) for place, limit in shares}
        me.late.update(tasks)  # until they have answered: also when this call is cancelled
        await self._wait_for(list(tasks.values()))
        touched: set[Place] = set()
        for place, task in tasks.items():
            me.asked_at[place] = now
            if task.done():
                del me.late[place]
                touched |= await self._take(place, task.result())
        for place in touched:
            me.due_at[place] = now
        return bool(touched)

    async def _wait_for(self, tasks: Sequence[Asked]) -> None:
        """Not long for the last when others have brought something; and for all that one claim asks, no longer than its patience."""
        _, late = await asyncio.wait(tasks, timeout=min(BRIEFLY * self._patience_s, self._left_s()))
        if late and not self.found and not any(_has_deliveries(task) for task in tasks):
            await asyncio.wait(late, timeout=self._left_s())

    def _left_s(self) -> float:
        return max(0.0, self._began_at + self._patience_s - self._loop.time())

    def _lease(self, place: Place) -> str:
        """A partition takes the same lease for the same claim, and repeats its answer: asked once more, it needs another one."""
        lease, times = self._me.names.get(place, ("", 0))
        times = times + 1 if lease == self._asked.lease else 1
        self._me.names[place] = (self._asked.lease, times)
        return _nth_lease(self._asked.lease, times)

    def _is_tired(self, place: Place) -> bool:
        """Its next question is another claim's: under how many leases one may grant has to be known."""
        return self._me.names.get(place, ("", 0)) == (self._asked.lease, MOST_TIMES)

    async def _ask_one(self, place: Place, limit: int) -> Claimed | StoreError:
        me, partition, q = self._me, self._partitions[place], self._asked
        owed = me.owed.get(place)
        lease = owed or self._lease(place)
        try:
            store = await partition.store()
            claimed = await partition.ask(store.claim(q.queues, lease=lease, limit=limit, for_ms=q.for_ms, order=q.order))
            if owed is not None and claimed.deliveries:
                claimed = await self._renewed(place, claimed)
        except StoreUnavailable as e:
            me.owed[place] = lease
            return e
        except StoreError as e:
            return e
        me.owed.pop(place, None)
        return claimed

    async def _renewed(self, place: Place, claimed: Claimed) -> Claimed:
        """What was granted long ago, in an answer that is missing: the heart's next beat may come after the end of its lease."""
        partition = self._partitions[place]
        store = await partition.store()
        held = [Held(d.job.id, d.lease) for d in claimed.deliveries]
        states = await partition.ask(store.extend(held, for_ms=self._asked.for_ms))
        still = [d for d, state in zip(claimed.deliveries, states, strict=True) if state != "lost"]
        return Claimed(still, claimed.next_ms)

    async def _take(self, place: Place, answer: Claimed | StoreError) -> set[Place]:
        if isinstance(answer, StoreError):
            self.failed = answer
            return set()
        me = self._me
        self.answered += 1
        if answer.deliveries:
            self.granted[place, answer.deliveries[0].lease] = None
        me.due_at[place] = None if answer.next_ms is None else self._loop.time() + answer.next_ms / 1000
        self._next_ms[place] = answer.next_ms
        own = [d for d in answer.deliveries if d.job.queue == OUTBOX]
        self.found += [d for d in answer.deliveries if d.job.queue != OUTBOX] if own else answer.deliveries
        try:
            return await self._outbox.run(place, own)
        except StoreError as e:
            log.info("outbox.later: %s", e)  # its lease runs out
            return set()

    async def _collect(self) -> None:
        """What was granted too late for the claim that asked for it."""
        me = self._me
        for place, task in list(me.late.items()):
            if task.done():
                del me.late[place]
                await self._take(place, task.result())

    async def owed(self) -> None:
        """What was granted in answers that are missing. To ask again under that lease may grant one more, but no more than that."""
        if late := list(self._me.late.values()):
            await asyncio.wait(late, timeout=self._patience_s)
        await self._collect()
        for n in range(TRIES):
            owing = [p for p in self._me.owed if p not in self._me.late]  # what is still asked by then is left
            if owing and n:
                await asyncio.sleep(self._patience_s / TRIES)
            await self._ask([(p, 1) for p in owing])

    async def again(self) -> None:
        """What the lease still holds, from those that granted something under it. Raises StoreUnavailable."""
        q = self._asked
        for place, lease in list(self._me.granted):
            partition = self._partitions[place]
            store = await partition.store()
            claimed = await partition.ask(store.claim(q.queues, lease=lease, limit=1, for_ms=q.for_ms, order=q.order))
            await self._take(place, claimed)

    async def give_back(self) -> None:
        """What is more than the limit: partitions were asked for one each, and more of them had one than expected."""
        surplus, self.found = self.found[self._asked.limit :], self.found[: self._asked.limit]
        given = await asyncio.gather(*(self._give_back(d) for d in surplus))
        self.found += [d for d, gone in zip(surplus, given, strict=True) if not gone]

    async def _give_back(self, d: Delivery) -> bool:
        """False: it was not; then the claimer has more than it asked for. What may have been given back must not run here."""
        partition = self._partitions[place_of_job(d.job.id, len(self._partitions))]
        back = [Commit(fence=Held(d.job.id, d.lease), outcome=Released())]
        try:
            partition.refuse_while_away()
            store = await partition.store()
        except StoreUnavailable:
            return False
        for _ in range(TRIES):
            try:
                await partition.ask(store.commit(back, batch=(f"{d.lease} {d.job.id}", 1)))
                break
            except StoreUnavailable:
                await asyncio.sleep(self._patience_s / TRIES)
        return True

    def next_ms(self) -> int | None:
        """Of those that can be asked then: one whose answer is missing is asked again when that has come, which ends a wait."""
        now, me = self._loop.time(), self._me
        known = [ms for ms in self._next_ms.values() if ms is not None]
        for place, partition in enumerate(self._partitions):
            due = me.due_at.get(place)
            if place in me.late:
                continue
            if (ms := partition.back_in_ms()) is not None:
                known.append(ms)
            elif due is not None and place not in self._next_ms:
                known.append(max(0, round((due - now) * 1000)))
        return min(known, default=None)


def _nth_lease(lease: str, times: int) -> str:
    """Under which a partition is asked for the n-th time by one claim."""
    claimer, _, number = lease.rpartition("/")
    return lease if times == 1 else f"{claimer}/{times}/{number}"


def _has_deliveries(task: Asked) -> bool:
    if not task.done() or task.cancelled() or task.exception() is not None:
        return False
    answer = task.result()
    return not isinstance(answer, StoreError) and bool(answer.deliveries)


class Claims:
    def __init__(self, partitions: Sequence[Partition], outbox: Outbox) -> None:
        self._partitions = partitions
        self._outbox = outbox
        self._claimers: dict[str, Claimer] = {}
        self._rung: set[Place] = set()

    def late(self) -> dict[Asked, Place]:
        """What is still asked on this event loop: its answer may be work."""
        loop = asyncio.get_running_loop()
        return {task: place for me in self._claimers.values() for place, task in me.late.items() if task.get_loop() is loop}

    def rung(self, places: set[Place]) -> None:
        """Something was sent there: the next claim begins with them, and returns what they have before it looks further."""
        self._rung |= places

    async def claim(self, asked: Question) -> Claimed:
        """Raises StoreUnavailable: no partition answered. Asking again with the lease is safe."""
        me = self._known(asked.lease.rpartition("/")[0])
        me.asked = asked
        if me.queues != asked.queues:
            me.queues, me.due_at = asked.queues, {}
        round_ = Round(self._partitions, self._outbox, me, asked)
        if me.lease == asked.lease and me.granted:  # the reply was lost, somewhere above
            await round_.again()
            return Claimed(round_.found, 0)
        rung, self._rung = self._rung, set()
        if rung and await round_.run_at(rung):
            me.lease, me.granted = asked.lease, round_.granted
            return Claimed(round_.found, 0)  # the others were not asked: there may be more
        await round_.run()
        if round_.granted:
            me.lease, me.granted = asked.lease, round_.granted
        if not round_.answered and not round_.found:
            raise round_.failed or self._nobody()
        if round_.left() < 0:
            await round_.give_back()
        return Claimed(round_.found, round_.next_ms())

    async def granted(self, queues: Sequence[str], lease: str) -> list[Delivery]:
        """What a claimer that has gone, in whichever process, was granted under that lease. Raises StoreUnavailable: no partition answered.

        Each partition is asked under all names that the claim may have had there; it grants nothing, whatever is due.
        What came from the outbox is there, too: given back, it goes on at once.
        """
        names = [_nth_lease(lease, times) for times in range(1, MOST_TIMES + 1)]

        async def held(partition: Partition) -> list[Delivery]:
            partition.refuse_while_away()
            store = await partition.store()
            found = [await partition.ask(store.claim((*queues, OUTBOX), lease=name, limit=0, for_ms=1)) for name in names]
            return [d for claimed in found for d in claimed.deliveries]

        answers = await asyncio.gather(*map(held, self._partitions), return_exceptions=True)
        errors = [e for e in answers if isinstance(e, BaseException)]
        for e in errors:
            if len(errors) == len(answers) or not isinstance(e, StoreUnavailable):
                raise e
        return [d for some in answers if not isinstance(some, BaseException) for d in some]

    async def owed(self, claimer: str) -> list[Delivery]:
        me = self._claimers.get(claimer)
        if me is None or me.asked is None or not (me.owed or me.late):
            return []
        round_ = Round(self._partitions, self._outbox, me, me.asked)
        await round_.owed()
        return round_.found

    def _known(self, name: str) -> Claimer:
        me = self._claimers.pop(name, None) or Claimer()
        self._claimers[name] = me  # the latest last
        if len(self._claimers) > MOST_CLAIMERS:
            del self._claimers[next(iter(self._claimers))]
        return me

    def _nobody(self) -> StoreError:
        errors = [p.error for p in self._partitions if p.error is not None]
        return errors[0] if errors else StoreUnavailable("no partition answered in time")

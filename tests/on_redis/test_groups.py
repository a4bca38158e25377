"""Jobs that were sent together lie together (`lua/groups.lua`), and nobody can tell: neither workers, nor operators, nor readers."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from culm.commit import Commit, Held
from culm.job import Job
from culm.outcome import Fault, Retried, Snoozed, Succeeded
from culm.store import ClaimOrder, FullStore
from culm.stores.redis.address import parse
from culm.stores.redis.store import RedisStore
from tests.conformance.stores import SUBJECTS
from tests.conformance.twins import Twins
from tests.servers import RedisServer

STEPS = 60
QUEUES = ("mail", "news")
SMALL = next(s for s in SUBJECTS if s.name == "redis, small groups")
USUAL = next(s for s in SUBJECTS if s.name == "redis")


class History:
    """Senders of few and of many, workers, operators; each answer and each table as the specification has it."""

    def __init__(self, seed: int, path: Path, most: int) -> None:
        self.rng = random.Random(seed)
        self.twins = Twins(SMALL if most < 100 else USUAL, path)
        self.most = most
        self.sent = self.numbers = 0
        self.held: list[Held] = []

    def live(self) -> None:
        steps = [self.send, self.send, self.claim, self.claim, self.end, self.cancel, self.purge, self.pause, self.advance, self.sweep]
        weights = [6, 6, 6, 6, 6, 4, 0.4, 1, 3, 1]
        for step in [self.send, self.cancel, *self.rng.choices(steps, weights, k=STEPS)]:
            step()
            self.twins.compare()
        self.drain()

    def batch(self, commits: list[Commit]) -> None:
        self.numbers += 1
        self.twins.commit(commits, ("app", self.numbers))

    def send(self) -> None:
        rng, jobs = self.rng, []
        queue, priority = rng.choice(QUEUES), rng.choice((3, 5))
        mixed = rng.random() < 0.2
        for _ in range(rng.choice((1, 2, 3, rng.randint(4, self.most)))):
            if mixed:
                queue, priority = rng.choice(QUEUES), rng.choice((3, 5))
            after = rng.choice((0, 5, 40)) if mixed else 0
            task, keep = (rng.choice("tu") if mixed else "t"), rng.choice((0, 60_000))
            jobs.append(Job(id=f"j{self.sent:04}", task=task, queue=queue, priority=priority, after_ms=after, keep_ms=keep if mixed else 0))
            self.sent += 1
        self.batch([Commit(send=(job,)) for job in jobs] if rng.random() < 0.5 else [Commit(send=tuple(jobs))])

    def claim(self) -> None:
        rng = self.rng
        self.numbers += 1
        queues = rng.choice(((rng.choice(QUEUES),), QUEUES))
        order: ClaimOrder = rng.choice(("priority", "age"))
        limit, lease = rng.choice((0, 1, 2, 3, 5, self.most, 3 * self.most)), f"w/{self.numbers}"
        granted = self.twins.claim(queues, lease=lease, limit=limit, for_ms=rng.choice((20, 1_000)), order=order)
        self.held += [Held(d.job.id, d.lease) for d in granted]
        if granted and rng.random() < 0.2:
            self.twins.claim_again(queues, lease=lease, limit=limit, for_ms=1_000)

    def end(self) -> None:
        self.rng.shuffle(self.held)
        count = self.rng.randint(0, len(self.held))
        some, self.held = self.held[:count], self.held[count:]
        outcomes = [self.rng.choice((Succeeded(b"\x01"),) * 5 + (Snoozed(0), Retried(5, Fault("E", "no", "")))) for _ in some]
        self.batch([Commit(fence=fence, outcome=outcome) for fence, outcome in zip(some, outcomes, strict=True)])

    def cancel(self) -> None:
        ids = [f"j{self.rng.randrange(self.sent + 1):04}" for _ in range(self.rng.choice((1, 1, 2, 5)))]
        self.batch([Commit(cancel=tuple(dict.fromkeys(ids)))])

    def purge(self) -> None:
        queue = self.rng.choice(QUEUES)
        self.twins.ask(lambda store: store.purge(queue))

    def pause(self) -> None:
        queue = self.rng.choice(QUEUES)
        self.twins.ask(lambda store: store.pause(queue))
        if self.rng.random() < 0.8:
            self.resume(queue)

    def resume(self, queue: str) -> None:
        self.twins.ask(lambda store: store.resume(queue))

    def advance(self) -> None:
        self.twins.clock.advance(ms=self.rng.choice((1, 5, 30, 2_000)))

    def sweep(self) -> None:
        self.twins.sweep()

    def drain(self) -> None:
        """All of it can be claimed, and is gone then."""
        for queue in QUEUES:
            self.resume(queue)
        for _ in range(2 * self.sent + 10):
            self.twins.clock.advance(ms=5_000)
            self.numbers += 1
            granted = self.twins.claim(QUEUES, lease=f"last/{self.numbers}", limit=7, for_ms=1_000, order="age")
            self.batch([Commit(fence=Held(d.job.id, d.lease), outcome=Succeeded(b"\x01")) for d in granted])
            if not granted:
                break
        self.twins.clock.advance(ms=120_000)
        self.twins.sweep()
        self.twins.compare()
        assert self.twins.ask(_left) == 0


async def _left(store: FullStore) -> int:
    return sum(c.ready + c.delayed + c.waiting + c.leased for c in await store.counts())


async def test_who_waits_hears_at_once_of_a_group_that_is_due(server: RedisServer) -> None:
    """Also when another took its wake-up, and vanished."""
    store = RedisStore(parse(server.url))
    try:
        jobs = tuple(Job(id=f"j{n:02}", task="t", queue="mail") for n in range(20))
        assert await store.commit([Commit(send=jobs)], batch=("app", 1)) == ["applied"]
        assert server.read("HGETALL", store.address.prefix + "grouped") == [b"5mail", b"20"]
        async with asyncio.timeout(10):
            await store.wait(["mail"], for_ms=60_000)
            await store.wait(["mail"], for_ms=60_000)
    finally:
        await store.close()


async def test_a_count_without_its_group_harms_nobody(server: RedisServer) -> None:
    """Somebody deleted the key: what it held is gone, and the rest is claimed."""
    store = RedisStore(parse(server.url))
    try:
        jobs = tuple(Job(id=f"j{n:02}", task="t", queue="mail") for n in range(20))
        await store.commit([Commit(send=jobs)], batch=("app", 1))
        server.ask("DEL", store.address.prefix + "g:5mail")
        await store.commit([Commit(send=(Job(id="single", task="t", queue="mail"),))], batch=("app", 2))
        async with asyncio.timeout(10):
            claimed = await store.claim(["mail"], lease="w/1", limit=50, for_ms=1_000)
            assert [d.job.id for d in claimed.deliveries] == ["single"]
            again = await store.claim(["mail"], lease="w/2", limit=50, for_ms=1_000)
            assert (again.deliveries, again.next_ms) == ([], None)
            assert await store.commit([Commit(cancel=("j03",))], batch=("app", 3)) == ["applied"]
    finally:
        await store.close()


@pytest.mark.parametrize(("seed", "most"), [*((seed, 9) for seed in range(12)), *((seed, 250) for seed in range(100, 103))])
def test_groups_are_as_single_jobs_to_everyone(seed: int, most: int, tmp_path: Path) -> None:  # I1..I20
    history = History(seed, tmp_path, most)
    try:
        history.live()
    finally:
        history.twins.close()

"""Jobs that were sent together lie together (`lua/bundles.lua`), and nobody can tell: neither workers, nor operators, nor readers."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from culm.commit import Commit, Event, Held, Trigger
from culm.job import Job
from culm.outcome import Fault, Released, Retried, Snoozed, Succeeded
from culm.store import ClaimOrder, FullStore
from culm.stores.redis import reads
from culm.stores.redis.address import parse
from culm.stores.redis.connection import Reply
from culm.stores.redis.store import RedisStore
from culm.stores.redis.wire import Word
from culm.testing.clock import ManualClock
from tests.conformance.stores import SUBJECTS
from tests.conformance.twins import Twins
from tests.servers import RedisServer

STEPS = 60
QUEUES = ("mail", "news")
SMALL = next(s for s in SUBJECTS if s.name == "redis, small bundles")
USUAL = next(s for s in SUBJECTS if s.name == "redis")


class History:
    """Senders of few and of many, workers, operators; each answer and each table as the specification has it."""

    def __init__(self, seed: int, path: Path, most: int) -> None:
        self.rng = random.Random(seed)
        self.goes_back = self.rng.choice((0, 1))
        self.twins = Twins(SMALL if most < 100 else USUAL, path)
        self.most = most
        self.sent = self.numbers = 0
        self.held: list[Held] = []

    def live(self) -> None:
        steps = [self.send, self.send, self.claim, self.claim, self.end, self.cancel, self.purge, self.pause, self.advance]
        steps += [self.sweep, self.go_back]
        weights = [6, 6, 6, 6, 6, 4, 0.4, 1, 3, 1, self.goes_back]
        for step in [self.send, self.cancel, *self.rng.choices(steps, weights, k=STEPS)]:
            step()
            self.twins.compare()
        self.drain()

    def batch(self, commits: list[Commit]) -> None:
        self.numbers += 1
        self.twins.commit(commits, ("app", self.numbers))

    def send(self) -> None:
        """All to one lane; to two in turn; a few to the one and a few to the other; or whatever comes."""
        rng, jobs = self.rng, list[Job]()
        style, lanes = (
            rng.choice(("one", "one", "in turn", "in runs", "wild")),
            [(rng.choice(QUEUES), rng.choice((3, 5))) for _ in range(2)],
        )
        run, keep_ms = rng.randint(2, max(2, self.most // 3)), rng.choice((0, 60_000))
        for n in range(rng.choice((1, 2, 3, rng.randint(4, self.most)))):
            task, after_ms = "t", 0
            queue, priority = lanes[{"one": 0, "in turn": n % 2, "in runs": n // run % 2, "wild": rng.randrange(2)}[style]]
            if style == "wild":
                task, after_ms = rng.choice("tu"), rng.choice((0, 0, 5, 40))
            args = b"\xc5\x9c\x40" + bytes(40_000) if rng.random() < 0.01 else b"\x90"  # a large one goes another way
            made = Job(id=f"j{self.sent:04}", task=task, queue=queue, priority=priority, after_ms=after_ms, keep_ms=keep_ms, args=args)
            jobs.append(made)
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
        kinds = (Succeeded(b"\x01"), Released(0), Released(3), Snoozed(0), Retried(5, Fault("E")))
        outcomes = [self.rng.choice(kinds[:1] * 4 + kinds) for _ in some]
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

    def go_back(self) -> None:
        """The server's clock was set, or another's counts now."""
        self.twins.clock._now_ms -= self.rng.choice((1, 5, 50))

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


async def test_who_waits_hears_at_once_of_a_bundle_that_is_due(server: RedisServer) -> None:
    """Also when another took its wake-up, and vanished."""
    store = RedisStore(parse(server.url))
    try:
        jobs = tuple(Job(id=f"j{n:02}", task="t", queue="mail") for n in range(20))
        assert await store.commit([Commit(send=jobs)], batch=("app", 1)) == ["applied"]
        assert server.read("HGETALL", store.address.prefix + "bundled") == [b"5mail", b"20"]
        async with asyncio.timeout(10):
            await store.wait(["mail"], for_ms=60_000)
            await store.wait(["mail"], for_ms=60_000)
    finally:
        await store.close()


async def test_a_count_without_its_bundle_harms_nobody(server: RedisServer) -> None:
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


async def test_a_lister_misses_nothing_that_stays(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is claimed between two of its looks, and however many bundles came in one millisecond."""
    monkeypatch.setattr(reads, "BUNDLES", 2)
    store = RedisStore(parse(server.url), clock=ManualClock())
    try:
        sent = [f"j{n:04}" for n in range(3_000)]
        for number, at in enumerate(range(0, 3_000, 500)):
            await store.commit([Commit(send=tuple(Job(id=i, task="t") for i in sent[at : at + 500]))], batch=("app", number + 1))
        link, claims = store._here().link, 0
        ask = link.ask

        async def ask_while_others_claim(*command: Word) -> Reply:
            nonlocal claims
            reply = await ask(*command)
            if command[0] == "ZRANGEBYSCORE":
                claims += 1
                await store.claim(["default"], lease=f"w/{claims}", limit=7, for_ms=1_000)
                await store.commit([Commit(cancel=(sent[-claims * 50],))], batch=("other", claims))
            return reply

        monkeypatch.setattr(link, "ask", ask_while_others_claim)
        listed = {view.id for view in await store.jobs(state="open", limit=10_000)}
        monkeypatch.undo()
        assert claims >= 15
        left = {view.id for view in await store.jobs(state="open", limit=10_000)}
        assert len(left) == 3_000 - 8 * claims
        assert left - listed == set()
    finally:
        await store.close()


async def test_of_many_bundles_about_how_many_are_ahead(server: RedisServer) -> None:
    store = RedisStore(parse(server.url))
    try:
        for number in range(15):
            await store.commit(
                [Commit(send=tuple(Job(id=f"j{number * 1000 + n:05}", task="t") for n in range(1_000)))], batch=("app", number + 1)
            )
        assert (await store.waits("j00777")).ahead == 777
        for n in (11_111, 14_999):
            assert (await store.waits(f"j{n}")).ahead == pytest.approx(n, rel=0.01)
    finally:
        await store.close()


@pytest.mark.parametrize("count", [30, 9_999])
async def test_a_wrong_count_loses_nobody(count: int, server: RedisServer) -> None:
    store = RedisStore(parse(server.url))
    try:
        await store.commit([Commit(send=tuple(Job(id=f"j{n:03}", task="t") for n in range(250)))], batch=("app", 1))
        server.ask("HSET", store.address.prefix + "bundled", "5default", str(count))
        granted = []
        for number in range(12):
            claimed = await store.claim(["default"], lease=f"w/{number}", limit=30, for_ms=9_000)
            granted += [d.job.id for d in claimed.deliveries]
            await store.counts()
        assert granted == [f"j{n:03}" for n in range(250)]
    finally:
        await store.close()


async def test_a_lane_that_an_earlier_version_forgot_is_claimed_and_remembered(server: RedisServer) -> None:
    """It knows no bundles, and so its sweep takes the lane for unused."""
    store = RedisStore(parse(server.url))
    try:
        await store.commit([Commit(send=tuple(Job(id=f"j{n:03}", task="t") for n in range(20)))], batch=("app", 1))
        server.ask("SREM", store.address.prefix + "lanes", "5default")
        assert len((await store.claim(["default"], lease="w/1", limit=5, for_ms=9_000)).deliveries) == 5
        server.ask("CONFIG", "SET", "maxmemory", "1")  # also when nothing more fits
        await store.sweep()
        assert server.read("SMEMBERS", store.address.prefix + "lanes") == [b"5default"]
        await store.sweep()
        assert [(c.queue, c.ready) for c in await store.counts()] == [("default", 15)]
    finally:
        await store.close()


async def test_what_a_claim_looked_at_and_did_not_take_stays(server: RedisServer) -> None:
    """Of a bundle that was looked at for three, two are taken behind another lane's single job."""
    store = RedisStore(parse(server.url), clock=ManualClock())
    try:
        await store.commit([Commit(send=(Job(id="single", task="t", queue="a"),))], batch=("app", 1))
        await store.commit([Commit(send=tuple(Job(id=f"j{n:02}", task="t", queue="b") for n in range(20)))], batch=("app", 2))
        granted = []
        for number in range(10):
            claimed = await store.claim(["a", "b"], lease=f"w/{number + 1}", limit=3, for_ms=9_000)
            granted.append([d.job.id for d in claimed.deliveries])
            await store.commit([Commit(send=(Job(id=f"s{number}", task="t", queue="a", priority=5),))], batch=("app", number + 3))
        assert granted[0] == ["single", "j00", "j01"]
        assert [i for some in granted for i in some if i.startswith("j")] == [f"j{n:02}" for n in range(20)]
    finally:
        await store.close()


@pytest.mark.parametrize("limit", [1, 5, 12, 50])
@pytest.mark.parametrize(
    "ids",
    [
        [f"{n:02}" for n in range(12)],
        ["a0", "b", "cc0", "a1", "d", "cc1", "a2", "e", "cc2", "a3", "f", "cc3"],  # as much text as if all were as long as the first
        ["%s", "%%", " ", "c", "1x", "-", "é", "日", "a" * 400, "b" * 300, "[^", "x"],
        ["abc", *"0123456789", "z"],
        ["a" * 200, *"bcdefghijklm"],
    ],
    ids=["equally long", "two letters on average", "strange", "as long as two with a line's end between", "the first is the longest"],
)
async def test_ids_of_any_length_come_out_as_they_went_in(ids: list[str], limit: int, server: RedisServer) -> None:
    store = RedisStore(parse(server.url))
    try:
        await store.commit([Commit(send=tuple(Job(id=i, task="t", queue="mail") for i in ids))], batch=("app", 1))
        assert server.read("HLEN", store.address.prefix + "bundled") == 1
        claimed: list[str] = []
        for number in range(len(ids)):
            granted = await store.claim(["mail"], lease=f"w/{number}", limit=limit, for_ms=60_000)
            assert [d.job.id for d in granted.deliveries] == ids[len(claimed) : len(claimed) + limit]
            claimed += [d.job.id for d in granted.deliveries]
            ends = [Commit(fence=Held(d.job.id, d.lease), outcome=Succeeded()) for d in granted.deliveries]
            assert await store.commit(ends, batch=("w", number + 1)) == ["applied"] * len(ends)
        assert claimed == ids
        assert await _left(store) == 0
    finally:
        await store.close()


async def test_when_the_clock_went_back_they_are_due_later(server: RedisServer) -> None:
    clock = ManualClock()
    store = RedisStore(parse(server.url), clock=clock)
    try:
        await store.commit([Commit(send=tuple(Job(id=f"j{n:02}", task="t") for n in range(20)))], batch=("app", 1))
        clock._now_ms -= 500
        claimed = await store.claim(["default"], lease="w/1", limit=50, for_ms=9_000)
        assert (claimed.deliveries, claimed.next_ms) == ([], 500)
        ((queue, ready, delayed, oldest),) = [(c.queue, c.ready, c.delayed, c.oldest_ms) for c in await store.counts()]
        assert (queue, ready, delayed, oldest) == ("default", 0, 20, None)
        server.ask("DEL", store.address.prefix + "m:default")  # the wake-up of the send
        began = asyncio.get_running_loop().time()
        await store.wait(["default"], for_ms=300)
        assert asyncio.get_running_loop().time() - began > 0.25, "nobody is called for what is not due"
        assert await store.purge("default") == 20
    finally:
        await store.close()


async def test_a_release_before_the_clock_went_back_is_one_job_still(server: RedisServer) -> None:
    clock = ManualClock()
    store = RedisStore(parse(server.url), clock=clock)
    try:
        await store.commit([Commit(send=tuple(Job(id=f"j{n:02}", task="t") for n in range(20)))], batch=("app", 1))
        clock._now_ms -= 500
        trigger = Trigger("j05", "j05", (("go", 1),), 1)
        assert await store.commit([Commit(triggers=(trigger,), emit=(Event("j05", "go", "k", b"\x01"),))], batch=("app", 2)) == ["applied"]
        assert [d.job.id for d in (await store.claim(["default"], lease="w/1", limit=50, for_ms=9_000)).deliveries] == ["j05"]
        clock.advance(ms=500)
        granted = [d.job.id for d in (await store.claim(["default"], lease="w/2", limit=50, for_ms=9_000)).deliveries]
        assert granted == [f"j{n:02}" for n in range(20) if n != 5]
    finally:
        await store.close()


async def test_a_purge_ends_them_in_the_order_in_which_they_were_sent(server: RedisServer) -> None:
    store = RedisStore(parse(server.url + "&ledger=on"))
    try:
        sent = [f"j{n:03}" for n in random.Random(3).sample(range(1_000), 250)]
        await store.commit([Commit(send=tuple(Job(id=i, task="t", keep_ms=0) for i in sent))], batch=("app", 1))
        assert len((await store.claim(["default"], lease="w/1", limit=30, for_ms=9_000)).deliveries) == 30
        assert await store.purge("default") == 220
        ended = [bytes(line).decode().partition("\n")[0] for line in server.read("LRANGE", store.address.prefix + "ledger", "0", "-1")]
        assert ended == sent[30:]
    finally:
        await store.close()


@pytest.mark.parametrize(("seed", "most"), [*((seed, 9) for seed in range(12)), *((seed, 250) for seed in range(100, 103))])
def test_bundles_are_as_single_jobs_to_everyone(seed: int, most: int, tmp_path: Path) -> None:  # I1..I20
    history = History(seed, tmp_path, most)
    try:
        history.live()
    finally:
        history.twins.close()

"""Who awaits most of what it sends is told of the ends without looking for them first; what does not come is looked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from culm import App, ResultExpired
from culm.commit import Commit, Held
from culm.errors import TaskFailed
from culm.job import Job
from culm.outcome import Cancelled, Failed, Fault, Outcome, Retried, Succeeded
from culm.store import Ended
from culm.stores.redis.address import parse
from culm.stores.redis.expected import MOST, WINDOW, Expected
from culm.stores.redis.records import TOLD
from culm.stores.redis.scripts import Scripts
from culm.stores.redis.store import RedisStore
from culm.stores.redis.wire import MOST_TOLD
from tests.on_redis.asking import until, working
from tests.on_redis.conftest import Opened
from tests.servers import RedisServer

Opener = Callable[[str], Opened]


class Server:
    """What was asked of it, by the script."""

    def __init__(self, server: RedisServer, url: str) -> None:
        self._server = server
        scripts = Scripts(parse(url).prefix)
        self._look = scripts["look"].sha
        self._waits, self._jobs = f"{parse(url).prefix}waits", f"{parse(url).prefix}jobs"
        server.ask("CONFIG", "SET", "slowlog-log-slower-than", "0")
        server.ask("CONFIG", "SET", "slowlog-max-len", "10000")

    def looks(self) -> int:
        """Since it was last asked."""
        found = [entry[3] for entry in self._server.read("SLOWLOG", "GET", "10000")]
        self._server.ask("SLOWLOG", "RESET")
        return sum(1 for words in found if bytes(words[0]) == b"EVALSHA" and bytes(words[1]) == self._look)

    def waits(self) -> int:
        """How many jobs somebody has looked for who is to be told of their ends."""
        return max(0, int(self._server.read("HLEN", self._waits)) - 1)

    def expected(self) -> int:
        """How many jobs there are whose sender asked to be told of their ends."""
        return sum(TOLD.encode() in bytes(record) for record in self._server.read("HVALS", self._jobs))


def asked(server: RedisServer) -> tuple[App, Server]:
    url = server.url  # each time with a namespace that nobody used before
    return App(url), Server(server, url)


async def test_who_awaits_what_it_sends_looks_no_more(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    app, seen = asked(server)

    @app.task
    async def double(n: int) -> int:
        return 2 * n

    async def caller(times: int) -> None:
        for n in range(times):
            assert await (await double.enqueue(n)).result(timeout=20) == 2 * n

    async with app, app.worker():
        await asyncio.gather(*(caller(3) for _ in range(20)))
        assert seen.looks() > 0, "at first nobody knows"
        unlooked, awaits = list[bool](), Expected.awaits

        def counted(expected: Expected, job_id: str) -> bool:
            unlooked.append(awaits(expected, job_id))
            return unlooked[-1]

        monkeypatch.setattr(Expected, "awaits", counted)
        await asyncio.gather(*(caller(20) for _ in range(20)))
        await caller(20)
        assert unlooked.count(True) > len(unlooked) / 2, "but for those that end at once, or in a second in which this machine stands still"
        assert seen.waits() == 0


async def test_who_awaits_little_is_told_of_nothing(server: RedisServer) -> None:
    app, seen = asked(server)

    @app.task
    async def nothing(n: int) -> None: ...

    async with app:
        async with app.worker():
            await (await nothing.enqueue(0)).result(timeout=20)
        before = seen.expected()
        for n in range(50):
            await nothing.enqueue(n)
        await nothing.map(range(500))
        assert seen.expected() <= before + 1
        assert seen.waits() == 0


async def test_what_ended_before_it_was_awaited_is_looked_for(server: RedisServer) -> None:
    app, seen = asked(server)

    @app.task
    async def double(n: int) -> int:
        if n < 0:
            raise ValueError("negative")
        return 2 * n

    async with app, app.worker():
        for n in range(5):
            await (await double.enqueue(n)).result(timeout=20)
        seen.looks()
        jobs, bad = [await double.enqueue(n) for n in range(3)], await double.enqueue(-1)
        for job in (*jobs, bad):
            while await job.status() not in ("succeeded", "failed"):
                await asyncio.sleep(0.01)
        assert [await job.result(timeout=20) for job in jobs] == [0, 2, 4]
        with pytest.raises(TaskFailed):
            await bad.result(timeout=20)
        assert seen.looks() >= 4
        assert await jobs[0].result(timeout=20) == 0, "awaited again"


@pytest.mark.parametrize("again", ["new", "x" * 50_000])
async def test_an_id_that_is_sent_anew_has_the_new_outcome(server: RedisServer, again: str) -> None:
    app, _ = asked(server)

    @app.task
    async def echo(text: str) -> str:
        return text

    async with app, app.worker():
        for n in range(5):
            await (await echo.enqueue(str(n))).result(timeout=20)
        await echo.using(id="own", keep=0.01).enqueue("old")
        while await app.store.job("own") is not None:
            await app.store.sweep()
        job = await echo.using(id="own").enqueue(again)
        assert await job.result(timeout=20) == again


async def test_who_sends_one_id_again_and_again_hears_of_its_end_in_time(server: RedisServer) -> None:
    app, _ = asked(server)

    @app.task
    async def once() -> int:
        return 1

    async def caller() -> None:
        for _ in range(20):
            assert await (await once.using(id="one").enqueue()).result(timeout=0.5) == 1

    async with app, app.worker():
        assert await (await once.using(id="one").enqueue()).result(timeout=20) == 1
        await asyncio.gather(*(caller() for _ in range(10)))


async def test_while_the_subscription_is_away_a_short_wait_finds_what_has_ended(server: RedisServer) -> None:
    app, _ = asked(server)

    @app.task
    async def double(n: int) -> int:
        return 2 * n

    async with app, app.worker():
        for n in range(5):
            await (await double.enqueue(n)).result(timeout=20)
        for n in range(3):
            assert server.ask("CLIENT", "KILL", "TYPE", "pubsub") != b":0"
            job = await double.enqueue(n)
            while await job.status() != "succeeded":
                await asyncio.sleep(0.01)
            assert await job.result(timeout=0.2) == 2 * n
            await until(lambda: int(server.read("PUBSUB", "NUMPAT")) == 0 and len(server.read("PUBSUB", "CHANNELS")) > 0, "it to return")


async def at_once(store: RedisStore, job_id: str, number: int) -> object:
    """Sent as the gatherer does at first."""
    answered: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    commits = [Commit(send=(Job(id=job_id, task="t"),))]
    assert store.commit_at_once(commits, batch=(f"app-{id(store)}", number), alone=False, fresh=False, then=answered.set_result)
    return await answered


async def talk(store: RedisStore, name: str = "job") -> None:
    """Send and await, until that is expected."""
    await store.job("-")  # it is connected
    for n in range(1, 5):
        assert await at_once(store, f"{name}-{n}", n) == ["applied"]
        assert isinstance(await store.outcome(f"{name}-{n}", for_ms=5_000), Ended)
    assert store._here().outcomes.is_listening


async def test_a_wait_whose_message_is_lost_ends_with_a_look(server: RedisServer, opened: Opener) -> None:
    async with opened(server.url) as store, working(store):
        await talk(store)
        jobs = store._here().outcomes._expected._jobs
        for number, for_ms in enumerate((10, 300, 1_000, 5_000), 9):
            assert await at_once(store, f"lost-{for_ms}", number) == ["applied"]
            await until(lambda: not jobs, "it to end")
            jobs[f"lost-{for_ms}"] = True  # as if the message were yet to come
            assert isinstance(await store.outcome(f"lost-{for_ms}", for_ms=for_ms), Ended)


async def test_what_the_quick_script_refused_is_not_expected(server: RedisServer, opened: Opener) -> None:
    async with opened(server.url) as store, working(store):
        await talk(store)
        assert await at_once(store, "job-1", 9) is None, "it is known"
        assert not store._here().outcomes._expected._jobs
        assert isinstance(await store.outcome("job-1", for_ms=10), Ended)


async def test_two_who_await_one_job_are_both_told(server: RedisServer, opened: Opener) -> None:
    async with opened(server.url) as store:
        async with working(store):
            await talk(store)
        await at_once(store, "both", 9)
        assert store._here().outcomes._expected._jobs["both"]
        waits = [asyncio.create_task(store.outcome("both", for_ms=20_000)) for _ in range(3)]
        await asyncio.sleep(0.1)
        (delivery,) = (await store.claim(["default"], lease="v/1", limit=5, for_ms=60_000)).deliveries
        assert await store.commit([Commit(fence=Held("both", delivery.lease), outcome=Succeeded(b"\x05"))], batch=("v", 1)) == ["applied"]
        assert all(isinstance(found, Ended) for found in await asyncio.gather(*waits))
        assert "both" not in store._here().outcomes._waiting


async def test_whatever_ends_it_the_sender_is_told_in_that_moment(server: RedisServer, opened: Opener) -> None:
    """A wait that is told of nothing would end with a look."""
    ends: dict[str, Outcome] = {
        "again": Retried(after_ms=0, fault=Fault("E")),
        "failed": Failed(Fault("E")),
        "stopped": Cancelled("because"),
    }
    async with opened(server.url) as store:
        async with working(store):
            await talk(store)
        for number, job_id in enumerate((*ends, "queued"), 9):
            assert await at_once(store, job_id, number) == ["applied"]
        expected = store._here().outcomes._expected._jobs
        assert all(expected[job_id] for job_id in (*ends, "queued"))
        for number, outcome in enumerate((ends["again"], ends["failed"], ends["stopped"]), 1):
            (delivery,) = (await store.claim(["default"], lease=f"v/{number}", limit=1, for_ms=60_000)).deliveries
            held = Held(delivery.job.id, delivery.lease)
            assert await store.commit([Commit(fence=held, outcome=outcome)], batch=("v", number)) == ["applied"]
        assert await store.commit([Commit(cancel=("queued",))], batch=("v", 8)) == ["applied"]
        await until(lambda: set(expected) == {"again"}, "the messages")
        async with working(store):
            await until(lambda: not expected, "the last one")


async def test_jobs_of_several_senders_end_in_one_batch_and_each_hears_of_its_own(
    server: RedisServer, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.url
    async with opened(url) as one, opened(url) as other, opened(url) as worker:
        for name, store in ("one", one), ("other", other):
            async with working(worker):
                await talk(store, name)
        for number in range(9, 13):
            assert await at_once(one, f"one-{number}", number) == ["applied"]
            assert await at_once(other, f"other-{number}", number) == ["applied"]
        deliveries = (await worker.claim(["default"], lease="v/1", limit=20, for_ms=60_000)).deliveries
        ends = [Commit(fence=Held(d.job.id, d.lease), outcome=Succeeded(d.job.id.encode()), keep_ms=60_000) for d in deliveries]
        told = dict[str, list[str]]()
        for store in (one, other):
            outcomes = store._here().outcomes
            monkeypatch.setattr(outcomes._expected, "ended", told.setdefault(outcomes._name, []).extend)
        assert await worker.commit(ends, batch=("v", 1)) == ["applied"] * 8
        await until(lambda: sum(map(len, told.values())) == 8, "the messages")
        assert [sorted(ids) for ids in told.values()] == [sorted(f"{n}-{k}" for k in range(9, 13)) for n in ("one", "other")]


@pytest.mark.parametrize("size", [MOST_TOLD - 200, MOST_TOLD + 1, 100_000])
async def test_a_large_outcome_is_looked_for_when_its_end_is_told(server: RedisServer, size: int) -> None:
    app, seen = asked(server)

    @app.task
    async def text(n: int) -> str:
        await asyncio.sleep(0.05)
        return "x" * n

    async with app, app.worker():
        for _ in range(5):
            assert await (await text.enqueue(1)).result(timeout=20) == "x"
        seen.looks()
        began = time.monotonic()
        assert len(await (await text.enqueue(size)).result(timeout=20)) == size
        took = time.monotonic() - began
        assert seen.looks() == (size > MOST_TOLD) or took > 0.9, "unless this machine stood still"


async def test_jobs_beside_a_broken_one_are_told_of_as_ever(server: RedisServer, opened: Opener) -> None:
    url = server.url
    async with opened(url) as store:
        async with working(store):
            await talk(store)
        for number in range(9, 13):
            assert await at_once(store, f"beside-{number}", number) == ["applied"]
        expected = store._here().outcomes._expected._jobs
        assert list(expected.values()) == [True] * 4
        assert server.ask("HSET", parse(url).prefix + "jobs", "beside-10", b"\xc1") == b":0"
        async with working(store):
            await until(lambda: set(expected) == {"beside-10"}, "the messages of the others")


async def test_many_that_nobody_awaits_are_told_of_to_nobody(server: RedisServer) -> None:
    app, seen = asked(server)

    @app.task
    async def nothing(n: int) -> None: ...

    async with app:
        async with app.worker():
            for n in range(5):
                await (await nothing.enqueue(n)).result(timeout=20)
            assert seen.expected() > 0
        before = seen.expected()
        await nothing.map(range(500))
        assert seen.expected() == before


async def test_what_goes_with_its_end_is_told_without_a_look(server: RedisServer) -> None:
    app, seen = asked(server)

    @app.task(keep=0)
    async def slow(n: int) -> int:
        await asyncio.sleep(0.05)
        return n

    async def gone() -> None:
        with pytest.raises(ResultExpired):
            await (await slow.enqueue(1)).result(timeout=20)

    async with app, app.worker():
        for _ in range(5):
            await gone()
        seen.looks()
        began = time.monotonic()
        await gone()
        assert seen.looks() == 0 or time.monotonic() - began > 0.9, "unless this machine stood still"


async def test_only_who_listens_asks_to_be_told(server: RedisServer, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.url
    async with opened(url) as store:
        await store.job("-")
        outcomes = store._here().outcomes
        outcomes._expected._awaited = outcomes._expected._sent = WINDOW // 2
        hints = await store.subscribe("hints")  # so that the connection for news is up
        assert await at_once(store, "unheard", 1) == ["applied"]
        assert not outcomes._expected._jobs
        await hints.close()
        async with working(store):
            assert isinstance(await store.outcome("unheard", for_ms=5_000), Ended)
        assert outcomes.asks(1)
        with monkeypatch.context() as patched:
            patched.setattr(store._here().news, "_connection", None)
            assert not outcomes.asks(1)
        await store.commit([Commit(send=(Job(id="general", task="t", topic="topic"),))], batch=("general", 1))
        assert TOLD.encode() not in bytes(server.read("HGET", parse(url).prefix + "jobs", "general"))


def test_what_is_expected_is_bounded() -> None:
    expected = Expected()
    for n in range(3 * MOST):
        expected.sends([f"job-{n}"], asked=True)
        expected.awaits("other")
    assert 0 < len(expected._jobs) <= MOST


def test_half_of_the_sends_are_to_be_awaited() -> None:
    expected = Expected()
    assert not expected.asks(1)
    expected.sends(["a"], asked=False)
    assert not expected.awaits("a")
    assert expected.asks(1)
    assert not expected.asks(2)
    expected.sends(["b"], asked=True)
    expected.sent(["b"], asked=True)
    assert expected.awaits("b")
    assert not expected.awaits("b"), "somebody does"
    for n in range(2 * WINDOW):
        expected.sends([f"job-{n}"], asked=False)
    assert not expected.asks(1)

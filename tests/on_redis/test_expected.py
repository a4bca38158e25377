"""Who awaits most of what it sends is told of the ends without looking for them first; what does not come is looked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from culm import App
from culm.commit import Commit, Held
from culm.errors import ResultExpired, TaskFailed
from culm.outcome import Succeeded
from culm.store import Ended
from culm.stores.redis import expected
from culm.stores.redis.address import parse
from culm.stores.redis.expected import FRESH_S, MOST, Expected
from culm.stores.redis.scripts import Scripts
from culm.stores.redis.store import RedisStore
from tests.on_redis.asking import send, until, working
from tests.on_redis.conftest import Opened
from tests.servers import RedisServer

Opener = Callable[[str], Opened]


class Server:
    """What was asked of it, by the script."""

    def __init__(self, server: RedisServer, url: str) -> None:
        self._server = server
        scripts = Scripts(parse(url).prefix)
        self._look = scripts["look"].sha
        self._waits = f"{parse(url).prefix}waits"
        server.ask("CONFIG", "SET", "slowlog-log-slower-than", "0")
        server.ask("CONFIG", "SET", "slowlog-max-len", "10000")

    def looks(self) -> int:
        """Since it was last asked."""
        found = [entry[3] for entry in self._server.read("SLOWLOG", "GET", "10000")]
        self._server.ask("SLOWLOG", "RESET")
        return sum(1 for words in found if bytes(words[0]) == b"EVALSHA" and bytes(words[1]) == self._look)

    def waits(self) -> int:
        """How many jobs somebody is to be told of."""
        return max(0, int(self._server.read("HLEN", self._waits)) - 1)


def asked(server: RedisServer) -> tuple[App, Server]:
    url = server.url  # each time with a namespace that nobody used before
    return App(url), Server(server, url)


async def test_who_awaits_what_it_sends_looks_no_more(server: RedisServer) -> None:
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
        await asyncio.gather(*(caller(20) for _ in range(20)))
        await caller(20)
        assert seen.looks() <= 2, "unless this machine stood still for a second"
        assert seen.waits() == 0


async def test_who_awaits_little_is_told_of_nothing(server: RedisServer) -> None:
    app, seen = asked(server)

    @app.task
    async def nothing(n: int) -> None: ...

    async with app:
        async with app.worker():
            await (await nothing.enqueue(0)).result(timeout=20)
        for n in range(50):
            await nothing.enqueue(n)
        await nothing.map(range(500))
        assert seen.waits() <= 1


async def test_what_ended_before_it_was_awaited_is_there(server: RedisServer) -> None:
    app, seen = asked(server)

    @app.task
    async def double(n: int) -> int:
        if n < 0:
            raise ValueError("negative")
        return 2 * n

    @app.task
    async def text(n: int) -> str:
        return "x" * n

    async with app, app.worker():
        for n in range(5):
            await (await double.enqueue(n)).result(timeout=20)
        store = app.store
        assert isinstance(store, RedisStore)
        store._here().outcomes._expected._now = lambda: 0.0  # else a second in which this machine stands still makes them look
        seen.looks()
        jobs = [await double.enqueue(n) for n in range(4)]
        bad, long = await double.enqueue(-1), await text.enqueue(5_000)
        for job in (*jobs, bad, long):
            await until(lambda job=job: seen.waits() == 0, "all to end")  # type: ignore[misc]
        assert [await job.result(timeout=20) for job in jobs] == [0, 2, 4, 6]
        assert seen.looks() == 0
        with pytest.raises(TaskFailed):
            await bad.result(timeout=20)
        assert await long.result(timeout=20) == "x" * 5_000
        assert seen.looks() == 2, "a failure may be replayed, and what is long is not kept"
        assert await jobs[0].result(timeout=20) == 0, "awaited again"


async def test_what_was_told_long_ago_is_looked_for(server: RedisServer) -> None:
    app, seen = asked(server)

    @app.task(keep=0.2)
    async def short(n: int) -> int:
        return n

    async with app, app.worker():
        for n in range(5):
            await (await short.enqueue(n)).result(timeout=20)
        job = await short.enqueue(7)
        await until(lambda: seen.waits() == 0, "it to end")
        await asyncio.sleep(FRESH_S + 0.1)
        await app.store.sweep()
        with pytest.raises(ResultExpired):
            await job.result(timeout=20)


async def test_a_message_that_is_lost_costs_a_second(server: RedisServer, opened: Opener) -> None:
    async with opened(server.url) as store, working(store):
        await talk(store)
        await send(store, "lost", number=9)
        await until(lambda: store._here().outcomes._expected._told[b"lost"] is not None, "it to end")
        store._here().outcomes._expected._told[b"lost"] = None  # as if the message had not come
        began = time.monotonic()
        found = await store.outcome("lost", for_ms=5_000)
        assert isinstance(found, Ended)
        assert time.monotonic() - began < 3


async def talk(store: RedisStore) -> None:
    """Send and await, until that is expected."""
    for n in range(1, 5):
        await send(store, f"job-{n}", number=n)
        assert isinstance(await store.outcome(f"job-{n}", for_ms=5_000), Ended)
    assert store._here().outcomes.is_listening


async def test_what_was_refused_is_looked_for(server: RedisServer, opened: Opener) -> None:
    """The quick script did nothing, so it asked for nothing."""
    async with opened(server.url) as store, working(store):
        await talk(store)
        await store.commit([Commit(cancel=("gone",))], batch=("app", 8))
        assert await send(store, "gone", number=9) == ["applied"]
        began = time.monotonic()
        assert isinstance(await store.outcome("gone", for_ms=5_000), Ended)
        assert time.monotonic() - began < 0.9, "at once, and not after a second"


async def test_two_who_await_one_job_are_both_told(server: RedisServer, opened: Opener) -> None:
    async with opened(server.url) as store:
        async with working(store):
            await talk(store)
        await send(store, "both", number=9)
        waits = [asyncio.create_task(store.outcome("both", for_ms=20_000)) for _ in range(3)]
        await asyncio.sleep(0.1)
        (delivery,) = (await store.claim(["default"], lease="v/1", limit=5, for_ms=60_000)).deliveries
        end = Commit(fence=Held("both", delivery.lease), outcome=Succeeded(b"\x05"))
        began = time.monotonic()
        assert await store.commit([end], batch=("v", 1)) == ["applied"]
        assert all(isinstance(found, Ended) for found in await asyncio.gather(*waits))
        assert time.monotonic() - began < 0.9


def test_what_is_expected_is_bounded() -> None:
    told = Expected(lambda: 0.0)
    for n in range(3 * MOST):
        told.sends([f"job-{n}"])
        told.take(b"other")
    assert len(told._told) <= MOST


def test_half_of_the_sends_are_to_be_awaited() -> None:
    told = Expected(lambda: 0.0)
    assert not told.sends(["a"])
    assert told.take(b"a") == "look"
    assert told.sends(["b"])
    assert told.take(b"b") == "wait"
    told.keep(b"b", b"F1 1 0 1 0\n")
    assert told.take(b"b") == "look", "it was taken already"
    for n in range(2 * expected.WINDOW):
        told.sends([f"job-{n}"])
    assert not told.sends(["c"])
    assert told.take(b"c") == "look"


def test_only_fresh_successes_are_kept() -> None:
    now = 0.0
    told = Expected(lambda: now)
    told.take(b"-")
    told.sends(["-"])
    for name, outcome in (("good", b"F1 1 0 1 0\nx"), ("bad", b"F2 1 0 1 0\nx"), ("gone", b""), ("long", b"F1 " + b"x" * 2_000)):
        for _ in range(2):
            told.take(b"-")
        assert told.sends([name])
        told.keep(name.encode(), outcome)
        assert told.take(name.encode()) == (outcome if name == "good" else "look")
    told.take(b"-")
    assert told.sends(["late"])
    told.keep(b"late", b"F1 1 0 1 0\nx")
    now = FRESH_S
    assert told.take(b"late") == "look"

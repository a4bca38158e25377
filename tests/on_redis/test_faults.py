"""What a network and a server can do to a store: nothing acknowledged is lost, nothing happens twice, all of it goes on by itself."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable

import pytest

from culm import App
from culm.commit import Commit, Held
from culm.errors import StoreError, StoreUnavailable
from culm.job import Job
from culm.outcome import Failed, Fault, Succeeded
from culm.store import Pending, WorkerInfo
from tests.on_redis.asking import again, send, through
from tests.on_redis.conftest import Opened
from tests.proxy import Proxy
from tests.servers import RedisServer

Opener = Callable[[str], Opened]


async def test_a_batch_whose_reply_was_lost_starts_nothing_again_even_when_its_job_is_long_gone(
    server: RedisServer, opened: Opener
) -> None:  # I3
    with Proxy(server.port) as proxy:
        async with (
            opened(through(server, proxy)) as store,
            opened(server.url.split("?")[0] + f"?namespace={store.address.namespace}") as other,
        ):
            await send(store, "first")
            proxy.cut_in_reply(after_bytes=0)
            with pytest.raises(StoreUnavailable):
                await send(store, "a", number=2)
            held = (await other.claim(["default"], lease="w/1", limit=10, for_ms=60_000)).deliveries
            assert {d.job.id for d in held} == {"first", "a"}
            ends = [Commit(fence=Held(d.job.id, d.lease), outcome=Succeeded(), keep_ms=0) for d in held]
            assert await other.commit(ends, batch=("w", 1)) == ["applied"] * 2
            assert await again(send, store, "a", number=2) == ["applied"]
            assert await other.jobs() == []


@pytest.mark.parametrize("seed", range(5))
async def test_a_reply_that_is_cut_is_given_again(  # I3, I9
    seed: int, server: RedisServer, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("culm.stores.redis.pace.RETURN_S", 0.05)
    rng = random.Random(seed)
    with Proxy(server.port) as proxy:
        async with opened(through(server, proxy)) as store:
            await send(store, "first")
            for n in range(2, 40, 3):
                proxy.cut_in_reply(after_bytes=rng.randrange(7))
                assert await again(send, store, f"job-{n}", number=n) == ["applied"]
                proxy.cut_in_reply(after_bytes=rng.randrange(7))
                claimed = await again(store.claim, ["default"], lease=f"w/{n}", limit=10, for_ms=60_000)
                assert len(claimed.deliveries) == (2 if n == 2 else 1)
                ends = [Commit(fence=Held(d.job.id, d.lease), outcome=Succeeded(b"\x01")) for d in claimed.deliveries]
                proxy.cut_in_reply(after_bytes=rng.randrange(7))
                assert set(await again(store.commit, ends, batch=("w", n))) == {"applied"}
            assert proxy.cuts >= 39
            views = await again(store.jobs)
            assert {(v.state, v.attempt) for v in views} == {("succeeded", 1)}


async def test_scripts_that_were_flushed_are_sent_again(server: RedisServer, opened: Opener) -> None:
    async with opened(server.url) as store:
        for n in range(1, 30):
            server.ask("SCRIPT", "FLUSH")
            assert await send(store, f"job-{n}", number=n) == ["applied"]
            server.ask("SCRIPT", "FLUSH")
            (delivery,) = (await store.claim(["default"], lease=f"w/{n}", limit=5, for_ms=60_000)).deliveries
            ends = [Commit(fence=Held(delivery.job.id, delivery.lease), outcome=Succeeded())]
            server.ask("SCRIPT", "FLUSH")
            assert await store.commit(ends, batch=("w", n)) == ["applied"]
        server.ask("SCRIPT", "FLUSH")
        await asyncio.wait_for(store.wait(["default"], for_ms=50), 5)


async def test_a_full_server_refuses_what_is_sent_clearly_and_still_drains(server: RedisServer, opened: Opener) -> None:  # I33
    async with opened(server.url) as store:
        held = 40
        for n in range(held):
            await send(store, f"job-{n}", number=n + 1)
        deliveries = (await store.claim(["default"], lease="w/1", limit=held // 2, for_ms=60_000)).deliveries
        keys = server.ask("DBSIZE")
        server.ask("CONFIG", "SET", "maxmemory", "1kb")
        with pytest.raises(StoreError, match="full") as caught:
            await send(store, "one", "two", number=100)
        assert not isinstance(caught.value, StoreUnavailable)
        with pytest.raises(StoreError, match="full"):
            await store.commit([Commit(send=(Job(id="r~a", task="t"), Job(id="r~b", task="t")))], batch=("app", 101))
        assert server.ask("DBSIZE") == keys, "nothing was half written"
        for one in ("one", "r~a", "r~b"):
            assert await store.job(one) is None
        assert await store.outcome(deliveries[0].job.id, for_ms=50) == Pending(), "whoever waits can wait on"
        more = (await store.claim(["default"], lease="w/2", limit=held, for_ms=60_000)).deliveries
        assert await store.extend([Held(d.job.id, d.lease) for d in more], for_ms=60_000) == ["held"] * len(more)
        await store.register(WorkerInfo("w", "h", 1, (), (), 1), for_ms=60_000)
        ends = [Commit(fence=Held(d.job.id, d.lease), outcome=Succeeded(), keep_ms=0) for d in (*deliveries, *more[1:])]
        assert await store.commit(ends, batch=("w", 1)) == ["applied"] * (held - 1)
        special = Commit(fence=Held(more[0].job.id, more[0].lease), outcome=Failed(Fault("E")), cancel=("x",))
        assert await store.commit([special], batch=("w", 2)) == ["applied"]
        server.ask("CONFIG", "SET", "maxmemory", "0")
        assert await send(store, "one", "two", number=102) == ["applied", "applied"]


async def test_while_the_server_is_full_senders_hear_so_and_workers_drain_it(server: RedisServer) -> None:  # I31, I33
    app = App(server.url)

    @app.task(name="echo", keep=60)
    async def echo(n: int) -> int:
        return n

    async with app:
        jobs = await app.enqueue_many(echo.bind(n) for n in range(300))
        server.ask("CONFIG", "SET", "maxmemory", "1mb")
        with pytest.raises(
            StoreError, match=r"^Redis is full \(maxmemory\): nothing was written; let workers drain it, or raise maxmemory$"
        ):
            await echo.enqueue(1)
        async with app.worker(concurrency=20):
            assert [await job.result(timeout=20) for job in jobs] == list(range(300))
        server.ask("CONFIG", "SET", "maxmemory", "0")
        async with app.worker(concurrency=20):
            assert await (await echo.enqueue(1)).result(timeout=10) == 1


async def test_while_a_script_of_somebody_else_runs_the_server_is_busy_and_then_it_goes_on(server: RedisServer, opened: Opener) -> None:
    server.ask("CONFIG", "SET", "lua-time-limit", "10")
    async with opened(server.url) as store:
        await send(store, "first")
        forever = threading.Thread(target=server.ask, args=("EVAL", "while true do end", "0"))
        forever.start()
        while not server.ask("PING").startswith(b"-BUSY"):
            await asyncio.sleep(0.01)
        with pytest.raises(StoreUnavailable, match=r"^Redis cannot do it now: BUSY"):
            await send(store, "second", number=2)
        assert server.ask("SCRIPT", "KILL") == b"+OK"
        forever.join()
        assert await send(store, "second", number=2) == ["applied"]
        assert {v.id for v in await store.jobs()} == {"first", "second"}


async def test_a_script_that_is_killed_can_be_asked_again(server: RedisServer, opened: Opener) -> None:
    """Redis kills a script only before its first write, so nothing is half done."""
    server.ask("CONFIG", "SET", "lua-time-limit", "1")
    async with opened(server.url) as store:
        ids = [f"job-{n}" for n in range(5_000)]
        for n in range(0, len(ids), 1_000):
            await send(store, *ids[n : n + 1_000], number=n + 1)
        looking = asyncio.create_task(store._here().jobs.views(ids * 20))
        ends_at = time.monotonic() + 20
        while await asyncio.to_thread(server.ask, "SCRIPT", "KILL") != b"+OK":
            assert time.monotonic() < ends_at
            assert not looking.done(), "the script ended before it could be killed"
        with pytest.raises(StoreUnavailable, match="killed by user"):
            await looking
        assert len(await store.jobs(limit=10_000)) == len(ids)

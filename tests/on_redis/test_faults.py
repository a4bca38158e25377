"""What a network and a server can do to a store: nothing acknowledged is lost, nothing happens twice, all of it goes on by itself."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from culm import App
from culm.commit import Commit, Committed, Held
from culm.errors import StoreError, StoreUnavailable
from culm.job import Job
from culm.outcome import Failed, Fault, Succeeded
from culm.store import Ended, WorkerInfo
from culm.stores.redis.store import RedisStore
from tests.on_redis.conftest import Opened
from tests.proxy import Proxy
from tests.servers import RedisServer

P = ParamSpec("P")
T = TypeVar("T")
Opener = Callable[[str], Opened]

pytestmark = pytest.mark.usefixtures("quick_return")


async def again(ask: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """As the gatherer and the claimer do: the same question, until it is answered."""
    ends_at = time.monotonic() + 10.0
    while True:
        try:
            return await ask(*args, **kwargs)
        except StoreUnavailable:
            if time.monotonic() > ends_at:
                raise
            await asyncio.sleep(0.02)


def through(server: RedisServer, proxy: Proxy) -> str:
    return server.url.replace(f":{server.port}/", f":{proxy.port}/")


async def send(store: RedisStore, *ids: str, number: int = 1) -> list[Committed]:
    return await store.commit([Commit(send=(Job(id=i, task="t"),)) for i in ids], batch=("app", number))


def numbers() -> Iterator[int]:
    return iter(range(2, 1_000_000))


@pytest.mark.parametrize("seed", range(5))
async def test_a_reply_that_is_cut_is_given_again(seed: int, server: RedisServer, opened: Opener) -> None:  # I3, I9
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
        server.ask("CONFIG", "SET", "maxmemory", "1mb")
        with pytest.raises(StoreError, match="full") as caught:
            await send(store, "one", "two", number=100)
        assert not isinstance(caught.value, StoreUnavailable)
        with pytest.raises(StoreError, match="full"):
            await store.commit([Commit(send=(Job(id="r~a", task="t"), Job(id="r~b", task="t")))], batch=("app", 101))
        assert server.ask("DBSIZE") == keys, "nothing was half written"
        for one in ("one", "r~a", "r~b"):
            assert await store.job(one) is None
        more = (await store.claim(["default"], lease="w/2", limit=held, for_ms=60_000)).deliveries
        assert await store.extend([Held(d.job.id, d.lease) for d in more], for_ms=60_000) == ["held"] * len(more)
        await store.register(WorkerInfo("w", "h", 1, (), (), 1), for_ms=60_000)
        ends = [Commit(fence=Held(d.job.id, d.lease), outcome=Succeeded(), keep_ms=0) for d in (*deliveries, *more[1:])]
        assert await store.commit(ends, batch=("w", 1)) == ["applied"] * (held - 1)
        special = Commit(fence=Held(more[0].job.id, more[0].lease), outcome=Failed(Fault("E")), cancel=("x",))
        assert await store.commit([special], batch=("w", 2)) == ["applied"]
        server.ask("CONFIG", "SET", "maxmemory", "0")
        assert await send(store, "one", "two", number=102) == ["applied", "applied"]


async def test_fifty_flaps_and_every_wait_outcome_and_hint_goes_on(server: RedisServer, opened: Opener) -> None:
    with Proxy(server.port) as proxy:
        async with opened(through(server, proxy)) as store:
            count = numbers()

            async def claimer() -> None:
                while True:
                    claimed = await again(store.claim, ["default"], lease=f"w/{next(count)}", limit=10, for_ms=60_000)
                    for d in claimed.deliveries:
                        ends, number = [Commit(fence=Held(d.job.id, d.lease), outcome=Succeeded(b"\x05"))], next(count)
                        assert await again(store.commit, ends, batch=("w", number)) == ["applied"]
                    if not claimed.deliveries:
                        await again(store.wait, ["default"], for_ms=1_000)

            working = asyncio.create_task(claimer())
            for n in range(50):
                proxy.cut()
                number = next(count)
                sent_at = time.monotonic()
                assert await again(send, store, f"job-{n}", number=number) == ["applied"]
                found = await again(store.outcome, f"job-{n}", for_ms=5_000)
                assert found == Ended(Succeeded(b"\x05"))
                assert time.monotonic() - sent_at < 10
            assert proxy.accepted > 50
            assert not working.done()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


async def test_a_killed_server_with_its_log_synced_always_loses_nothing_acknowledged(tmp_path: Path, opened: Opener) -> None:  # I30
    server = RedisServer(tmp_path, appendonly="yes", appendfsync="always")
    try:
        async with opened(server.url) as store:
            acked: set[str] = set()
            for round_ in range(3):
                killing = asyncio.get_running_loop().call_later(0.3, server.kill)
                number = round_ * 100_000
                while True:
                    number += 1
                    ids = [f"job-{number}-{k}" for k in range(20)]
                    try:
                        await send(store, *ids, number=number)
                    except StoreUnavailable:
                        break
                    acked.update(ids)
                killing.cancel()
                server.start()
                answers = await again(send, store, *ids, number=number)
                assert answers == ["applied"] * 20
                acked.update(ids)
            assert str(store).endswith("(D2: survives a power cut (appendfsync always))")
            there = {v.id for v in await store.jobs(limit=1_000_000)}
            assert len(acked) > 500
            assert acked - there == set()
    finally:
        server.kill()


async def test_a_server_that_stands_still_longer_than_the_leases_blames_no_job(server: RedisServer) -> None:  # I8, I31
    app = App(server.url)
    runs: dict[int, int] = {}

    @app.task(name="count", retry=1)
    async def count(n: int) -> int:
        runs[n] = runs.get(n, 0) + 1
        await asyncio.sleep(0.2)
        return n

    async with app, app.worker(lease=1, heartbeat=0.3, concurrency=50):
        jobs = await app.enqueue_many(count.bind(n) for n in range(200))
        await jobs[10].result(timeout=20)
        server.signal(signal.SIGSTOP)
        await asyncio.sleep(2.5)  # longer than the leases: the fault itself, nothing is awaited
        server.signal(signal.SIGCONT)
        assert [await job.result(timeout=30) for job in jobs] == list(range(200))
        assert {(await job.view()).attempt for job in jobs} == {1}

"""A claim that waits in the server is answered when there is something to grant, when its time is over, or when it is told to hurry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from culm.commit import Commit
from culm.errors import StoreUnavailable
from culm.job import Job
from culm.store import Claimed, Patient
from culm.stores.redis.link import BRIEF_MS
from culm.stores.redis.store import RedisStore
from tests.on_redis.asking import send
from tests.on_redis.conftest import Opened
from tests.servers import RedisServer

Opener = Callable[[str], Opened]
LONG_MS = 20_000


async def claim(store: RedisStore, number: int, *, wait_ms: int = LONG_MS, claimer: str = "w", limit: int = 5) -> Claimed:
    return await store.claim_within(["default"], lease=f"{claimer}/{number}", limit=limit, for_ms=60_000, wait_ms=wait_ms)


def ids(claimed: Claimed) -> list[str]:
    return [d.job.id for d in claimed.deliveries]


async def granted(store: RedisStore, claimer: str, *, limit: int = 5) -> Claimed:
    """What a claimer is granted first: a marker that was left over may answer a claim with nothing."""
    number = 0
    while True:
        number += 1
        claimed = await claim(store, number, claimer=claimer, limit=limit)
        if claimed.deliveries:
            return claimed


async def waiting(store: RedisStore, number: int, claimer: str = "w") -> asyncio.Task[Claimed]:
    """One that waits by now."""
    task = asyncio.create_task(claim(store, number, claimer=claimer))
    await asyncio.sleep(0.2)
    assert not task.done()
    return task


async def within(seconds: float, task: asyncio.Task[Claimed]) -> Claimed:
    async with asyncio.timeout(seconds):
        return await task


async def test_what_is_due_is_granted_at_once(server: RedisServer, opened: Opener) -> None:
    async with opened(server.url) as store:
        assert isinstance(store, Patient)
        await send(store, "a", "b")
        assert ids(await within(2, asyncio.create_task(claim(store, 1)))) == ["a", "b"]


async def test_what_is_sent_later_is_granted_then(server: RedisServer, opened: Opener) -> None:
    async with opened(server.url) as store:
        for n in range(1, 20):
            task = asyncio.create_task(granted(store, f"w{n}"))
            await asyncio.sleep(0.01 * (n % 3))
            await send(store, f"job-{n}", number=n)
            claimed = await within(2, task)
            assert ids(claimed) == [f"job-{n}"]
            assert claimed.deliveries[0].lease.startswith(f"w{n}/")


@pytest.mark.parametrize(("wait_ms", "scripts"), [(BRIEF_MS, 1), (LONG_MS, 2)])
async def test_what_is_due_is_granted_without_a_marker(server: RedisServer, opened: Opener, wait_ms: int, scripts: int) -> None:
    """A long wait looks before it begins; a brief one is over soon, and its claim finds it."""
    async with opened(server.url) as store:
        await send(store, "a")
        await claim(store, 1, wait_ms=10, limit=1, claimer="other")
        await store.wait(["default"], for_ms=10)  # both scripts are known now
        await send(store, "b", number=2)
        server.ask("DEL", f"{store.address.prefix}m:default")
        server.ask("CONFIG", "RESETSTAT")
        assert ids(await within(2, asyncio.create_task(claim(store, 1, wait_ms=wait_ms)))) == ["b"]
        assert f"cmdstat_evalsha:calls={scripts},".encode() in server.read("INFO", "commandstats")


async def test_without_anything_it_ends_when_its_time_is_over(server: RedisServer, opened: Opener) -> None:
    async with opened(server.url) as store:
        await store.commit([Commit(send=(Job(id="later", task="t", after_ms=400),))], batch=("app", 1))
        began = time.monotonic()
        claimed = await claim(store, 1, wait_ms=100)
        assert ids(claimed) == []
        assert claimed.next_ms is not None
        assert time.monotonic() - began < 2
        assert ids(await claim(store, 2, wait_ms=claimed.next_ms + 1)) == ["later"]


async def test_one_that_is_told_to_hurry_is_answered(server: RedisServer, opened: Opener) -> None:
    async with opened(server.url) as store:
        task, other = await waiting(store, 1), await waiting(store, 1, "v")
        await store.hurry("w/1")
        assert ids(await within(2, task)) == []
        await store.hurry("w/2")  # before it waits
        assert ids(await within(2, asyncio.create_task(claim(store, 2)))) == []
        assert not other.done()
        await store.hurry("v/1")
        await within(2, other)


async def test_a_full_server_hurries_too(server: RedisServer, opened: Opener) -> None:
    async with opened(server.url) as store:
        task = await waiting(store, 1)
        server.ask("CONFIG", "SET", "maxmemory", "1kb")
        await store.hurry("w/1")
        assert ids(await within(2, task)) == []


async def test_a_claim_of_nothing_makes_an_earlier_one_too_late(server: RedisServer, opened: Opener) -> None:
    async with opened(server.url) as store, opened(server.url.split("?")[0] + f"?namespace={store.address.namespace}") as other:
        ghost = await waiting(store, 3)
        assert ids(await other.claim(["default"], lease="w/3", limit=0, for_ms=1)) == []
        await send(other, "a")
        assert ids(await within(2, ghost)) == []
        assert ids(await other.claim(["default"], lease="v/1", limit=5, for_ms=60_000)) == ["a"]


async def test_each_of_many_that_wait_is_granted_one(server: RedisServer, opened: Opener) -> None:
    async with opened(server.url) as store:
        await store.job("a")  # connected
        tasks = [asyncio.create_task(granted(store, f"w{n}", limit=1)) for n in range(10)]
        await asyncio.sleep(0.3)
        for n in range(10):
            await send(store, f"job-{n}", number=n + 1)
        found = [ids(await within(5, task)) for task in tasks]
        assert sorted(found) == [[f"job-{n}"] for n in range(10)]


async def test_a_paused_queue_gives_nothing(server: RedisServer, opened: Opener) -> None:
    async with opened(server.url) as store:
        await store.pause("default")
        task = await waiting(store, 1)
        await send(store, "a")
        assert ids(await within(2, task)) == []
        task = await waiting(store, 2)
        await store.resume("default")
        assert ids(await within(2, task)) == ["a"]


async def test_scripts_that_were_flushed_meanwhile_are_sent_again(server: RedisServer, opened: Opener) -> None:
    async with opened(server.url) as store:
        task = await waiting(store, 1)
        server.ask("SCRIPT", "FLUSH")
        await send(store, "a")
        assert ids(await within(2, task)) == ["a"]


async def test_a_connection_that_is_cut_while_it_waits_grants_nothing_later(server: RedisServer, opened: Opener) -> None:
    async with opened(server.url) as store:
        task = await waiting(store, 1)
        assert int(server.read("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")) >= 1
        with pytest.raises(StoreUnavailable):
            await within(2, task)
        async with opened(server.url.split("?")[0] + f"?namespace={store.address.namespace}") as other:
            await send(other, "a")
            assert ids(await other.claim(["default"], lease="w/1", limit=5, for_ms=60_000)) == ["a"]


async def test_a_claim_whose_reply_is_lost_is_repeated(server: RedisServer, opened: Opener) -> None:
    async with opened(server.url) as store:
        await send(store, "a")
        assert ids(await claim(store, 1)) == ["a"]
        await send(store, "b", number=2)
        again = await store.claim(["default"], lease="w/1", limit=5, for_ms=60_000)
        assert (ids(again), [d.fence for d in again.deliveries]) == (["a"], [1])

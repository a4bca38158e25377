"""After an outage everything goes on by itself, within ten seconds; many clients are no herd; nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from culm.commit import Commit
from culm.errors import StoreUnavailable
from culm.job import Job
from culm.outcome import Succeeded
from culm.store import Ended, Hint
from culm.stores.redis.address import parse
from culm.stores.redis.link import Link
from culm.stores.redis.pace import AT_ONCE, RETURN_S, SHORTEST_S, Pace
from culm.stores.redis.store import RedisStore
from tests.on_redis.asking import WITHIN_S, again, send, through, until, working
from tests.on_redis.conftest import Opened
from tests.proxy import Proxy
from tests.servers import HOST, RedisServer

Opener = Callable[[str], Opened]

FLAPS = 50
CLIENTS = 200


async def flap(rng: random.Random, server: RedisServer, proxy: Proxy) -> None:
    """One of: connections cut, one cut within a reply, no way to the server for a while, the server killed and started again."""
    match rng.choice(("cut", "reset", "reply", "away", "killed")):
        case "cut":
            proxy.cut()
        case "reset":
            proxy.cut("reset")
        case "reply":
            proxy.cut_in_reply(after_bytes=rng.randrange(40))
        case "away":
            proxy.refuse()
            proxy.cut()
            await asyncio.sleep(rng.uniform(0.05, 0.5))
            proxy.accept()
        case _:
            server.kill()
            await asyncio.sleep(rng.uniform(0, 0.3))
            await asyncio.to_thread(server.start)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3])
async def test_fifty_flaps_and_every_blocked_read_subscription_and_timer_goes_on(  # I31
    seed: int, tmp_path: Path, opened: Opener, record_property: Callable[[str, object], None]
) -> None:
    rng, slowest = random.Random(seed), 0.0
    server = RedisServer(tmp_path, appendonly="yes", appendfsync="always")
    try:
        with Proxy(server.port) as proxy:
            url = through(server, proxy)
            async with opened(url) as store, opened(url) as worker, opened(url) as other, working(worker):
                mine = await store.subscribe("me")
                for n in range(FLAPS):
                    timer = Commit(send=(Job(id=f"timer-{n}", task="t", after_ms=300),))
                    assert await again(store.commit, [timer], batch=("timers", n + 1)) == ["applied"]
                    asked = asyncio.create_task(again(store.outcome, f"timer-{n}", for_ms=9_000))
                    await flap(rng, server, proxy)
                    back_at = time.monotonic()
                    assert await again(send, other, f"job-{n}", number=n + 1) == ["applied"]
                    assert await asked == Ended(Succeeded(b"\x05"))
                    assert await again(store.outcome, f"job-{n}", for_ms=8_000) == Ended(Succeeded(b"\x05"))
                    while not await mine.next(for_ms=50):
                        assert time.monotonic() - back_at < WITHIN_S, "the subscription did not come back"
                        await again(other.publish, [Hint(channel="me", job_id=f"job-{n}", kind="accepted")])
                    slowest = max(slowest, time.monotonic() - back_at)
                    assert slowest < WITHIN_S
        record_property("said", f"{FLAPS} flaps, the slowest return took {slowest:.1f} s")
    finally:
        server.kill()


async def test_a_wake_up_that_was_lost_on_its_way_is_given_again(server: RedisServer, opened: Opener) -> None:
    """The server took the marker for a waiter that never heard of it. Nobody claims meanwhile, nobody sets it again."""
    with Proxy(server.port) as proxy:
        async with opened(through(server, proxy)) as store, opened(direct(server, store)) as other:
            waiting = asyncio.create_task(store.wait(["default"], for_ms=60_000))
            await until(lambda: b"cmd=bzpopmin" in server.read("CLIENT", "LIST"), "it to wait")
            proxy.cut_in_reply(after_bytes=3)
            await send(other, "a")
            with pytest.raises(StoreUnavailable):
                await waiting
            await asyncio.wait_for(again(store.wait, ["default"], for_ms=60_000), 5)


async def test_an_end_that_was_told_to_nobody_is_found_by_looking(server: RedisServer, opened: Opener) -> None:
    with Proxy(server.port) as proxy:
        async with opened(through(server, proxy)) as store, opened(direct(server, store)) as other:
            await send(other, "a")
            asked = asyncio.create_task(again(store.outcome, "a", for_ms=60_000))
            await until(lambda: server.read("HEXISTS", f"{store.address.prefix}waits", "a") == 1, "it to wait to be told")
            proxy.refuse()
            proxy.cut()
            async with working(other):
                assert await other.outcome("a", for_ms=5_000) == Ended(Succeeded(b"\x05"))
            proxy.accept()
            assert await asyncio.wait_for(asked, 5) == Ended(Succeeded(b"\x05"))


def direct(server: RedisServer, store: RedisStore) -> str:
    """The same namespace, not through the proxy."""
    return f"redis://{HOST}:{server.port}/0?namespace={store.address.namespace}"


def test_clients_with_consecutive_numbers_return_evenly() -> None:
    """At most twice the mean of connections in any 100 ms, wherever the numbers begin."""
    for first in (1, 4_711, 10**9):
        paces = [Pace(random.Random(0)) for _ in range(CLIENTS)]
        for number, pace in enumerate(paces):
            pace.met(number=first + 4 * number, clients=3 * CLIENTS)
        at = sorted(pace.pause_s(1_234.5) for pace in paces)
        assert at[0] >= 0
        assert at[-1] < RETURN_S
        assert 3 * most_within(at, 0.1) <= 20


def test_who_came_too_early_comes_again_one_cycle_later_and_a_few_return_at_once() -> None:
    pace = Pace(random.Random(0))
    pace.met(number=7, clients=3)
    now = 1_000.0 + pace.pause_s(1_000.0)
    assert now < 1_000 + SHORTEST_S
    assert pace.pause_s(now + 0.001) == pytest.approx(SHORTEST_S - 0.001)
    pace.met(number=None, clients=100 * AT_ONCE)
    assert all(0 <= pace.pause_s(float(n)) < RETURN_S for n in range(100))


@pytest.mark.slow
async def test_two_hundred_clients_do_not_return_as_a_herd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """Each with its main connection, a subscription and a blocked wait: 600 connections.

    All of them share this process. When the machine lets it stand still, what came due meanwhile comes at once, as it would not from
    two hundred machines: the bound grows with the two longest such times, which are measured.
    """
    monkeypatch.setattr("culm.stores.redis.link.COUNT_S", 1.0)

    async def block(store: RedisStore) -> None:
        while True:
            with suppress(StoreUnavailable):
                await store.wait(["default"], for_ms=60_000)

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 20 * CLIENTS)), hard))  # both sides of the proxy are in this process
    server = RedisServer(tmp_path)
    with closing(server), Proxy(server.port) as proxy:
        stores = [RedisStore(parse(through(server, proxy)), rng=random.Random(n)) for n in range(CLIENTS)]
        for store in stores:
            await store.subscribe("me")
        waits = [asyncio.create_task(block(store)) for store in stores]
        await until(lambda: proxy.accepted == 3 * CLIENTS, "all of them to be there")
        await until(lambda: all(_clients_known_to(s) >= 3 * CLIENTS for s in stores), "them to know how many they are")
        stalls: list[float] = [0.0]
        watching = asyncio.create_task(watch(stalls))
        proxy.refuse()
        proxy.cut()
        await asyncio.sleep(1.0)  # the outage
        proxy.accept()
        back_at = time.monotonic()
        await until(lambda: proxy.accepted >= 6 * CLIENTS, "their return")
        took_s, most = time.monotonic() - back_at, most_within([at for at in proxy.accepted_at if at > back_at], 0.1)
        said = f"{3 * CLIENTS} connections were back after {took_s:.1f} s, at most {most} within 100 ms"
        still_s = sum(sorted(stalls)[-2:])
        record_property("said", f"{said}; this process stood still for up to {still_s * 1000:.0f} ms")
        assert most <= 20 * (1 + still_s / 0.1)
        for wait in (*waits, watching):
            wait.cancel()
        await asyncio.gather(*waits, watching, return_exceptions=True)
        for store in stores:
            await store.close()


async def watch(stalls: list[float]) -> None:
    """For how long this process stood still, each time: seconds."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(0.005)
        stalls.append(time.monotonic() - before - 0.005)


def most_within(at: list[float], window_s: float) -> int:
    return max(sum(1 for other in at if one <= other < one + window_s) for one in at)


@pytest.mark.slow
def test_five_hundred_reconnects_leave_nothing_behind(server: RedisServer, record_property: Callable[[str, object], None]) -> None:
    """Of the main connection, a subscription and a blocked wait each."""
    command = [sys.executable, "-m", "tests.on_redis.reconnecting", str(server.port), "500"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120, check=True)
    sizes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(sizes) == 500
    (fds, kib), (fds_then, kib_then) = sizes[100], sizes[-1]  # by the hundredth, caches and arenas are filled
    record_property("said", f"after 100 and 500 reconnects {fds} and {fds_then} descriptors, {kib} and {kib_then} KiB")
    assert abs(fds_then - fds) <= 3
    assert kib_then - kib < 2_048


def _clients_known_to(store: RedisStore) -> int:
    link = store._here().link
    assert isinstance(link, Link)
    return link._pace._clients or 0

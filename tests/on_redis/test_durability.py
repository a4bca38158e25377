"""What the server was told to keep is there after it was killed; and no job is blamed for the time that it was away."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qsl

import pytest

from culm import App, Handle
from culm.errors import StoreUnavailable
from culm.stores.redis.store import RedisStore
from tests.on_redis.asking import again, send
from tests.on_redis.conftest import Opened
from tests.servers import RedisServer

Opener = Callable[[str], Opened]

ALWAYS = {"appendonly": "yes", "appendfsync": "always"}
GRACE_S = 10.0


class Served:
    """An app, two workers of it that compete, and how often each of its jobs ran."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.app, self.other = App(url), App(url)
        self.runs: Counter[int] = Counter()
        for app in (self.app, self.other):
            app.task(name="count", retry=1)(self._count)
        self.count = self.app.find("count")

    async def _count(self, n: int, seconds: float) -> int:
        self.runs[n] += 1
        await asyncio.sleep(seconds)
        return n

    async def enqueue(self, numbers: range, *, seconds: float) -> list[Handle[int]]:
        return await self.app.enqueue_many(self.count.bind(n, seconds) for n in numbers)

    async def results(self, jobs: list[Handle[int]]) -> list[int]:
        return [await job.result(timeout=30) for job in jobs]


@asynccontextmanager
async def served(url: str, *, concurrency: int) -> AsyncIterator[Served]:
    it = Served(url)
    async with it.app, it.other:
        workers = [app.worker(concurrency=concurrency, lease=1.0, heartbeat=0.3, poll=0.2) for app in (it.app, it.other)]
        async with workers[0], workers[1]:
            yield it


def ledger(server: RedisServer, url: str) -> Counter[str]:
    namespace = dict(parse_qsl(url.partition("?")[2]))["namespace"]
    return Counter(line.decode().split("\n")[0] for line in server.read("LRANGE", f"{{culm:{namespace}}}:1:ledger", "0", "-1"))


@pytest.mark.slow
async def test_a_server_that_is_killed_under_load_and_syncs_always_loses_nothing_acknowledged(  # I1, I3, I30
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    server = RedisServer(tmp_path, **ALWAYS)
    url = server.url + "&ledger=on"
    try:
        async with served(url, concurrency=20) as it:
            jobs: list[Handle[int]] = []

            async def load(ends_at: float) -> None:
                while time.monotonic() < ends_at:
                    first = len(jobs)
                    jobs.extend(await it.enqueue(range(first, first + 20), seconds=0.01))
                    await asyncio.sleep(0.02)  # thousands are enough

            loading = asyncio.create_task(load(time.monotonic() + 4))
            for _ in range(3):
                await asyncio.sleep(0.8)  # under load, that is what is tested
                server.kill()
                await asyncio.to_thread(server.start)
            await loading
            assert await it.results(jobs) == list(range(len(jobs)))
            views = [await job.view() for job in jobs]
            assert {(v.state, v.expiries) for v in views} == {("succeeded", 0)}
        commits = ledger(server, url)
        assert len(jobs) > 500
        assert set(commits) == {job.id for job in jobs}
        assert set(commits.values()) == {1}
        again_ran = sum(1 for n in it.runs.values() if n > 1)
        record_property("said", f"{len(jobs)} jobs were acknowledged around 3 kills: 0 lost, {again_ran} ran again")
    finally:
        server.kill()


@pytest.mark.parametrize(("sync", "may_lose_s"), [("always", 0.0), ("everysec", 2.0)])
async def test_what_was_acknowledged_before_a_kill_is_there_after_it(
    sync: str, may_lose_s: float, tmp_path: Path, opened: Opener, record_property: Callable[[str, object], None]
) -> None:  # I30
    """A kill leaves what the server gave to the kernel: this is D1. A power cut would cost `everysec` about its last second."""
    server = RedisServer(tmp_path, appendonly="yes", appendfsync=sync)
    try:
        async with opened(server.url) as store:
            acked: dict[str, float] = {}
            killed_at: list[float] = []
            for round_ in range(2):
                await send_until_killed(store, server, round_, acked, killed_at)
            there = {v.id for v in await store.jobs(limit=1_000_000)}
            lost = {job_id: at for job_id, at in acked.items() if job_id not in there}
            record_property("said", f"{len(lost)} of {len(acked)} acknowledged jobs were lost in {len(killed_at)} kills")
            assert len(acked) > 500
            assert [i for i, at in lost.items() if all(not 0 <= killed - at <= may_lose_s for killed in killed_at)] == []
    finally:
        server.kill()


async def send_until_killed(store: RedisStore, server: RedisServer, round_: int, acked: dict[str, float], killed_at: list[float]) -> None:
    """Send for a moment, kill the server amidst it, start it; what got no answer is sent again under the same number."""
    asyncio.get_running_loop().call_later(0.5, server.kill)
    number = round_ * 100_000
    while True:
        number += 1
        ids = [f"job-{number}-{k}" for k in range(20)]
        try:
            await send(store, *ids, number=number)
        except StoreUnavailable:
            break
        acked.update(dict.fromkeys(ids, time.monotonic()))
    killed_at.append(time.monotonic())
    await asyncio.to_thread(server.start)
    assert await again(send, store, *ids, number=number) == ["applied"] * 20
    acked.update(dict.fromkeys(ids, time.monotonic()))


async def test_who_awaits_a_result_waits_out_the_servers_absence(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, **ALWAYS)
    try:
        async with served(server.url, concurrency=2) as it:
            (job,) = await it.enqueue(range(1), seconds=1.5)
            waiting = asyncio.create_task(job.result(timeout=20))
            while not it.runs[0]:
                await asyncio.sleep(0.01)
            server.kill()
            with pytest.raises(StoreUnavailable):
                await job.result(timeout=0.3)
            await asyncio.sleep(1.5)  # the job ends meanwhile, and cannot say so
            await asyncio.to_thread(server.start)
            assert await waiting == 0
            assert it.runs[0] == 1
    finally:
        server.kill()


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "for_s"), [("stopped", 7), ("killed", 3.5)])  # 7: clients have given up their connections
async def test_a_server_that_was_away_longer_than_the_leases_blames_no_job(fault: str, for_s: float, tmp_path: Path) -> None:  # I8, I31
    """Two workers compete: whichever is back first must not take what the other still runs."""
    server = RedisServer(tmp_path, **ALWAYS)
    try:
        async with served(server.url, concurrency=30) as it:
            quick = await it.enqueue(range(100), seconds=0.05)
            await it.results(quick)
            within, after = await it.enqueue(range(100, 130), seconds=2), await it.enqueue(range(130, 160), seconds=for_s + 2.5)
            slow = [*within, *after]
            while sum(it.runs[n] for n in range(100, 160)) < 60:
                await asyncio.sleep(0.01)
            waiting = asyncio.create_task(it.results(slow))
            if fault == "stopped":
                server.signal(signal.SIGSTOP)
                await asyncio.sleep(for_s)  # longer than the leases: the fault itself, nothing is awaited
                server.signal(signal.SIGCONT)
            else:
                server.kill()
                await asyncio.sleep(for_s)
                await asyncio.to_thread(server.start)
            assert await waiting == list(range(100, 160))
            views = [await job.view() for job in (*quick, *slow)]
            assert {(v.state, v.attempt, v.expiries) for v in views} == {("succeeded", 1, 0)}
            assert set(it.runs.values()) == {1}
    finally:
        server.kill()


@pytest.mark.slow
async def test_what_a_dead_worker_held_is_taken_over_when_the_grace_is_over(server: RedisServer, opened: Opener) -> None:  # I14
    async with opened(server.url) as store:
        await send(store, "a")
        assert len((await store.claim(["default"], lease="dead/1", limit=1, for_ms=1_000)).deliveries) == 1
        await asyncio.sleep(2.5)  # nobody speaks to the store: it might as well have been away
        back_at, number = time.monotonic(), 0
        while not (claimed := await store.claim(["default"], lease=f"w/{number}", limit=1, for_ms=1_000)).deliveries:
            number += 1
            await asyncio.sleep(0.05)
            assert time.monotonic() - back_at < GRACE_S + 1
        assert time.monotonic() - back_at > GRACE_S - 1
        assert claimed.deliveries[0].expiries == 1


async def test_while_workers_speak_to_the_store_a_lease_that_ran_out_is_taken_over_at_once(server: RedisServer, opened: Opener) -> None:
    async with opened(server.url) as store:
        await send(store, "a")
        assert len((await store.claim(["default"], lease="dead/1", limit=1, for_ms=2_500)).deliveries) == 1
        begun, number = time.monotonic(), 0
        while not (await store.claim(["default"], lease=f"w/{number}", limit=1, for_ms=1_000)).deliveries:
            number += 1
            await asyncio.sleep(0.1)
        assert 2.4 < time.monotonic() - begun < 3.5

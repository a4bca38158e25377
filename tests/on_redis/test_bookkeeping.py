"""What a claim takes and a batch ends, where bookkeeping is easily wrong: bounds in bytes, doubles, and rows that somebody deleted."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import pytest

from culm import App, IdConflict, PartlySent
from culm.commit import Commit, Event, Held
from culm.errors import StoreError
from culm.job import Job
from culm.outcome import Failed, Fault, Succeeded
from culm.stores.redis.address import parse
from culm.stores.redis.store import RedisStore
from culm.testing.clock import ManualClock
from tests.on_redis.conftest import Opened
from tests.servers import RedisServer

Opener = Callable[[str], Opened]


def job(job_id: str, *, size: int = 0, priority: int = 5) -> Job:
    return Job(id=job_id, task="t", args=b"\xc6" + size.to_bytes(4, "big") + bytes(size), priority=priority)


async def claimed(store: RedisStore, number: int, *, limit: int = 100, for_ms: int = 60_000) -> list[str]:
    found = await store.claim(["default"], lease=f"w/{number}", limit=limit, for_ms=for_ms)
    return [d.job.id for d in found.deliveries]


async def test_a_claim_that_is_full_leaves_the_rest_of_every_lane(server: RedisServer, opened: Opener) -> None:
    async with opened(server.url) as store:
        large = [job(f"large-{n:02}", size=900_000, priority=9) for n in range(18)]
        behind = [job("behind-large", size=900_000), *(job(f"small-{n:02}") for n in range(50))]
        for number, sent in enumerate([*large, *behind], start=1):
            await store.commit([Commit(send=(sent,))], batch=("app", number))
        found = [await claimed(store, number) for number in range(1, 6)]
        assert found[0] == [j.id for j in large], "16 MiB are 18 of these"
        assert sorted(i for some in found for i in some) == sorted(j.id for j in [*large, *behind])


async def test_an_overdue_claim_is_bounded_in_bytes_too(server: RedisServer) -> None:
    clock = ManualClock()
    store = RedisStore(parse(server.url), clock=clock)
    try:
        for number in range(30):
            await store.commit([Commit(send=(job(f"{number:02}", size=1_000_000),))], batch=("app", number + 1))
        assert sum([len(await claimed(store, n, for_ms=10)) for n in (1, 2)]) == 30
        clock.advance(ms=20)
        assert [len(await claimed(store, n)) for n in (3, 4, 5)] == [16, 14, 0]
    finally:
        await store.close()


async def test_a_job_that_a_batch_ends_twice_ends_once_and_its_lease_keeps_the_others(server: RedisServer) -> None:
    clock = ManualClock()
    store = RedisStore(parse(server.url), clock=clock)
    try:
        await store.commit([Commit(send=tuple(job(f"j{n}") for n in range(3)))], batch=("app", 1))
        assert len(await claimed(store, 1, for_ms=50)) == 3
        first, second = Held("j0", "w/1"), Held("j1", "w/1")
        ends = [Commit(fence=first, outcome=Succeeded(), keep_ms=0), Commit(fence=first, outcome=Failed(Fault("E")))]
        assert await store.commit(ends, batch=("w", 1)) == ["applied", "lease_lost"]
        assert await store.commit([Commit(fence=second, outcome=Succeeded(), keep_ms=0)], batch=("w", 2)) == ["applied"]
        clock.advance(ms=100)
        assert await claimed(store, 2) == ["j2"]
    finally:
        await store.close()


async def test_a_held_job_whose_record_was_deleted_stops_nobody_else(server: RedisServer) -> None:
    clock, address = ManualClock(), parse(server.url)
    store = RedisStore(address, clock=clock)
    try:
        await store.commit([Commit(send=tuple(job(f"j{n}") for n in range(3)))], batch=("app", 1))
        assert len(await claimed(store, 1, for_ms=50)) == 3
        assert server.ask("HDEL", address.prefix + "jobs", "j1") == b":1"
        clock.advance(ms=100)
        found = (await store.claim(["default"], lease="w/2", limit=9, for_ms=50)).deliveries
        assert {d.job.id: bool(d.broken) for d in found} == {"j0": False, "j1": True, "j2": False}
        ends = [Commit(fence=Held(d.job.id, d.lease), outcome=Succeeded(), keep_ms=0) for d in found]
        assert await store.commit(ends, batch=("w", 1)) == ["applied"] * 3
        clock.advance(ms=100)
        assert await claimed(store, 3) == []
    finally:
        await store.close()


async def test_a_wait_that_was_never_answered_is_no_answer(opened: Opener) -> None:
    async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(says_nothing, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with silent, opened(f"redis://127.0.0.1:{port}/0") as store:
        waiting = asyncio.create_task(store.outcome("a", for_ms=100))
        await asyncio.sleep(0.5)
        assert not waiting.done(), "it does not say 'pending' of a job that nobody looked for"
        await store.close()
        with pytest.raises(StoreError):
            await asyncio.wait_for(waiting, 5)


async def test_an_end_is_found_however_short_the_wait(server: RedisServer, opened: Opener) -> None:
    async with opened(server.url) as store:
        await store.commit([Commit(send=(job("a"),))], batch=("app", 1))
        assert await claimed(store, 1) == ["a"]
        await store.commit([Commit(fence=Held("a", "w/1"), outcome=Succeeded())], batch=("w", 1))
        found = await asyncio.gather(*(store.outcome("a", for_ms=1) for _ in range(500)))
        assert {type(one).__name__ for one in found} == {"Ended"}


LOOPS = """
import asyncio, gc, os, sys
from culm.stores.redis.address import parse
from culm.stores.redis.store import RedisStore

store, found = RedisStore(parse(sys.argv[1])), []
for _ in range(20):
    asyncio.run(store.counts())
    gc.collect()
    found.append(len(os.listdir("/proc/self/fd")))
print(found[4], found[-1])
"""


def test_event_loops_that_ended_leave_no_connections(server: RedisServer) -> None:
    # In a process of its own, for Python warns of connections that were not closed before their loop was.
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", LOOPS, server.url], capture_output=True, text=True, check=True)
    early, late = map(int, done.stdout.split())
    assert late <= early + 2


async def test_jobs_that_ended_together_go_one_by_one_when_their_time_is_over(server: RedisServer) -> None:
    """They are one member of `expire`; a sweep takes as many as it may, whatever they are kept for, and however they ended."""
    clock, address = ManualClock(), parse(server.url)
    store = RedisStore(address, clock=clock)
    names = [f"j{n:03}" for n in range(260)]
    try:
        await store.commit([Commit(send=tuple(job(name) for name in names))], batch=("app", 1))
        assert await claimed(store, 1, limit=260) == names
        fences = [Held(name, "w/1") for name in names]
        ends = [Commit(fence=f, outcome=Succeeded(), keep_ms=2_000 if n % 13 == 7 else 1_000) for n, f in enumerate(fences[:-3])]
        await store.commit(ends, batch=("w", 1))
        others = [Commit(fence=f, outcome=Succeeded(), keep_ms=1_000, emit=(Event("s", "t", "k", b"\x01"),)) for f in fences[-3:]]
        await store.commit(others, batch=("w", 2))
        members = int(server.ask("ZCARD", address.prefix + "expire").lstrip(b":"))
        assert members == 3 + 1 + 3, "237 and 20 of one batch, by the hundred, and those whose ends did more"
        assert [view.id for view in await store.jobs(state="succeeded", limit=1_000)] == names

        assert await store.sweep() == 0
        clock.advance(ms=1_000)
        swept = [await store.sweep(limit=n) for n in (1, 99, 101, 7, 1_000)]
        assert swept == [1, 99, 101, 7, 240 - 208]
        assert [view.id for view in await store.jobs(limit=1_000)] == [name for n, name in enumerate(names[:-3]) if n % 13 == 7]
        clock.advance(ms=1_000)
        assert [await store.sweep(limit=15), await store.sweep(), await store.sweep()] == [15, 5, 0]
        left = {name: server.ask("HLEN", address.prefix + name) for name in ("jobs", "large", "replays")}
        assert left == dict.fromkeys(left, b":0")
        assert server.ask("EXISTS", address.prefix + "expire") == b":0"
    finally:
        await store.close()


async def test_leases_whose_jobs_have_ended_are_forgotten(server: RedisServer) -> None:
    async with App(server.url) as app:

        @app.task
        async def double(n: int) -> int:
            return 2 * n

        async with app.worker():
            for n in range(20):
                assert await (await double.enqueue(n)).result(timeout=10) == 2 * n
            jobs = await app.enqueue_many(double.bind(n) for n in range(200))
            assert [await job.result(timeout=10) for job in jobs] == [2 * n for n in range(200)]
        assert isinstance(app.store, RedisStore)
        assert app.store._leases._granted == {}


async def test_only_ids_that_were_made_just_now_are_not_looked_up(server: RedisServer) -> None:
    async with App(server.url) as app:

        @app.task
        async def one(n: int) -> int:
            return n

        @app.task
        async def other(n: int) -> int:
            return -n

        def look_ups() -> int:
            line = next((line for line in bytes(server.read("INFO", "commandstats")).split() if line.startswith(b"cmdstat_hmget:")), b"=0,")
            return int(line.partition(b"=")[2].partition(b",")[0])

        await one.using(id="known").enqueue(1)
        before = look_ups()
        await asyncio.gather(*(one.enqueue(n) for n in range(20)))
        await app.enqueue_many(one.bind(n) for n in range(500))
        assert look_ups() == before
        tried = [other.enqueue(n) for n in range(20)]
        for sent in (await asyncio.gather(*tried, other.using(id="known").enqueue(5), return_exceptions=True))[-1:]:
            assert isinstance(sent, IdConflict)
        assert look_ups() > before
        with pytest.raises(PartlySent):
            await app.enqueue_many([one.bind(1), other.using(id="known").bind(2), one.bind(3)])
        again, found = await asyncio.gather(one.using(id="known").enqueue(9), other.enqueue(4))
        async with app.worker():
            assert (await again.result(timeout=20), await found.result(timeout=20)) == (1, -4)


WHOLE = {  # what happened to the claim of job-1 to job-4 -> what the batch is answered
    "nothing": "aaaa",
    "job-2 is cancelled": "aaaa",
    "job-2 was extended": "aaaa",
    "job-2 has ended": "alaa",
    "job-2 has ended, job-4 goes on": "ala",
    "job-2 is another's": "alaa",
    "job-4 is of another claim": "aaaa",
}


@pytest.mark.parametrize("what", WHOLE)
async def test_a_batch_that_ends_a_whole_claim_leaves_nothing_of_it(server: RedisServer, what: str) -> None:
    clock, address = ManualClock(), parse(server.url)
    store = RedisStore(address, clock=clock)
    try:
        await store.commit([Commit(send=tuple(job(f"job-{n}") for n in range(1, 6)))], batch=("app", 1))
        leases = {"job-1": "w/1", "job-2": "w/1", "job-3": "w/1", "job-4": "w/2" if "claim" in what else "w/1"}
        for lease, some in Counter(leases.values()).items():
            await store.claim(["default"], lease=lease, limit=some, for_ms=60_000)
        match what.partition(" ")[2]:
            case "is cancelled":
                await store.commit([Commit(cancel=("job-2",))], batch=("app", 9))
            case "was extended":
                await store.extend([Held("job-2", "w/1")], for_ms=1_000)
            case "has ended" | "has ended, job-4 goes on":
                await store.commit([Commit(fence=Held("job-2", "w/1"), outcome=Succeeded())], batch=("w", 1))
            case "is another's":
                await store.extend([Held("job-2", "w/1")], for_ms=1_000)
                clock.advance(ms=2_000)
                assert await claimed(store, 7, limit=1) == ["job-2"]
            case _:
                pass
        ends = [Commit(fence=Held(*held), outcome=Succeeded()) for held in leases.items()][: len(WHOLE[what])]
        answers = await store.commit(ends, batch=("w", 2))
        assert [{"applied": "a", "lease_lost": "l"}[answer] for answer in answers] == [*WHOLE[what]]
        left = {"job-2 is another's": "job-2", "job-2 has ended, job-4 goes on": "job-4"}.get(what)
        held = {bytes(name).decode() for name in server.read("HKEYS", address.prefix + "held")} - {""}
        assert held == ({left} if left else set())
        assert int(server.read("HLEN", address.prefix + "state")) == (left == "job-2")
        for key in ("l:default", "k:default", "x:default"):
            assert int(server.read("HLEN", address.prefix + key)) == (left is not None and key != "x:default"), key
        assert int(server.read("ZCARD", address.prefix + "u:default")) == (left is not None)
        assert {v.id for v in await store.jobs(state="succeeded")} == {*leases} - {left}
        assert await claimed(store, 8) == ["job-5"]
    finally:
        await store.close()

"""What a network and a server can do to a store: nothing acknowledged is lost, nothing happens twice, all of it goes on by itself."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from culm import App
from culm.commit import Commit, Held
from culm.errors import CulmError, StoreFull, StoreUnavailable
from culm.job import Job
from culm.outcome import Succeeded
from culm.store import Absent, Ended
from tests.on_postgres.asking import send, through
from tests.on_postgres.conftest import Opened
from tests.on_redis.asking import again
from tests.proxy import Proxy
from tests.servers import NOBODY, PostgresServer

Opener = Callable[[str], Opened]


@pytest.mark.parametrize("seed", range(3))
async def test_a_reply_that_is_cut_is_given_again(seed: int, server: PostgresServer, opened: Opener) -> None:  # I3, I9
    rng = random.Random(seed)
    with Proxy(server.port) as proxy:
        async with opened(through(server, proxy)) as store:
            await send(store, "first")
            for n in range(2, 30, 3):
                proxy.cut_in_reply(after_bytes=rng.randrange(7))
                assert await again(send, store, f"job-{n}", number=n) == ["applied"]
                proxy.cut_in_reply(after_bytes=rng.randrange(7))
                claimed = await again(store.claim, ["default"], lease=f"w/{n}", limit=10, for_ms=60_000)
                assert len(claimed.deliveries) == (2 if n == 2 else 1)
                ends = [Commit(fence=Held(d.job.id, d.lease), outcome=Succeeded(b"\x01")) for d in claimed.deliveries]
                proxy.cut_in_reply(after_bytes=rng.randrange(7))
                assert set(await again(store.commit, ends, batch=("w", n))) == {"applied"}
            assert proxy.cuts >= 25
            assert {(v.state, v.attempt) for v in await again(store.jobs)} == {("succeeded", 1)}


async def test_a_batch_whose_reply_was_lost_starts_nothing_again_even_when_its_job_is_long_gone(
    server: PostgresServer, opened: Opener
) -> None:
    with Proxy(server.port) as proxy:
        async with opened(through(server, proxy)) as store, opened(server.url()) as other:
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


async def test_whoever_waits_goes_on_by_polling_while_the_listener_is_cut_and_is_woken_again_after(
    server: PostgresServer, opened: Opener
) -> None:
    with Proxy(server.port) as proxy:
        async with opened(through(server, proxy)) as waiting, opened(server.url()) as other:
            await asyncio.wait_for(waiting.wait(["default"], for_ms=1), 5)  # it listens from now on
            await send(other, "a")
            outcome = asyncio.create_task(waiting.outcome("a", for_ms=30_000))
            while not server.ask("SELECT 1 FROM culm.watchers"):
                await asyncio.sleep(0.01)
            # Nothing but the listening connection is cut, and it cannot come back: there is no message of what happens now.
            proxy.refuse()
            listening = server.ask("SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' OR query = 'SELECT 1;'")
            for (pid,) in listening:
                server.ask(f"SELECT pg_terminate_backend({pid})")
            (delivery,) = (await other.claim(["default"], lease="w/1", limit=5, for_ms=60_000)).deliveries
            await other.commit([Commit(fence=Held("a", delivery.lease), outcome=Succeeded(b"\x01"))], batch=("w", 1))
            assert await asyncio.wait_for(outcome, 10) == Ended(Succeeded(b"\x01"))
            began = time.monotonic()
            await waiting.wait(["default"], for_ms=400)
            assert time.monotonic() - began < 5, "a wait without a listener ends by itself"
            proxy.accept()
            while not waiting._here().news.is_listening():
                await asyncio.sleep(0.02)
            woken = asyncio.create_task(waiting.wait(["default"], for_ms=30_000))
            while not server.ask("SELECT 1 FROM culm.waiters WHERE until > culm.ms() + 1000"):
                await asyncio.sleep(0.01)
            await send(other, "b", number=2)
            await asyncio.wait_for(woken, 10)


def sums(url: str) -> App:
    app = App(url)

    @app.task(name="add")
    async def add(a: int) -> int:
        return a + 1

    return app


async def test_a_server_that_is_killed_under_load_loses_nothing_acknowledged(server: PostgresServer) -> None:  # I1, I30, I31
    app = sums(server.url(ledger="on"))
    sent: list[str] = []
    unknown = 0

    async def client() -> None:
        nonlocal unknown
        for n in range(400):
            try:
                sent.append((await app.find("add").enqueue(n)).id)
            except CulmError:
                unknown += 1
            await asyncio.sleep(0.002)

    async with app, app.worker(lease=30):
        clients = asyncio.gather(*(client() for _ in range(4)))
        for _ in range(3):
            await asyncio.sleep(0.5)  # the pace of the fault: nothing is awaited
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        await asyncio.wait_for(clients, 60)
        assert len(sent) > 1_000
        for job_id in sent:
            assert isinstance(await again(app.store.outcome, job_id, for_ms=20_000), Ended)
    rows = [i for i, _, _ in server.ask("SELECT * FROM culm.ledger")]
    assert len(rows) == len(set(rows)), "one final commit for each"
    assert set(sent) <= set(rows)


async def test_a_server_that_was_stopped_for_longer_than_the_leases_blames_no_job(server: PostgresServer) -> None:  # I8, I23
    app = sums(server.url())
    entered, go = asyncio.Event(), asyncio.Event()

    @app.task(name="stay")
    async def stay() -> int:
        entered.set()
        await go.wait()
        return 1

    async with app, app.worker(lease=2.5, heartbeat=0.5), app.worker(lease=2.5, heartbeat=0.5):
        job = await stay.enqueue()
        await entered.wait()
        server.signal(signal.SIGSTOP)
        await asyncio.sleep(4)  # longer than the lease: this is the fault, nothing is awaited
        server.signal(signal.SIGCONT)
        await again(send, app.store, "after", client="me")
        await asyncio.sleep(2)  # whoever would take it over had the time to
        go.set()
        assert await job.result(timeout=20) == 1
        view = await app.store.job(job.id)
        assert view is not None
        assert (view.attempt, view.expiries) == (1, 0)


async def test_without_a_connection_left_it_waits_for_one(tmp_path: Path, opened: Opener) -> None:
    server = PostgresServer(tmp_path / "server", max_connections="9", superuser_reserved_connections="0")
    try:
        from culm.stores.postgres.address import parse
        from culm.stores.postgres.migrate import migrate

        await migrate(parse(server.url()))
        async with opened(server.url(connections="3")) as first, opened(server.url(connections="3")) as second:
            async with opened(server.url(connections="4")) as third:
                stores = [first, second, third]
                answers = await asyncio.gather(
                    *(again(send, stores[n % 3], f"j{n}", number=1, client=f"c{n}") for n in range(30)), return_exceptions=True
                )
                assert {str(a) for a in answers} == {"['applied']"}
            assert len(await again(first.jobs)) == 30
    finally:
        server.close()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},uid={NOBODY},gid={NOBODY},mode=700", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def more_room(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


async def test_a_full_disk_is_said_clearly_and_nothing_is_half_written(server: PostgresServer, opened: Opener) -> None:  # I33
    with small_disk(server.place / "small", "6m") as disk:
        server.ask(f"CREATE TABLESPACE small LOCATION '{disk}'")
        for table in ("jobs", "ready"):
            server.ask(f"ALTER TABLE culm.{table} SET TABLESPACE small")
        async with opened(server.url()) as store:
            number, full, body = 0, "", random.Random(1).randbytes(1_000)
            while not full:
                number += 1
                jobs = tuple(Job(id=f"{number:05}-{n}", task="t", args=body) for n in range(100))
                try:
                    await store.commit([Commit(send=jobs)], batch=("app", number))
                except StoreFull as e:
                    full = str(e)
            assert "has no room on its disk: nothing was written" in full
            assert number > 5
            assert isinstance(await store.outcome(f"{number:05}-0"), Absent)
            claimed = await store.claim(["default"], lease="w/1", limit=200, for_ms=60_000)
            ends = [Commit(fence=Held(d.job.id, d.lease), outcome=Succeeded(), keep_ms=0) for d in claimed.deliveries]
            assert set(await store.commit(ends, batch=("w", 1))) == {"applied"}, "it still drains"
            more_room(disk, "30m")
            assert await send(store, "again", number=number + 1) == ["applied"]
        server.ask("DROP SCHEMA culm CASCADE")
        server.ask("DROP TABLESPACE small")

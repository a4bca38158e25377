"""A master, a replica and three sentinels: the store asks them who is the master, and follows when that changes."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from culm import App
from culm.errors import ConfigError, StoreUnavailable
from culm.stores.open import masked, open_store
from culm.stores.redis.address import parse
from culm.stores.redis.store import RedisStore
from tests.on_redis.asking import WITHIN_S, again, send, until
from tests.on_redis.conftest import Opened
from tests.servers import HOST, RedisServer

Opener = Callable[[str], Opened]

DOWN_AFTER_MS = 1_000
MONITOR = "sentinel monitor jobs {host} {port} 2\nsentinel down-after-milliseconds jobs {down_after}\nsentinel failover-timeout jobs 2500"


class Watched:
    """Two servers, one of them the other's replica, and three sentinels that watch them."""

    def __init__(self, folder: Path) -> None:
        self.first = RedisServer(folder / "first", appendonly="yes")
        self.second = RedisServer(folder / "second", appendonly="yes")
        self.second.ask("REPLICAOF", HOST, str(self.first.port))
        config = MONITOR.format(host=HOST, port=self.first.port, down_after=DOWN_AFTER_MS)
        self.sentinels = [RedisServer(folder / f"sentinel-{n}", sentinel=config) for n in range(3)]

    @property
    def url(self) -> str:
        hosts = ",".join(f"{HOST}:{s.port}" for s in self.sentinels)
        return f"redis+sentinel://{hosts}/jobs/0{self.first.url[self.first.url.index('?') :]}"

    def is_ready(self) -> bool:
        """The replica is up to date, and every sentinel knows it and the others."""
        known = [self.sentinels[0].read("SENTINEL", kind, "jobs") for kind in ("REPLICAS", "SENTINELS")]
        quorum = all(s.ask("SENTINEL", "CKQUORUM", "jobs").startswith(b"+OK 3") for s in self.sentinels)
        return b"master_link_status:up" in self.second.read("INFO", "replication") and [len(k) for k in known] == [1, 2] and quorum

    def master_port(self) -> int:
        return int(self.sentinels[0].read("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "jobs")[1])

    def close(self) -> None:
        for server in (*self.sentinels, self.first, self.second):
            server.kill()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    found = Watched(tmp_path)
    yield found
    found.close()


class Load:
    """A worker and a client on the master; when each job was acknowledged."""

    def __init__(self, url: str) -> None:
        self.app = App(url)
        self.acked: dict[str, float] = {}
        self.echo = self.app.task(name="echo")(_echo)

    async def run(self) -> None:
        n = 0
        while True:
            n += 1
            with suppress(StoreUnavailable):
                await self.echo.using(id=f"job-{n}").enqueue(n)
                self.acked[f"job-{n}"] = time.monotonic()
            await asyncio.sleep(0.01)

    async def resumed(self, since: float) -> float:
        """When the first job after that moment was acknowledged and done."""
        first: list[str] = []

        def acked_since() -> bool:
            first[:] = [i for i, at in self.acked.items() if at > since][:1]
            return bool(first)

        await until(acked_since, "a job to be acknowledged", for_s=30)
        await self.app.job(first[0], self.echo).result(timeout=WITHIN_S)
        return time.monotonic()


async def _echo(n: int) -> int:
    return n


@pytest.mark.slow
async def test_the_store_follows_a_failover_and_what_the_replica_had_is_there(
    watched: Watched, record_property: Callable[[str, object], None]
) -> None:
    load = Load(watched.url)
    async with load.app, load.app.worker(concurrency=20, poll=0.2):
        before = await load.app.enqueue_many(load.echo.using(id=f"before-{n}").bind(n) for n in range(200))
        await asyncio.to_thread(_wait_until, watched.is_ready)
        assert watched.first.ask("WAIT", "1", "5000") == b":1", "all of that is on the replica"
        loading = asyncio.create_task(load.run())
        await until(lambda: len(load.acked) > 50, "some load")

        watched.first.kill()
        killed_at = time.monotonic()
        await until(lambda: watched.master_port() == watched.second.port, "the sentinels to fail over", for_s=30)
        failed_over_at = time.monotonic()
        resumed_at = await load.resumed(killed_at + 0.01)
        assert resumed_at - failed_over_at < WITHIN_S

        assert [await job.result(timeout=10) for job in before] == list(range(200))
        there = {v.id for v in await load.app.store.jobs(limit=100_000)}
        lost = {i: at for i, at in load.acked.items() if at < killed_at and i not in there}
        took_s, resumed_s = failed_over_at - killed_at, resumed_at - killed_at
        said = f"failed over in {took_s:.1f} s, resumed in {resumed_s:.1f} s, lost {len(lost)} of {len(load.acked)} acknowledged jobs"
        record_property("said", said)
        assert [i for i, at in lost.items() if at < killed_at - 1.0] == [], "replication is behind by moments only"

        watched.first.start()  # the sentinels make it a replica
        await asyncio.to_thread(_wait_until, lambda: b"role:slave" in watched.first.read("INFO", "replication"))
        await asyncio.to_thread(_wait_until, lambda: b"master_link_status:up" in watched.first.read("INFO", "replication"))
        await asyncio.to_thread(_wait_until, lambda: watched.sentinels[0].ask("SENTINEL", "FAILOVER", "jobs") == b"+OK")
        await until(lambda: watched.master_port() == watched.first.port, "the sentinels to fail back", for_s=30)
        back_at = time.monotonic()
        assert await load.resumed(back_at) - back_at < WITHIN_S
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)


def _wait_until(done: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + 30
    while not done():
        assert time.monotonic() < ends_at, "the sentinels were not ready within 30 s"
        time.sleep(0.05)


async def test_the_first_sentinel_that_answers_is_believed_if_the_server_agrees(
    tmp_path: Path, server: RedisServer, opened: Opener
) -> None:
    monitor = MONITOR.format(host=HOST, port=server.port, down_after=60_000)
    sentinel = RedisServer(tmp_path / "s", sentinel=monitor, requirepass="geheim")
    try:
        url = f"redis+sentinel://{HOST}:1,{HOST}:{sentinel.port}/jobs?sentinel_password=geheim"
        async with opened(url) as store:
            assert await send(store, "a") == ["applied"]
            assert str(store).startswith(f"redis+sentinel://{HOST}:1,{HOST}:{sentinel.port}/jobs/0 namespace default (D0")
            await store.wait(["other"], for_ms=10)
            await (await store.subscribe("x")).close()
            server.ask("REPLICAOF", HOST, "1")
            with pytest.raises(StoreUnavailable):
                await send(store, "b", number=2)
            with pytest.raises(StoreUnavailable, match="whom the sentinels call the master is a replica still"):
                await send(store, "b", number=2)
            server.ask("REPLICAOF", "NO", "ONE")
            assert await again(send, store, "b", number=2) == ["applied"]
            server.ask("CONFIG", "SET", "min-replicas-to-write", "1")
            with pytest.raises(StoreUnavailable, match="NOREPLICAS"):
                await send(store, "c", number=3)
            server.ask("CONFIG", "SET", "min-replicas-to-write", "0")
            assert await again(send, store, "c", number=3) == ["applied"]
        async with opened(url.replace("/jobs?", "/jops?")) as store:
            with pytest.raises(ConfigError, match=r"the sentinels of .*/jops/0 watch no master of that name"):
                await send(store, "a")
        async with opened(url.replace("geheim", "falsch")) as store:
            with pytest.raises(ConfigError, match="refuses this user") as caught:
                await send(store, "a")
            assert "falsch" not in str(caught.value)
    finally:
        sentinel.kill()
    async with opened(url) as store:
        with pytest.raises(StoreUnavailable, match=r"^no sentinel of redis\+sentinel://.*/jobs/0 answered"):
            await send(store, "a")


def test_addresses_of_sentinels() -> None:
    address = parse("rediss+sentinel://ada:geheim@one,[::1]:7000,two:7001/jobs/3?namespace=x&sentinel_username=eve&sentinel_password=leise")
    assert address.sentinels == (("one", 26379), ("::1", 7000), ("two", 7001))
    assert (address.master, address.database, address.tls) == ("jobs", 3, True)
    assert (address.user, address.password) == ("ada", "geheim")
    assert (address.sentinel_user, address.sentinel_password) == ("eve", "leise")
    store = RedisStore(address, rng=random.Random(1))
    assert str(store).startswith("rediss+sentinel://one:26379,[::1]:7000,two:7001/jobs/3 namespace x ")
    assert masked("redis+sentinel://a:geheim@h/jobs?sentinel_password=leise&namespace=x") == (
        "redis+sentinel://a:***@h/jobs?sentinel_password=***&namespace=x"
    )


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis+sentinel://host", "names no master; say redis\\+sentinel://user:password@host:26379,host/master/0"),
        ("redis+sentinel:///jobs", "names no sentinel"),
        ("redis+sentinel://:geheim@a:b/jobs", "no valid host and port"),
        ("redis://a,b/0", r"names several hosts; sentinels are redis\+sentinel://"),
        ("redis+sentinal://a/jobs", r"did you mean redis\+sentinel://"),
    ],
)
def test_an_address_of_sentinels_that_cannot_be_is_one_clear_line(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        open_store(url)
    assert "geheim" not in str(caught.value)

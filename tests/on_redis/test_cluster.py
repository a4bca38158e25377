"""A cluster of three masters and three replicas: a master dies under load, slots move, and addresses that do not fit are refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from culm import App
from culm.commit import Commit, Event, Held
from culm.errors import ConfigError, StoreUnavailable
from culm.job import Job
from culm.outcome import Succeeded
from culm.store import FullStore
from culm.stores.open import masked, open_store
from culm.stores.partitioned.place import place_of
from culm.stores.partitioned.store import PartitionedStore
from culm.stores.redis.address import Address, parse
from culm.stores.redis.cluster import Cluster, partition_of, slot_of
from culm.stores.redis.connection import Connection, Reply
from culm.stores.redis.store import RedisStore
from culm.stores.redis.wire import Word
from tests import servers
from tests.on_redis.asking import WITHIN_S, again, until
from tests.servers import HOST, RedisCluster, RedisServer

PARTITIONS = 64
SENDERS = 16


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    """One that a test may kill parts of."""
    found = RedisCluster(tmp_path / "cluster", timeout_ms=6_000, appendonly="yes")
    yield found
    found.kill()


def places_on(cluster: RedisCluster, node: RedisServer, address: Address) -> set[int]:
    """The partitions whose slots that master has."""
    (mine,) = [row for row in cluster.nodes[-1].read("CLUSTER", "SLOTS") if int(row[2][1]) == node.port]
    slots = {place: slot_of(partition_of(address, place).prefix) for place in range(address.partitions)}
    return {place for place, slot in slots.items() if int(mine[0]) <= slot <= int(mine[1])}


class Load:
    """A worker and many clients; when each job was acknowledged."""

    def __init__(self, url: str) -> None:
        self.app = App(url)
        self.acked: dict[str, float] = {}
        self.echo = self.app.task(name="echo")(_echo)

    async def run(self, sender: int, places: set[int]) -> None:
        """Send to these, one after another: who waits for one that is away sends nothing to others."""
        n = sender
        while True:
            n += SENDERS
            if place_of(f"job-{n}", PARTITIONS) not in places:
                continue
            with suppress(StoreUnavailable):
                await self.echo.using(id=f"job-{n}").enqueue(n)
                self.acked[f"job-{n}"] = time.monotonic()
            await asyncio.sleep(0.01)

    def acked_in(self, places: set[int], *, since: float = 0.0) -> list[str]:
        return [i for i, at in self.acked.items() if at >= since and place_of(i, PARTITIONS) in places]


async def _echo(n: int) -> int:
    return n


@pytest.mark.slow
async def test_a_dead_masters_partitions_resume_and_the_others_never_stop(
    cluster: RedisCluster, record_property: Callable[[str, object], None]
) -> None:
    load = Load(url := cluster.url(partitions=PARTITIONS))
    dead = places_on(cluster, cluster.masters[1], parse(url))
    others = set(range(PARTITIONS)) - dead
    async with load.app, load.app.worker(concurrency=20, poll=0.2):
        loading = [asyncio.create_task(load.run(n, dead if n % 2 else others)) for n in range(SENDERS)]
        await until(lambda: len(load.acked_in(dead)) > 200 and len(load.acked_in(others)) > 200, "some load", for_s=30)

        cluster.masters[1].kill()
        killed_at = time.monotonic()
        meanwhile = load.acked_in(others, since=killed_at + 0.2)
        await until(lambda: len(load.acked_in(others, since=killed_at + 0.2)) > len(meanwhile) + 20, "the others to go on")
        went_on = load.acked_in(others, since=killed_at + 0.2)[:20]
        results = await asyncio.gather(*(load.app.job(i, load.echo).result(timeout=WITHIN_S) for i in went_on))
        others_s = time.monotonic() - killed_at
        assert len(results) == 20
        assert not cluster.serves(), "sent and run while the master was away"

        await until(cluster.serves, "the replica to be elected", for_s=30)
        failed_over_at = time.monotonic()
        await until(lambda: bool(load.acked_in(dead, since=failed_over_at)), "its partitions to take jobs", for_s=30)
        await load.app.job(load.acked_in(dead, since=failed_over_at)[0], load.echo).result(timeout=2 * WITHIN_S)
        resumed_at = time.monotonic()
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, return_exceptions=True)

        store = load.app.store
        lost = [i for i in load.acked if await again(store.job, i) is None]
        before = [i for i in load.acked_in(dead) if load.acked[i] < failed_over_at]
        assert set(lost) <= set(before), "nothing but what the replica did not have yet"
        assert resumed_at - failed_over_at < WITHIN_S
        record_property(
            "said",
            f"failed over after {failed_over_at - killed_at:.1f} s, resumed {resumed_at - failed_over_at:.1f} s later; the others went on "
            f"(20 jobs sent and run within {others_s:.1f} s); lost {len(lost)} of {len(before)} acknowledged by the dead",
        )


async def test_slots_that_move_are_followed(cluster_of_masters: RedisCluster) -> None:
    cluster = cluster_of_masters
    url = cluster.url(partitions=3)
    address = parse(url)
    store = open_store(url)
    sends = [Commit(send=(Job(id=f"a{n}", task="t"),)) for n in range(30)]
    assert await store.commit(sends, batch=("app", 1)) == ["applied"] * 30
    slot = slot_of(partition_of(address, 0).prefix)
    owner = next(m for m in cluster.masters if owns(m, slot))
    target = next(m for m in cluster.masters if m is not owner)
    node_id = {m.port: bytes(m.read("CLUSTER", "MYID")).decode() for m in (owner, target)}
    target.ask("CLUSTER", "SETSLOT", str(slot), "IMPORTING", node_id[owner.port])
    owner.ask("CLUSTER", "SETSLOT", str(slot), "MIGRATING", node_id[target.port])
    keys = [bytes(key) for key in owner.read("CLUSTER", "GETKEYSINSLOT", str(slot), "1000")]
    for key in keys:
        assert owner.ask("MIGRATE", HOST, str(target.port), key, "0", "5000") == b"+OK"
    assert await store.job("a0") is not None, "asked where it goes"
    for master in (target, owner):
        assert master.ask("CLUSTER", "SETSLOT", str(slot), "NODE", node_id[target.port]) == b"+OK"
    assert len(await everything(store, "w")) == 30
    await store.close()


def owns(master: RedisServer, slot: int) -> bool:
    return any(int(first) <= slot <= int(last) and int(node[1]) == master.port for first, last, node, *_ in master.read("CLUSTER", "SLOTS"))


@pytest.fixture
def cluster_of_masters(tmp_path: Path) -> Iterator[RedisCluster]:
    found = RedisCluster(tmp_path / "cluster", replicas=False)
    yield found
    found.kill()


async def everything(store: FullStore, name: str) -> list[str]:
    """Claim and end what is due, until there is nothing."""
    found: list[str] = []
    for number in range(1, 100):
        claimed = await again(store.claim, ["default"], lease=f"{name}/{number}", limit=100, for_ms=60_000)
        if not claimed.deliveries:
            return found
        found += [d.job.id for d in claimed.deliveries]
        ends = [Commit(fence=Held(d.job.id, d.lease), outcome=Succeeded()) for d in claimed.deliveries]
        assert set(await again(store.commit, ends, batch=(name, number))) == {"applied"}
    raise AssertionError("there is no end to it")


async def test_what_crosses_a_cluster_arrives() -> None:
    store = open_store(servers.cluster().url(partitions=8))
    await store.commit([Commit(send=(Job(id="first", task="t"),))], batch=("app", 1))
    (d,) = (await store.claim(["default"], lease="w/1", limit=10, for_ms=60_000)).deliveries
    started = tuple(Job(id=f"started-{n}", task="t") for n in range(30))
    commit = Commit(fence=Held(d.job.id, d.lease), outcome=Succeeded(), send=started, emit=(Event("", "said", "x"),))
    assert await store.commit([commit], batch=("w", 1)) == ["applied"]
    assert sorted(await everything(store, "other")) == sorted(j.id for j in started)
    assert [e.key for e in await store.events("", "said")] == ["x"]
    await store.close()


async def test_an_empty_claim_of_64_partitions_is_two_rounds(
    monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    seen: list[str] = []
    ask, received = Connection.ask, Connection.data_received

    def asking(self: Connection, *command: Word) -> asyncio.Future[Reply]:
        seen.append("asked")
        return ask(self, *command)

    def receiving(self: Connection, data: bytes) -> None:
        seen.append("answered")
        received(self, data)

    address = parse(servers.cluster().url(partitions=PARTITIONS))
    shared = Cluster(address)
    stores = [RedisStore(partition_of(address, n), cluster=shared) for n in range(PARTITIONS)]
    store = PartitionedStore(stores, waiter=shared, patience_s=20.0)
    for number in range(1, 4):
        await store.claim(["default"], lease=f"w/{number}", limit=100, for_ms=60_000)  # connects, marks the partitions, loads the scripts
    monkeypatch.setattr(Connection, "ask", asking)
    monkeypatch.setattr(Connection, "data_received", receiving)
    began = time.perf_counter()
    assert not (await store.claim(["default"], lease="w/4", limit=100, for_ms=60_000)).deliveries
    took = time.perf_counter() - began
    rounds = sum(was == "answered" and now == "asked" for was, now in pairwise(["answered", *seen]))
    assert seen.count("asked") == PARTITIONS
    assert rounds <= 2, "a few that are likely to have something, then all others at once"
    record_property("said", f"{took * 1000:.1f} ms")
    await store.close()


async def test_the_wrong_kind_of_address_is_refused_in_one_line() -> None:
    node, single = servers.cluster().masters[0], servers.redis()
    for url, said in (
        (f"redis://{HOST}:{node.port}", "is a node of a Redis Cluster; name some of its nodes: redis+cluster://"),
        (
            f"redis+cluster://{HOST}:{single.port}",
            f"is a single server, no node of a Redis Cluster; its address is redis://{HOST}:{single.port}",
        ),
    ):
        store = open_store(url)
        with pytest.raises(ConfigError) as caught:
            await store.claim(["default"], lease="w/1", limit=1, for_ms=1_000)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
        await store.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis+cluster://", "names no node"),
        ("redis+cluster://host/3", "names a database, and a Redis Cluster has none"),
        ("redis+cluster://host/?partitions=0", "partitions is a whole number from 1 to 1,024, got '0'"),
        ("redis+cluster://host/?partitions=many", "got 'many'"),
        ("redis+cluster://host:x/", "no valid host and port"),
        ("redis://host/0?partitions=3", "has no partitions"),
        ("redis://one,two/0", "nodes of a cluster redis+cluster://host,host"),
        ("redis+clutser://host/", "did you mean redis+cluster://?"),
    ],
)
async def test_nonsense_is_refused_in_one_line(url: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(url)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_password_is_never_shown() -> None:
    url = "redis+cluster://user:secret@one:1,two:2/?partitions=2"
    assert masked(url) == "redis+cluster://user:***@one:1,two:2/?partitions=2"
    assert "secret" not in str(open_store(url))


async def test_a_cluster_with_another_number_of_partitions_is_refused() -> None:
    url = servers.cluster().url(partitions=4)
    store = open_store(url)
    await store.commit([Commit(send=(Job(id=f"a{n}", task="t"),)) for n in range(20)], batch=("app", 1))
    await store.close()
    other = open_store(url.replace("partitions=4", "partitions=8"))
    with pytest.raises(ConfigError, match="is partition 0 of 4, crc32, and was opened as partition 0 of 8"):
        await other.job("a0")
    await other.close()

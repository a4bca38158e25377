"""Every store that the suite runs over: one entry each."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import pytest
from _pytest.mark.structures import ParameterSet
from msgspec import Struct

from culm.clock import Clock
from culm.store import FullStore
from culm.stores.memory import MemoryStore
from culm.stores.partitioned.store import PartitionedStore
from culm.stores.postgres.address import Address
from culm.stores.postgres.address import parse as parse_postgres
from culm.stores.postgres.migrate import migrate
from culm.stores.postgres.store import PostgresStore
from culm.stores.redis.address import parse
from culm.stores.redis.cluster import Cluster, partition_of
from culm.stores.redis.link import Link
from culm.stores.redis.scripts import Script, Scripts
from culm.stores.redis.store import RedisStore, _Ends
from culm.stores.sqlite.store import SqliteStore
from culm.testing.conformance import EVERY_FEATURE, Feature
from tests import servers

PATIENCE_S = 20.0  # a busy machine is no slow partition
Opener: TypeAlias = Callable[[Path, Clock], FullStore]


def memory(_: Path, clock: Clock) -> FullStore:
    return MemoryStore(clock)


def sqlite(path: Path, clock: Clock) -> FullStore:
    return SqliteStore(path / "culm.db", clock=clock, durability="relaxed")  # power is not lost in these tests


def redis(_: Path, clock: Clock) -> FullStore:
    return RedisStore(parse(servers.redis().url), clock=clock)


class _SmallBundles(Scripts):
    """Two jobs that are sent together lie together, three at most; and claims find their lanes as where there are many."""

    def __getitem__(self, name: str) -> Script:
        text = super().__getitem__(name).text.decode()
        for usual, small, there in (
            ("MANY, SMALL = 10,", "MANY, SMALL = 2,", name == "send"),
            ("TOGETHER = 100 ", "TOGETHER = 3 ", name != "send_one"),
            ("MOST_INLINE, FEW_LANES = 16777216, 64, 8", "MOST_INLINE, FEW_LANES = 16777216, 64, 0", name == "claim"),
        ):
            assert text.count(usual) == there, f"{name}.lua no longer says {usual}"
            text = text.replace(usual, small)
        return Script(text)


def redis_in_small_bundles(_: Path, clock: Clock) -> FullStore:
    store = RedisStore(parse(servers.redis().url), clock=clock)
    right = store._ends._make

    def small() -> _Ends:
        ends = right()
        assert isinstance(ends.link, Link)
        ends.link._scripts = _SmallBundles(store.address.prefix)
        return ends

    store._ends._make = small
    return store


def oldest_redis(_: Path, clock: Clock) -> FullStore:
    return RedisStore(parse(servers.oldest_redis().url), clock=clock)


def postgres(_: Path, clock: Clock) -> FullStore:
    address = parse_postgres(servers.postgres().url(f"s{uuid.uuid4().hex}", durability="relaxed"))
    migrate_in_thread(address)
    return PostgresStore(address, clock=clock)


def migrate_in_thread(address: Address) -> None:
    """The caller's event loop runs already."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, migrate(address)).result()


def one_partition(_: Path, clock: Clock) -> FullStore:
    return PartitionedStore([MemoryStore(clock)], patience_s=PATIENCE_S)


def partitions(_: Path, clock: Clock) -> FullStore:
    return PartitionedStore([MemoryStore(clock) for _ in range(3)], patience_s=PATIENCE_S)


def files(path: Path, clock: Clock) -> FullStore:
    return PartitionedStore([SqliteStore(path / f"{n}.db", clock=clock, durability="relaxed") for n in range(3)], patience_s=PATIENCE_S)


def namespaces(_: Path, clock: Clock) -> FullStore:
    """Partitions of one server."""
    url = servers.redis().url
    return PartitionedStore([RedisStore(parse(f"{url}-{n}"), clock=clock) for n in range(3)], patience_s=PATIENCE_S)


def cluster(_: Path, clock: Clock) -> FullStore:
    """Partitions of a cluster of three masters."""
    address = parse(servers.cluster().url(partitions=4))
    shared = Cluster(address)
    return PartitionedStore(
        [RedisStore(partition_of(address, n), clock=clock, cluster=shared) for n in range(4)], waiter=shared, patience_s=PATIENCE_S
    )


class Subject(Struct, frozen=True):
    """A store that the suite runs over, and what it has."""

    name: str
    open: Opener
    features: tuple[Feature, ...] = EVERY_FEATURE
    server: bool = False  # it starts one
    slow: bool = False  # another shows the same, sooner

    def param(self, *more: object, name: str = "", slow: bool = False) -> ParameterSet:
        marks = [*([pytest.mark.server] if self.server else []), *([pytest.mark.slow] if self.slow or slow else [])]
        return pytest.param(self, *more, id=name or self.name, marks=marks)


PARTED: tuple[Feature, ...] = ("hints", "wakes")

SUBJECTS = (
    Subject("memory", memory),
    Subject("sqlite", sqlite),
    Subject("redis", redis, server=True),
    Subject("redis 6.2", oldest_redis, server=True),
    Subject("redis, small bundles", redis_in_small_bundles, server=True, slow=True),
    Subject("postgres", postgres, server=True),
    Subject("one partition", one_partition, slow=True),
    Subject("partitions", partitions, PARTED),
    Subject("files", files, PARTED, slow=True),
    Subject("namespaces", namespaces, PARTED, server=True),
    Subject("cluster", cluster, PARTED, server=True),
)

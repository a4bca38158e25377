"""Every store that the suite runs over: one entry each."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import pytest

from culm.clock import Clock
from culm.store import FullStore
from culm.stores.memory import MemoryStore
from culm.stores.postgres.address import Address
from culm.stores.postgres.address import parse as parse_postgres
from culm.stores.postgres.migrate import migrate
from culm.stores.postgres.store import PostgresStore
from culm.stores.redis.address import parse
from culm.stores.redis.store import RedisStore
from culm.stores.sqlite.store import SqliteStore
from tests import servers

Opener: TypeAlias = Callable[[Path, Clock], FullStore]


def memory(_: Path, clock: Clock) -> FullStore:
    return MemoryStore(clock)


def sqlite(path: Path, clock: Clock) -> FullStore:
    return SqliteStore(path / "culm.db", clock=clock, durability="relaxed")  # power is not lost in these tests


def redis(_: Path, clock: Clock) -> FullStore:
    return RedisStore(parse(servers.redis().url), clock=clock)


def postgres(_: Path, clock: Clock) -> FullStore:
    address = parse_postgres(servers.postgres().url(f"s{uuid.uuid4().hex}", durability="relaxed"))
    migrate_in_thread(address)
    return PostgresStore(address, clock=clock)


def migrate_in_thread(address: Address) -> None:
    """The caller's event loop runs already."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, migrate(address)).result()


STORES: dict[str, Opener] = {"memory": memory, "sqlite": sqlite, "redis": redis, "postgres": postgres}
SERVERS = {"redis", "postgres"}  # these start one
EACH = [pytest.param(opener, id=name, marks=[pytest.mark.server] if name in SERVERS else []) for name, opener in STORES.items()]

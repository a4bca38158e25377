"""Every store that the suite runs over: one entry each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from culm.clock import Clock
from culm.store import FullStore
from culm.stores.memory import MemoryStore
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


STORES: dict[str, Opener] = {"memory": memory, "sqlite": sqlite, "redis": redis}
SERVERS = {"redis"}  # these start one
EACH = [pytest.param(opener, id=name, marks=[pytest.mark.server] if name in SERVERS else []) for name, opener in STORES.items()]

"""Every store that the suite runs over: one entry each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from culm.clock import Clock
from culm.store import FullStore
from culm.stores.memory import MemoryStore
from culm.stores.sqlite.store import SqliteStore

Opener: TypeAlias = Callable[[Path, Clock], FullStore]


def memory(_: Path, clock: Clock) -> FullStore:
    return MemoryStore(clock)


def sqlite(path: Path, clock: Clock) -> FullStore:
    return SqliteStore(path / "culm.db", clock=clock, durability="relaxed")  # power is not lost in these tests


STORES: dict[str, Opener] = {"memory": memory, "sqlite": sqlite}

"""Each partition remembers which one it is, of how many: a job that nobody can claim, whose task says so. The first to come writes it.

All are looked at before any is used: one that is not what the address says refuses the whole store, and nothing was written.
One that is away is looked at when it is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from random import Random
from weakref import WeakKeyDictionary

from culm.commit import Commit
from culm.errors import ConfigError, StoreUnavailable
from culm.job import Job
from culm.store import FullStore
from culm.stores.partitioned.place import MARK, MARKS, Place

log = logging.getLogger("culm.partitions")


class Marks:
    def __init__(self, stores: Sequence[FullStore], rng: Random) -> None:
        self._rng = rng
        self._stores = stores
        self._opened = False
        self._checked: set[Place] = set()
        self._checking: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[dict[Place, StoreUnavailable]]] = WeakKeyDictionary()

    def __contains__(self, place: Place) -> bool:
        return place in self._checked

    async def open(self) -> None:
        """Look at all of them, once: a claim that is to be quick should not have to. Raises ConfigError."""
        if not self._opened:
            with suppress(StoreUnavailable):
                await self.check(0)
            self._opened = True

    async def check(self, place: Place) -> None:
        """Return when that partition is the right one. Raises ConfigError (it, or another, is not), StoreUnavailable (it is away)."""
        loop = asyncio.get_running_loop()
        checking = self._checking.get(loop)
        if checking is None:
            checking = self._checking[loop] = loop.create_task(self._check_all())
            checking.add_done_callback(lambda _: self._checking.pop(loop, None))
        away = await asyncio.shield(checking)
        if place in away:
            raise away[place]

    async def _check_all(self) -> dict[Place, StoreUnavailable]:
        """Look at those that were not looked at yet; the errors of those that are away."""
        unchecked = [p for p in range(len(self._stores)) if p not in self._checked]
        found = await self._each(unchecked, self._read)
        unmarked = [p for p, one in found.items() if one is None]
        if unmarked and (self._checked or any(isinstance(one, str) for one in found.values())):
            log.warning("partition.new: %s has no mark, others have; was its data lost?", self._stores[unmarked[0]])
        found |= await self._each(unmarked, self._write)
        self._checked |= {p for p, one in found.items() if isinstance(one, str)}
        return {p: one for p, one in found.items() if isinstance(one, StoreUnavailable)}

    async def _each(
        self, places: Sequence[Place], question: Callable[[Place], Awaitable[str | None]]
    ) -> dict[Place, str | StoreUnavailable | None]:
        asked = await asyncio.gather(*(question(p) for p in places), return_exceptions=True)
        found: dict[Place, str | StoreUnavailable | None] = {}
        for place, one in zip(places, asked, strict=True):
            if isinstance(one, BaseException) and not isinstance(one, StoreUnavailable):
                raise one
            found[place] = one
        return found

    def _mark(self, place: Place) -> str:
        return f"partition {place} of {len(self._stores)}, crc32"

    async def _read(self, place: Place) -> str | None:
        """Its mark; None: it is empty. Raises ConfigError."""
        store, mark = self._stores[place], self._mark(place)
        known = await store.job(MARK)
        if known is None and await store.jobs(limit=1):
            known = await store.job(MARK)  # somebody else may have come first
            if known is None:
                raise ConfigError(f"{store} has jobs already, but is no partition; give a new place, or the address that it had before")
        if known is not None and known.task != mark:
            raise ConfigError(
                f"{store} is {known.task}, and was opened as {mark}; "
                "the number and the order of partitions are fixed: give the address as it was when the data was new"
            )
        return None if known is None else known.task

    async def _write(self, place: Place) -> str | None:
        mark = Job(id=MARK, task=self._mark(place), queue=MARKS, after_ms=None)
        await self._stores[place].commit([Commit(send=(mark,))], batch=(f"mark-{self._rng.getrandbits(128):032x}", 1))
        return await self._read(place)

"""An app over the memory store with a worker in this process. Tests await results and signals; nothing sleeps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar, Unpack

from culm import App, Keys, Offload
from culm.job import Job
from culm.stores.memory import MemoryStore
from culm.testing.clock import ManualClock
from culm.worker.worker import Worker, WorkerOptions

T = TypeVar("T")

AT_MOST_S = 10.0


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run it, with an end in any case."""

    async def bounded() -> T:
        async with asyncio.timeout(AT_MOST_S):
            return await work

    return asyncio.run(bounded())


class Bench:
    """An app whose store has a clock of its own.

    Attributes:
        clock: moves by hand only.
    """

    def __init__(self, *, keys: Keys | None = None, offload: Offload | None = None) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock)
        self.app = App(store=self.store, rng=random.Random(1), keys=keys, offload=offload)

    @asynccontextmanager
    async def working(self, **options: Unpack[WorkerOptions]) -> AsyncIterator[Worker]:
        """A worker that looks often, since nobody tells it that the clock was moved."""
        given: WorkerOptions = {"poll": 0.005, "heartbeat": 0.02, "lease": 30, "grace": 5, "concurrency": 8}
        given.update(options)
        async with self.app.worker(**given) as worker:
            yield worker

    async def registered(self) -> bool:
        """A worker's heart has beaten."""
        return bool(await self.store.workers())

    def jobs(self) -> list[Job]:
        """All that the store has, oldest first."""
        return [row.job for row in self.store.tables.rows.values()]

    def job(self, job_id: str) -> Job:
        return self.store.tables.rows[job_id].job


async def until(done: Callable[[], bool | Awaitable[bool]]) -> None:
    """Give way to others until that is so; `run` ends it if it never is."""
    while True:
        found = done()
        if found if isinstance(found, bool) else await found:
            return
        await asyncio.sleep(0.001)

"""The heart: what it does when the store does not answer. On virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from culm.commit import Held
from culm.errors import StoreUnavailable
from culm.store import LeaseState, WorkerInfo
from culm.stores.memory import MemoryStore
from culm.testing.virtual_loop import VirtualLoop, run
from culm.worker.heart import AT_ONCE, beat

EVERY_MS, LEASE_MS = 10_000, 30_000


class Body:
    def __init__(self, jobs: int = 1) -> None:
        self.jobs = [Held(f"j{n}", "w/1") for n in range(jobs)]

    def held(self) -> list[Held]:
        return self.jobs

    def is_stuck(self) -> bool:
        return False

    def info(self) -> WorkerInfo:
        return WorkerInfo(id="w", host="h", pid=1, queues=(), tasks=(), concurrency=1, running=0, done=0, started_ms=0)

    def leases_are(self, held: Sequence[Held], states: Sequence[LeaseState]) -> None: ...


class Flaky(MemoryStore):
    """Notes when it was asked, and fails as the test says."""

    def __init__(self, *, takes_s: float = 0.0, down_until: float = 0.0, no_register: bool = False, bad_part: int = -1) -> None:
        super().__init__()
        self.takes_s, self.down_until, self.no_register, self.bad_part = takes_s, down_until, no_register, bad_part
        self.began = asyncio.get_running_loop().time()
        self.extended: list[float] = []
        self.asked: list[float] = []

    async def extend(self, held: Sequence[Held], *, for_ms: int) -> list[LeaseState]:
        loop = asyncio.get_running_loop()

        def now() -> float:
            return loop.time() - self.began

        self.asked.append(now())
        await asyncio.sleep(self.takes_s)
        if now() < self.down_until or len(self.asked) - 1 == self.bad_part:
            raise StoreUnavailable("away")
        self.extended.append(now())
        return ["held"] * len(held)

    async def register(self, worker: WorkerInfo, *, for_ms: int) -> None:
        if self.no_register:
            raise StoreUnavailable("away")


def beaten(*, for_s: float, jobs: int = 1, **how: Any) -> Flaky:
    async def main(loop: VirtualLoop) -> Flaky:
        store = Flaky(**how)
        ends_at = loop.time() + for_s

        async def pause(seconds: float) -> bool:
            await asyncio.sleep(seconds)
            return loop.time() < ends_at

        await beat(Body(jobs), store, every_ms=EVERY_MS, lease_ms=LEASE_MS, pause=pause)
        return store

    return run(main, seed=1)


def test_after_a_beat_that_failed_the_next_comes_soon() -> None:
    """A store that was away for 12 s must find the leases extended right after, not up to an interval later."""
    store = beaten(down_until=12.0, for_s=14)
    assert store.extended[0] == pytest.approx(12, abs=1.1)
    assert len(store.asked) < 20


def test_a_beat_that_took_long_does_not_put_off_the_next() -> None:
    store = beaten(takes_s=9, for_s=25)
    assert store.asked == pytest.approx([0, 10, 20], abs=0.1)


def test_leases_are_extended_though_the_worker_cannot_register() -> None:
    assert beaten(no_register=True, for_s=0.5).extended


def test_a_part_that_fails_does_not_cost_the_other_leases() -> None:
    store = beaten(bad_part=0, for_s=0.5, jobs=2 * AT_ONCE)
    assert len(store.asked) == 2
    assert len(store.extended) == 1

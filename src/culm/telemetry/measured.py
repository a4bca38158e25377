"""A store with a meter around it: what a worker claims and commits passes here, and is counted on its way."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from typing import Any

from culm.commit import BatchId, Commit, Committed, Held
from culm.store import Claimed, Laned, LanedStore, LeaseState, Patient, PatientStore, Store
from culm.telemetry.meter import Meter


class Measured:
    """The four methods of `Store`, each answered by `store`."""

    def __init__(self, store: Store, meter: Meter) -> None:
        self._store = store
        self._meter = meter

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        began = time.perf_counter()
        try:
            answers = await self._store.commit(commits, batch=batch)
        except Exception as e:
            self._meter.called(e)
            raise
        self._meter.called()
        self._meter.answered(commits, answers, time.perf_counter() - began)
        return answers

    async def claim(self, queues: Sequence[str], **asked: Any) -> Claimed:
        return await self._claimed(self._store.claim(queues, **asked))

    async def _claimed(self, claim: Awaitable[Claimed]) -> Claimed:
        try:
            claimed = await claim
        except Exception as e:
            self._meter.called(e)
            raise
        self._meter.called()
        if claimed.deliveries:
            self._meter.claims.observe(len(claimed.deliveries))
        return claimed

    async def extend(self, held: Sequence[Held], *, for_ms: int) -> list[LeaseState]:
        return await self._store.extend(held, for_ms=for_ms)

    async def wait(self, queues: Sequence[str], *, for_ms: int) -> None:
        await self._store.wait(queues, for_ms=for_ms)


class _MeasuredLanes(Measured):
    """The same of a store that is gathered for by lanes."""

    def __init__(self, store: LanedStore, meter: Meter) -> None:
        super().__init__(store, meter)
        self.lane = store.lane
        self.owed = store.owed


class _MeasuredPatience(Measured):
    """The same of a store whose claims may wait there."""

    def __init__(self, store: PatientStore, meter: Meter) -> None:
        super().__init__(store, meter)
        self._patient = store
        self.hurry = store.hurry

    async def claim_within(self, queues: Sequence[str], **asked: Any) -> Claimed:
        return await self._claimed(self._patient.claim_within(queues, **asked))


def measured(store: Store, meter: Meter) -> Measured:
    """That store with the meter around it."""
    if isinstance(store, Laned):
        return _MeasuredLanes(store, meter)
    return _MeasuredPatience(store, meter) if isinstance(store, Patient) else Measured(store, meter)

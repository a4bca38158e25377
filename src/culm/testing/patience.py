"""A faulty way to a store whose claims may wait there, as in Redis.

The server grants when something comes, even to a client that stands still at that moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import copy_context
from random import Random

from culm.store import Claimed, ClaimOrder, FullStore
from culm.testing.faults import CALM, Faulty, Plan
from culm.testing.virtual_loop import NODE, VirtualLoop

SLICE_MS = 20  # how soon a claim that is told to hurry does


class PatientFaulty(Faulty):
    """As Faulty, and its claims may wait."""

    def __init__(self, store: FullStore, rng: Random, plan: Plan = CALM) -> None:
        super().__init__(store, rng, plan)
        self._hurried: set[str] = set()

    async def claim_within(
        self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int, order: ClaimOrder = "priority", wait_ms: int
    ) -> Claimed:
        loop, node = asyncio.get_running_loop(), NODE.get()

        async def when_there_is_something() -> Claimed:
            left_ms, began = wait_ms, loop.time()
            while left_ms > 0 and lease not in self._hurried:
                asked_ms = min(left_ms, SLICE_MS)
                await self._store.wait(queues, for_ms=asked_ms)
                if (loop.time() - began) * 1000 < wait_ms - left_ms + asked_ms - 1:
                    break  # it was woken
                left_ms -= asked_ms
            if self.dead or (isinstance(loop, VirtualLoop) and node in loop.killed):
                return Claimed()  # its connection was closed
            return await self._store.claim(queues, lease=lease, limit=limit, for_ms=for_ms, order=order)

        async def served() -> Claimed:
            context = copy_context()
            context.run(NODE.set, "")
            return await loop.create_task(when_there_is_something(), context=context)

        return await self._call("claim", served)

    async def hurry(self, lease: str) -> None:
        await self._call("hurry", lambda: self._hear(lease))

    async def _hear(self, lease: str) -> None:
        self._hurried.add(lease)

"""Waiting for work in any partition: each is asked to wait, unless something waits for all of them at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from culm.stores.partitioned.partition import Partition
from culm.stores.partitioned.place import Place


class Waiter(Protocol):
    async def wait(self, queues: Sequence[str], *, for_ms: int) -> set[Place]:
        """Return when there may be something to claim, at the latest after `for_ms`, and where, if that is known."""
        ...


class EachWaits:
    """The first that returns ends the wait of all."""

    def __init__(self, partitions: Sequence[Partition]) -> None:
        self._partitions = partitions

    async def wait(self, queues: Sequence[str], *, for_ms: int) -> set[Place]:
        asked = {asyncio.ensure_future(self._wait(p, queues, for_ms)): p.place for p in self._partitions if not p.is_away()}
        if not asked:
            await asyncio.sleep(for_ms / 1000)
            return set()
        try:
            pending = set(asked)
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                if found := {asked[task] for task in done if task.exception() is None}:
                    return found
            await next(iter(asked))  # all have failed, and say why
            return set()
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _wait(self, partition: Partition, queues: Sequence[str], for_ms: int) -> None:
        store = await partition.store()
        await partition.ask(store.wait(queues, for_ms=for_ms))

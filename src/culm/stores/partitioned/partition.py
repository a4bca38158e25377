"""One partition: a store that remembers which partition it is, and that may be away for a while without stopping the others."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from culm.errors import StoreUnavailable
from culm.store import FullStore
from culm.stores.partitioned.marks import Marks
from culm.stores.partitioned.place import Place

log = logging.getLogger("culm.partitions")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
T = TypeVar("T")


class Partition:
    """Args:
    place: its number, from 0.
    marks, said: of all of them.
    patience_s: how long it may keep others waiting.
    now: seconds that only grow.
    """

    def __init__(
        self, store: FullStore, place: Place, marks: Marks, said: set[str], *, patience_s: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._now = now
        self._longest_pause_s = min(LONGEST_PAUSE_S, 2 * patience_s)
        self.patience_s = patience_s
        self.place = place
        self._marks = marks
        self._said = said  # why some are away: many may be for one reason
        self._away_until = 0.0
        self._pause_s = 0.0  # 0: it answered last time
        self.error: StoreUnavailable | None = None  # the last one, while it is away

    def __str__(self) -> str:
        return f"partition {self.place} ({self._store})"

    async def store(self) -> FullStore:
        """The store, which is the right one. Raises ConfigError, StoreUnavailable."""
        if self.place not in self._marks:
            await self.ask(self._marks.check(self.place))
        return self._store

    # -- being away -----------------------------------------------------------------------------------------------------------

    def is_away(self) -> bool:
        """It did not answer a moment ago: leave it for now."""
        return self._pause_s > 0 and self._now() < self._away_until

    def refuse_while_away(self) -> None:
        """Raises the error for which it is left for now."""
        if self.is_away() and self.error is not None:
            raise self.error

    def back_in_ms(self) -> int | None:
        """How long to leave it; None: it is not away."""
        return None if not self._pause_s else max(1, round((self._away_until - self._now()) * 1000))

    async def ask_soon(self, question: Coroutine[Any, Any, T]) -> T:
        """As `ask`, for what can do without an answer."""
        try:
            async with asyncio.timeout(self.patience_s):
                return await self.ask(question)
        except TimeoutError:
            raise self._went(StoreUnavailable(f"no answer within {self.patience_s:g} s")) from None

    async def ask(self, question: Coroutine[Any, Any, T]) -> T:
        """The answer; notices whether there is one. Raises what the store raises, and names the partition."""
        try:
            answer = await question
        except StoreUnavailable as e:
            raise self._went(e) from e
        if self._pause_s:
            log.info("partition.back: %s", self)
            self._said.clear()
            self._pause_s, self.error = 0.0, None
        return answer

    def _went(self, error: StoreUnavailable) -> StoreUnavailable:
        if not self._pause_s:
            log.log(logging.INFO if str(error) in self._said else logging.WARNING, "partition.away: %s: %s", self, error)
            self._said.add(str(error))
        self._pause_s = min(max(FIRST_PAUSE_S, self._pause_s * 2), self._longest_pause_s)
        self._away_until = self._now() + self._pause_s
        self.error = StoreUnavailable(f"partition {self.place}: {error}")
        return self.error

    async def close(self) -> None:
        await self._store.close()

"""Where a part of the store may be away, each part has a gatherer of its own: a batch that waits for one holds up no other."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import TypeAlias

from culm.batch import Gatherer
from culm.commit import Commit, Committed, weigh
from culm.sender import Answer, Then
from culm.store import Laned, LanedStore, Store

Answered: TypeAlias = Callable[[Sequence[Commit], Sequence[Answer]], None]


class Lanes:
    """Many gatherers that look like one. In each lane commits keep the order in which they were posted.

    Args: as of Gatherer.
    """

    def __init__(self, store: LanedStore, *, client: str, give_up_ms: int | None, rng: random.Random | None) -> None:
        self.store: Store = store
        self._lane = store.lane
        self._client = client
        self._give_up_ms = give_up_ms
        self._rng = rng
        self._gatherers: dict[int, Gatherer] = {}
        self._answered: Answered | None = None
        self._ends_within: int | None = None

    @property
    def answered(self) -> Answered | None:
        """Called once for each batch of any lane, with its commits and their answers; must not raise."""
        return self._answered

    @answered.setter
    def answered(self, answered: Answered | None) -> None:
        self._answered = answered
        for gatherer in self._gatherers.values():
            gatherer.answered = answered

    def post(self, commit: Commit, then: Then | None = None, *, weight: int = 1, fresh: bool = False) -> None:
        self._of(commit).post(commit, then, weight=weight, fresh=fresh)

    def post_all(self, commits: Sequence[Commit], weight: int) -> None:
        """As `Gatherer.post_all`; if each weighs 1, so does each in its lane."""
        apart: dict[Gatherer, list[Commit]] = {}
        for commit in commits:
            apart.setdefault(self._of(commit), []).append(commit)
        for gatherer, some in apart.items():
            gatherer.post_all(some, len(some) if weight == len(commits) else sum(map(weigh, some)))

    def submit(self, commit: Commit, *, weight: int | None = None, fresh: bool = False) -> asyncio.Future[Committed]:
        return self._of(commit).submit(commit, weight=weight, fresh=fresh)

    def unanswered(self) -> list[Commit]:
        return [commit for gatherer in list(self._gatherers.values()) for commit in gatherer.unanswered()]

    def end_within(self, ms: int) -> None:
        self._ends_within = ms
        for gatherer in self._gatherers.values():
            gatherer.end_within(ms)

    async def flush(self) -> None:
        await asyncio.gather(*(gatherer.flush() for gatherer in list(self._gatherers.values())))

    def _of(self, commit: Commit) -> Gatherer:
        lane = self._lane(commit)
        gatherer = self._gatherers.get(lane)
        if gatherer is None:
            client = f"{self._client}.{lane}"
            gatherer = self._gatherers[lane] = Gatherer(self.store, client=client, give_up_ms=self._give_up_ms, rng=self._rng)
            gatherer.answered = self._answered
            if self._ends_within is not None:
                gatherer.end_within(self._ends_within)
        return gatherer


Gathering: TypeAlias = Gatherer | Lanes


def gathering(
    store: Store, *, client: str, give_up_ms: int | None = 10_000, rng: random.Random | None = None, for_callers: bool = False
) -> Gathering:
    """What turns concurrent commits to that store into batches. Args: as of Gatherer."""
    if isinstance(store, Laned):
        return Lanes(store, client=client, give_up_ms=give_up_ms, rng=rng)
    return Gatherer(store, client=client, give_up_ms=give_up_ms, rng=rng, for_callers=for_callers)

"""One of a gatherer's two senders: the batch that it has under way, and the name and number under which the store knows that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from culm.commit import Commit, Committed
from culm.groups import Caller

Answer: TypeAlias = Committed | Exception  # an exception: StoreUnavailable, then what was asked is unknown; StoreError, then it was refused
Then: TypeAlias = Callable[[Answer], None]
Told: TypeAlias = "Then | asyncio.Future[Committed]"  # who awaits an answer


class Batch(NamedTuple):
    commits: list[Commit]
    thens: list[tuple[int, Told]]  # (index of its commit there, whom to tell)
    fresh: bool  # it sends new jobs under new ids, and does nothing else
    first_caller: Caller  # who posted its first commit


class Sender:
    """Sends batches, one at a time. Its name is given to no other.

    Attributes:
        busy: it has, or will have, a batch to send.
        batch: under way.
        begun_at: when it was sent first, by the loop's clock.
        place: of its batch, among all of this gatherer.
        holds: nothing newer is sent until its batch is answered.
        task: sends its batches, and sends them again; None: none of that is needed so far.
        asked: the store was asked without a task, and has not answered.
        told: done when it has, if somebody waits for that.
    """

    __slots__ = ("asked", "batch", "begun_at", "busy", "client", "holds", "number", "place", "task", "told")

    def __init__(self, client: str) -> None:
        self.client = client
        self.number = self.place = 0
        self.begun_at = 0.0
        self.busy = self.holds = self.asked = False
        self.batch: Batch | None = None
        self.task: asyncio.Task[None] | None = None
        self.told: asyncio.Future[None] | None = None

    @property
    def under_way(self) -> Sequence[Commit]:
        batch = self.batch  # once: another thread asks
        return () if batch is None else batch.commits

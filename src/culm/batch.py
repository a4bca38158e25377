"""One gatherer turns concurrent commits into batches: while one batch is in flight, the next collects. No timers, no tuning.

An idle gatherer sends at once. Each batch has a number, so resending it after a lost reply is a no-op in the store:
the gatherer resends by itself, with growing pauses, until `give_up_ms` have passed; then every commit of the batch is
unknown. A caller that is cancelled does not cancel the batch, and a refused commit does not harm the others.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain
from math import inf
from typing import TypeAlias

from culm.commit import Commit, Committed, weigh
from culm.errors import StoreError, StoreUnavailable
from culm.store import Store

MAX_WEIGHT = 2_000  # effects of a batch, so that one batch does not hold up a store's other clients
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0

Answer: TypeAlias = Committed | Exception  # an exception: StoreUnavailable, then what was asked is unknown; StoreError, then it was refused
Then: TypeAlias = Callable[[Answer], None]
Told: TypeAlias = "Then | asyncio.Future[Committed]"  # who awaits an answer
Batch: TypeAlias = tuple[list[Commit], list[tuple[int, Told]]]


class Gatherer:
    """Sends commits in batches, in the order in which they were posted, one batch at a time.

    Args:
        store: where they go.
        client: names this gatherer to the store; no other gatherer may ever use the name.
        give_up_ms: how long an unanswered batch is sent again; None: until `end_within`.
        rng: spreads the pauses between resends, so that clients do not return as a herd.

    Attributes:
        answered: called once for each batch, with its commits and their answers; must not raise.
    """

    def __init__(self, store: Store, *, client: str, give_up_ms: int | None = 10_000, rng: random.Random | None = None) -> None:
        self.store = store
        self._client = client
        self._give_up_s = inf if give_up_ms is None else give_up_ms / 1000
        self._ends_at = inf  # by the loop's clock
        self._rng = rng or random.Random()
        self.answered: Callable[[Sequence[Commit], Sequence[Answer]], None] | None = None
        self._commits: list[Commit] = []  # of the batch that collects
        self._thens: list[tuple[int, Told]] = []  # (index of its commit there, whom to tell)
        self._room = 0  # weight that it can still take; 0: it has yet to begin
        self._full: deque[Batch] = deque()  # batches that have reached their weight, in order
        self._under_way: Sequence[Commit] = ()
        self._number = 0
        self._sender: asyncio.Task[None] | None = None

    def post(self, commit: Commit, then: Told | None = None, *, weight: int = 1) -> None:
        """Send the commit with the next batch, and tell `then` its answer: a future, or what is called with it and must not raise.

        `weight` is how much the store writes for it, `weigh(commit)`: what is plain and small weighs 1.
        """
        self._room = room = self._room - weight
        if room < 0:
            self._begin_batch(weight)
        if then is not None:
            self._thens.append((len(self._commits), then))
        self._commits.append(commit)

    def submit(self, commit: Commit) -> asyncio.Future[Committed]:
        """Send the commit with the next batch; await its answer. Raises, there, StoreUnavailable (it may have happened) or StoreError."""
        future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        self.post(commit, future, weight=weigh(commit))
        return future

    def unanswered(self) -> list[Commit]:
        """What was posted and is not answered yet, in order. From another thread: all of it, some of it perhaps twice.

        A commit goes from the collecting batch to the full ones to the one under way, and is there before it leaves where it was:
        asked in that order, none is missed.
        """
        collecting = self._commits
        full = list(self._full)
        return [*self._under_way, *chain.from_iterable(commits for commits, _ in full), *collecting]

    def end_within(self, ms: int) -> None:
        """What is not answered by then is unknown: whoever posts is about to go."""
        self._ends_at = asyncio.get_running_loop().time() + ms / 1000

    async def flush(self) -> None:
        """Return when all that was posted is answered."""
        while self._sender is not None:
            await asyncio.wait([self._sender])

    async def _send(self) -> None:
        try:
            while self._full or self._commits:
                commits, thens = self._next_batch()
                self._number += 1
                answers = await self._answers(commits)
                if len(commits) > 1 and isinstance(answers[0], Exception) and not isinstance(answers[0], StoreUnavailable):
                    answers = [await self._alone(commit) for commit in commits]
                if answers.count("applied") < len(answers):
                    answers = [self._told(commit, answer) for commit, answer in zip(commits, answers, strict=True)]
                if self.answered is not None:
                    self.answered(commits, answers)
                self._under_way = ()
                for index, then in thens:
                    if isinstance(then, asyncio.Future):
                        _resolve(then, answers[index])
                    else:
                        then(answers[index])
        finally:
            self._sender, self._room = None, 0

    def _next_batch(self) -> Batch:
        if not self._full:
            self._close_batch()
        batch = self._full[0]
        self._under_way = batch[0]
        self._full.popleft()
        return batch

    def _begin_batch(self, weight: int) -> None:
        """The next batch begins with a commit of that weight, even if that alone is too much."""
        self._close_batch()
        self._room = max(0, MAX_WEIGHT - weight)
        if self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send())

    def _close_batch(self) -> None:
        if self._commits:
            self._full.append((self._commits, self._thens))
            self._commits, self._thens = [], []
        self._room = 0

    def _told(self, commit: Commit, answer: Answer) -> Answer:
        """A commit that no lease fences has none to lose: the store took its batch for an older one, and did nothing."""
        if answer != "lease_lost" or commit.fence is not None:
            return answer
        return StoreError(
            f"the store has newer batches of client {self._client!r}, so this was not done: another process uses that name "
            "(was it copied while it ran?); restart this one"
        )

    async def _alone(self, commit: Commit) -> Answer:
        """One commit of a batch that the store could not take: only the bad one must suffer."""
        self._number += 1
        return (await self._answers([commit]))[0]

    async def _answers(self, commits: list[Commit]) -> Sequence[Answer]:
        loop = asyncio.get_running_loop()
        begun_at, pause = loop.time(), FIRST_PAUSE_S
        while True:
            try:
                return await self.store.commit(commits, batch=(self._client, self._number))
            except StoreUnavailable as e:
                if loop.time() + pause >= min(begun_at + self._give_up_s, self._ends_at):
                    return [e for _ in commits]
            except Exception as e:  # noqa: BLE001  # refused, or a defect of the store: its callers must hear of it
                return [e] * len(commits)
            await asyncio.sleep(pause * (0.5 + self._rng.random() / 2))
            pause = min(pause * 2, LONGEST_PAUSE_S)


def _resolve(future: asyncio.Future[Committed], answer: Answer) -> None:
    if future.done():
        return  # its caller was cancelled
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)

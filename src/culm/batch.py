"""One gatherer turns concurrent commits into batches: while one batch is in flight, the next collects. No timers, no tuning.

An idle gatherer sends at once. Each batch has a number, so resending it after a lost reply is a no-op in the store:
the gatherer resends by itself, with growing pauses, until `give_up_ms` have passed; then every commit of the batch is
unknown. A caller that is cancelled does not cancel the batch, and a refused commit does not harm the others.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import TypeAlias

from culm.commit import Commit, Committed, weigh
from culm.errors import StoreUnavailable
from culm.store import Store

MAX_WEIGHT = 2_000  # effects of a batch, so that one batch does not hold up a store's other clients
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0

Answer: TypeAlias = Committed | Exception  # an exception: StoreUnavailable, then what was asked is unknown; StoreError, then it was refused
Then: TypeAlias = Callable[[Answer], None]


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
        self._commits: list[Commit] = []
        self._thens: list[tuple[int, Then]] = []  # (index of its commit, whom to tell)
        self._under_way: Sequence[Commit] = ()
        self._weight = 0  # of those commits
        self._number = 0
        self._sender: asyncio.Task[None] | None = None

    def post(self, commit: Commit, then: Then | None = None, *, weight: int = 1) -> None:
        """Send the commit with the next batch, and call `then` with its answer; `then` must not raise.

        `weight` is how many things the store writes for it: `commit.weight`.
        """
        if then is not None:
            self._thens.append((len(self._commits), then))
        self._commits.append(commit)
        self._weight += weight
        if self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send())

    def submit(self, commit: Commit) -> asyncio.Future[Committed]:
        """Send the commit with the next batch; await its answer. Raises, there, StoreUnavailable (it may have happened) or StoreError."""
        future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        self.post(commit, partial(_resolve, future), weight=weigh(commit))
        return future

    def unanswered(self) -> list[Commit]:
        """What was posted and is not answered yet, in order."""
        return [*self._under_way, *self._commits]

    def end_within(self, ms: int) -> None:
        """What is not answered by then is unknown: whoever posts is about to go."""
        self._ends_at = asyncio.get_running_loop().time() + ms / 1000

    async def flush(self) -> None:
        """Return when all that was posted is answered."""
        while self._sender is not None:
            await asyncio.wait([self._sender])

    async def _send(self) -> None:
        try:
            while self._commits:
                commits, thens = self._next_batch()
                self._number += 1
                self._under_way = commits
                answers = await self._answers(commits)
                if len(commits) > 1 and isinstance(answers[0], Exception) and not isinstance(answers[0], StoreUnavailable):
                    answers = [await self._alone(commit) for commit in commits]
                self._under_way = ()
                if self.answered is not None:
                    self.answered(commits, answers)
                for index, then in thens:
                    then(answers[index])
        finally:
            self._sender = None

    def _next_batch(self) -> tuple[list[Commit], list[tuple[int, Then]]]:
        commits, thens = self._commits, self._thens
        if self._weight <= MAX_WEIGHT:
            self._commits, self._thens, self._weight = [], [], 0
            return commits, thens
        total = cut = 0
        for commit in commits:
            more = weigh(commit)
            if cut and total + more > MAX_WEIGHT:
                break
            total += more
            cut += 1
        self._weight = sum(map(weigh, commits[cut:]))
        self._commits, self._thens = commits[cut:], [(index - cut, then) for index, then in thens if index >= cut]
        return commits[:cut], [(index, then) for index, then in thens if index < cut]

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

"""The gatherer: how posted commits become batches, and what it says of answers that cannot be."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

import pytest

from culm import App, PartlySent, StoreError
from culm.batch import MAX_WEIGHT, Answer, Gatherer
from culm.commit import BatchId, Commit, Committed, Event, Held, weigh
from culm.job import Job
from culm.stores.memory import MemoryStore
from tests.tasks.harness import Bench, run


async def first(n: int = 0) -> None: ...


class Noting(MemoryStore):
    """Notes each batch and applies nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[Commit]] = []

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        self.batches.append(list(commits))
        return ["applied"] * len(commits)


def sending(job_id: str) -> Commit:
    return Commit(send=(Job(id=job_id, task="t"),))


def test_a_hundred_thousand_commits_that_gathered_are_cut_in_no_time() -> None:
    async def main() -> None:
        store = Noting()
        gatherer, commit, answers = Gatherer(store, client="c"), sending("a"), list[Answer]()
        for _ in range(100_000):
            gatherer.post(commit, answers.append, weight=2)
        began = time.monotonic()
        await gatherer.flush()
        assert time.monotonic() - began < 1, "it took 4 s when each cut weighed and copied the rest"
        assert answers == ["applied"] * 100_000
        assert {len(b) for b in store.batches} == {MAX_WEIGHT // 2}

    run(main())


def test_batches_are_cut_by_the_weight_that_was_given_and_keep_the_order() -> None:
    async def main() -> None:
        store, told = Noting(), list[int]()
        gatherer = Gatherer(store, client="c")
        for n, weight in enumerate([1, MAX_WEIGHT - 1, 1, 3 * MAX_WEIGHT, 5, 5, MAX_WEIGHT]):
            gatherer.post(sending(str(n)), lambda _, n=n: told.append(n), weight=weight)
        await gatherer.flush()
        assert [[c.send[0].id for c in b] for b in store.batches] == [["0", "1"], ["2"], ["3"], ["4", "5"], ["6"]]
        assert told == list(range(7))

    run(main())


class Watched(Gatherer):
    """Asks, whenever something of it changes, whether all that is not answered is still there."""

    def __init__(self, *args: Any, **given: Any) -> None:
        self.posted: list[Commit] = []
        super().__init__(*args, **given)

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if self.__dict__.get("_sender") is not None:
            assert not [c for c in self.posted if c not in self.unanswered()], f"{name} was set too early"


def test_a_commit_is_never_missed_on_its_way_to_the_store() -> None:
    """I2: the heart asks from another thread, at any moment; what it does not hear of is not extended."""

    async def main() -> None:
        gatherer = Watched(Noting(), client="c")
        gatherer.answered = lambda commits, _: gatherer.posted.__delitem__(slice(len(commits)))
        for n in range(7):
            gatherer.post(commit := Commit(fence=Held(str(n), "w/1")), weight=MAX_WEIGHT // 3)
            gatherer.posted.append(commit)
        await gatherer.flush()
        assert not gatherer.posted
        assert gatherer.unanswered() == []

    run(main())


def test_large_payloads_weigh_more() -> None:
    assert weigh(sending("a")) == 2
    assert weigh(Commit(send=(Job(id="a", task="t", args=bytes(1 << 20)),))) == 2 + 256
    assert weigh(Commit(emit=(Event("s", "t", "k", bytes(8192)),))) == 2 + 2


def test_a_send_whose_batch_the_store_takes_for_an_old_one_is_not_accepted() -> None:
    """A process that was copied while it ran has a twin of the same name."""

    async def main() -> None:
        bench = Bench()
        task = bench.app.task(name="known")(first)
        job = await task.enqueue()
        await task.enqueue()
        gatherer = bench.app.gatherer()
        assert isinstance(gatherer, Gatherer)
        gatherer._number = 0
        with pytest.raises(StoreError, match="another process uses that name"):
            await task.enqueue()
        gatherer = bench.app.gatherer()
        assert isinstance(gatherer, Gatherer)
        gatherer._number = 0
        with pytest.raises(StoreError, match="another process uses that name"):
            await job.cancel()
        gatherer._number = 0
        with pytest.raises(PartlySent, match="another process uses that name"):
            await task.map(range(3))
        assert len(bench.jobs()) == 2

    run(main())


def test_two_apps_of_one_seed_and_instant_do_not_share_a_name() -> None:
    async def main() -> None:
        bench = Bench()
        apps = [App(store=bench.store, clock=bench.clock, rng=random.Random(1)) for _ in range(2)]
        for app in apps:
            await app.task(name="known")(first).enqueue()
        assert len(bench.jobs()) == 2

    asyncio.run(main())

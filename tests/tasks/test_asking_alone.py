"""Where nobody else sends, a caller asks the store itself. Others gather behind it, and what it cannot await goes on without it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from culm.batch import OTHERS_EVERY, Answer, Gatherer
from culm.commit import BatchId, Commit, Committed
from culm.errors import StoreError, StoreUnavailable
from culm.job import Job
from culm.stores.memory import MemoryStore
from tests.tasks.harness import run


class Slow(MemoryStore):
    """Notes who asked for which batch, and answers when `open` is set; the first asks meet `errors`."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.batches: list[tuple[int, list[str]]] = []
        self.askers: list[asyncio.Task[object] | None] = []
        self.open = asyncio.Event()
        self._errors = list(errors)

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        self.batches.append((batch[1], [c.send[0].id for c in commits]))
        self.askers.append(asyncio.current_task())
        await self.open.wait()
        await asyncio.sleep(0)
        if self._errors:
            raise self._errors.pop(0)
        return ["applied"] * len(commits)


def sending(job_id: str) -> Commit:
    return Commit(send=(Job(id=job_id, task="t"),))


async def turns(n: int = 5) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


def test_a_lone_caller_asks_in_its_own_task_and_others_gather_behind_it() -> None:
    async def main() -> None:
        store, told = Slow(), list[tuple[list[str], Sequence[Answer]]]()
        gatherer = Gatherer(store, client="c")
        gatherer.answered = lambda commits, answers: told.append(([c.send[0].id for c in commits], answers))
        callers = [asyncio.create_task(gatherer.submit(sending(name))) for name in "abc"]
        await turns()
        assert store.askers == [callers[0]]
        assert [c.send[0].id for c in gatherer.unanswered()] == ["a", "b", "c"]
        store.open.set()
        assert await asyncio.gather(*callers) == ["applied"] * 3
        assert store.batches == [(1, ["a"]), (2, ["b", "c"])]
        assert told == [(["a"], ["applied"]), (["b", "c"], ["applied"] * 2)]
        assert gatherer.unanswered() == []

    run(main())


def test_callers_that_come_together_again_and_again_stay_together() -> None:
    async def main() -> None:
        store = Slow()
        store.open.set()
        gatherer = Gatherer(store, client="c")

        async def caller(name: str) -> None:
            for n in range(4):
                await gatherer.submit(sending(f"{name}{n}"))

        await asyncio.gather(*map(caller, "abcdefgh"))
        assert [len(ids) for _, ids in store.batches] == [1, 8, 8, 8, 7], "the first had nobody to wait for"
        await gatherer.submit(sending("z"))
        await gatherer.submit(sending("alone"))
        assert store.askers[-1] is asyncio.current_task()

    run(main())


def test_a_caller_that_goes_away_leaves_its_batch_to_the_gatherer() -> None:
    """Its number must be answered before the next one is used, or the store would take it for an old one."""

    async def main() -> None:
        store = Slow()
        gatherer = Gatherer(store, client="c")
        gone = asyncio.create_task(gatherer.submit(sending("a")))
        await turns()
        gone.cancel()
        await turns()
        later = asyncio.create_task(gatherer.submit(sending("b")))
        await turns()
        assert gone.cancelled()
        assert store.batches == [(1, ["a"]), (1, ["a"])]
        assert [c.send[0].id for c in gatherer.unanswered()] == ["a", "b"]
        store.open.set()
        assert await later == "applied"
        await gatherer.flush()
        assert store.batches == [(1, ["a"]), (1, ["a"]), (2, ["b"])]

    run(main())


def test_an_ask_without_an_answer_is_repeated_under_its_number() -> None:
    async def main() -> None:
        store = Slow(StoreUnavailable("away"), StoreUnavailable("still away"))
        store.open.set()
        gatherer = Gatherer(store, client="c")
        assert await gatherer.submit(sending("a")) == "applied"
        assert store.batches == [(1, ["a"])] * 3
        assert await gatherer.submit(sending("b")) == "applied"
        assert store.batches[-1] == (2, ["b"])

    run(main())


def test_a_refused_ask_is_its_callers_alone_and_the_gatherer_goes_on() -> None:
    async def main() -> None:
        store = Slow(StoreError("no"))
        gatherer = Gatherer(store, client="c")
        callers = [asyncio.create_task(gatherer.submit(sending(name))) for name in "ab"]
        await turns()
        store.open.set()
        found = await asyncio.gather(*callers, return_exceptions=True)
        assert isinstance(found[0], StoreError)
        assert found[1] == "applied"
        assert gatherer.unanswered() == []

    run(main())


def test_a_flush_awaits_a_caller_that_asks_by_itself() -> None:
    async def main() -> None:
        store = Slow()
        gatherer = Gatherer(store, client="c")
        caller = asyncio.create_task(gatherer.submit(sending("a")))
        await turns()
        flushed = asyncio.create_task(gatherer.flush())
        await turns()
        assert not flushed.done()
        store.open.set()
        await flushed
        assert await caller == "applied"

    run(main())


def test_a_caller_that_goes_away_while_its_ask_is_repeated_takes_nothing_with_it() -> None:
    async def main() -> None:
        store = Slow(StoreUnavailable("away"))
        gatherer = Gatherer(store, client="c")
        store.open.set()
        caller = asyncio.create_task(gatherer.submit(sending("a")))
        while len(store.batches) < 2:
            await asyncio.sleep(0)
        caller.cancel()
        await gatherer.flush()
        assert caller.cancelled()
        assert store.batches == [(1, ["a"])] * 2
        assert gatherer.unanswered() == []

    run(main())


def test_who_sends_in_a_loop_does_not_keep_the_event_loop_for_itself() -> None:
    async def main() -> None:
        gatherer, others = Gatherer(MemoryStore(), client="c"), 0

        async def count() -> None:
            nonlocal others
            while True:
                others += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        for n in range(100):
            await gatherer.submit(sending(f"{n}"))
        counting.cancel()
        assert others >= 100 // OTHERS_EVERY

    run(main())

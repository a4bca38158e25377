"""What starts together is decided together, and its slots are filled together; an asyncio task for each all the same."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextvars import Context
from types import CodeType, FrameType
from typing import Any

import pytest
import uvloop

from culm.batch import MAX_WEIGHT
from culm.commit import BatchId, Commit, Committed
from culm.stores.memory import MemoryStore
from culm.worker.own_task import task_maker
from culm.worker.slots import Slots
from tests.tasks.harness import Bench, run, until


class Counting(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        self.sizes.append(len(commits))
        return await super().commit(commits, batch=batch)


@pytest.mark.parametrize("slots", [1, 50, 3 * MAX_WEIGHT])
def test_what_ends_in_one_turn_goes_in_one_batch(slots: int) -> None:
    """Or in as few as may be, when it is more than a batch takes."""

    async def main() -> None:
        bench, store, ran = Bench(), Counting(), set[int]()
        bench.app._store = store

        @bench.app.task(keep=0)
        async def quick(n: int) -> None:
            ran.add(n)

        jobs = max(4 * slots, 200)
        await bench.app.enqueue_many(quick.bind(n) for n in range(jobs))
        store.sizes.clear()
        async with bench.working(concurrency=slots):
            await until(lambda: not store.tables.rows)
        assert ran == set(range(jobs))
        assert sum(store.sizes) == jobs
        assert max(store.sizes) <= MAX_WEIGHT
        assert len(store.sizes) <= jobs / min(slots, MAX_WEIGHT) * 2 + 5

    run(main())


class Interrupts:
    """A signal's handler that raises on the nth line of what a turn does."""

    def __init__(self, nth: int) -> None:
        self.left = nth
        self.within: set[CodeType] = {f.__code__ for f in (Slots._turn, Slots._take_ends, Slots._fill)}

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code not in self.within:
            return None
        turn = frame if frame.f_code is Slots._turn.__code__ else frame.f_back
        if event == "line" and turn is not None and (turn.f_back is None or turn.f_back.f_code is not Slots.scan.__code__):
            self.left -= 1  # a scan that is interrupted is over
            if not self.left:
                sys.settrace(None)
                raise InterruptedError("a signal")
        return self


def test_nothing_is_forgotten_when_a_signal_raises_in_a_turn() -> None:
    async def main(nth: int) -> bool:
        bench, ran = Bench(), list[int]()

        @bench.app.task(keep=0)
        async def quick(n: int) -> None:
            ran.append(n)

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        interrupts = Interrupts(nth)
        async with bench.working(concurrency=3) as worker:
            sys.settrace(interrupts)
            try:
                await bench.app.enqueue_many(quick.bind(n) for n in range(7))
                await until(lambda: not bench.store.tables.rows or worker.failed is not None)
            finally:
                sys.settrace(None)
            if worker.failed is None:
                await until(lambda: not worker.held())
                assert set(ran) == set(range(7))
        return interrupts.left > 0

    nth = 1
    while not run(main(nth)):
        nth += 1
    assert nth > 40, "it interrupted lines of the turns"


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_asyncio_task_of_a_job_has_its_id_for_a_name(new_loop: Any) -> None:
    async def main() -> None:
        bench = Bench()

        @bench.app.task
        async def looks() -> tuple[str, str]:
            task = asyncio.current_task()
            assert task is not None
            assert task in asyncio.all_tasks()
            return task.get_name(), type(task).__name__

        async with bench.working():
            job = await looks.enqueue()
            assert await job.result() == (job.id, "Task")

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


class OwnTask(asyncio.Task[Any]):
    pass


def own_task(loop: asyncio.AbstractEventLoop, coro: Any, *, context: Context | None = None) -> OwnTask:
    return OwnTask(coro, loop=loop, context=context)


def test_a_loop_that_makes_tasks_of_its_own_is_asked_for_them() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert task_maker(loop) is asyncio.Task
        loop.set_task_factory(own_task)
        bench = Bench()

        @bench.app.task
        async def looks() -> tuple[str, bool]:
            task = asyncio.current_task()
            return "" if task is None else task.get_name(), isinstance(task, OwnTask)

        async with bench.working():
            job = await looks.enqueue()
            assert await job.result() == (job.id, True)

    run(main())

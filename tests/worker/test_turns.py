"""What starts together is decided together, and its slots are filled together; an asyncio task for each all the same."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from contextvars import Context
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

import pytest
import uvloop

from culm import emit
from culm.batch import MAX_WEIGHT, Gatherer
from culm.commit import BatchId, Commit, Committed, Held
from culm.current import Attempt
from culm.outcome import Outcome
from culm.store import LeaseState
from culm.stores.memory import MemoryStore
from culm.worker import slots as slots_module
from culm.worker.children import Children
from culm.worker.claimer import Claimer
from culm.worker.decision import decision_of
from culm.worker.own_task import task_maker
from culm.worker.runner import Runner
from culm.worker.slots import Slots
from culm.worker.tally import Tally
from culm.worker.threads import Threads
from tests.tasks.harness import Bench, run, until


class Counting(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.ends: list[str] = []

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        self.sizes.append(len(commits))
        self.ends += [c.fence.job_id for c in commits if c.fence is not None]
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


@pytest.mark.parametrize("state", ["cancelled", "lost"])
def test_a_suspect_that_is_stopped_before_its_turn_does_not_stop_those_behind_it(state: LeaseState) -> None:
    """Apart: each begins when the end of the former is written, and the heart may hear of the former at any moment."""

    async def main(turns: int) -> None:
        bench, ran = Bench(), list[int]()
        app, store = bench.app, bench.store
        app.payloads.ready()

        @app.task
        async def suspect(n: int) -> None:
            ran.append(n)
            if n:
                assert all(tables.rows[d.job.id].finished or not tables.rows[d.job.id].lease for d in deliveries[:n]), "not written yet"

        tables = store.tables
        await suspect.map(range(4))
        runner = Runner(app.tasks, store, app.payloads, Threads(1), Children(1), app.rng, time.monotonic)
        gatherer = Gatherer(store, client="w", give_up_ms=None)
        slots = Slots(app, runner, gatherer, concurrency=1, tally=Tally(["default"]), hungry=lambda: None, apart=True)
        deliveries = (await store.claim(["default"], lease="w/1", limit=4, for_ms=60_000)).deliveries
        slots.feed(deliveries[:3])
        for _ in range(turns):
            await asyncio.sleep(0)
        slots.leases_are([Held(deliveries[0].job.id, "w/1")], [state])
        slots.feed(deliveries[3:])
        await until(lambda: not slots.held())
        assert ran == [*ran[: len(ran) - 3], 1, 2, 3]

    for turns in range(6):
        run(main(turns))


def test_a_defect_around_one_end_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        bench, ran = Bench(), set[int]()

        @bench.app.task(keep=0)
        async def emits(n: int) -> None:
            emit("ran")
            ran.add(n)

        def decision(attempt: Attempt, outcome: Outcome) -> Commit:
            if attempt.id == jobs[3].id:
                raise RuntimeError("a defect")
            return decision_of(attempt, outcome)

        monkeypatch.setattr(slots_module, "decision_of", decision)
        jobs = await emits.map(range(20))
        async with bench.working(concurrency=4, grace=0.1) as worker:
            await until(lambda: len(bench.store.tables.rows) == 1)
            assert worker.failed is None
        assert ran == set(range(20))
        assert list(bench.store.tables.rows) == [jobs[3].id]

    run(main())


def test_what_ended_goes_in_that_order() -> None:
    async def main() -> None:
        bench, store = Bench(), Counting()
        bench.app._store = store

        @bench.app.task
        async def may_emit(n: int) -> None:
            if n % 3 == 1:
                emit("ran")

        jobs = await may_emit.map(range(30))
        async with bench.working(concurrency=30):
            await until(lambda: len(store.ends) == 30)
        assert store.ends == [job.id for job in jobs]

    run(main())


def test_a_worker_whose_slots_are_full_is_not_hungry(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        bench, gate, scans = Bench(), asyncio.Event(), 0
        right, hungry = Slots.scan, 0

        def scan(self: Slots, now: float) -> None:
            nonlocal scans
            scans += 1
            right(self, now)

        def told(_: Claimer) -> None:
            nonlocal hungry
            hungry += 1

        @bench.app.task
        async def long() -> None:
            await gate.wait()

        await bench.app.enqueue_many(long.bind() for _ in range(5))
        async with bench.working(concurrency=4) as worker:
            await until(lambda: len(worker.held()) >= 4)
            monkeypatch.setattr(Slots, "scan", scan)
            monkeypatch.setattr(Claimer, "hungry", told)
            await until(lambda: scans > 5)
            assert hungry == 0
            monkeypatch.undo()
            gate.set()

    run(main())


class EagerTask(asyncio.tasks._PyTask):  # type: ignore[name-defined, misc]
    """As Python 3.12's eager tasks: its first step is taken when it is made."""

    def __init__(self, coro: Any, *, loop: Any, context: Context | None = None) -> None:
        steps: list[Any] = []
        super().__init__(coro, loop=SimpleNamespace(call_soon=lambda step, **_: steps.append(step), get_debug=bool), context=context)
        self._loop = loop
        current = asyncio.tasks._current_tasks  # type: ignore[attr-defined]
        outer = current.pop(loop, None)
        self._context.run(steps[0])
        if outer is not None:
            current[loop] = outer


def eager_task(loop: asyncio.AbstractEventLoop, coro: Any, *, context: Context | None = None) -> EagerTask:
    return EagerTask(coro, loop=loop, context=context)


def test_tasks_that_begin_at_once_run_each_job_once_and_no_more_than_was_said() -> None:
    async def main() -> None:
        bench, ran, at_once, most = Bench(), list[int](), 0, 0

        @bench.app.task
        async def works(n: int) -> None:
            nonlocal at_once, most
            ran.append(n)
            at_once += 1
            most = max(most, at_once)
            if n % 2:
                await asyncio.sleep(0)
            at_once -= 1

        jobs = await works.map(range(60))
        asyncio.get_running_loop().set_task_factory(eager_task)
        async with bench.working(concurrency=4):
            for job in jobs:
                await job.result()
        assert sorted(ran) == list(range(60))
        assert most <= 4

    run(main())


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

"""Jobs are strangers to each other: each has an asyncio task and a context of its own, and no more of them run than was said."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from typing import Any

import pytest

from culm import current
from tests.tasks.harness import Bench, run, until

MARK: ContextVar[str] = ContextVar("mark", default="unset")


def test_a_context_variable_of_one_job_is_never_seen_by_another() -> None:
    async def main() -> None:
        bench, seen = Bench(), []

        @bench.app.task
        async def marks(name: str) -> None:
            seen.append(MARK.get())
            MARK.set(name)
            await asyncio.sleep(0)
            assert MARK.get() == name

        @bench.app.task
        def marks_too(name: str) -> None:
            seen.append(MARK.get())
            MARK.set(name)

        async with bench.working(concurrency=3):
            jobs = [*await marks.map([f"a{n}" for n in range(50)]), *await marks_too.map([f"b{n}" for n in range(50)])]
            for job in jobs:
                await job.result()
        assert seen == ["unset"] * 100
        assert MARK.get() == "unset"

    run(main())


def test_what_was_set_before_the_worker_started_is_seen() -> None:
    async def main() -> None:
        bench = Bench()

        @bench.app.task
        async def looks() -> str:
            return MARK.get()

        @bench.app.task
        def looks_too() -> str:
            return MARK.get()

        token = MARK.set("before")
        async with bench.working():
            MARK.set("after")
            assert await (await looks.enqueue()).result() == "before"
            assert await (await looks_too.enqueue()).result() == "before"
        MARK.reset(token)

    run(main())


def test_a_job_that_starts_from_another_jobs_step_sees_nothing_of_it() -> None:
    """With one slot, the next job is started by the last step of the one before."""

    async def main() -> None:
        bench, seen = Bench(), []

        @bench.app.task
        async def marks(name: str) -> None:
            seen.append((MARK.get(), current().id))
            MARK.set(name)

        async with bench.working(concurrency=1):
            jobs = await marks.map(["a", "b", "c", "d"])
            for job in jobs:
                await job.result()
        assert seen == [("unset", job.id) for job in jobs]

    run(main())


def test_every_job_is_an_asyncio_task_of_its_own() -> None:
    async def main() -> None:
        bench, tasks = Bench(), []

        @bench.app.task
        async def looks() -> None:
            tasks.append(asyncio.current_task())
            await asyncio.sleep(0)
            assert asyncio.current_task() is tasks[tasks.index(asyncio.current_task())]

        async with bench.working(concurrency=2):
            for job in [await looks.enqueue() for _ in range(20)]:
                await job.result()
        assert len({id(t) for t in tasks}) == len(tasks) == 20

    run(main())


def test_a_timeout_inside_one_job_does_not_touch_another() -> None:
    async def main() -> None:
        bench, gate = Bench(), asyncio.Event()

        @bench.app.task
        async def impatient() -> str:
            try:
                async with asyncio.timeout(0.001):
                    await asyncio.Event().wait()
            except TimeoutError:
                return "timed out"
            return "never"

        @bench.app.task
        async def patient() -> str:
            await gate.wait()
            return "done"

        async with bench.working():
            job = await patient.enqueue()
            assert await (await impatient.enqueue()).result() == "timed out"
            gate.set()
            assert await job.result() == "done"

    run(main())


@pytest.mark.parametrize("concurrency", [1, 3, 8])
@pytest.mark.parametrize("kind", ["async", "def"])
def test_no_more_run_at_once_than_was_said(kind: str, concurrency: int) -> None:
    async def main() -> None:
        bench, lock = Bench(), threading.Lock()
        running, most = 0, 0
        full = threading.Semaphore(0)

        def enter(by: int) -> None:
            nonlocal running, most
            with lock:
                running += by
                most = max(most, running)

        @bench.app.task(name="async")
        async def a(n: int) -> None:
            enter(1)
            for _ in range(n % 5):
                await asyncio.sleep(0)
            enter(-1)

        @bench.app.task(name="def")
        def b(n: int) -> None:
            enter(1)
            full.acquire(timeout=0.001)
            enter(-1)

        task: Any = a if kind == "async" else b
        async with bench.working(concurrency=concurrency):
            for job in await task.map(range(100)):
                await job.result()
        assert most <= concurrency
        assert kind == "def" or concurrency == 1 or most > 1
        assert running == 0

    run(main())


def test_all_slots_are_used() -> None:
    async def main() -> None:
        bench, gate, started = Bench(), asyncio.Event(), []

        @bench.app.task
        async def waits(n: int) -> None:
            started.append(n)
            await gate.wait()

        async with bench.working(concurrency=5):
            jobs = await waits.map(range(9))
            await until(lambda: len(started) == 5)
            for _ in range(20):
                await asyncio.sleep(0)
            assert started == [0, 1, 2, 3, 4]
            gate.set()
            for job in jobs:
                await job.result()

    run(main())

"""What a task knows of its own attempt."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from culm import NotInTask, Retry, TaskCancelled, TaskFailed, current
from culm.store import Hint
from tests.tasks.harness import Bench, run, until


def test_the_idempotency_key_stays_and_attempt_and_fence_grow() -> None:
    async def main() -> None:
        bench, seen = Bench(), []

        @bench.app.task(retry=Retry(3, first=0))
        async def flaky() -> None:
            me = current()
            seen.append((me.attempt, me.fence, me.idempotency_key, me.id))
            if me.attempt < 4:
                raise ValueError("again")

        async with bench.working():
            job = await flaky.using(id="one").enqueue()
            await job.result()
        assert [a for a, *_ in seen] == [1, 2, 3, 4]
        assert [f for _, f, *_ in seen] == sorted({f for _, f, *_ in seen})
        assert {(key, job_id) for _, _, key, job_id in seen} == {("one", "one")}

    run(main())


def test_another_worker_after_a_lost_lease_has_the_same_attempt_and_a_greater_fence() -> None:
    async def main() -> None:
        bench, seen, gate = Bench(), [], asyncio.Event()

        @bench.app.task
        async def slow() -> str:
            me = current()
            seen.append((me.attempt, me.fence, me.idempotency_key))
            if len(seen) == 1:
                await gate.wait()
                return "stale"
            return "fresh"

        async with bench.working(lease=60, heartbeat=25) as first:  # no heartbeat of real seconds comes in between
            job = await slow.using(id="one").enqueue()
            await until(lambda: len(seen) == 1)
            bench.clock.advance(ms=60_001)
            async with bench.working():
                assert await job.result() == "fresh"
            gate.set()
            await until(lambda: first.fenced == 1 or first.done == 2)
            assert await job.result() == "fresh"
        assert seen[0] == (1, 1, "one")
        assert seen[1][0] == 1
        assert seen[1][1] > 1
        assert seen[1][2] == "one"

    run(main())


def test_current_outside_a_task_is_an_error() -> None:
    with pytest.raises(NotInTask, match=r"^current\(\) works inside a running task only$"):
        current()


def test_current_is_seen_by_what_a_task_starts_and_by_def_tasks() -> None:
    async def main() -> None:
        bench = Bench()

        async def inner() -> str:
            return current().id

        @bench.app.task
        async def outer() -> list[str]:
            return [await asyncio.create_task(inner()), await asyncio.to_thread(lambda: current().id), (await asyncio.gather(inner()))[0]]

        @bench.app.task
        def plain() -> str:
            return current().id

        async with bench.working():
            job = await outer.enqueue()
            assert await job.result() == [job.id] * 3
            other = await plain.enqueue()
            assert await other.result() == other.id

    run(main())


def test_progress_reaches_whoever_listens() -> None:
    async def main() -> None:
        bench, gate = Bench(), asyncio.Event()

        @bench.app.task
        async def slow() -> None:
            current().progress(0.25, "a quarter \udc80")
            await gate.wait()

        async with bench.working():
            heard = await bench.store.subscribe("one")
            job = await slow.using(id="one").enqueue()
            (hint,) = await heard.next(for_ms=5_000)
            assert isinstance(hint, Hint)
            assert (hint.kind, hint.job_id) == ("progress", "one")
            assert b"a quarter \\udc80" in hint.body
            gate.set()
            await job.result()

    run(main())


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan"), float("inf")])
def test_progress_beyond_its_bounds_is_refused(fraction: float) -> None:
    async def main() -> None:
        bench = Bench()

        @bench.app.task
        async def slow() -> None:
            current().progress(fraction)

        async with bench.working():
            with pytest.raises(TaskFailed, match="ValueError: progress must be from 0 to 1, got "):
                await (await slow.enqueue()).result()

    run(main())


def test_a_def_task_sees_that_it_was_cancelled() -> None:
    async def main() -> None:
        bench = Bench()
        started: list[Any] = []

        @bench.app.task
        def loops() -> None:
            started.append(current())
            while True:
                current().check()

        async with bench.working() as worker:
            job = await loops.enqueue()
            await until(lambda: bool(started))
            assert not started[0].cancelled
            await job.cancel()
            with pytest.raises(TaskCancelled):
                await job.result()
            assert started[0].cancelled
            await until(lambda: leaked(worker) == 0)

    run(main())


def leaked(worker: Any) -> int:
    found: int = worker._threads.leaked
    return found

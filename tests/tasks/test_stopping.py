"""Timeouts, deadlines and cancels, of coroutines and of threads; and the errors by which a caller tells the endings apart."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from culm import JobError, ResultExpired, Retry, TaskCancelled, TaskExpired, TaskFailed, TimedOut, current
from tests.tasks.harness import Bench, run, until


def test_an_attempt_beyond_its_timeout_is_stopped_and_fails() -> None:
    async def main() -> None:
        bench, cleaned = Bench(), []

        @bench.app.task(timeout=0.01)
        async def hangs() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cleaned.append(1)

        async with bench.working():
            with pytest.raises(TaskFailed, match="failed with TimeoutError: attempt 1 ran longer than its timeout of 10 ms"):
                await (await hangs.enqueue()).result()
        assert cleaned == [1]

    run(main())


def test_a_timeout_is_of_each_attempt_and_is_worth_a_retry() -> None:
    async def main() -> None:
        bench, attempts = Bench(), []

        @bench.app.task(timeout=0.01, retry=Retry(2, first=0))
        async def hangs() -> str:
            attempts.append(current().attempt)
            if len(attempts) < 3:
                await asyncio.Event().wait()
            return "done"

        async with bench.working():
            assert await (await hangs.enqueue()).result() == "done"
        assert attempts == [1, 2, 3]

    run(main())


def test_a_result_that_comes_after_the_timeout_is_too_late() -> None:
    async def main() -> None:
        bench = Bench()

        @bench.app.task(timeout=0.01)
        async def stubborn() -> str:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "late"
            return "never"

        async with bench.working():
            with pytest.raises(TaskFailed, match="TimeoutError"):
                await (await stubborn.enqueue()).result()

    run(main())


def test_a_thread_that_outlives_its_timeout_is_counted_until_it_ends() -> None:
    async def main() -> None:
        bench, gate = Bench(), threading.Event()

        @bench.app.task(timeout=0.01)
        def hangs() -> None:
            gate.wait(10)

        async with bench.working(concurrency=1) as worker:
            threads: Any = worker._threads
            with pytest.raises(TaskFailed, match="TimeoutError"):
                await (await hangs.enqueue()).result()
            assert threads.leaked == 1
            gate.set()
            await until(lambda: threads.leaked == 0)
            await (await hangs.using(timeout=5).enqueue()).result()

    run(main())


def test_a_deadline_ends_the_whole_job_while_it_runs() -> None:
    async def main() -> None:
        bench = Bench()

        @bench.app.task(retry=5)
        async def hangs() -> None:
            await asyncio.Event().wait()

        async with bench.working():
            job = await hangs.using(deadline=0.02).enqueue()
            with pytest.raises(TaskExpired, match="expired: it did not end within 20 ms"):
                await job.result()

    run(main())


def test_a_queued_job_that_is_cancelled_never_runs() -> None:
    async def main() -> None:
        bench, ran = Bench(), []

        @bench.app.task
        async def runs() -> None:
            ran.append(1)

        job = await runs.enqueue()
        await job.cancel()
        await job.cancel()
        async with bench.working():
            with pytest.raises(TaskCancelled, match=f"^job {job.id}: was cancelled$"):
                await job.result()
            await (await runs.enqueue()).result()
        assert ran == [1]
        assert await job.status() == "cancelled"

    run(main())


def test_a_job_that_is_cancelled_before_it_is_sent_is_born_cancelled() -> None:
    async def main() -> None:
        bench, ran = Bench(), []

        @bench.app.task
        async def runs() -> None:
            ran.append(1)

        await bench.app.job("one", runs).cancel()
        async with bench.working():
            with pytest.raises(TaskCancelled, match="was cancelled before it was sent"):
                await (await runs.using(id="one").enqueue()).result()
        assert ran == []

    run(main())


def test_a_running_job_that_is_cancelled_is_stopped_with_the_next_heartbeat() -> None:
    async def main() -> None:
        bench, started, cleaned = Bench(), asyncio.Event(), []

        @bench.app.task(retry=5)
        async def hangs() -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cleaned.append(current().cancelled)
                raise

        async with bench.working():
            job = await hangs.enqueue()
            await started.wait()
            await job.cancel()
            with pytest.raises(TaskCancelled, match="was cancelled while it ran"):
                await job.result()
        assert cleaned == [True]

    run(main())


def test_a_success_that_is_already_committing_wins_over_a_cancel() -> None:
    async def main() -> None:
        bench, started, gate = Bench(), asyncio.Event(), asyncio.Event()

        @bench.app.task
        async def quick() -> str:
            started.set()
            await gate.wait()
            return "done"

        async with bench.working(heartbeat=5):
            await until(bench.registered)  # its first beat is over, and would have heard of the cancel
            job = await quick.enqueue()
            await started.wait()
            await job.cancel()
            gate.set()
            assert await job.result() == "done"

    run(main())


def test_a_cancelled_job_of_a_failing_task_is_not_tried_again() -> None:
    async def main() -> None:
        bench, started, gate, ran = Bench(), asyncio.Event(), asyncio.Event(), []

        @bench.app.task(retry=5)
        async def fails() -> None:
            ran.append(1)
            started.set()
            await gate.wait()
            raise ValueError("no")

        async with bench.working(heartbeat=5):
            await until(bench.registered)  # its first beat is over, and would have heard of the cancel
            job = await fails.enqueue()
            await started.wait()
            await job.cancel()
            gate.set()
            with pytest.raises(TaskCancelled):
                await job.result()
        assert ran == [1]

    run(main())


def test_a_task_that_cancels_itself_fails() -> None:
    async def main() -> None:
        bench = Bench()

        @bench.app.task
        async def gives_up() -> None:
            raise asyncio.CancelledError("enough")

        async with bench.working():
            with pytest.raises(TaskFailed, match="CancelledError: enough"):
                await (await gives_up.enqueue()).result()

    run(main())


def test_a_wait_that_ends_first_leaves_the_job_alone() -> None:
    async def main() -> None:
        bench, gate = Bench(), asyncio.Event()

        @bench.app.task
        async def slow() -> str:
            await gate.wait()
            return "done"

        async with bench.working():
            job = await slow.enqueue()
            with pytest.raises(TimedOut, match=r"did not end within 0.01 s; it goes on, ask again or cancel it"):
                await job.result(timeout=0.01)
            with pytest.raises(TimedOut):
                await job.result(timeout=0)
            assert await job.outcome() is None
            gate.set()
            assert await job.result(timeout=5) == "done"
            assert await job.result(timeout=0) == "done"

    run(main())


@pytest.mark.parametrize("timeout", [-1, float("nan"), "soon", True])
def test_an_absurd_wait_is_refused(timeout: Any) -> None:
    async def main() -> None:
        bench = Bench()
        job = await bench.app.task(name="t")(lambda: None).enqueue()
        with pytest.raises((TypeError, ValueError), match=r"^timeout must be"):
            await job.result(timeout=timeout)

    run(main())


def test_a_job_that_was_never_sent_is_not_known() -> None:
    async def main() -> None:
        bench = Bench()
        task = bench.app.task(name="t")(lambda: None)
        with pytest.raises(ResultExpired, match=r"^job nowhere: is not known; it was never sent, or") as caught:
            await bench.app.job("nowhere", task).result()
        assert isinstance(caught.value, JobError)
        assert caught.value.job_id == "nowhere"

    run(main())

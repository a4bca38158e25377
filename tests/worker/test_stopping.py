"""A graceful stop: what runs may finish, what has not started goes back untouched, and a hurry ends the patience."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from culm import App, ConfigError, TaskFailed
from tests.tasks.harness import Bench, run, until


def test_a_stop_lets_what_runs_finish_and_gives_the_rest_back() -> None:
    async def main() -> None:
        bench, gate, started = Bench(), asyncio.Event(), []

        @bench.app.task
        async def waits(n: int) -> int:
            started.append(n)
            await gate.wait()
            return n

        worker = bench.app.worker(concurrency=2, poll=0.005)
        await worker.start()
        jobs = await waits.map(range(6))
        await until(lambda: len(started) == 2)
        stopping = asyncio.ensure_future(worker.stop())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not stopping.done()
        gate.set()
        await stopping
        assert [await j.status() for j in jobs] == ["succeeded"] * 2 + ["open"] * 4
        views = [await j.view() for j in jobs[2:]]
        assert [(v.attempt, v.expiries) for v in views] == [(0, 0)] * 4
        assert started == [0, 1]
        async with bench.working():
            assert [await j.result() for j in jobs] == list(range(6))

    run(main())


def test_what_outlasts_the_grace_is_stopped_and_given_back_with_its_attempt() -> None:
    async def main() -> None:
        bench, started, cleaned = Bench(), [], []

        @bench.app.task
        async def hangs() -> str:
            started.append(1)
            if len(started) > 1:
                return "done"
            try:
                await asyncio.Event().wait()
            finally:
                cleaned.append(1)
            return "never"

        async with bench.working(grace=0.01):
            job = await hangs.enqueue()
            await until(lambda: bool(started))
        assert cleaned == [1]
        view = await job.view()
        assert (view.state, view.attempt, view.due_in_ms) == ("open", 0, 0)
        async with bench.working():
            assert await job.result() == "done"
            assert (await job.view()).attempt == 1

    run(main())


def test_a_hurry_ends_the_grace_at_once() -> None:
    async def main() -> None:
        bench, started = Bench(), asyncio.Event()

        @bench.app.task
        async def hangs() -> None:
            started.set()
            await asyncio.Event().wait()

        worker = bench.app.worker(concurrency=2, poll=0.005, grace=3600)
        await worker.start()
        job = await hangs.enqueue()
        await started.wait()
        stopping = asyncio.ensure_future(worker.stop())
        await asyncio.sleep(0)
        worker.hurry()
        await stopping
        assert await job.status() == "open"
        worker.hurry()
        await worker.stop()

    run(main())


def test_a_thread_that_does_not_listen_is_left_behind_and_its_job_given_back() -> None:
    async def main() -> None:
        bench, gate, started = Bench(), threading.Event(), threading.Event()

        @bench.app.task
        def hangs() -> None:
            started.set()
            gate.wait(10)

        async with bench.working(grace=0.01):
            job = await hangs.enqueue()
            await until(started.is_set)
        assert await job.status() == "open"
        gate.set()

    run(main())


def test_a_stopped_worker_leaves_nothing_behind() -> None:
    async def main() -> None:
        bench = Bench()

        @bench.app.task
        async def nothing() -> None: ...

        for _ in range(3):
            async with bench.working():
                await (await nothing.enqueue()).result()
        await until(lambda: not [t for t in threading.enumerate() if t.name == "culm-heart"])
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"lease": 20, "heartbeat": 10}, ConfigError, "lease must be longer than two heartbeats, .*: got lease 20 s, heartbeat 10 s"),
        ({"lease": 5}, ConfigError, "lease must be longer than two heartbeats"),
        ({"heartbeat": 0}, ConfigError, "lease must be longer than two heartbeats"),
        ({"lease": float("nan")}, ValueError, "lease must be between 0 and"),
        ({"concurrency": 0}, ValueError, "concurrency must be a whole number from 1 to 100,000, got 0"),
        ({"concurrency": 1.5}, ValueError, "concurrency must be a whole number"),
        ({"concurrency": True}, ValueError, "concurrency must be a whole number"),
        ({"queues": "mail"}, TypeError, r"queues must be a list of names, got 'mail'; say \['mail'\]"),
        ({"queues": ["a b"]}, ValueError, "queue must be 1 to 200"),
        ({"poll": -1}, ValueError, "poll must be between"),
        ({"grace": "long"}, TypeError, "grace must be seconds"),
    ],
)
def test_options_that_cannot_work_are_refused_before_anything_runs(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        App("memory://").worker(**options)
    assert "\n" not in str(caught.value)


# -- leases; real time, and short ----------------------------------------------------------------------------------------------


def real_app() -> App:
    return App("memory://")


def test_heartbeats_keep_the_lease_of_a_long_job() -> None:
    async def main() -> None:
        app, runs = real_app(), []

        @app.task
        async def long() -> str:
            runs.append(1)
            await asyncio.sleep(0.5)
            return "done"

        async with app.worker(lease=0.2, heartbeat=0.05, poll=0.02), app.worker(lease=0.2, heartbeat=0.05, poll=0.02):
            job = await long.enqueue()
            assert await job.result() == "done"
            view = await job.view()
        assert runs == [1]
        assert (view.expiries, view.attempt) == (0, 1)

    run(main())


def test_a_loop_that_is_blocked_for_a_moment_keeps_its_leases() -> None:
    async def main() -> None:
        app, runs = real_app(), []

        @app.task
        async def blocks() -> None:
            runs.append(1)
            time.sleep(0.4)  # noqa: ASYNC251  # the point of it

        async with app.worker(lease=0.2, heartbeat=0.05, poll=0.02, stuck_after=5):
            job = await blocks.enqueue()
            await job.result()
            assert (await job.view()).expiries == 0
        assert runs == [1]

    run(main())


def test_a_loop_that_stays_blocked_loses_its_leases(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        app, runs = real_app(), []
        taken = threading.Event()

        @app.task
        async def blocks() -> str:
            runs.append(1)
            if len(runs) == 1:
                rescuer.start()
                taken.wait(5)
                return "stale"
            taken.set()
            return "fresh"

        def rescue() -> None:
            asyncio.run(other())

        async def other() -> None:
            async with app.worker(lease=5, heartbeat=0.05, poll=0.02):
                await asyncio.get_running_loop().run_in_executor(None, taken.wait, 5)

        rescuer = threading.Thread(target=rescue)
        async with app.worker(lease=0.2, heartbeat=0.05, poll=0.02, stuck_after=0.1, concurrency=1) as worker:
            job = await blocks.enqueue()
            assert await job.result() == "fresh"
            await until(lambda: worker.fenced == 1)
            await asyncio.to_thread(rescuer.join)
            assert (await job.view()).expiries == 1
        assert runs == [1, 1]

    run(main())
    assert "heart.stopped: the worker's loop is blocked" in caplog.text
    assert "commit.fenced" in caplog.text


def test_a_worker_that_is_started_again_runs_and_commits_again() -> None:
    async def main() -> list[str]:
        app = App("memory://")

        @app.task(name="one")
        async def one() -> None: ...

        worker = app.worker()
        states: list[str] = []
        for _ in range(2):
            async with worker:
                job = await one.enqueue()
                await job.result(5)
                states.append(await job.status())
        return states

    assert asyncio.run(main()) == ["succeeded", "succeeded"]


def test_an_odd_error_ends_its_job_and_frees_its_slot() -> None:
    async def main() -> list[str]:
        app = App("memory://")

        @app.task(name="odd")
        async def odd(kind: int) -> None:
            if kind == 0:
                raise GeneratorExit
            if kind == 1:
                raise SyntaxError("m", ("f", 1, "no number", "text"))  # type: ignore[arg-type]  # that is the oddity
            raise type("E\ud800", (Exception,), {})

        async with app.worker(concurrency=1):
            jobs = [await odd.enqueue(kind) for kind in range(3)]
            for job in jobs:
                with pytest.raises(TaskFailed):
                    await job.result(5)
            return [await job.status() for job in jobs]

    assert asyncio.run(main()) == ["failed"] * 3

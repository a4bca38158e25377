"""Hooks are called with how a job ended, and what they send leaves with that end or not at all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from culm import (
    App,
    ConfigError,
    Delivery,
    Failed,
    Keys,
    Next,
    Offload,
    Outcome,
    Reject,
    Succeeded,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    current,
    emit,
)
from culm.commit import Commit, Held
from culm.outcome import Cancelled, Expired, Lost
from tests.tasks.harness import Bench, run, until


class Told:
    """A task `alert` that hooks enqueue, and what it was told."""

    def __init__(self, bench: Bench) -> None:
        self.said: list[str] = []

        @bench.app.task(name="alert")
        async def alert(what: str) -> None:
            self.said.append(what)

        self.alert = alert


def test_each_end_has_its_hook_and_what_it_sends_leaves_with_that_end() -> None:
    async def main() -> None:
        bench = Bench()
        told, started = Told(bench), asyncio.Event()

        @bench.app.task(name="work", retry=1)
        async def work(how: str) -> int:
            await told.alert.enqueue(f"task {how}")
            if how == "fails":
                raise Reject("no way")
            if how == "hangs":
                started.set()
                await asyncio.Event().wait()
            return 7

        @work.on_success
        async def succeeded(ended: Succeeded) -> None:
            await told.alert.enqueue("on_success")

        @work.on_failure
        async def failed(ended: Failed | Lost) -> None:
            assert isinstance(ended, Failed)
            await told.alert.enqueue(f"on_failure {ended.fault.message} {current().id}")

        @work.on_expired
        async def expired(ended: Expired) -> None:
            await told.alert.enqueue("on_expired")

        @work.on_cancelled
        async def cancelled(ended: Cancelled) -> None:
            await told.alert.enqueue("on_cancelled")

        late = await work.using(expires=1).enqueue("is late")
        bench.clock.advance(ms=2_000)
        async with bench.working():
            with pytest.raises(TaskExpired):
                await late.result()
            assert await (await work.enqueue("works")).result() == 7
            with pytest.raises(TaskFailed):
                await (await work.using(id="bad").enqueue("fails")).result()
            hanging = await work.enqueue("hangs")
            await started.wait()
            await hanging.cancel()
            with pytest.raises(TaskCancelled):
                await hanging.result()
            await until(lambda: len(told.said) == 5)
        assert sorted(told.said) == ["on_cancelled", "on_expired", "on_failure no way bad", "on_success", "task works"]
        ids = {job.id for job in bench.jobs() if job.task == "alert"}
        assert any(job_id.startswith("bad~") for job_id in ids)  # of the failed job's tree

    run(main())


def test_a_retry_is_no_end() -> None:
    async def main() -> None:
        bench, ends = Bench(), list[Any]()

        @bench.app.task(retry=2)
        async def flaky() -> int:
            if current().attempt < 3:
                from culm import RetryLater

                raise RetryLater(after=0)
            return 1

        flaky.on_failure(lambdas(ends))
        flaky.on_success(lambdas(ends))
        async with bench.working():
            await (await flaky.enqueue()).result()
        assert [type(end) for end in ends] == [Succeeded]

    run(main())


def lambdas(ends: list[Any]) -> Any:
    async def hook(ended: object) -> None:
        ends.append(ended)

    return hook


def test_a_hook_that_fails_sends_nothing_and_the_end_stands(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        bench = Bench()
        told = Told(bench)

        @bench.app.task
        async def work(fails: bool) -> int:
            if fails:
                raise Reject("no")
            await told.alert.enqueue("task")
            return 7

        @work.on_success
        async def succeeded(ended: Succeeded) -> None:
            await told.alert.enqueue("on_success")
            emit("never")
            raise SystemExit(3)

        @work.on_failure
        async def failed(ended: Failed | Lost) -> None:
            await told.alert.enqueue("on_failure")
            raise asyncio.CancelledError

        async with bench.working():
            assert await (await work.enqueue(False)).result() == 7
            with pytest.raises(TaskFailed):
                await (await work.enqueue(True)).result()
            await until(lambda: told.said == ["task"])
        assert len([job for job in bench.jobs() if job.task == "alert"]) == 1

    run(main())
    assert caplog.text.count("hook.failed") == 2


def test_a_job_whose_worker_died_is_seen_before_it_runs_again() -> None:
    async def main() -> None:
        bench, seen = Bench(), list[str]()

        @bench.app.task
        async def work() -> None:
            seen.append("runs")

        @work.on_rescue
        async def rescued(delivery: Delivery) -> None:
            seen.append(f"rescued, {delivery.expiries} before")

        job = await work.enqueue()
        assert len((await bench.store.claim(["default"], lease="dead/1", limit=1, for_ms=1_000)).deliveries) == 1
        bench.clock.advance(ms=2_000)
        async with bench.working():
            await job.result()
            await (await work.enqueue()).result()
        assert seen == ["rescued, 1 before", "runs", "runs"]

    run(main())


def test_a_fenced_workers_hook_sends_nothing() -> None:  # I6
    async def main() -> None:
        bench = Bench()
        told = Told(bench)

        @bench.app.task
        async def work() -> None:
            delivery = current().delivery
            held = Held(delivery.job.id, delivery.lease)
            await bench.store.commit([Commit(fence=held, outcome=Cancelled("by another"))], batch=("x", 1))
            raise Reject("too late")

        @work.on_failure
        async def failed(ended: Failed | Lost) -> None:
            await told.alert.enqueue("never")

        async with bench.working() as worker:
            job = await work.enqueue()
            await until(lambda: worker.fenced == 1)
            with pytest.raises(TaskCancelled):
                await job.result()
        assert [j.task for j in bench.jobs()] == [work.name]

    run(main())


def test_hooks_are_outside_of_middleware_and_go_with_seals_and_payloads_apart() -> None:
    async def main() -> None:
        bench = Bench(keys=Keys({"k": b"x" * 32}), offload=Offload(beyond=100))
        told = Told(bench)

        @bench.app.middleware
        async def fails(delivery: Delivery, next: Next) -> Outcome:  # noqa: A002  # the word of the documentation
            outcome = await next(delivery)
            return outcome if delivery.job.task == "alert" else Expired("says the middleware")

        @bench.app.task
        async def work() -> None: ...

        @work.on_expired
        async def expired(ended: Expired) -> None:
            await told.alert.enqueue(ended.reason + "!" * 500)

        async with bench.working():
            with pytest.raises(TaskExpired):
                await (await work.enqueue()).result()
            await until(lambda: told.said == ["says the middleware" + "!" * 500])

    run(main())


def test_a_stop_waits_for_a_hook_within_its_grace() -> None:
    async def main() -> None:
        bench, gate, begun = Bench(), asyncio.Event(), asyncio.Event()
        told = Told(bench)

        @bench.app.task(timeout=0.01)
        async def work() -> None:
            await asyncio.Event().wait()

        @work.on_failure
        async def failed(ended: Failed | Lost) -> None:
            begun.set()
            await gate.wait()
            await told.alert.enqueue("told")

        async with bench.working() as worker:
            job = await work.enqueue()
            await begun.wait()
            await job.cancel()  # too late: it has failed
            stopping = asyncio.ensure_future(worker.stop())
            await asyncio.sleep(0.05)
            assert not stopping.done()
            gate.set()
            await stopping
        assert await job.status() == "failed"
        assert [j.task for j in bench.jobs()] == [work.name, "alert"]

    run(main())


def test_what_can_be_no_hook_is_refused() -> None:
    app = App("memory://")

    @app.task(name="work")
    async def work() -> None: ...

    with pytest.raises(TypeError, match=r"on_success of task 'work' must be `async def"):
        work.on_success(print)  # type: ignore[type-var]
    work.on_success(lambdas([]))
    with pytest.raises(ConfigError, match="'work' has a hook on_success already"):
        work.on_success(lambdas([]))


def test_a_rescue_that_takes_longer_than_the_jobs_timeout_is_no_timeout() -> None:
    async def main() -> None:
        bench, rescues = Bench(), list[int]()

        @bench.app.task(timeout=0.2)
        async def work() -> int:
            return 7

        @work.on_rescue
        async def rescued(delivery: Delivery) -> None:
            rescues.append(delivery.expiries)
            await asyncio.sleep(0.5)

        job = await work.enqueue()
        assert len((await bench.store.claim(["default"], lease="dead/1", limit=1, for_ms=1_000)).deliveries) == 1
        bench.clock.advance(ms=2_000)
        async with bench.working():
            assert await job.result() == 7
        assert rescues == [1]

    run(main())


def test_an_end_stands_although_its_hook_sent_what_cannot_be() -> None:
    async def main() -> None:
        bench = Bench()
        told = Told(bench)

        @bench.app.task
        async def other() -> None: ...

        @bench.app.task
        async def work() -> int:
            await told.alert.enqueue("by the task")
            return 42

        @work.on_success
        async def succeeded(ended: Succeeded) -> None:
            await told.alert.using(id="taken").enqueue("by the hook")

        await other.using(id="taken", delay=3600).enqueue()
        async with bench.working():
            assert await (await work.enqueue()).result() == 42
            await until(lambda: told.said == ["by the task"])

    run(main())


def test_an_upload_of_what_a_hook_sent_is_not_torn_by_a_stop() -> None:
    async def main() -> None:
        bench = Bench(offload=Offload(beyond=100))
        told, uploading, gate = Told(bench), asyncio.Event(), asyncio.Event()
        right = bench.app.payloads.stored_jobs

        async def slow(jobs: Any) -> Any:
            uploading.set()
            await gate.wait()
            return await right(jobs)

        @bench.app.task
        async def work() -> int:
            return 7

        @work.on_success
        async def succeeded(ended: Succeeded) -> None:
            await told.alert.enqueue("!" * 500)

        async with bench.working() as worker:
            job = await work.enqueue()
            bench.app.payloads.stored_jobs = slow  # type: ignore[method-assign]
            await uploading.wait()
            await job.cancel()
            await until(lambda: any(attempt.cancelled for attempt in worker._slots.running))
            gate.set()
            await until(lambda: worker.done >= 1)
            assert await job.outcome() in (Succeeded(b"\x07"), Cancelled())

    run(main())

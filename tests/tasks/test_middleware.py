"""Middleware wraps attempts in order; what goes wrong in it is the attempt's failure, and the worker lives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from culm import Delivery, Failed, Next, Outcome, RetryLater, Snoozed, Succeeded, TaskCancelled, TaskFailed, current
from tests.tasks.harness import Bench, run, until


def test_the_first_middleware_is_the_outermost_and_sees_how_the_attempt_ended() -> None:
    bench, seen = Bench(), list[str]()

    def named(name: str) -> Callable[[Delivery, Next], Awaitable[Outcome]]:
        async def wraps(delivery: Delivery, next: Next) -> Outcome:  # noqa: A002  # the word of the documentation
            seen.append(f"{name} before {delivery.job.task}, attempt {current().attempt}")
            outcome = await next(delivery)
            seen.append(f"{name} after {type(outcome).__name__}")
            return outcome

        return wraps

    bench.app.middleware(named("outer"))
    bench.app.middleware(named("inner"))

    @bench.app.task(name="work")
    async def work() -> int:
        seen.append("work")
        return 7

    async def scenario() -> None:
        async with bench.working():
            assert await (await work.enqueue()).result() == 7

    run(scenario())
    assert seen == [
        "outer before work, attempt 1", "inner before work, attempt 1", "work", "inner after Succeeded", "outer after Succeeded",
    ]  # fmt: skip


def test_what_a_task_raises_is_an_outcome_to_middleware() -> None:
    bench, seen = Bench(), list[Outcome]()

    @bench.app.middleware
    async def look(delivery: Delivery, next: Next) -> Outcome:  # noqa: A002
        outcome = await next(delivery)
        seen.append(outcome)
        return outcome

    @bench.app.task
    async def boom() -> None:
        raise ValueError("no")

    async def scenario() -> None:
        async with bench.working():
            with pytest.raises(TaskFailed, match="ValueError: no"):
                await (await boom.enqueue()).result()

    run(scenario())
    [outcome] = seen
    assert isinstance(outcome, Failed)


async def _raises_before(delivery: Delivery, next: Next) -> Outcome:  # noqa: A002
    raise RuntimeError("before")


async def _raises_after(delivery: Delivery, next: Next) -> Outcome:  # noqa: A002
    await next(delivery)
    raise RuntimeError("after")


async def _exits(delivery: Delivery, next: Next) -> Outcome:  # noqa: A002
    raise SystemExit(3)


async def _twice(delivery: Delivery, next: Next) -> Outcome:  # noqa: A002
    await next(delivery)
    return await next(delivery)


async def _another(delivery: Delivery, next: Next) -> Outcome:  # noqa: A002
    return await next(Delivery(delivery.job, "other/1"))


async def _nothing(delivery: Delivery, next: Next) -> Any:  # noqa: A002
    await next(delivery)


def _no_coroutine(delivery: Delivery, next: Next) -> Any:  # noqa: A002
    return 3


@pytest.mark.parametrize(
    ("wraps", "says"),
    [
        (_raises_before, "RuntimeError: before"),
        (_raises_after, "RuntimeError: after"),
        (_exits, "SystemExit: 3"),
        (_twice, "'_twice' called next\\(\\) twice"),
        (_another, "'_another' handed on another delivery"),
        (_nothing, "'_nothing' returned None; return what next\\(\\) returned, or one of Succeeded, Failed"),
        (_no_coroutine, "TypeError"),
    ],
)
def test_an_error_in_middleware_fails_the_attempt_and_not_the_worker(wraps: Any, says: str) -> None:
    bench = Bench()
    wrong = {"on": True}

    @bench.app.middleware
    async def sometimes(delivery: Delivery, next: Next) -> Outcome:  # noqa: A002
        return await next(delivery)

    @bench.app.middleware
    def switched(delivery: Delivery, next: Next) -> Any:  # noqa: A002
        return wraps(delivery, next) if wrong["on"] else next(delivery)

    switched.__qualname__ = wraps.__qualname__

    @bench.app.task
    async def child() -> None: ...

    @bench.app.task
    async def work() -> str:
        await child.enqueue()
        return "done"

    async def scenario() -> None:
        async with bench.working():
            with pytest.raises(TaskFailed, match=says):
                await (await work.enqueue()).result()
            assert not any(job.task == child.name for job in bench.jobs())  # what it sent did not leave
            wrong["on"] = False
            assert await (await work.enqueue()).result() == "done"

    run(scenario())


def test_an_error_in_middleware_is_tried_again_as_the_task_s_policy_says() -> None:
    bench, tries = Bench(), list[int]()

    @bench.app.middleware
    async def twice_wrong(delivery: Delivery, next: Next) -> Outcome:  # noqa: A002
        tries.append(delivery.attempt)
        if delivery.attempt < 3:
            raise RetryLater(after=0)
        return await next(delivery)

    @bench.app.task(retry=5)
    async def work() -> int:
        return current().attempt

    async def scenario() -> None:
        async with bench.working():
            assert await (await work.enqueue()).result() == 3

    run(scenario())
    assert tries == [1, 2, 3]


def test_middleware_may_put_an_attempt_off_without_running_it() -> None:
    bench, ran = Bench(), list[int]()

    @bench.app.middleware
    async def closed(delivery: Delivery, next: Next) -> Outcome:  # noqa: A002
        return Snoozed(60_000) if delivery.fence == 1 else await next(delivery)

    @bench.app.task
    async def work() -> None:
        ran.append(current().attempt)

    async def scenario() -> None:
        async with bench.working():
            job = await work.enqueue()
            await until(lambda: isinstance(bench.store.tables.rows[job.id].last, Snoozed))
            bench.clock.advance(ms=60_000)
            await job.result()

    run(scenario())
    assert ran == [1]  # a snooze consumes no attempt


def test_a_failure_that_middleware_makes_of_a_success_lets_nothing_leave() -> None:
    bench = Bench()

    @bench.app.middleware
    async def strict(delivery: Delivery, next: Next) -> Outcome:  # noqa: A002
        outcome = await next(delivery)
        return Succeeded(b"\x01") if delivery.job.task == child.name else Snoozed(1_000) if isinstance(outcome, Succeeded) else outcome

    @bench.app.task
    async def child() -> int:
        return 0

    @bench.app.task
    async def parent() -> None:
        await child.enqueue()

    async def scenario() -> None:
        async with bench.working():
            job = await parent.enqueue()
            await until(lambda: isinstance(bench.store.tables.rows[job.id].last, Snoozed))
            assert len(bench.jobs()) == 1
            assert await (await child.enqueue()).result() == 1

    run(scenario())


def test_a_cancelled_job_is_cancelled_within_middleware_too() -> None:
    bench, seen = Bench(), list[str]()

    @bench.app.middleware
    async def look(delivery: Delivery, next: Next) -> Outcome:  # noqa: A002
        outcome = await next(delivery)
        seen.append(type(outcome).__name__)
        return outcome

    @bench.app.task
    async def endless() -> None:
        seen.append("runs")
        await until(lambda: False)

    async def scenario() -> None:
        async with bench.working():
            job = await endless.enqueue()
            await until(lambda: bool(seen))
            await job.cancel()
            with pytest.raises(TaskCancelled):
                await job.result()

    run(scenario())
    assert seen == ["runs", "Cancelled"]


def test_what_never_runs_is_not_wrapped() -> None:
    bench, seen = Bench(), list[str]()

    @bench.app.middleware
    async def look(delivery: Delivery, next: Next) -> Outcome:  # noqa: A002
        seen.append(delivery.job.task)
        return await next(delivery)

    @bench.app.task(expires=1)
    async def late() -> None: ...

    async def scenario() -> None:
        job = await late.enqueue()
        bench.clock.advance(ms=2_000)
        async with bench.working():
            await until(lambda: bench.store.tables.rows[job.id].finished)

    run(scenario())
    assert seen == []


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match=r"middleware must be `async def name\(delivery, next\)`, got 3"):
        Bench().app.middleware(3)  # type: ignore[type-var]

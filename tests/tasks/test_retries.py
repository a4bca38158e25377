"""What is tried again, how often, after which pause; and what a task may say about it by raising."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from culm import Reject, Retry, RetryLater, TaskFailed, current
from culm.decide import MAX_MESSAGE_CHARS, MAX_TRACE_CHARS
from tests.tasks.harness import Bench, run, until


def failing(bench: Bench, error: Callable[[], BaseException], *, fails: int = 100, **options: Any) -> tuple[Any, list[int]]:
    attempts: list[int] = []

    @bench.app.task(name="flaky", **options)
    async def flaky() -> str:
        attempts.append(current().attempt)
        if len(attempts) <= fails:
            raise error()
        return "done"

    return flaky, attempts


async def attempts_of(error: Callable[[], BaseException], *, fails: int = 100, **options: Any) -> tuple[list[int], str]:
    """The attempts that ran, and how it ended; every pause is skipped."""
    bench = Bench()
    flaky, attempts = failing(bench, error, fails=fails, **options)
    async with bench.working():
        job = await flaky.enqueue()
        await until(lambda: ended_at_last(bench, job.id))
        return attempts, await job.status()


def ended_at_last(bench: Bench, job_id: str) -> bool:
    """Whether it has ended; skips the pause in which it waits."""
    row = bench.store.tables.rows[job_id]
    if not row.finished and not row.lease and row.due is not None:
        bench.clock.advance(ms=max(0, row.due - bench.clock.now_ms()))
    return row.finished


def job_ended(bench: Bench, job_id: str) -> bool:
    row = bench.store.tables.rows[job_id]
    return row.finished or (not row.lease and row.attempt > 0)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [1]),
        ({"retry": None}, [1]),
        ({"retry": 0}, [1]),
        ({"retry": 2}, [1, 2, 3]),
        ({"retry": Retry(2)}, [1, 2, 3]),
        ({"retry": Retry(2, on=(OSError,))}, [1]),
        ({"retry": Retry(2, on=(OSError, ValueError))}, [1, 2, 3]),
        ({"retry": Retry(2, on=(Exception,))}, [1, 2, 3]),
        ({"retry": Retry(2, on=())}, [1]),
    ],
)
def test_an_error_is_tried_again_as_often_as_its_policy_says(options: dict[str, Any], wanted: list[int]) -> None:
    assert run(attempts_of(lambda: ValueError("no"), **options)) == (wanted, "failed")


def test_a_task_that_recovers_succeeds() -> None:
    assert run(attempts_of(lambda: ValueError("no"), fails=2, retry=5)) == ([1, 2, 3], "succeeded")


def test_reject_fails_at_once() -> None:
    assert run(attempts_of(lambda: Reject("never"), retry=5)) == ([1], "failed")


def test_retry_later_is_tried_again_whatever_the_policy_says_of_errors() -> None:
    assert run(attempts_of(RetryLater, retry=Retry(2, on=()))) == ([1, 2, 3], "failed")


def test_a_base_exception_is_not_worth_a_retry() -> None:
    assert run(attempts_of(lambda: SystemExit(3), retry=5)) == ([1], "failed")


def test_the_policy_of_a_job_overrides_the_numbers_of_its_task() -> None:
    async def main() -> list[int]:
        bench = Bench()
        flaky, attempts = failing(bench, lambda: ValueError("no"), retry=Retry(5, on=(ValueError,)))
        async with bench.working():
            with pytest.raises(TaskFailed):
                await (await flaky.using(retry=Retry(1, first=0)).enqueue()).result()
        return attempts

    assert run(main()) == [1, 2]


@pytest.mark.parametrize(
    ("error", "low", "high"),
    [
        (lambda: ValueError("no"), 1_000, 2_000),
        (lambda: RetryLater(after=10), 10_000, 10_000),
        (lambda: RetryLater("busy", after=0.5), 500, 500),
        (RetryLater, 1_000, 2_000),
    ],
)
def test_the_pause_before_a_retry_is_the_policys_or_what_was_asked_for(error: Callable[[], BaseException], low: int, high: int) -> None:
    async def main() -> None:
        bench = Bench()
        flaky, attempts = failing(bench, error, retry=Retry(3, first=2))
        async with bench.working():
            job = await flaky.enqueue()
            await until(lambda: job_ended(bench, job.id))
            view = await job.view()
            assert view.due_in_ms is not None
            assert low <= view.due_in_ms <= high
            assert (view.attempt, view.state) == (1, "open")
            bench.clock.advance(ms=view.due_in_ms - 1)
            assert attempts == [1]
            bench.clock.advance(ms=1)
            await until(lambda: attempts == [1, 2])

    run(main())


def test_the_pause_doubles_up_to_its_cap_and_is_spread() -> None:
    policy = Retry(9, first=2, cap=60)
    assert [policy.pause_ms(n, draw=1.0) for n in (1, 2, 3, 6, 9, 10_000)] == [2_000, 4_000, 8_000, 60_000, 60_000, 60_000]
    assert policy.pause_ms(3, draw=0.0) == 4_000


@pytest.mark.parametrize("after", [float("nan"), -1.0, float("inf"), "soon", 1e30])
def test_an_absurd_retry_later_fails_the_job_and_the_worker_lives(after: Any) -> None:
    async def main() -> None:
        bench = Bench()
        flaky, _ = failing(bench, lambda: RetryLater(after=after), fails=1, retry=5)
        async with bench.working():
            with pytest.raises(TaskFailed, match="RetryLater after must be"):
                await (await flaky.enqueue()).result()
            assert await (await flaky.enqueue()).result() == "done"

    run(main())


def test_no_retry_is_planned_beyond_the_deadline() -> None:
    async def main() -> None:
        bench = Bench()
        flaky, attempts = failing(bench, lambda: ValueError("no"), retry=Retry(5, first=10))
        async with bench.working():
            with pytest.raises(TaskFailed, match="ValueError: no"):
                await (await flaky.using(deadline=4).enqueue()).result()
        assert attempts == [1]

    run(main())


def test_what_a_coroutine_computed_counts_towards_the_deadline_on_a_loop_whose_clock_stands_still_meanwhile() -> None:
    """As uvloop's does: its time is that of the round's beginning."""

    async def main() -> None:
        bench = Bench()

        @bench.app.task(retry=1)
        async def computes() -> None:
            time.sleep(0.2)  # noqa: ASYNC251  # it computes
            raise RetryLater(after=0.3)

        async with bench.working():
            with pytest.raises(TaskFailed, match="retry later"):
                await (await computes.using(deadline=0.4).enqueue()).result()

    uvloop.run(main())


# -- what a failure tells ----------------------------------------------------------------------------------------------------


class OwnError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit(9)


def fault_of(error: Callable[[], BaseException]) -> tuple[str, str, str]:
    async def main() -> tuple[str, str, str]:
        bench = Bench()
        flaky, _ = failing(bench, error, fails=1)
        async with bench.working():
            with pytest.raises(TaskFailed) as caught:
                await (await flaky.enqueue()).result()
            assert await (await flaky.enqueue()).result() == "done", "the worker lives"
            return caught.value.fault.type, caught.value.fault.message, caught.value.fault.trace

    return run(main())


def test_a_fault_has_type_message_and_trace() -> None:
    kind, message, trace = fault_of(lambda: ValueError("bad 3"))
    assert (kind, message) == ("ValueError", "bad 3")
    assert trace.startswith("Traceback")
    assert "in flaky" in trace
    assert fault_of(lambda: Reject("why"))[:2] == ("Reject", "why")


def test_a_fault_names_the_module_of_foreign_errors() -> None:
    assert fault_of(OwnError)[:2] == (f"{__name__}.OwnError", "(its text could not be made: RuntimeError)")
    assert fault_of(Unspeakable)[1] == "(its text could not be made: SystemExit)"


def test_a_fault_shows_no_locals_and_no_arguments() -> None:
    async def main() -> None:
        bench = Bench()

        @bench.app.task
        async def charge(card: str) -> None:
            secret = f"canary-{card}"
            raise ValueError(f"declined, {len(secret)} digits")

        async with bench.working():
            with pytest.raises(TaskFailed) as caught:
                await (await charge.enqueue("4111")).result()
        fault = caught.value.fault
        assert "4111" not in f"{caught.value}{fault}"
        assert "canary-4111" not in fault.trace

    run(main())


def test_a_fault_is_bounded() -> None:
    _, message, trace = fault_of(lambda: ValueError("x" * 100_000))
    assert (len(message), len(trace)) == (MAX_MESSAGE_CHARS, MAX_TRACE_CHARS)


def test_an_error_with_half_a_surrogate_is_written_down() -> None:
    kind, message, trace = fault_of(lambda: FileNotFoundError("caf\udce9.txt"))
    assert (kind, message) == ("FileNotFoundError", "caf\\udce9.txt")
    assert "\udce9" not in trace


@pytest.mark.parametrize("error", [SystemExit, StopIteration, StopAsyncIteration, MemoryError, RecursionError])
@pytest.mark.parametrize("kind", ["async", "def"])
def test_an_odd_error_fails_its_job_and_the_worker_lives(error: type[BaseException], kind: str) -> None:
    async def main() -> None:
        bench = Bench()

        @bench.app.task(name="a")
        async def a() -> None:
            raise error

        @bench.app.task(name="b")
        def b() -> None:
            raise error

        @bench.app.task
        async def well() -> str:
            return "well"

        async with bench.working(concurrency=1):
            with pytest.raises(TaskFailed):
                await (await (a if kind == "async" else b).enqueue()).result()
            assert await (await well.enqueue()).result() == "well"

    run(main())

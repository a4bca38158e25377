"""Each option has its effect; each wrong one is one clear line, and nothing is sent."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from culm import App, Handle, ResultExpired, Retry, TaskExpired, TaskFailed, current
from culm.job import RetrySpec
from culm.testing.clock import START_MS
from tests.tasks.harness import Bench, run, until


def options_of(**given: Any) -> Any:
    task: Any = App("memory://").task(name="t")(lambda: None)
    return task.using(**given).options


def test_options_become_what_travels() -> None:
    at = datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    o = options_of(
        queue="mail", priority=9, at=at, expires=1.5, timeout=timedelta(minutes=1), deadline=60, retry=Retry(2, first=3, cap=4), keep=0,
        id="order-42", headers={"a": "b"},
    )  # fmt: skip
    assert (o.queue, o.priority, o.at_ms, o.expires_ms, o.timeout_ms, o.deadline_ms) == ("mail", 9, 1704067200000, 1500, 60_000, 60_000)
    assert (o.retry, o.keep_ms, o.id, o.headers) == (RetrySpec(2, 3000, 4000), 0, "order-42", {"a": "b"})
    assert options_of(delay=0.25).after_ms == 250
    assert options_of(retry=None).retry == RetrySpec(0, 1000, 300_000)
    assert options_of(expires=None, timeout=None, deadline=None) == options_of()


def test_options_of_a_task_hold_for_its_jobs_and_using_adds_to_them() -> None:
    async def main() -> None:
        bench = Bench()

        @bench.app.task(queue="mail", priority=2, timeout=3)
        async def send() -> None: ...

        await send.using(priority=7).using(headers={"a": "b"}).enqueue()
        await send.enqueue()
        first, second = bench.jobs()
        assert (first.queue, first.priority, first.timeout_ms, first.headers) == ("mail", 7, 3000, {"a": "b"})
        assert (second.queue, second.priority, second.timeout_ms, second.headers) == ("mail", 2, 3000, {})

    run(main())


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"delay": math.nan}, ValueError, "delay must be between 0 and 315,360,000 seconds .ten years., got nan"),
    ({"delay": -1}, ValueError, "delay must be between"),
    ({"delay": math.inf}, ValueError, "delay must be between"),
    ({"delay": 1e12}, ValueError, "delay must be between"),
    ({"delay": timedelta(days=-1)}, ValueError, "delay must be between"),
    ({"delay": "soon"}, TypeError, "delay must be seconds, as a number or a timedelta, got 'soon'"),
    ({"delay": True}, TypeError, "delay must be seconds"),
    ({"delay": None}, TypeError, "delay must be seconds"),
    ({"expires": 0}, ValueError, "expires must be more than 0 seconds, got 0; None means no limit"),
    ({"expires": -3}, ValueError, "expires must be between"),
    ({"timeout": math.nan}, ValueError, "timeout must be between"),
    ({"timeout": 0}, ValueError, "timeout must be more than 0"),
    ({"deadline": 0.0}, ValueError, "deadline must be more than 0"),
    ({"keep": -1}, ValueError, "keep must be between"),
    ({"keep": None}, TypeError, "keep must be seconds"),
    ({"priority": 10}, ValueError, "priority must be from 0 to 9 .the highest first., got 10"),
    ({"priority": -1}, ValueError, "priority must be from 0 to 9"),
    ({"priority": 1 << 80}, ValueError, "priority must be from 0 to 9"),
    ({"priority": 1.0}, TypeError, "priority must be a whole number from 0 to 9, got 1.0"),
    ({"priority": True}, TypeError, "priority must be a whole number"),
    ({"priority": "high"}, TypeError, "priority must be a whole number"),
    ({"at": datetime(2030, 1, 1)}, ValueError, "at must have a time zone, got .*; say datetime"),  # noqa: DTZ001
    ({"at": 1e9}, TypeError, "at must be a datetime with a time zone, got 1000000000.0"),
    ({"at": "2030-01-01"}, TypeError, "at must be a datetime"),
    ({"at": datetime.now(UTC), "delay": 1}, ValueError, "delay and at exclude each other"),
    ({"retry": -1}, ValueError, "retry times must be a whole number from 0 to 10,000, got -1"),
    ({"retry": 1 << 70}, ValueError, "retry times"),
    ({"retry": True}, TypeError, "retry must be a Retry, a whole number or None, got True"),
    ({"retry": "often"}, TypeError, "retry must be a Retry"),
    ({"queue": ""}, ValueError, "queue must be 1 to 200 printable characters"),
    ({"queue": "a b"}, ValueError, "queue must be"),
    ({"queue": "a\nb"}, ValueError, "queue must be"),
    ({"queue": "x" * 201}, ValueError, "queue must be"),
    ({"queue": 3}, TypeError, "queue must be a str, got 3"),
    ({"id": "root~child"}, ValueError, "id must be"),
    ({"id": "\udc80"}, ValueError, "id must be"),
    ({"id": None}, TypeError, "id must be a str"),
    ({"topic": "done/x"}, ValueError, "topic must not start with 'done/'"),
    ({"headers": {"a": 1}}, TypeError, "headers must be a dict of str to str"),
    ({"headers": [("a", "b")]}, TypeError, "headers must be a dict"),
    ({"headers": {"a": "x" * 9000}}, ValueError, "headers may take 8,000 characters together"),
    ({"headers": {"a": "\udc80"}}, ValueError, "headers must be text that UTF-8 can carry"),
    ({"now": False}, TypeError, "now can only be True, got False"),
    ({"dealy": 3}, TypeError, "^unknown option 'dealy'; did you mean 'delay'\\?$"),
    ({"prioritty": 3}, TypeError, "did you mean 'priority'"),
    ({"xyzzy": 3}, TypeError, "unknown option 'xyzzy'; the options are at, deadline, delay, "),
    ({"to": "ada"}, TypeError, "unknown option 'to'"),
]


@pytest.mark.parametrize(("given", "error", "says"), WRONG, ids=lambda v: next(iter(v)) if isinstance(v, dict) else None)
def test_a_wrong_option_is_one_clear_line_and_nothing_is_sent(given: dict[str, Any], error: type[Exception], says: str) -> None:
    async def main() -> None:
        bench = Bench()
        task: Any = bench.app.task(name="t")(lambda: None)
        with pytest.raises(error, match=says) as caught:
            await task.using(**given).enqueue()
        assert "\n" not in str(caught.value)
        assert bench.jobs() == []

    run(main())


@pytest.mark.parametrize(
    ("given", "says"), [({"quue": "x"}, "did you mean 'queue'"), ({"id": "x"}, "unknown option 'id'"), ({"at": 1}, "unknown option 'at'")]
)
def test_a_task_takes_only_options_that_hold_for_all_its_jobs(given: dict[str, Any], says: str) -> None:
    app = App("memory://")
    with pytest.raises(TypeError, match=says):
        app.task(**given)
    assert app.tasks == {}


@pytest.mark.parametrize("given", [{"on": ("IOError",)}, {"on": OSError}, {"on": [OSError]}, {"on": (3,)}])
def test_a_retry_policy_of_no_exceptions_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"retry on must be a tuple of exception types, got .*; say on=\(OSError,\)"):
        Retry(**given)


@pytest.mark.parametrize("given", [{"first": math.nan}, {"cap": -1}, {"times": 2.5}, {"first": -0.5}])
def test_a_retry_policy_with_absurd_numbers_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^retry "):
        Retry(**given)


# -- effects -----------------------------------------------------------------------------------------------------------------


def recorder(bench: Bench) -> tuple[Any, list[str]]:
    ran: list[str] = []

    @bench.app.task(name="note")
    async def note(what: str) -> str:
        ran.append(what)
        return what

    return note, ran


def test_a_job_goes_to_its_queue_and_only_its_workers_take_it() -> None:
    async def main() -> None:
        bench = Bench()
        note, ran = recorder(bench)
        there = await note.using(queue="other").enqueue("there")
        async with bench.working(queues=["default"]):
            await (await note.enqueue("here")).result()
            assert ran == ["here"]
            assert await there.status() == "open"
        async with bench.working(queues=["other"]):
            assert await there.result() == "there"

    run(main())


def test_the_highest_priority_runs_first_and_equals_in_the_order_of_sending() -> None:
    async def main() -> None:
        bench = Bench()
        note, ran = recorder(bench)
        jobs = [await note.using(priority=p).enqueue(f"{p}{n}") for n in "ab" for p in (0, 5, 9, 3)]
        async with bench.working(concurrency=1):
            await asyncio.gather(*(j.result() for j in jobs[:3]))
            await until(lambda: len(ran) == 8)
        assert ran[:7] == ["9a", "9b", "5a", "5b", "3a", "3b", "0a"]

    run(main())


@pytest.mark.parametrize(
    "given",
    [{"delay": 60}, {"delay": timedelta(minutes=1)}, {"at": datetime.fromtimestamp(START_MS / 1000 + 60, UTC)}],
    ids=["seconds", "timedelta", "at"],
)
def test_a_delayed_job_does_not_start_a_millisecond_early(given: dict[str, Any]) -> None:
    async def main() -> None:
        bench = Bench()
        note, ran = recorder(bench)
        job = await note.using(**given).enqueue("late")
        async with bench.working():
            bench.clock.advance(ms=59_999)
            await (await note.enqueue("probe")).result()
            assert ran == ["probe"]
            bench.clock.advance(ms=1)
            assert await job.result() == "late"

    run(main())


def test_an_instant_in_the_past_is_now() -> None:
    async def main() -> None:
        bench = Bench()
        note, _ = recorder(bench)
        async with bench.working():
            assert await (await note.using(at=datetime(1969, 1, 1, tzinfo=UTC)).enqueue("old")).result() == "old"

    run(main())


def test_a_job_that_does_not_start_in_time_expires_without_running() -> None:
    async def main() -> None:
        bench = Bench()
        note, ran = recorder(bench)
        job = await note.using(expires=10).enqueue("late")
        in_time = await note.using(expires=20).enqueue("in time")
        bench.clock.advance(ms=10_001)
        async with bench.working():
            with pytest.raises(TaskExpired, match="expired: it did not start within 10000 ms") as caught:
                await job.result()
            assert caught.value.job_id == job.id
            assert await in_time.result() == "in time"
        assert ran == ["in time"]
        assert await job.status() == "expired"

    run(main())


def test_a_job_beyond_its_deadline_expires_without_running() -> None:
    async def main() -> None:
        bench = Bench()
        note, ran = recorder(bench)
        job = await note.using(deadline=10).enqueue("late")
        bench.clock.advance(ms=10_001)
        async with bench.working():
            with pytest.raises(TaskExpired, match="it did not end within 10000 ms"):
                await job.result()
        assert ran == []

    run(main())


def test_a_result_is_kept_for_as_long_as_was_said() -> None:
    async def main() -> None:
        bench = Bench()
        note, _ = recorder(bench)
        async with bench.working():
            kept = await note.using(keep=60).enqueue("kept")
            assert await kept.result() == "kept"
            bench.clock.advance(ms=59_999)
            await bench.store.sweep()
            assert await kept.result() == "kept"
            bench.clock.advance(ms=2)
            await bench.store.sweep()
            with pytest.raises(ResultExpired, match=f"^job {kept.id}: is not known; it was never sent, or it ended longer than its `keep`"):
                await kept.result()

    run(main())


def test_a_job_that_is_not_kept_is_gone_with_its_commit() -> None:
    async def main() -> None:
        bench = Bench()
        note, ran = recorder(bench)
        async with bench.working():
            job = await note.using(keep=0).enqueue("gone")
            await until(lambda: ran == ["gone"] and not bench.jobs())
            for ask in asks(job):
                with pytest.raises(ResultExpired):
                    await ask()

    run(main())


def asks(job: Handle[Any]) -> list[Callable[[], Any]]:
    return [job.result, job.status, job.outcome, job.view]


def test_a_failed_job_is_kept_even_if_its_result_would_not_be() -> None:
    async def main() -> None:
        bench = Bench()

        @bench.app.task(keep=0)
        async def bad() -> None:
            raise ValueError("no")

        async with bench.working():
            with pytest.raises(TaskFailed, match="failed with ValueError: no"):
                await (await bad.enqueue()).result()

    run(main())


def test_headers_and_id_are_seen_by_the_task() -> None:
    async def main() -> None:
        bench = Bench()

        @bench.app.task
        async def look() -> list[Any]:
            return [current().id, dict(current().headers)]

        async with bench.working():
            job = await look.using(id="order-42", headers={"trace": "t1"}).enqueue()
            assert job.id == "order-42"
            assert await job.result() == ["order-42", {"trace": "t1"}]

    run(main())

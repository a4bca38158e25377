"""`when` and `emit`: joins fire once, when what they wait for is there, whoever of their members failed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from culm import Cancelled, CulmError, Failed, Succeeded, TaskFailed, current, emit, when
from tests.tasks.harness import Bench, run, until


def join_on(bench: Bench) -> tuple[Any, list[dict[str, Any]]]:
    fired: list[dict[str, Any]] = []

    @bench.app.task(name="join")
    async def join(kind: str = "int") -> int:
        kinds: dict[str, Any] = {"int": int, "any": object}
        fired.append({topic: sorted(e.read(kinds[kind]) for e in events) for topic, events in current().events.items()})
        return len(fired)

    return join, fired


def member_on(bench: Bench) -> Any:
    @bench.app.task(name="member")
    async def member(n: int) -> int:
        if n < 0:
            raise ValueError(f"bad {n}")
        return n

    return member


def test_a_join_reads_the_events_that_it_waited_for() -> None:
    async def main() -> None:
        bench = Bench()
        join, fired = join_on(bench)

        @bench.app.task
        async def parent() -> str:
            emit("paid", 7)
            job = when("paid", ("packed", 3), run=join.bind())
            for n in range(3):
                emit("packed", n)
            return job.id

        async with bench.working():
            job_id = await (await parent.enqueue()).result()
            assert await bench.app.job(job_id, join).result() == 1
        assert fired == [{"paid": [7], "packed": [0, 1, 2]}]

    run(main())


def test_an_event_of_a_later_job_of_the_scope_completes_the_join() -> None:
    async def main() -> None:
        bench = Bench()
        join, fired = join_on(bench)

        @bench.app.task
        async def later() -> None:
            emit("paid", 7)

        @bench.app.task
        async def parent() -> str:
            await later.using(delay=60).enqueue()
            return when("paid", run=join.bind()).id

        async with bench.working():
            job_id = await (await parent.enqueue()).result()
            assert await bench.app.job(job_id, join).status() == "open"
            assert fired == []
            bench.clock.advance(ms=60_000)
            await bench.app.job(job_id, join).result()

    run(main())


def test_the_same_key_counts_once() -> None:
    async def main() -> None:
        bench = Bench()
        join, fired = join_on(bench)

        @bench.app.task
        async def parent() -> str:
            for key in ("a", "a", "b"):
                emit("paid", 1, key=key)
            return when(("paid", 3), run=join.bind(), timeout=60).id

        async with bench.working():
            job_id = await (await parent.enqueue()).result()
            assert await bench.app.job(job_id, join).status() == "open"
            bench.clock.advance(ms=60_000)
            await bench.app.job(job_id, join).result()
        assert fired == [{"paid": [1, 1]}], "the timeout ran it with what was there"

    run(main())


def test_an_event_repeated_by_a_retry_has_the_same_key() -> None:
    async def main() -> None:
        bench, keys = Bench(), []

        @bench.app.task(retry=1)
        async def parent() -> None:
            emit("a")
            emit("a")
            effects = current().effects
            assert effects is not None
            keys.append([e.key for e in effects.emit])
            if current().attempt == 1:
                raise ValueError("no")

        async with bench.working():
            job = await parent.enqueue()
            await until(lambda: len(keys) == 1)
            bench.clock.advance(ms=1_000)
            await job.result()
        assert keys[0] == keys[1]
        assert len(set(keys[0])) == 2

    run(main())


def test_failed_and_cancelled_members_count_and_their_events_say_so() -> None:
    async def main() -> None:
        bench = Bench()
        seen: list[Any] = []
        member = member_on(bench)

        @bench.app.task
        async def report() -> None:
            seen.extend(e.outcome() for e in current().events["ended"])

        @bench.app.task
        async def parent() -> list[str]:
            for n in (1, -1):
                await member.using(topic="ended").enqueue(n)
            late = await member.using(topic="ended", delay=3600).enqueue(3)
            return [late.id, when(("ended", 3), run=report.bind()).id]

        async with bench.working():
            late, join = await (await parent.enqueue()).result()
            await until(lambda: sum(v.finished for v in bench.store.tables.rows.values()) == 3)
            await bench.app.job(late, member).cancel()
            await bench.app.job(join, report).result()
        assert sorted(type(o).__name__ for o in seen) == ["Cancelled", "Failed", "Succeeded"]
        assert {type(o) for o in seen} == {Succeeded, Failed, Cancelled}
        assert [o.fault.message for o in seen if isinstance(o, Failed)] == ["bad -1"]

    run(main())


def test_an_emitted_event_records_no_jobs_end() -> None:
    async def main() -> None:
        bench = Bench()

        @bench.app.task
        async def join() -> None:
            current().events["x"][0].outcome()

        @bench.app.task
        async def parent() -> str:
            emit("x", 3, key="k")
            return when("x", run=join.bind()).id

        async with bench.working():
            job_id = await (await parent.enqueue()).result()
            with pytest.raises(TaskFailed, match=r"event 'k' records no job's end; read its value with \.read\(type\)"):
                await bench.app.job(job_id, join).result()

    assert issubclass(TaskFailed, CulmError)
    run(main())


def test_a_race_runs_with_the_first_and_only_once() -> None:
    async def main() -> None:
        bench = Bench()
        join, fired = join_on(bench)

        @bench.app.task
        async def racer(name: str, value: int) -> None:
            emit(name, value)

        @bench.app.task
        async def parent() -> str:
            job = when("a", "b", run=join.bind(), need=1)
            await racer.enqueue("b", 2)
            await racer.using(delay=60).enqueue("a", 1)
            return job.id

        async with bench.working():
            job_id = await (await parent.enqueue()).result()
            assert await bench.app.job(job_id, join).result() == 1
            bench.clock.advance(ms=60_000)
            await until(lambda: all(r.finished for r in bench.store.tables.rows.values()))
        assert fired == [{"a": [], "b": [2]}]

    run(main())


def test_a_join_of_nothing_runs_at_once() -> None:
    async def main() -> None:
        bench = Bench()
        join, fired = join_on(bench)

        @bench.app.task
        async def parent() -> str:
            return when(("parts", 0), run=join.bind()).id

        async with bench.working():
            job_id = await (await parent.enqueue()).result()
            await bench.app.job(job_id, join).result()
        assert fired == [{"parts": []}]

    run(main())


def test_a_join_of_hundreds_of_members_fires_once() -> None:
    async def main() -> None:
        bench = Bench()
        member, fired = member_on(bench), []

        @bench.app.task
        async def report() -> int:
            fired.append(len(current().events["ended"]))
            return fired[0]

        @bench.app.task
        async def parent() -> str:
            await asyncio.gather(*(member.using(topic="ended").enqueue(n) for n in range(500)))
            return when(("ended", 500), run=report.bind()).id

        async with bench.working():
            job_id = await (await parent.enqueue()).result()
            assert await bench.app.job(job_id, report).result() == 500
        assert fired == [500]

    run(main())


@pytest.mark.parametrize(
    ("topics", "given", "says"),
    [
        ((), {}, "ValueError: when.. needs one or more different topics"),
        (("a", "a"), {}, "ValueError: when.. needs one or more different topics"),
        ((("a", -1),), {}, "ValueError: when.. counts events by whole numbers from 0 to 1,000,000,000"),
        ((("a", 1 << 70),), {}, "ValueError: when.. counts events by whole numbers"),
        ((("a", True),), {}, "ValueError: when.. counts events by whole numbers"),
        ((3,), {}, "TypeError: when.. takes topics as names or as .name, how many."),
        (("a b",), {}, "ValueError: topic must be"),
        (("a",), {"need": 2}, "ValueError: need must be from 1 to the number of topics, 1, got 2"),
        (("a",), {"need": 0}, "ValueError: need must be from 1"),
        (("a",), {"timeout": -1}, "ValueError: timeout must be between"),
        (("a",), {"id": "x"}, "ValueError: a job that when.. runs belongs to this scope; leave out id"),
    ],
)
def test_a_join_that_cannot_be_is_refused(topics: tuple[Any, ...], given: dict[str, Any], says: str) -> None:
    async def main() -> None:
        bench = Bench()
        join, _ = join_on(bench)

        @bench.app.task
        async def parent() -> None:
            options = dict(given)
            job = join.using(id=options.pop("id")) if "id" in options else join
            when(*topics, run=job.bind(), **options)

        async with bench.working():
            with pytest.raises(TaskFailed, match=says):
                await (await parent.enqueue()).result()

    run(main())

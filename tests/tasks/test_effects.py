"""What a task sends and emits leaves with its commit, and not when it fails."""

from __future__ import annotations

from typing import Any

import pytest

from culm import App, CulmError, NotInTask, ResultPending, Retry, TaskFailed, TooManyEffects, current, emit, when
from culm.commit import MAX_EFFECTS
from culm.stores.memory import MemoryStore
from tests.tasks.harness import Bench, run, until


def child_on(bench: Bench) -> tuple[Any, list[int]]:
    ran: list[int] = []

    @bench.app.task(name="child")
    async def child(n: int) -> int:
        ran.append(n)
        return n

    return child, ran


def test_a_child_leaves_when_its_parent_succeeds() -> None:
    async def main() -> None:
        bench = Bench()
        child, ran = child_on(bench)
        seen: list[Any] = []

        @bench.app.task
        async def parent() -> str:
            job = await child.enqueue(1)
            (many,) = await child.map([2])
            seen.extend([job.pending, repr(job), len(bench.jobs()), many.id])
            return str(job.id)

        async with bench.working():
            job = await parent.enqueue()
            child_id = await job.result()
            assert await bench.app.job(child_id, child).result() == 1
            await until(lambda: sorted(ran) == [1, 2])
        assert seen[:3] == [True, f"<Handle {child_id} (pending)>", 1]
        assert child_id.startswith(f"{job.id}~")
        assert seen[3].startswith(f"{job.id}~")

    run(main())


def test_nothing_leaves_when_the_task_fails() -> None:
    async def main() -> None:
        bench = Bench()
        child, ran = child_on(bench)

        @bench.app.task(retry=Retry(1, first=0))
        async def parent() -> None:
            await child.enqueue(current().attempt)
            emit("seen", current().attempt)
            raise ValueError("no")

        async with bench.working():
            job = await parent.enqueue()
            with pytest.raises(TaskFailed):
                await job.result()
        assert ran == []
        assert [j.id for j in bench.jobs()] == [job.id]
        assert await bench.store.events(job.id, "seen") == []

    run(main())


def test_what_an_earlier_attempt_wanted_to_send_is_forgotten() -> None:
    async def main() -> None:
        bench = Bench()
        child, ran = child_on(bench)

        @bench.app.task(retry=Retry(2, first=0))
        async def parent() -> None:
            await child.enqueue(current().attempt)
            if current().attempt < 3:
                raise ValueError("no")

        async with bench.working():
            await (await parent.enqueue()).result()
            await until(lambda: len(ran) == 1)
        assert ran == [3]

    run(main())


def test_a_pending_handle_says_so() -> None:
    async def main() -> None:
        bench = Bench()
        child, _ = child_on(bench)

        @bench.app.task
        async def parent() -> list[str]:
            job, said = await child.enqueue(1), []
            for ask in (job.result, job.outcome, job.status, job.view, job.cancel):
                with pytest.raises(ResultPending, match=r"leaves with the commit of the task that is running; join it with when\(\)"):
                    await ask()
                said.append(ask.__name__)
            return said

        async with bench.working():
            assert len(await (await parent.enqueue()).result()) == 5

    run(main())


def test_a_job_sent_now_can_be_awaited_inside() -> None:
    async def main() -> None:
        bench = Bench()
        child, _ = child_on(bench)

        @bench.app.task
        async def parent() -> list[Any]:
            one = await child.using(now=True).enqueue(3)
            pending, now = await bench.app.enqueue_many([child.bind(4), child.using(now=True).bind(5)])
            return [one.pending, await one.result(), one.id, pending.pending, now.pending, await now.result()]

        async with bench.working():
            job = await parent.enqueue()
            got = await job.result()
        assert got[:2] == [False, 3]
        assert got[2].startswith(f"{job.id}~")
        assert got[3:] == [True, False, 5]

    run(main())


def test_a_job_sent_now_stays_when_the_task_fails() -> None:
    async def main() -> None:
        bench = Bench()
        child, ran = child_on(bench)

        @bench.app.task
        async def parent() -> None:
            await child.using(now=True).enqueue(3)
            raise ValueError("no")

        async with bench.working():
            with pytest.raises(TaskFailed):
                await (await parent.enqueue()).result()
            await until(lambda: ran == [3])

    run(main())


def test_an_id_of_its_own_makes_a_child_a_root() -> None:
    async def main() -> None:
        bench = Bench()
        child, _ = child_on(bench)

        @bench.app.task
        async def parent() -> str:
            return str((await child.using(id="order-42").enqueue(3)).id)

        @bench.app.task
        async def wrong() -> None:
            await child.using(id="order-43", topic="paid").enqueue(3)

        async with bench.working():
            assert await (await parent.enqueue()).result() == "order-42"
            assert await bench.app.job("order-42", child).result() == 3
            with pytest.raises(TaskFailed, match="id='order-43' makes a job a root of its own, so topic='paid' would reach nobody"):
                await (await wrong.enqueue()).result()

    run(main())


def test_a_taken_id_fails_the_task_that_sends_under_it() -> None:
    async def main() -> None:
        bench = Bench()
        child, _ = child_on(bench)

        @bench.app.task
        async def parent() -> None:
            await child.using(id="taken").enqueue(3)

        await parent.using(id="taken", delay=60).enqueue()
        async with bench.working():
            with pytest.raises(TaskFailed, match="failed with IdConflict: it sent a job under an id that belongs to a job of another task"):
                await (await parent.enqueue()).result()
            assert await (await child.enqueue(1)).result() == 1

    run(main())


def test_a_task_of_another_app_must_be_sent_now() -> None:
    async def main() -> None:
        bench, stranger = Bench(), App(store=MemoryStore())

        @stranger.task(name="far")
        async def far() -> None: ...

        @bench.app.task
        async def parent(*, now: bool) -> str:
            return (await (far.using(now=True) if now else far).enqueue()).id

        async with bench.working():
            with pytest.raises(
                TaskFailed, match=r"task 'far' belongs to another app, whose store this commit does not reach; use using\(now"
            ):
                await (await parent.enqueue(now=False)).result()
            far_id = await (await parent.enqueue(now=True)).result()
            assert await stranger.job(far_id, far).status() == "open"

    run(main())


def test_a_def_task_sends_with_its_commit_by_sync() -> None:
    async def main() -> None:
        bench = Bench()
        child, ran = child_on(bench)

        @bench.app.task
        def parent() -> list[Any]:
            job = child.sync.enqueue(1)
            with pytest.raises(ResultPending):
                job.result()
            return [job.id, child.using(now=True).sync.enqueue(2).result(timeout=5)]

        @bench.app.task
        def fails() -> None:
            child.sync.enqueue(3)
            raise ValueError("no")

        async with bench.working():
            job_id, result = await (await parent.enqueue()).result()
            assert result == 2
            assert await bench.app.job(job_id, child).result() == 1
            with pytest.raises(TaskFailed):
                await (await fails.enqueue()).result()
        assert sorted(ran) == [1, 2]

    run(main())


def test_ten_thousand_effects_leave_and_one_more_is_refused() -> None:
    async def main() -> None:
        bench = Bench()

        @bench.app.task
        async def emits(count: int) -> int:
            for n in range(count):
                emit("n", n)
            return count

        async with bench.working():
            job = await emits.enqueue(MAX_EFFECTS)
            assert await job.result() == MAX_EFFECTS
            with pytest.raises(TaskFailed, match="TooManyEffects: an attempt may send and emit 10,000 things at most"):
                await (await emits.enqueue(MAX_EFFECTS + 1)).result()

    run(main())


def test_a_join_without_room_for_its_trigger_is_not_half_there() -> None:
    async def main() -> None:
        bench = Bench()
        child, _ = child_on(bench)

        @bench.app.task
        async def fills() -> int:
            for n in range(MAX_EFFECTS - 1):
                emit("n", n)
            with pytest.raises(TooManyEffects):
                when("n", run=child.bind(1))
            effects = current().effects
            assert effects is not None
            return len(effects.send)

        async with bench.working():
            assert await (await fills.enqueue()).result() == 0

    run(main())


def test_effects_outside_a_task_are_refused() -> None:
    bench = Bench()
    child, _ = child_on(bench)
    for act in (lambda: emit("x"), current, lambda: when("x", run=child.bind(1))):
        with pytest.raises(NotInTask, match="works inside a running task only"):
            act()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"topic": "a b"}, "ValueError: topic must be 1 to 200"),
        ({"topic": "done/x"}, "ValueError: topic must not start with 'done/'"),
        ({"topic": "x", "value": b"x" * (1 << 20)}, r"ValueError: the value of event 'x' takes 1,048,58\d bytes"),
        ({"topic": "x", "value": object}, "TypeError: the value of event 'x' cannot be encoded"),
        ({"topic": "x", "key": ""}, "ValueError: the key of event 'x' must be a str of 1 to 200 characters, got ''"),
        ({"topic": "x", "key": 3}, "ValueError: the key of event 'x'"),
        ({"topic": "x", "key": "\udc80"}, "ValueError: the key of event 'x'"),
    ],
)
def test_an_event_that_cannot_be_is_refused(given: dict[str, Any], says: str) -> None:
    async def main() -> None:
        bench = Bench()

        @bench.app.task
        async def emits() -> None:
            emit(**given)

        async with bench.working():
            with pytest.raises(TaskFailed, match=says):
                await (await emits.enqueue()).result()

    run(main())


def test_a_coroutine_that_outlives_its_attempt_can_join_nothing() -> None:
    async def main() -> None:
        bench, kept = Bench(), []

        @bench.app.task
        async def leaves() -> None:
            kept.append(current())

        async with bench.working():
            await (await leaves.enqueue()).result()
            with pytest.raises(CulmError, match=r"has ended, .* what is sent here needs using\(now=True\)"):
                kept[0].join()

    run(main())

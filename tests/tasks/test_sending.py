"""One job, many jobs, bound jobs, the same job again; from coroutines and from threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest

from culm import App, CulmError, IdConflict, NotInTask, PartlySent, StoreUnavailable
from culm.batch import Gatherer
from culm.commit import BatchId, Commit, Committed
from culm.stores.memory import MemoryStore
from culm.sync import enqueue_many
from tests.tasks.harness import Bench, run

T = TypeVar("T")


def double_on(bench: Bench) -> Any:
    @bench.app.task(name="double")
    async def double(n: int) -> int:
        return 2 * n

    return double


def other_on(bench: Bench) -> Any:
    @bench.app.task(name="other")
    def other(word: str) -> str:
        return word.upper()

    return other


def test_the_same_id_twice_is_one_job() -> None:
    async def main() -> None:
        bench = Bench()
        double = double_on(bench)
        first = await double.using(id="one").enqueue(1)
        again = await double.using(id="one").enqueue(2)
        assert len(bench.jobs()) == 1
        async with bench.working():
            assert (await first.result(), await again.result()) == (2, 2)
            assert await (await double.using(id="one").enqueue(3)).result() == 2, "while it is kept"

    run(main())


def test_an_id_of_another_tasks_job_is_a_conflict() -> None:
    async def main() -> None:
        bench = Bench()
        await double_on(bench).using(id="one").enqueue(1)
        with pytest.raises(IdConflict, match=r"^job id 'one' belongs to a job of another task; choose another id") as caught:
            await other_on(bench).using(id="one").enqueue("a")
        assert caught.value.job_id == "one"
        assert len(bench.jobs()) == 1

    run(main())


def test_bound_jobs_of_several_tasks_are_sent_together() -> None:
    async def main() -> None:
        bench = Bench()
        double, other = double_on(bench), other_on(bench)
        async with bench.working():
            jobs = await bench.app.enqueue_many([double.bind(1), other.bind("a"), double.using(id="x").bind(3)])
            assert [await j.result() for j in jobs] == [2, "A", 6]
            assert jobs[2].id == "x"
            assert await bench.app.enqueue_many([]) == []

    run(main())


def test_a_bound_job_is_checked_when_it_is_bound() -> None:
    bench = Bench()
    with pytest.raises(TypeError, match=r"^double: argument 'n'"):
        double_on(bench).bind("x")


def test_thousands_are_sent_in_order_in_commits_of_a_thousand() -> None:
    async def main() -> None:
        bench = Bench()
        sizes: list[int] = []
        double = double_on(bench)
        commit = bench.store.commit

        async def counting(commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
            sizes.extend(len(c.send) for c in commits)
            return await commit(commits, batch=batch)

        bench.store.commit = counting  # type: ignore[method-assign]
        jobs = await bench.app.enqueue_many(double.bind(n) for n in range(2_500))
        assert sizes == [1000, 1000, 500]
        assert [j.id for j in jobs] == [j.id for j in bench.jobs()] == sorted(j.id for j in jobs)

    run(main())


def test_map_sends_one_job_for_each_item() -> None:
    async def main() -> None:
        bench = Bench()
        double = double_on(bench)
        async with bench.working():
            jobs = await double.map(range(20))
            assert [await j.result() for j in jobs] == [2 * n for n in range(20)]

    run(main())


def test_map_refuses_an_id_which_would_be_one_job_for_all_items() -> None:
    async def main() -> None:
        bench = Bench()
        with pytest.raises(ValueError, match=r"^id='order-42' is one job's, and map\(\) sends one for each item; leave it out$"):
            await double_on(bench).using(id="order-42").map(range(2))
        assert bench.jobs() == []

    run(main())


def test_a_task_of_another_app_is_refused_and_named() -> None:
    async def main() -> None:
        bench, stranger = Bench(), Bench()
        with pytest.raises(CulmError, match=r"^task 'other' belongs to another app; enqueue it there$"):
            await bench.app.enqueue_many([double_on(bench).bind(1), other_on(stranger).bind("a")])
        assert bench.jobs() == stranger.jobs() == []

    run(main())


def test_a_conflict_half_way_says_what_was_accepted_and_what_was_not() -> None:
    async def main() -> None:
        bench = Bench()
        double = double_on(bench)
        await other_on(bench).using(id="taken").enqueue("a")
        bounds = [double.using(id=f"n{n}").bind(n) for n in range(1_000)] + [double.bind(1), double.using(id="taken").bind(1)]
        with pytest.raises(PartlySent, match=r"^1000 jobs were accepted before this: job id 'taken' belongs to a job of another") as caught:
            await bench.app.enqueue_many(bounds)
        assert caught.value.sent == [f"n{n}" for n in range(1_000)]
        assert isinstance(caught.value.__cause__, IdConflict)
        assert len(bench.jobs()) == 1_001

    run(main())


class Failing(MemoryStore):
    """Goes away after its first batch."""

    batches = 0

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        self.batches += 1
        if self.batches > 1:
            raise StoreUnavailable("gone") from None
        return await super().commit(commits, batch=batch)


def test_a_store_that_goes_away_half_way_says_what_was_accepted() -> None:
    async def main() -> None:
        app = App(store=Failing())
        gatherer = app.gatherer()
        assert isinstance(gatherer, Gatherer)
        gatherer._give_up_s = 0
        double = app.task(name="double")(_double)
        with pytest.raises(PartlySent, match="1000 jobs were accepted before this: gone; give jobs ids of your own") as caught:
            await app.enqueue_many(double.bind(n) for n in range(3_000))
        assert len(caught.value.sent) == 1_000

    run(main())


async def _double(n: int) -> int:
    return 2 * n


def test_a_caller_that_is_cancelled_harms_nobody_else() -> None:
    async def main() -> None:
        bench, gate = Bench(), asyncio.Event()
        double = double_on(bench)
        commit = bench.store.commit

        async def slow(commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
            await gate.wait()
            return await commit(commits, batch=batch)

        bench.store.commit = slow  # type: ignore[method-assign]
        calls = [
            asyncio.ensure_future(bench.app.enqueue_many([double.bind(1)])),
            asyncio.ensure_future(double.enqueue(2)),
            asyncio.ensure_future(double.enqueue(3)),
            asyncio.ensure_future(bench.app.enqueue_many([double.bind(4)])),
        ]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        calls[0].cancel()
        calls[1].cancel()
        await asyncio.wait(calls[:2])
        gate.set()
        await asyncio.gather(*calls[2:])
        assert [c.cancelled() for c in calls] == [True, True, False, False]
        assert len(bench.jobs()) == 4, "what was on its way arrives"

    run(main())


def test_a_job_is_found_again_by_its_id() -> None:
    async def main() -> None:
        bench = Bench()
        double = double_on(bench)
        async with bench.working():
            sent = await double.enqueue(4)
            found = bench.app.job(sent.id, double)
            assert await found.result() == 8
            assert repr(found) == f"<Handle {sent.id}>"

    run(main())


@pytest.mark.parametrize("job_id", ["", "\udc80", "a\nb", 3])
def test_what_can_be_no_id_is_refused(job_id: Any) -> None:
    bench = Bench()
    with pytest.raises(ValueError, match=r"^a job id is a printable str, got "):
        bench.app.job(job_id, double_on(bench))


def test_a_topic_outside_a_task_would_reach_nobody() -> None:
    async def main() -> None:
        bench = Bench()
        double = double_on(bench).using(topic="done")
        for send in (lambda: double.enqueue(1), lambda: double.map([1]), lambda: bench.app.enqueue_many([double.bind(1)])):
            with pytest.raises(NotInTask, match="topic='done' means something inside a task only"):
                await send()
        assert bench.jobs() == []

    run(main())


# -- without async -----------------------------------------------------------------------------------------------------------


def in_thread(fn: Callable[[], T]) -> T:
    """The result of a plain thread that has no loop."""
    found: list[T] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            found.append(fn())
        except BaseException as e:  # noqa: BLE001  # handed over
            failed.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    if failed:
        raise failed[0]
    return found[0]


def test_code_without_async_sends_and_waits() -> None:
    async def main() -> None:
        bench = Bench()
        double, other = double_on(bench), other_on(bench)

        def client() -> list[Any]:
            job = double.sync.enqueue(4)
            many = enqueue_many([double.bind(1), other.bind("a")])
            found = bench.app.job(job.id, double).sync
            return [job.result(timeout=5), [m.result() for m in many], found.result(), found.status(), found.outcome(), repr(job)]

        async with bench.working():
            result, many, again, status, outcome, text = await asyncio.to_thread(client)
        assert (result, many, again, status) == (8, [2, "A"], 8, "succeeded")
        assert outcome is not None
        assert text.startswith("<Handle ")
        assert enqueue_many([]) == []

    run(main())


def test_many_threads_share_one_loop() -> None:
    async def main() -> None:
        bench = Bench()
        double = double_on(bench)

        def ask(n: int) -> Any:
            return double.sync.enqueue(n).result(timeout=5)

        async with bench.working():
            got = await asyncio.gather(*(asyncio.to_thread(ask, n) for n in range(20)))
        assert got == [2 * n for n in range(20)]
        assert sum(t.name == "culm-sync" and t.is_alive() for t in threading.enumerate()) >= 1

    run(main())


def test_a_sync_call_raises_what_the_async_one_would() -> None:
    bench = Bench()
    double = double_on(bench)
    with pytest.raises(TypeError, match="argument 'n'"):
        in_thread(lambda: double.sync.enqueue("x"))
    job = in_thread(lambda: double.sync.enqueue(1))
    with pytest.raises(CulmError, match=r"did not end within 0.01 s; it goes on"):
        in_thread(lambda: job.result(timeout=0.01))


def test_a_sync_call_inside_a_coroutine_is_refused() -> None:
    async def main() -> None:
        bench = Bench()
        double = double_on(bench)
        with pytest.raises(CulmError, match=r"this thread runs an event loop; use the async call with `await` instead of `.sync`"):
            double.sync.enqueue(1)
        assert bench.jobs() == []
        job = await double.enqueue(1)
        with pytest.raises(CulmError, match="this thread runs an event loop"):
            job.sync.result()

    run(main())

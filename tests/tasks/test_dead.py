"""`app.dead`: dead letters for programs, with and without async."""

from __future__ import annotations

import tracemalloc
from datetime import timedelta
from typing import Any

import pytest

from culm import App, DeadLetter, Reject
from culm.commit import Commit, Held
from culm.job import Job
from culm.outcome import Failed, Fault, Lost, Outcome
from culm.stores.memory import MemoryStore
from tests.tasks.harness import Bench, run


async def die(bench: Bench, *ids: str, task: str = "t", outcome: Outcome | None = None) -> None:
    store = bench.store
    at = bench.clock.now_ms()
    for n in range(0, len(ids), 1_000):
        sends = [Commit(send=(Job(id=i, task=task),)) for i in ids[n : n + 1_000]]
        await store.commit(sends, batch=(f"send-{ids[n]}-{at}", 1))
        claimed = await store.claim(["default"], lease=f"w-{ids[n]}-{at}/1", limit=1_000, for_ms=1_000)
        ends = [Commit(fence=Held(d.job.id, d.lease), outcome=outcome or Failed(Fault("ValueError", "no way"))) for d in claimed.deliveries]
        await store.commit(ends, batch=(f"end-{ids[n]}-{at}", 1))


async def listed(bench: Bench, **which: Any) -> list[str]:
    return [letter.id async for letter in bench.app.dead.list(**which)]


def test_a_failed_job_is_a_letter_that_tells_all_of_its_end() -> None:
    async def main() -> None:
        bench = Bench()

        @bench.app.task(name="refuse", queue="mail")
        async def refuse() -> None:
            raise Reject("not today")

        async with bench.working():
            job = await refuse.using(id="a").enqueue()
            with pytest.raises(Exception, match="not today"):
                await job.result(5)
        bench.clock.advance(ms=2_500)
        found = await bench.app.dead.get("a")
        assert found is not None
        assert (found.id, found.task, found.queue, found.state, found.error) == ("a", "refuse", "mail", "failed", "Reject: not today")
        assert (found.attempts, found.claims, found.replays, found.dead_for) == (1, 1, 0, 2.5)
        assert found.fault is not None
        assert "not today" in found.fault.trace
        assert await bench.app.dead.get("nobody") is None

    run(main())


def test_letters_are_chosen_by_task_queue_error_and_age() -> None:
    async def main() -> None:
        bench = Bench()
        await die(bench, "a", "b")
        bench.clock.advance(ms=60_000)
        await die(bench, "c", task="u", outcome=Lost("Three Strikes"))
        assert await listed(bench) == ["a", "b", "c"]
        assert await listed(bench, task="t") == ["a", "b"]
        assert await listed(bench, queue="default", after="a") == ["b", "c"]
        assert (await listed(bench, error="strikes"), await listed(bench, error="valueerror: no")) == (["c"], ["a", "b"])
        assert (await listed(bench, older_than=30), await listed(bench, newer_than=timedelta(seconds=30))) == (["a", "b"], ["c"])
        assert await bench.app.dead.count(task="t", error="way") == 2

    run(main())


def test_replay_lets_the_same_job_run_again_with_its_history() -> None:
    async def main() -> None:
        bench = Bench()
        fails = [True]

        @bench.app.task(name="flaky")
        async def flaky(n: int) -> int:
            if fails:
                raise Reject("not yet")
            return n + 1

        async with bench.working():
            job = await flaky.using(id="a").enqueue(4)
            with pytest.raises(Exception, match="not yet"):
                await job.result(5)
            fails.clear()
            assert await bench.app.dead.replay("a", "nobody") == 1
            assert await job.result(5) == 5
        view = await job.view()
        assert (view.attempt, view.claims, view.replays) == (1, 2, 1)

    run(main())


def test_all_that_match_are_replayed_or_discarded_and_no_other() -> None:
    async def main() -> None:
        bench = Bench()
        await die(bench, *(f"a{n:04}" for n in range(1_200)))
        await die(bench, "b", "c", task="u")
        assert await bench.app.dead.replay_all(task="t", error="no way") == 1_200
        assert await listed(bench) == ["b", "c"]
        assert await bench.app.dead.discard_all(task="u") == 2
        assert await bench.app.dead.count() == 0
        assert await bench.app.dead.replay_all() == 0
        assert len(await bench.store.jobs(state="open", limit=5_000)) == 1_200

    run(main())


@pytest.mark.parametrize(
    ("which", "says"),
    [
        ({"tasks": "t"}, "cannot be chosen by tasks"),
        ({"task": 7}, "task must be a str"),
        ({"older_than": "1h"}, "older_than must be seconds"),
    ],
)
def test_a_filter_that_cannot_be_is_refused_and_nothing_is_done(which: dict[str, Any], says: str) -> None:
    async def main() -> None:
        bench = Bench()
        await die(bench, "a")
        for act in (bench.app.dead.replay_all, bench.app.dead.discard_all, bench.app.dead.count):
            with pytest.raises(TypeError, match=says):
                await act(**which)
        assert await listed(bench) == ["a"]

    run(main())


def test_code_without_async_has_the_same() -> None:
    bench = Bench()
    run(die(bench, "a", "b", "c", "d"))
    dead = bench.app.dead.sync
    first = next(iter(dead.list()))
    assert isinstance(first, DeadLetter)
    assert [letter.id for letter in dead.list(error="no")] == ["a", "b", "c", "d"]
    assert (dead.replay("a"), dead.discard("b"), dead.count(), dead.get("b")) == (1, 1, 2, None)
    found = dead.get("c")
    assert found is not None
    assert found.error == "ValueError: no way"
    assert (dead.replay_all(task="none"), dead.replay_all(error="way"), dead.discard_all()) == (0, 2, 0)


@pytest.mark.slow
def test_a_walk_over_many_letters_holds_one_page_of_them() -> None:
    async def main() -> None:
        bench = Bench()
        await die(bench, *(f"{n:06}" for n in range(20_000)))
        letters = 0
        tracemalloc.start()
        try:
            async for _ in bench.app.dead.list():
                if not letters:
                    tracemalloc.reset_peak()
                    before = tracemalloc.get_traced_memory()[0]
                letters += 1
                if letters == 10_000:
                    break
            assert tracemalloc.get_traced_memory()[0] - before < 2_000_000
        finally:
            tracemalloc.stop()
        assert letters == 10_000

    run(main())


def test_an_app_closed_meanwhile_opens_its_store_again() -> None:
    async def main() -> None:
        app = App(store=MemoryStore())
        dead = app.dead
        await app.close()
        assert await dead.count() == 0

    run(main())

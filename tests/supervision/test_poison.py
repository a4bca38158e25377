"""I8: what kills its process again and again becomes a dead letter with the reason; whoever stood by is never lost."""

import asyncio
import collections
import functools
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeAlias

import pytest

from culm import App
from culm.outcome import Lost, Succeeded
from culm.store import Ended
from culm.task import Bound
from tests.supervision import poison
from tests.supervision.running import Supervised

pytestmark = pytest.mark.slow
P = ParamSpec("P")
Say: TypeAlias = Callable[[str, object], None]
PER_KIND = int(os.environ.get("CULM_POISON", "2"))  # of each of the four kinds; 50 takes a quarter of an hour
GOOD = 250 * 4 * PER_KIND if PER_KIND < 10 else 10_000


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    it = Supervised(tmp_path)
    yield it
    it.close()


async def until_ended(app: App, ids: list[str], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    left = ids
    while left:
        assert time.monotonic() < deadline, f"{len(left)} of {len(ids)} have not ended: {left[:3]}"
        left = [job_id for job_id in left if not isinstance(await app.store.outcome(job_id), Ended)]
        await asyncio.sleep(0.2)


@in_loop
async def test_poison_is_put_aside_and_all_good_jobs_are_done(
    supervised: Supervised, record_property: Callable[[str, object], None]
) -> None:
    app = supervised.app(poison.app)
    kinds = [task for task in poison.POISON for _ in range(PER_KIND)]
    every = GOOD // len(kinds)
    jobs: list[Bound[Any]] = []
    for n, task in enumerate(kinds):
        jobs += [task.bind(), *(poison.good.bind(n * every + i) for i in range(every))]
    handles = await app.enqueue_many(jobs)
    began = time.monotonic()
    supervised.start("--processes", "2", "--stuck-after", "1", "--max-rss", "192", "--concurrency", "20", "--lease", "30")
    await until_ended(app, [h.id for h in handles], 120 + 20 * len(kinds))
    took = time.monotonic() - began
    found: collections.Counter[str] = collections.Counter()
    for handle, bound in zip(handles, jobs, strict=True):
        ended = await app.store.outcome(handle.id)
        assert isinstance(ended, Ended)
        if bound.task is poison.good:
            assert isinstance(ended.outcome, Succeeded), (handle.id, ended.outcome)
        else:
            assert isinstance(ended.outcome, Lost), (bound.task.name, ended.outcome)
            assert ended.outcome.reason.startswith("its worker process died 3 times while it ran there alone: ")
            found[f"{bound.task.name.rpartition('.')[2]}: {ended.outcome.reason.rpartition(': ')[2]}"] += 1
    assert sum(found.values()) == len(kinds)
    assert found["leaves: exit code 7"] == found["faults: killed by SIGSEGV"] == PER_KIND
    assert found["grows: killed by SIGKILL"] == found["loops: killed by SIGKILL"] == PER_KIND
    record_property("said", f"{len(kinds)} poison among {len(jobs) - len(kinds)} good ones: all in their place after {took:.0f} s")
    assert supervised.stop() == 0


@in_loop
async def test_what_a_dead_process_had_not_begun_is_back_before_its_lease_ends(supervised: Supervised) -> None:
    app = supervised.app(poison.app)
    supervised.start("--processes", "2", "--concurrency", "1", "--lease", "300", "--heartbeat", "100")
    supervised.line("worker.started", nth=2)
    quick = await app.enqueue_many(poison.slow.bind(n) for n in range(100))
    victim = supervised.pid_of(1)
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    await until_ended(app, [h.id for h in quick], 60)
    assert time.monotonic() - began < 60
    assert all(isinstance(o, Ended) and isinstance(o.outcome, Succeeded) for o in [await app.store.outcome(h.id) for h in quick])
    assert supervised.stop() == 0


@in_loop
async def test_a_blocked_loop_shows_its_stack_and_is_replaced(supervised: Supervised) -> None:
    app = supervised.app(poison.app)
    supervised.start("--processes", "2", "--stuck-after", "1")
    supervised.line("worker.started", nth=2)
    await poison.blocks.enqueue(3.5)
    supervised.line("supervisor.stuck")
    supervised.line("in blocks")
    supervised.line("supervisor.died", "killed by SIGKILL")
    good = await poison.good.enqueue(1)
    assert await good.result(timeout=20) == 1
    supervised.line("job.lost", "killed by SIGKILL")
    assert supervised.stop() == 0
    await app.close()


@in_loop
async def test_a_process_ends_after_so_many_jobs_and_nothing_is_lost(supervised: Supervised) -> None:
    app = supervised.app(poison.app)
    supervised.start("--processes", "2", "--max-jobs", "200")
    handles = await app.enqueue_many(poison.good.bind(n) for n in range(2_000))
    supervised.line("worker.recycles")
    supervised.line("supervisor.recycled")
    await until_ended(app, [h.id for h in handles], 60)
    more = await app.enqueue_many(poison.good.bind(n) for n in range(500))
    await until_ended(app, [h.id for h in more], 60)
    assert not any("supervisor.died" in line for line in supervised.lines)
    assert supervised.stop() == 0


@in_loop
async def test_a_task_that_ends_its_process_with_0_is_seen_as_a_death(supervised: Supervised) -> None:
    app = supervised.app(poison.app)
    supervised.start("--processes", "2", "--concurrency", "5", "--lease", "300", "--heartbeat", "100")
    supervised.line("worker.started", nth=2)
    handles = await app.enqueue_many([poison.slow.bind(1), poison.leaves_well.bind(), poison.slow.bind(2)])
    await until_ended(app, [h.id for h in handles], 60)
    ended = await app.store.outcome(handles[1].id)
    assert isinstance(ended, Ended)
    assert isinstance(ended.outcome, Lost)
    assert "exit code 0" in ended.outcome.reason
    assert supervised.stop() == 0

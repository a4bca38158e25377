"""Whoever waits is woken at once by what this process commits, and in any case when its time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from culm.commit import Trigger
from culm.job import Job
from culm.outcome import Lost, Succeeded, Suspended
from culm.store import Absent, Ended, Pending
from culm.testing.conformance.bench import LEASE_MS, Bench, expect
from culm.testing.conformance.suite import case, case_needing

LONG_MS = 60_000
PROMPT_S = 10.0  # far less than LONG_MS, far more than a busy machine takes
T = TypeVar("T")


async def started(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task of it that had its chance to begin to wait."""
    task = asyncio.create_task(coroutine)
    for _ in range(10):
        await asyncio.sleep(0)
    return task


async def prompt(task: asyncio.Task[T]) -> T:
    return await asyncio.wait_for(task, PROMPT_S)


@case_needing("wakes")
async def a_wait_ends_when_a_job_is_sent(bench: Bench) -> None:
    waiting = await started(bench.store.wait(["default", "other"], for_ms=LONG_MS))
    await bench.send(Job(id="a", task="t", queue="other"))
    await prompt(waiting)
    expect(await bench.claim_ids("other"), ["a"])


@case_needing("wakes")
async def a_wait_ends_when_a_job_is_released(bench: Bench) -> None:  # I14
    await bench.do(send=[Job(id="r", task="t", after_ms=None)], triggers=[Trigger("r", "r", (("go", 1),), 1)])
    waiting = await started(bench.store.wait(["default"], for_ms=LONG_MS))
    await bench.emit("r", "go", "x")
    await prompt(waiting)
    expect(await bench.claim_ids(), ["r"])


@case_needing("wakes")
async def a_wait_ends_when_a_job_is_replayed(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    await bench.finish(await bench.take("a"), Lost())
    waiting = await started(bench.store.wait(["default"], for_ms=LONG_MS))
    await bench.store.replay(["a"])
    await prompt(waiting)


@case_needing("wakes")
async def a_wait_ends_when_its_queue_is_resumed(bench: Bench) -> None:
    await bench.store.pause("default")
    await bench.send(Job(id="a", task="t"))
    waiting = await started(bench.store.wait(["default"], for_ms=LONG_MS))
    await bench.store.resume("default")
    await prompt(waiting)


@case
async def a_wait_for_what_is_due_already_ends_at_once(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    await prompt(await started(bench.store.wait(["default"], for_ms=LONG_MS)))


@case
async def a_wait_ends_when_its_time_is_over(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t", queue="other"), Job(id="b", task="t", after_ms=LONG_MS))
    await prompt(await started(bench.store.wait(["default"], for_ms=10)))
    expect(await bench.claim_ids(), [])


@case_needing("wakes")
async def a_wait_for_an_outcome_ends_with_it(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    delivery = await bench.take("a")
    waiting = await started(bench.store.outcome("a", for_ms=LONG_MS))
    await bench.finish(delivery, Succeeded(b"\x01"))
    expect(await prompt(waiting), Ended(Succeeded(b"\x01")))


@case_needing("wakes")
async def a_wait_for_an_outcome_ends_with_a_cancel(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    waiting = await started(bench.store.outcome("a", for_ms=LONG_MS))
    await bench.do(cancel=["a"])
    expect(type(await prompt(waiting)), Ended)


@case_needing("wakes")
async def a_wait_for_an_outcome_ends_when_the_job_is_gone_with_its_commit(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    delivery = await bench.take("a")
    waiting = await started(bench.store.outcome("a", for_ms=LONG_MS))
    await bench.finish(delivery, Succeeded(), keep_ms=0)
    expect(await prompt(waiting), Absent())


@case_needing("wakes")
async def many_may_wait_for_one_outcome(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    delivery = await bench.take("a")
    waiting = [await started(bench.store.outcome("a", for_ms=LONG_MS)) for _ in range(5)]
    waiting.pop().cancel()
    await bench.finish(delivery, Succeeded())
    expect([await prompt(w) for w in waiting], [Ended(Succeeded())] * 4)


@case
async def a_wait_for_an_outcome_ends_when_its_time_is_over(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    delivery = await bench.take("a", for_ms=LEASE_MS)
    waiting = await started(bench.store.outcome("a", for_ms=10))
    expect(await bench.end(delivery, Suspended()), "applied")
    expect(await prompt(waiting), Pending())


@case
async def a_wait_for_an_outcome_that_is_there_ends_at_once(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    await bench.finish(await bench.take("a"), Succeeded())
    expect(await prompt(await started(bench.store.outcome("a", for_ms=LONG_MS))), Ended(Succeeded()))
    expect(await prompt(await started(bench.store.outcome("never", for_ms=LONG_MS))), Absent())

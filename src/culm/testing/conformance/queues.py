"""Queues can be paused, purged and counted."""

from __future__ import annotations

from culm.commit import Commit
from culm.job import Job
from culm.outcome import Cancelled, Succeeded
from culm.store import QueueCounts
from culm.testing.conformance.bench import LEASE_MS, Bench, expect, held
from culm.testing.conformance.suite import case


@case
async def a_paused_queue_gives_nothing_until_it_is_resumed(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t", queue="x"), Job(id="b", task="t", queue="y"))
    await bench.store.pause("x")
    await bench.store.pause("x")
    expect(await bench.claim_ids("x", "y"), ["b"])
    await bench.store.resume("x")
    expect(await bench.claim_ids("x", "y"), ["a"])


@case
async def what_runs_goes_on_in_a_paused_queue(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    delivery = await bench.take("a")
    await bench.store.pause("default")
    await bench.send(Job(id="a~b", task="t"))
    expect(await bench.store.extend([held(delivery)], for_ms=LEASE_MS), ["held"])
    expect(await bench.commit(Commit(fence=held(delivery), outcome=Succeeded())), "applied")


@case
async def a_paused_queue_does_not_give_what_is_overdue_either(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    await bench.take("a")
    await bench.store.pause("default")
    bench.clock.advance(ms=LEASE_MS)
    expect(await bench.claim_ids(), [])
    await bench.store.resume("default")
    expect(await bench.claim_ids(), ["a"])


@case
async def a_paused_queues_dues_are_not_announced(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t", after_ms=100))
    await bench.store.pause("default")
    claimed = await bench.store.claim(["default"], lease=bench.new_lease(), limit=1, for_ms=LEASE_MS)
    expect(claimed.next_ms, None, "whoever slept so long would wake for nothing")


@case
async def purge_cancels_every_open_job_of_the_queue(bench: Bench) -> None:
    await bench.send(Job(id="leased", task="t", queue="x"))
    await bench.claim("x")
    await bench.send(
        Job(id="ready", task="t", queue="x"),
        Job(id="later", task="t", queue="x", after_ms=100),
        Job(id="waits", task="t", queue="x", after_ms=None),
        Job(id="other", task="t", queue="y"),
    )
    expect(await bench.store.purge("x"), 3)
    expect([await bench.ended(i) for i in ("ready", "later", "waits")], [Cancelled()] * 3)
    expect([await bench.state("leased"), await bench.state("other")], ["leased", "open"])
    bench.clock.advance(ms=100)
    expect(await bench.claim_ids("x"), [])
    expect(await bench.store.purge("x"), 0)


@case
async def a_purge_cancels_in_the_order_of_the_sends(bench: Bench) -> None:
    """The last of a tree to end says how long its events stay."""
    await bench.send(
        Job(id="r~b", task="t", queue="x", topic="ended", keep_ms=0),
        Job(id="r~a", task="t", queue="x", keep_ms=LEASE_MS),
    )
    expect(await bench.store.purge("x"), 2)
    bench.clock.advance(ms=1)
    await bench.store.sweep()
    expect([event.key for event in await bench.store.events("r", "ended")], ["r~b"])


@case
async def counts_tell_ready_delayed_waiting_and_leased(bench: Bench) -> None:
    await bench.send(*(Job(id=f"{n}", task="t", queue="x") for n in range(3)))
    await bench.claim("x", limit=1)
    bench.clock.advance(ms=70)
    await bench.send(
        Job(id="later", task="t", queue="x", after_ms=100),
        Job(id="waits", task="t", queue="x", after_ms=None),
        Job(id="b", task="t", queue="b", after_ms=100),
        Job(id="finished", task="t", queue="c"),
    )
    await bench.do(cancel=["finished"])
    await bench.store.pause("p")
    await bench.store.pause("b")
    x = QueueCounts(queue="x", paused=False, ready=2, delayed=1, waiting=1, leased=1, oldest_ms=70)
    b = QueueCounts(queue="b", paused=True, ready=0, delayed=1, waiting=0, leased=0, oldest_ms=None)
    p = QueueCounts(queue="p", paused=True, ready=0, delayed=0, waiting=0, leased=0, oldest_ms=None)
    expect(await bench.store.counts(), [b, p, x])


@case
async def an_overdue_lease_still_counts_as_leased(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    await bench.take("a")
    bench.clock.advance(ms=2 * LEASE_MS)
    wanted = QueueCounts(queue="default", paused=False, ready=0, delayed=0, waiting=0, leased=1, oldest_ms=None)
    expect(await bench.store.counts(), [wanted])


@case
async def an_empty_store_counts_nothing(bench: Bench) -> None:
    expect((await bench.store.counts(), await bench.store.jobs()), ([], []))

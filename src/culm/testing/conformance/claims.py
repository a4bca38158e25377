"""Who gets what, in which order: each due job to one claim, the highest priority first, of equals the oldest."""

from __future__ import annotations

from culm.commit import Commit
from culm.job import Job
from culm.outcome import Fault, Retried, Succeeded
from culm.testing.conformance.bench import LEASE_MS, Bench, by_id, expect, held
from culm.testing.conformance.suite import case, case_needing


@case
async def a_delivery_carries_the_job_as_it_was_sent(bench: Bench) -> None:
    job = Job(id="a", task="t", args=bytes(range(256)), priority=3, timeout_ms=5, headers={"k": "ä"}, reads=("x", "y"), reply_to="me")
    await bench.send(job)
    bench.clock.advance(ms=250)
    delivery = await bench.take("a")
    expect(delivery.job, job)
    expect((delivery.attempt, delivery.expiries, delivery.age_ms, delivery.broken), (1, 0, 250, ""))
    expect(delivery.fence >= 1, True, "the fence")


@case
async def a_job_is_granted_to_one_claim(bench: Bench) -> None:  # I5
    await bench.send(Job(id="a", task="t"))
    expect(await bench.claim_ids(), ["a"])
    expect(await bench.claim_ids(), [])
    expect([d.job.id for d in await bench.claim(claimer="other")], [])


@case_needing("order")
async def the_highest_priority_comes_first_and_of_equals_the_oldest(bench: Bench) -> None:
    await bench.send(*(Job(id=f"{n}-{p}", task="t", priority=p) for n in range(2) for p in (0, 9, 5)))
    expect(await bench.claim_ids(), ["0-9", "1-9", "0-5", "1-5", "0-0", "1-0"])


@case_needing("order")
async def by_age_the_oldest_due_comes_first_whatever_its_priority(bench: Bench) -> None:
    for n, priority in enumerate((0, 9, 5)):
        await bench.send(Job(id=f"{n}-{priority}", task="t", priority=priority))
        bench.clock.advance(ms=1)
    expect(await bench.claim_ids(limit=2, order="age"), ["0-0", "1-9"])


@case_needing("order")
async def equal_dues_keep_the_order_of_their_sends(bench: Bench) -> None:
    ids = ["m", "a", "z", "b", "y"]
    await bench.do(send=[Job(id=i, task="t") for i in ids[:3]])
    await bench.send(*(Job(id=i, task="t") for i in ids[3:]))
    expect(await bench.claim_ids(), ids)


@case_needing("order")
async def equal_dues_keep_their_order_by_age_too(bench: Bench) -> None:
    await bench.send(Job(id="b", task="t", priority=1), Job(id="a", task="t", priority=9), Job(id="c", task="t", priority=5))
    expect(await bench.claim_ids(order="age"), ["b", "a", "c"])


@case_needing("order")
async def the_order_is_that_of_the_dues_not_of_the_sends(bench: Bench) -> None:
    await bench.send(Job(id="later", task="t", after_ms=200), Job(id="sooner", task="t", after_ms=100))
    bench.clock.advance(ms=300)
    await bench.send(Job(id="now", task="t"))
    expect(await bench.claim_ids(), ["sooner", "later", "now"])


@case_needing("order")
async def a_retried_job_goes_behind_those_that_were_due_before_it(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    a = await bench.take("a")
    bench.clock.advance(ms=1)
    await bench.send(Job(id="b", task="t"))
    bench.clock.advance(ms=1)
    expect(await bench.end(a, Retried(0, Fault("E"))), "applied")
    expect(await bench.claim_ids(), ["b", "a"])


@case_needing("order")
async def a_claim_grants_no_more_than_its_limit(bench: Bench) -> None:
    await bench.send(*(Job(id=f"j{n}", task="t") for n in range(5)))
    expect(await bench.claim_ids(limit=2), ["j0", "j1"])
    expect(await bench.claim_ids(limit=1), ["j2"])
    expect(await bench.claim_ids(limit=9), ["j3", "j4"])


@case_needing("order")
async def the_limit_cuts_across_priorities_and_queues(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t", queue="x", priority=1), Job(id="b", task="t", queue="y", priority=9))
    await bench.send(Job(id="c", task="t", queue="y", priority=1), Job(id="d", task="t", queue="x", priority=1))
    expect(await bench.claim_ids("x", "y", limit=3), ["b", "a", "c"])
    expect(await bench.claim_ids("x", "y", limit=3), ["d"])


@case
async def a_claim_takes_from_its_queues_only(bench: Bench) -> None:
    await bench.send(*(Job(id=q, task="t", queue=q) for q in ("x", "y", "z")))
    expect(sorted(await bench.claim_ids("x", "z")), ["x", "z"])
    expect(await bench.claim_ids("none"), [])
    expect(await bench.claim_ids("x", "y"), ["y"])


@case
async def a_queue_that_is_named_twice_gives_each_job_once(bench: Bench) -> None:  # I5
    await bench.send(Job(id="a", task="t"), Job(id="b", task="t"))
    expect(sorted(await bench.claim_ids("default", "default")), ["a", "b"])
    expect((await bench.view("a")).expiries, 0)


@case_needing("order")
async def jobs_whose_lease_ran_out_come_first(bench: Bench) -> None:
    await bench.send(Job(id="low", task="t", priority=0))
    await bench.take("low")
    await bench.send(Job(id="high", task="t", priority=9))
    bench.clock.advance(ms=LEASE_MS)
    expect(await bench.claim_ids(limit=1), ["low"])
    expect(await bench.claim_ids(limit=1), ["high"])


@case_needing("order")
async def of_the_overdue_the_one_whose_lease_ended_first_comes_first(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"), Job(id="b", task="t"), Job(id="c", task="t"))
    for for_ms in (300, 100, 200):
        await bench.claim(limit=1, for_ms=for_ms)
    bench.clock.advance(ms=300)
    expect(await bench.claim_ids(limit=2), ["b", "c"])
    expect(await bench.claim_ids(limit=2), ["a"])


@case
async def a_claim_repeated_with_its_lease_grants_nothing_new(bench: Bench) -> None:  # I5
    await bench.send(*(Job(id=f"j{n}", task="t") for n in range(3)))
    first = await bench.store.claim(["default"], lease="w/900", limit=2, for_ms=LEASE_MS)
    again = await bench.store.claim(["default"], lease="w/900", limit=2, for_ms=LEASE_MS)
    expect(len(first.deliveries), 2, "granted")
    expect(by_id(again.deliveries), by_id(first.deliveries), "the same attempt, the same fence")
    expect(sorted([await bench.state(f"j{n}") for n in range(3)]), ["leased", "leased", "open"], "the third was not granted")


@case
async def a_repeated_claim_returns_only_what_it_still_holds(bench: Bench) -> None:
    await bench.send(*(Job(id=f"j{n}", task="t") for n in range(3)))
    first = await bench.store.claim(["default"], lease="w/900", limit=2, for_ms=LEASE_MS)
    await bench.finish(first.deliveries[0], Succeeded())
    again = await bench.store.claim(["default"], lease="w/900", limit=2, for_ms=LEASE_MS)
    expect(list(again.deliveries), [first.deliveries[1]])
    await bench.finish(first.deliveries[1], Succeeded())
    none = await bench.store.claim(["default"], lease="w/900", limit=2, for_ms=LEASE_MS)
    expect(list(none.deliveries), [], "and not the third")


@case
async def a_claim_that_got_nothing_may_be_repeated_for_something(bench: Bench) -> None:
    expect(list((await bench.store.claim(["default"], lease="w/900", limit=2, for_ms=LEASE_MS)).deliveries), [])
    await bench.send(Job(id="a", task="t"))
    expect([d.job.id for d in (await bench.store.claim(["default"], lease="w/900", limit=2, for_ms=LEASE_MS)).deliveries], ["a"])


@case_needing("order")
async def next_ms_says_when_the_next_job_comes_due(bench: Bench) -> None:  # I21
    async def next_ms(*queues: str, limit: int = 1) -> int | None:
        return (await bench.store.claim(queues, lease=bench.new_lease(), limit=limit, for_ms=LEASE_MS)).next_ms

    expect(await next_ms("default"), None, "nothing is known")
    await bench.send(
        Job(id="a", task="t", after_ms=800), Job(id="b", task="t", after_ms=300, priority=1), Job(id="w", task="t", after_ms=None)
    )
    expect(await next_ms("default"), 300)
    bench.clock.advance(ms=100)
    expect(await next_ms("default"), 200)
    expect(await next_ms("other"), None, "of these queues only")
    bench.clock.advance(ms=700)
    expect(await next_ms("default"), 0, "one was granted, one more is due now")
    expect(await next_ms("default"), None, "both are granted")


@case
async def a_job_is_delivered_with_the_fence_growing_at_each_claim(bench: Bench) -> None:  # I5
    await bench.send(Job(id="a", task="t"))
    fences = []
    for n in range(4):
        delivery = await bench.take("a")
        fences.append(delivery.fence)
        if n % 2:
            expect(await bench.commit(Commit(fence=held(delivery), outcome=Retried(0, Fault("E")))), "applied")
        else:
            bench.clock.advance(ms=LEASE_MS)
    expect(fences, sorted(set(fences)), "fences")

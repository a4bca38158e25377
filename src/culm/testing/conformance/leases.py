"""The lease is the fencing token: whoever's ran out and was claimed by another can change nothing any more."""

from __future__ import annotations

from msgspec.structs import replace

from culm.commit import Commit, Held
from culm.job import Job
from culm.outcome import Fault, Released, Retried, Snoozed, Succeeded, Suspended
from culm.testing.conformance.bench import LEASE_MS, Bench, expect, held
from culm.testing.conformance.suite import case


@case
async def a_lease_holds_until_its_last_millisecond(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    await bench.take("a")
    bench.clock.advance(ms=LEASE_MS - 1)
    expect(await bench.claim_ids(), [])
    bench.clock.advance(ms=1)
    expect(await bench.claim_ids(), ["a"])


@case
async def a_dead_workers_job_is_claimed_by_another(bench: Bench) -> None:  # I1, I8
    await bench.send(Job(id="a", task="t"))
    first = await bench.take("a", claimer="dead")
    for expiries in (1, 2, 3):
        bench.clock.advance(ms=LEASE_MS)
        next_one = await bench.take("a", claimer=f"w{expiries}")
        expect((next_one.attempt, next_one.expiries), (1, expiries), "a lease that ran out consumes no attempt, and is counted")
        expect(next_one.fence > first.fence, True, "the fence grows")
        first = next_one


@case
async def a_stale_worker_cannot_finish_a_job_that_was_reclaimed(bench: Bench) -> None:  # I5, I6
    await bench.send(Job(id="a", task="t"))
    slow = await bench.take("a", claimer="slow")
    bench.clock.advance(ms=LEASE_MS)
    quick = await bench.take("a", claimer="quick")
    expect(await bench.end(slow, Succeeded(b"\x01")), "lease_lost")
    expect(await bench.state("a"), "leased")
    await bench.finish(quick, Succeeded(b"\x02"))
    expect(await bench.end(slow, Succeeded(b"\x01")), "lease_lost", "and not afterwards")
    expect(await bench.ended("a"), Succeeded(b"\x02"))


@case
async def a_stale_worker_cannot_finish_under_a_lease_that_took_its_place(bench: Bench) -> None:  # I5, I6
    """A store that numbers its leases must not give a number twice."""
    await bench.send(Job(id="a", task="t"))
    slow = await bench.take("a", claimer="slow")
    bench.clock.advance(ms=LEASE_MS)
    for _ in range(3):
        expect(await bench.end(await bench.take("a", claimer="quick"), Retried(0, Fault("E"))), "applied")
        quick = await bench.take("a", claimer="quick")
        expect(await bench.end(slow, Succeeded()), "lease_lost")
        expect(await bench.state("a"), "leased")
        expect(await bench.end(quick, Released()), "applied")


@case
async def a_late_worker_may_finish_what_nobody_has_reclaimed(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    late = await bench.take("a")
    bench.clock.advance(ms=10 * LEASE_MS)
    await bench.finish(late, Succeeded())
    expect(await bench.claim_ids(), [])


@case
async def a_stale_heartbeat_does_not_touch_the_newer_lease(bench: Bench) -> None:  # I5, I6
    await bench.send(Job(id="a", task="t"))
    slow = await bench.take("a", claimer="slow")
    bench.clock.advance(ms=LEASE_MS)
    quick = await bench.take("a", claimer="quick")
    expect(await bench.store.extend([held(slow)], for_ms=10 * LEASE_MS), ["lost"])
    expect(await bench.due_in_ms("a"), LEASE_MS, "its end has not moved")
    await bench.finish(quick, Succeeded())


@case
async def a_heartbeat_keeps_the_lease(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    delivery = await bench.take("a")
    for _ in range(5):
        bench.clock.advance(ms=LEASE_MS - 1)
        expect(await bench.store.extend([held(delivery)], for_ms=LEASE_MS), ["held"])
        expect(await bench.claim_ids(), [])
    bench.clock.advance(ms=LEASE_MS)
    expect((await bench.take("a")).expiries, 1)


@case
async def a_late_heartbeat_keeps_what_nobody_has_reclaimed(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    delivery = await bench.take("a")
    bench.clock.advance(ms=2 * LEASE_MS)
    expect(await bench.store.extend([held(delivery)], for_ms=LEASE_MS), ["held"])
    expect(await bench.claim_ids(), [])


@case
async def a_heartbeat_may_shorten_the_lease(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    delivery = await bench.take("a")
    expect(await bench.claim_ids(), [])
    expect(await bench.store.extend([held(delivery)], for_ms=50), ["held"])
    bench.clock.advance(ms=50)
    expect((await bench.take("a")).expiries, 1)


@case
async def a_heartbeat_answers_for_each_lease_in_order(bench: Bench) -> None:
    await bench.send(*(Job(id=i, task="t") for i in "abc"))
    a, b, c = await bench.claim()
    await bench.do(cancel=["c"])
    await bench.finish(b, Succeeded())
    asked = [held(c), Held("nobody", "w/1"), held(a), held(b), Held("a", b.lease + "0"), held(a)]
    expect(await bench.store.extend(asked, for_ms=LEASE_MS), ["cancelled", "lost", "held", "lost", "lost", "held"])
    expect(await bench.store.extend([], for_ms=LEASE_MS), [])


@case
async def an_ended_attempts_lease_holds_nothing(bench: Bench) -> None:  # I3, I6
    await bench.send(Job(id="a", task="t"))
    for outcome in (Retried(0, Fault("E")), Snoozed(0), Released(), Suspended()):
        delivery = await bench.take("a")
        expect(await bench.end(delivery, outcome), "applied")
        expect(await bench.end(delivery, Succeeded()), "lease_lost", f"after {outcome}")
        expect(await bench.store.extend([held(delivery)], for_ms=LEASE_MS), ["lost"])
    expect(await bench.state("a"), "open")


@case
async def an_empty_lease_holds_nothing(bench: Bench) -> None:  # I6
    await bench.send(Job(id="a", task="t"))
    for _ in range(2):
        expect(await bench.commit(Commit(fence=Held("a", ""), outcome=Succeeded())), "lease_lost")
        expect(await bench.store.extend([Held("a", "")], for_ms=LEASE_MS), ["lost"])
        await bench.claim()
    expect(await bench.state("a"), "leased")


@case
async def one_lease_holds_all_that_its_claim_granted(bench: Bench) -> None:
    await bench.send(*(Job(id=i, task="t") for i in "abc"))
    deliveries = await bench.claim()
    expect(len({d.lease for d in deliveries}), 1, "leases")
    await bench.finish(deliveries[1], Succeeded())
    expect([await bench.state(i) for i in "abc"], ["leased", "succeeded", "leased"])


@case
async def only_a_retry_consumes_an_attempt(bench: Bench) -> None:  # I8
    await bench.send(Job(id="a", task="t"))
    attempts = []
    for outcome in (Snoozed(0), Released(), Suspended(0), Retried(0, Fault("E")), Snoozed(0), Retried(0, Fault("E"))):
        delivery = await bench.take("a")
        attempts.append(delivery.attempt)
        expect(await bench.end(delivery, outcome), "applied")
    attempts.append((await bench.take("a")).attempt)
    expect(attempts, [1, 1, 1, 1, 2, 2, 3])


@case
async def a_job_that_was_given_back_has_its_old_place_in_the_line(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    a = await bench.take("a")
    bench.clock.advance(ms=5)
    await bench.send(Job(id="b", task="t"))
    bench.clock.advance(ms=5)
    expect(await bench.end(a, Released()), "applied")
    expect(await bench.claim_ids(limit=1), ["a"])


@case
async def a_job_given_back_after_its_lease_ran_out_once_has_its_old_place(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    await bench.take("a")
    await bench.send(Job(id="b", task="t", after_ms=1))
    bench.clock.advance(ms=LEASE_MS)
    (a,) = await bench.claim(limit=1)
    expect(await bench.end(a, Released()), "applied")
    expect(await bench.claim_ids(limit=2), ["a", "b"], "its due is that of its first claim, not the end of a lease")


@case
async def a_job_given_back_for_a_while_comes_due_after_it(bench: Bench) -> None:  # I20
    await bench.send(Job(id="a", task="t"))
    expect(await bench.end(await bench.take("a"), Released(900)), "applied")
    expect(await bench.due_in_ms("a"), 900)


@case
async def what_leases_hold_can_be_taken_up_by_another_process(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t", args=b"\x91\x01"), Job(id="b", task="t"), Job(id="c", task="t"))
    a, b, c = await bench.claim(claimer="dead")
    expect(await bench.end(b, Succeeded()), "applied")
    expect(await bench.end(c, Retried(0, Fault("E"))), "applied")
    again = await bench.take("c", claimer="dead")
    bench.clock.advance(ms=7)
    found = await bench.store.deliveries([held(again), held(a), held(b), held(c), held(a)])
    expect(found, [replace(again, age_ms=again.age_ms + 7), replace(a, age_ms=a.age_ms + 7)])
    expect(await bench.store.deliveries([]), [])
    bench.clock.advance(ms=LEASE_MS)
    last = await bench.claim()
    expect(await bench.store.deliveries([held(again), held(a)]), [], "others hold them now")
    expect(await bench.store.deliveries([held(d) for d in last]), last)

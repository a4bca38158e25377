"""A cancel that is acknowledged before the claim means no start; afterwards a success that is committing wins."""

from __future__ import annotations

from culm.commit import Commit, Held
from culm.job import Job
from culm.outcome import Cancelled, Failed, Fault, NotFinal, Released, Retried, Snoozed, Succeeded, Suspended
from culm.testing.conformance.bench import LEASE_MS, Bench, by_id, expect, held
from culm.testing.conformance.suite import case

HOUR_MS = 3_600_000


@case
async def a_job_cancelled_before_its_claim_never_starts(bench: Bench) -> None:  # I10
    await bench.send(Job(id="a", task="t"), Job(id="b", task="t", after_ms=100), Job(id="c", task="t", after_ms=None))
    await bench.do(cancel=["a", "b", "c"])
    bench.clock.advance(ms=1000)
    expect(await bench.claim_ids(), [])
    expect([await bench.ended(i) for i in ("a", "b", "c")], [Cancelled()] * 3)


@case
async def a_job_cancelled_before_it_was_sent_is_born_cancelled(bench: Bench) -> None:  # I10
    await bench.do(cancel=["a"])
    expect(await bench.state("a"), "absent", "a tombstone is no job")
    await bench.send(Job(id="a", task="t"))
    expect((await bench.claim_ids(), await bench.state("a")), ([], "cancelled"))


@case
async def a_tombstone_is_heeded_for_an_hour(bench: Bench) -> None:  # I10
    await bench.do(cancel=["a", "b"])
    bench.clock.advance(ms=HOUR_MS - 1)
    expect(await bench.sweep(), 0, "swept early")
    await bench.send(Job(id="a", task="t"))
    expect(await bench.state("a"), "cancelled")
    bench.clock.advance(ms=1)
    expect(await bench.sweep(), 2, "the tombstones")
    await bench.send(Job(id="b", task="t"))
    expect(await bench.state("b"), "open", "an hour later")


@case
async def a_second_cancel_renews_the_tombstone(bench: Bench) -> None:
    await bench.do(cancel=["a"])
    bench.clock.advance(ms=HOUR_MS - 1)
    await bench.do(cancel=["a"])
    bench.clock.advance(ms=HOUR_MS - 1)
    expect(await bench.sweep(), 0)
    await bench.send(Job(id="a", task="t"))
    expect(await bench.state("a"), "cancelled")


@case
async def a_running_job_is_asked_to_stop(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"), Job(id="b", task="t"))
    a, b = by_id(await bench.claim())
    await bench.do(cancel=["a"])
    expect(await bench.store.extend([held(a), held(b), Held("a", "w/99")], for_ms=LEASE_MS), ["cancelled", "held", "lost"])


@case
async def a_success_that_commits_after_the_cancel_wins(bench: Bench) -> None:  # I10
    await bench.send(Job(id="a", task="t"), Job(id="b", task="t"))
    a, b = by_id(await bench.claim())
    await bench.do(cancel=["a", "b"])
    await bench.finish(a, Succeeded(b"\x01"))
    await bench.finish(b, Failed(Fault("E")))
    expect([await bench.ended("a"), await bench.ended("b")], [Succeeded(b"\x01"), Failed(Fault("E"))])


@case
async def a_cancelled_job_does_not_go_on_after_its_attempt(bench: Bench) -> None:  # I10
    outcomes: tuple[NotFinal, ...] = (Retried(0, Fault("E")), Snoozed(0), Suspended(), Suspended(5), Released())
    for n, outcome in enumerate(outcomes):
        await bench.send(Job(id=f"j{n}", task="t"))
        delivery = await bench.take(f"j{n}")
        await bench.do(cancel=[f"j{n}"])
        expect(await bench.end(delivery, outcome), "applied")
        expect(await bench.ended(f"j{n}"), Cancelled(), f"{outcome}")
    bench.clock.advance(ms=1000)
    expect(await bench.claim_ids(), [])


@case
async def a_checkpoint_of_a_cancelled_job_still_counts(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    delivery = await bench.take("a")
    await bench.do(cancel=["a"])
    expect(await bench.commit(Commit(fence=held(delivery), send=(Job(id="a~b", task="t"),))), "applied")
    expect([await bench.state("a"), await bench.state("a~b")], ["leased", "open"])


@case
async def a_cancelled_job_whose_lease_ran_out_is_finished_by_the_next_claim(bench: Bench) -> None:  # I10
    await bench.send(Job(id="a", task="t"))
    late = await bench.take("a")
    await bench.do(cancel=["a"])
    bench.clock.advance(ms=LEASE_MS)
    expect(await bench.claim_ids(), [], "granted to nobody")
    expect(await bench.ended("a"), Cancelled())
    expect(await bench.end(late, Succeeded()), "lease_lost", "too late")
    expect(await bench.ended("a"), Cancelled())


@case
async def a_cancelled_job_whose_lease_ran_out_takes_no_room_in_a_claim(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    await bench.take("a")
    await bench.send(Job(id="b", task="t"))
    await bench.do(cancel=["a"])
    bench.clock.advance(ms=LEASE_MS)
    expect(await bench.claim_ids(limit=1), ["b"])


@case
async def a_cancel_of_a_finished_job_changes_nothing(bench: Bench) -> None:  # I7
    await bench.send(Job(id="a", task="t"))
    await bench.finish(await bench.take("a"), Succeeded(b"\x01"))
    await bench.do(cancel=["a", "a"])
    expect(await bench.ended("a"), Succeeded(b"\x01"))


@case
async def a_send_and_its_cancel_in_one_commit_end_cancelled(bench: Bench) -> None:
    await bench.do(send=[Job(id="a", task="t")], cancel=["a"])
    expect((await bench.claim_ids(), await bench.state("a")), ([], "cancelled"))


@case
async def a_cancelled_job_is_remembered_for_its_own_keep(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t", keep_ms=0), Job(id="b", task="t", keep_ms=500))
    await bench.do(cancel=["a", "b"])
    expect([await bench.state("a"), await bench.state("b")], ["absent", "cancelled"])
    bench.clock.advance(ms=500)
    await bench.sweep()
    expect(await bench.state("b"), "absent")

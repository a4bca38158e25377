"""Finished jobs stay for their `keep`, to the millisecond; dead letters stay until somebody decides. Only `sweep` removes."""

from __future__ import annotations

from culm.commit import Commit
from culm.job import Job
from culm.outcome import Cancelled, Expired, Failed, Fault, Final, Lost, Succeeded
from culm.store import Absent
from culm.testing.conformance.bench import Bench, expect, held
from culm.testing.conformance.suite import case


@case
async def a_finished_job_is_kept_as_long_as_its_commit_says(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    await bench.finish(await bench.take("a"), Succeeded(), keep_ms=5_000)
    bench.clock.advance(ms=4_999)
    expect((await bench.sweep(), await bench.state("a")), (0, "succeeded"), "a millisecond early")
    bench.clock.advance(ms=1)
    expect((await bench.sweep(), await bench.state("a")), (1, "absent"), "in time")
    expect(await bench.store.outcome("a"), Absent(), "expired, not pending")


@case
async def each_end_but_a_death_is_swept(bench: Bench) -> None:
    ends: dict[str, Final] = {
        "ok": Succeeded(),
        "cancelled": Cancelled(),
        "expired": Expired(),
        "failed": Failed(Fault("E")),
        "lost": Lost("x"),
    }
    await bench.send(*(Job(id=i, task="t") for i in ends))
    for delivery in await bench.claim():
        await bench.finish(delivery, ends[delivery.job.id], keep_ms=100)
    bench.clock.advance(ms=365 * 86_400_000)
    expect(await bench.sweep(), 3)
    expect([v.id for v in await bench.store.jobs()], ["failed", "lost"], "dead letters are exempt")


@case
async def a_dead_letter_stays_although_it_is_kept_for_no_time(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t", keep_ms=0))
    await bench.finish(await bench.take("a"), Failed(Fault("E")), keep_ms=0)
    expect((await bench.sweep(), await bench.state("a")), (0, "failed"))


@case
async def a_job_kept_for_no_time_is_gone_with_its_commit(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    await bench.finish(await bench.take("a"), Succeeded(), keep_ms=0)
    expect(await bench.store.outcome("a"), Absent())
    expect((await bench.sweep(), await bench.store.jobs()), (0, []))


@case
async def an_id_is_free_again_once_its_job_is_gone(bench: Bench) -> None:  # I9
    await bench.send(Job(id="a", task="t"))
    await bench.finish(await bench.take("a"), Succeeded(), keep_ms=1_000)
    await bench.send(Job(id="a", task="t"))
    expect(await bench.claim_ids(), [], "while it is kept")
    bench.clock.advance(ms=1_000)
    await bench.sweep()
    await bench.send(Job(id="a", task="other"))
    expect((await bench.take("a")).attempt, 1, "a new job")


@case
async def a_job_kept_for_no_time_may_send_itself_anew_with_its_end(bench: Bench) -> None:  # I1
    await bench.send(Job(id="a", task="t"))
    delivery = await bench.take("a")
    commit = Commit(fence=held(delivery), outcome=Succeeded(), keep_ms=0, send=(Job(id="a", task="t", after_ms=50),))
    expect(await bench.commit(commit), "applied")
    expect((await bench.state("a"), await bench.claim_ids()), ("open", []), "what was accepted is there, for later")
    bench.clock.advance(ms=50)
    expect((await bench.take("a")).attempt, 1, "a new job")


@case
async def a_new_job_under_an_old_id_is_not_swept_for_the_old_one(bench: Bench) -> None:  # I30
    await bench.send(Job(id="a", task="t"))
    await bench.finish(await bench.take("a"), Succeeded(), keep_ms=0)
    await bench.send(Job(id="a", task="t"))
    await bench.finish(await bench.take("a"), Succeeded(), keep_ms=100)
    bench.clock.advance(ms=99)
    expect((await bench.sweep(), await bench.state("a")), (0, "succeeded"))


@case
async def a_sweep_removes_no_more_than_its_limit(bench: Bench) -> None:
    await bench.send(*(Job(id=f"j{n}", task="t") for n in range(5)))
    for delivery in await bench.claim():
        await bench.finish(delivery, Succeeded(), keep_ms=100)
    bench.clock.advance(ms=100)
    expect(await bench.store.sweep(limit=3), 3)
    expect(len(await bench.store.jobs()), 2, "left")
    expect(await bench.store.sweep(limit=3), 2)
    expect(await bench.store.jobs(), [])
    expect(await bench.store.sweep(limit=3), 0)


@case
async def what_is_unfinished_is_never_swept(bench: Bench) -> None:  # I30
    await bench.send(Job(id="open", task="t"), Job(id="leased", task="t", queue="other"), Job(id="waits", task="t", after_ms=None))
    expect(await bench.claim_ids("other"), ["leased"])
    bench.clock.advance(ms=365 * 86_400_000)
    expect(await bench.sweep(), 0)
    expect([v.id for v in await bench.store.jobs()], ["leased", "open", "waits"])


@case
async def a_batch_is_remembered_for_a_day_whatever_is_swept(bench: Bench) -> None:  # I3
    send = [Commit(send=(Job(id="a", task="t", keep_ms=0),))]
    await bench.store.commit(send, batch=("app", 1))
    await bench.finish(await bench.take("a"), Succeeded(), keep_ms=0)
    bench.clock.advance(ms=86_399_999)
    await bench.sweep()
    expect(await bench.store.commit(send, batch=("app", 1)), ["applied"])
    expect(await bench.state("a"), "absent", "it does not run twice")

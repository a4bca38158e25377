"""What is refused leaves nothing behind: every check precedes the first write."""

from __future__ import annotations

import msgspec

from culm.commit import Commit, Event, Held, Record, Trigger
from culm.job import Job
from culm.outcome import Succeeded
from culm.testing.conformance.bench import LEASE_MS, Bench, expect, held
from culm.testing.conformance.suite import case

OK = Succeeded()

FULL = Commit(
    send=(Job(id="r~child", task="t"), Job(id="r~late", task="t", after_ms=1000)),
    emit=(Event("r", "said", "x"),),
    triggers=(Trigger("r~waits", "r", (("go", 1),), 1),),
    records=(Record("r", 0, b"\x01"),),
    cancel=("r~victim", "unknown"),
)


async def prepare(bench: Bench) -> None:
    await bench.send(Job(id="r", task="t"), Job(id="r~waits", task="t", after_ms=None), Job(id="r~victim", task="t", after_ms=None))


async def expect_nothing(bench: Bench) -> None:
    """None of FULL has happened."""
    states = [await bench.state(i) for i in ("r~child", "r~late", "r~victim", "r~waits")]
    expect(states, ["absent", "absent", "open", "open"], "jobs")  # I15
    expect(await bench.keys("r", "said"), [], "events")
    expect(await bench.store.records("r"), [], "records")
    await bench.emit("r", "go", "x")
    expect(await bench.due_in_ms("r~waits"), None, "no trigger")
    await bench.send(Job(id="unknown", task="t"))
    expect(await bench.state("unknown"), "open", "no tombstone")


@case
async def a_commit_under_a_lease_that_never_was_leaves_nothing_behind(bench: Bench) -> None:  # I4, I6
    await prepare(bench)
    expect(await bench.commit(msgspec.structs.replace(FULL, fence=Held("r", "w/77"), outcome=OK)), "lease_lost")
    await expect_nothing(bench)
    expect(await bench.ended("r"), None)


@case
async def a_commit_under_a_stale_lease_leaves_nothing_behind(bench: Bench) -> None:  # I6
    await prepare(bench)
    stale = await bench.take("r", claimer="slow")
    bench.clock.advance(ms=LEASE_MS)
    newer = await bench.take("r", claimer="quick")
    expect(await bench.commit(msgspec.structs.replace(FULL, fence=held(stale), outcome=OK)), "lease_lost")
    await expect_nothing(bench)
    view = await bench.view("r")
    expect((view.state, view.lease), ("leased", newer.lease), "the newer lease holds")


@case
async def a_checkpoint_under_a_stale_lease_leaves_nothing_behind(bench: Bench) -> None:  # I6
    await prepare(bench)
    stale = await bench.take("r", claimer="slow")
    bench.clock.advance(ms=LEASE_MS)
    await bench.take("r", claimer="quick")
    expect(await bench.commit(msgspec.structs.replace(FULL, fence=held(stale))), "lease_lost")
    await expect_nothing(bench)


@case
async def a_commit_for_a_finished_job_leaves_nothing_behind(bench: Bench) -> None:  # I3, I6
    await prepare(bench)
    delivery = await bench.take("r")
    await bench.finish(delivery, Succeeded(b"\x01"))
    expect(await bench.commit(msgspec.structs.replace(FULL, fence=held(delivery), outcome=Succeeded(b"\x02"))), "lease_lost")
    await expect_nothing(bench)
    expect(await bench.ended("r"), Succeeded(b"\x01"), "an outcome is never overwritten")  # I7


@case
async def a_conflicting_send_refuses_everything_beside_it(bench: Bench) -> None:  # I9
    await prepare(bench)
    fence = held(await bench.take("r"))
    jobs = (*FULL.send, Job(id="r~waits", task="other", after_ms=None))
    expect(await bench.commit(msgspec.structs.replace(FULL, send=jobs, fence=fence, outcome=OK)), "conflict")
    await expect_nothing(bench)
    expect(await bench.state("r"), "leased", "the attempt goes on")


@case
async def two_tasks_under_one_id_in_one_commit_refuse_it(bench: Bench) -> None:
    await prepare(bench)
    jobs = (*FULL.send, Job(id="r~new", task="t"), Job(id="r~new", task="other"))
    expect(await bench.commit(msgspec.structs.replace(FULL, send=jobs)), "conflict")
    await expect_nothing(bench)
    expect(await bench.state("r~new"), "absent")


@case
async def a_conflicting_record_refuses_everything_beside_it(bench: Bench) -> None:  # I12, I17
    await prepare(bench)
    fence = held(await bench.take("r"))
    expect(
        await bench.commit(msgspec.structs.replace(FULL, records=(Record("r", 0, b"\x01"), Record("r", 0, b"\x02")), fence=fence)),
        "conflict",
    )
    await expect_nothing(bench)


@case
async def a_trigger_for_an_absent_job_refuses_everything_beside_it(bench: Bench) -> None:
    await prepare(bench)
    triggers = (*FULL.triggers, Trigger("r~nobody", "r", (("go", 1),), 1))
    expect(await bench.commit(msgspec.structs.replace(FULL, triggers=triggers)), "conflict")
    await expect_nothing(bench)


@case
async def a_lost_lease_is_named_before_a_conflict(bench: Bench) -> None:
    await prepare(bench)
    bad = Commit(fence=Held("r", "w/77"), outcome=OK, send=(Job(id="r~waits", task="other"),))
    expect(await bench.commit(bad), "lease_lost")

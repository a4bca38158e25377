"""What a join hears of jobs: `done/<id>` is reached when that job is not, or no longer, unfinished; `Job.topic` records how it ended."""

from __future__ import annotations

from culm.commit import Commit, Trigger
from culm.job import Job
from culm.outcome import Cancelled, Expired, Failed, Fault, Final, Lost, Released, Retried, Snoozed, Succeeded, Suspended, decode_outcome
from culm.testing.conformance.bench import LEASE_MS, Bench, expect, held
from culm.testing.conformance.suite import case

JOIN = Job(id="r~join", task="t", after_ms=None)
ENDS: tuple[Final, ...] = (Succeeded(b"\x05"), Failed(Fault("E", "no", "line 1")), Lost("gone"), Cancelled("why"), Expired("late"))


def on_done(*ids: str, need: int = 0) -> Trigger:
    return Trigger("r~join", "r", tuple((f"done/{i}", 1) for i in ids), need or len(ids))


@case
async def a_job_that_finishes_later_is_heard_of(bench: Bench) -> None:  # I13
    await bench.do(send=[Job(id="r~a", task="t"), JOIN], triggers=[on_done("r~a")])
    delivery = await bench.take("r~a")
    expect(await bench.claim_ids(), [], "not yet")
    await bench.finish(delivery, Succeeded())
    expect(await bench.claim_ids(), ["r~join"])


@case
async def a_job_that_is_finished_already_is_heard_of_at_once(bench: Bench) -> None:
    await bench.send(Job(id="r~a", task="t"))
    await bench.finish(await bench.take("r~a"), Succeeded())
    await bench.do(send=[JOIN], triggers=[on_done("r~a")])
    expect(await bench.claim_ids(), ["r~join"])


@case
async def a_job_that_is_absent_counts_as_done(bench: Bench) -> None:
    await bench.do(send=[JOIN], triggers=[on_done("r~never")])
    expect(await bench.claim_ids(), ["r~join"])


@case
async def a_job_that_is_gone_with_its_commit_is_heard_of(bench: Bench) -> None:
    await bench.do(send=[Job(id="r~a", task="t", keep_ms=0), JOIN], triggers=[on_done("r~a")])
    await bench.finish(await bench.take("r~a"), Succeeded(), keep_ms=0)
    expect(await bench.claim_ids(), ["r~join"])


@case
async def a_member_of_the_triggers_own_commit_is_waited_for(bench: Bench) -> None:  # I13
    await bench.do(send=[JOIN, Job(id="r~a", task="t", after_ms=1000)], triggers=[on_done("r~a")])
    expect(await bench.due_in_ms("r~join"), None)


@case
async def a_root_is_heard_of_by_its_children(bench: Bench) -> None:
    await bench.send(Job(id="r", task="t"))
    await bench.do(send=[JOIN], triggers=[on_done("r")])
    await bench.finish(await bench.take("r"), Succeeded())
    expect(await bench.claim_ids(), ["r~join"])


@case
async def a_join_over_jobs_waits_for_every_one_of_them(bench: Bench) -> None:  # I13
    members = [Job(id=f"r~{n}", task="t") for n in range(3)]
    await bench.do(send=[*members, JOIN], triggers=[on_done(*(m.id for m in members))])
    deliveries = await bench.claim()
    for n, delivery in enumerate(deliveries):
        expect((n, await bench.claim_ids()), (n, []), "before the last")
        await bench.finish(delivery, ENDS[n])
    expect(await bench.claim_ids(), ["r~join"])


@case
async def a_member_that_retries_is_not_done(bench: Bench) -> None:
    await bench.do(send=[Job(id="r~a", task="t"), JOIN], triggers=[on_done("r~a")])
    for outcome in (Retried(0, Fault("E")), Snoozed(0), Released(), Suspended()):
        expect(await bench.end(await bench.take("r~a"), outcome), "applied")
    expect(await bench.due_in_ms("r~join"), None)


@case
async def a_member_counts_in_its_join_however_it_ends_and_its_event_says_how(bench: Bench) -> None:
    members = [Job(id=f"r~{n}", task="t", topic="ended") for n in range(len(ENDS))]
    await bench.do(send=[*members, JOIN], triggers=[Trigger("r~join", "r", (("ended", len(ENDS)),), 1)])
    for delivery, end in zip(await bench.claim(), ENDS, strict=True):
        expect(await bench.claim_ids(), [], "before the last")
        await bench.finish(delivery, end)
    expect(await bench.claim_ids(), ["r~join"])
    events = await bench.store.events("r", "ended")
    expect([e.key for e in events], [m.id for m in members], "each under its own id")
    expect([decode_outcome(e.value) for e in events], list(ENDS), "the outcomes")


@case
async def a_member_that_is_cancelled_while_it_waits_counts(bench: Bench) -> None:
    member = Job(id="r~a", task="t", topic="ended", after_ms=None)
    await bench.do(send=[member, JOIN], triggers=[Trigger("r~join", "r", (("ended", 1), ("done/r~a", 1)), 2)])
    await bench.do(cancel=["r~a"])
    expect(await bench.claim_ids(), ["r~join"])
    expect([decode_outcome(e.value) for e in await bench.store.events("r", "ended")], [Cancelled()])


@case
async def a_member_that_was_cancelled_before_it_was_sent_counts(bench: Bench) -> None:
    await bench.do(cancel=["r~a"])
    await bench.do(send=[Job(id="r~a", task="t", topic="ended"), JOIN], triggers=[Trigger("r~join", "r", (("ended", 1),), 1)])
    expect(await bench.claim_ids(), ["r~join"])


@case
async def a_member_that_was_cancelled_and_whose_worker_died_counts(bench: Bench) -> None:
    await bench.do(send=[Job(id="r~a", task="t", topic="ended"), JOIN], triggers=[Trigger("r~join", "r", (("ended", 1),), 1)])
    await bench.take("r~a")
    await bench.do(cancel=["r~a"])
    bench.clock.advance(ms=LEASE_MS)
    await bench.claim()
    expect(await bench.state("r~a"), "cancelled")
    expect([decode_outcome(e.value) for e in await bench.store.events("r", "ended")], [Cancelled()])
    expect(await bench.due_in_ms("r~join") is not None, True, "released")


@case
async def a_purged_member_counts(bench: Bench) -> None:
    await bench.do(send=[Job(id="r~a", task="t", topic="ended", queue="bulk"), JOIN], triggers=[on_done("r~a")])
    await bench.store.purge("bulk")
    expect(await bench.claim_ids(), ["r~join"])


@case
async def a_job_that_ends_and_sends_and_joins_does_all_of_it_in_one_commit(bench: Bench) -> None:  # I15
    await bench.send(Job(id="r", task="t"))
    children = tuple(Job(id=f"r~{n}", task="t", topic="ended") for n in range(2))
    trigger = Trigger("r~join", "r", (("ended", 2),), 1)
    commit = Commit(fence=held(await bench.take("r")), outcome=Succeeded(), send=(*children, JOIN), triggers=(trigger,))
    expect(await bench.commit(commit), "applied")
    for delivery in await bench.claim():
        await bench.finish(delivery, Succeeded())
    expect(await bench.claim_ids(), ["r~join"])


@case
async def an_end_that_is_refused_is_not_heard_of(bench: Bench) -> None:  # I6, I13
    await bench.do(send=[Job(id="r~a", task="t", topic="ended"), JOIN], triggers=[Trigger("r~join", "r", (("ended", 1),), 1)])
    stale = await bench.take("r~a", claimer="slow")
    bench.clock.advance(ms=LEASE_MS)
    await bench.take("r~a", claimer="quick")
    expect(await bench.end(stale, Succeeded()), "lease_lost")
    expect((await bench.keys("r", "ended"), await bench.due_in_ms("r~join")), ([], None))


@case
async def joins_of_joins_cascade_in_one_commit(bench: Bench) -> None:
    ids = ["r~a", "r~b", "r~c"]
    await bench.do(
        send=[Job(id=i, task="t", after_ms=None) for i in ids] + [JOIN],
        triggers=[Trigger("r~b", "r", (("done/r~a", 1),), 1), on_done(*ids)],
    )
    await bench.do(cancel=["r~c", "r~a"])
    expect(await bench.claim_ids(), ["r~b"])
    bench.clock.advance(ms=LEASE_MS)
    await bench.finish(await bench.take("r~b"), Succeeded())
    expect(await bench.claim_ids(), ["r~join"])

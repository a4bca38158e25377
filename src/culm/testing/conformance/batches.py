"""A batch is applied once, however often it is sent: nothing is unclear after a lost reply."""

from __future__ import annotations

import asyncio

from culm.commit import BatchId, Commit, Committed, Event, Held
from culm.job import Job
from culm.outcome import Fault, Retried, Succeeded
from culm.store import InOrder, Prompt
from culm.testing.conformance.bench import Bench, expect, held
from culm.testing.conformance.suite import case, case_needing

OK = Succeeded(b"\x01")


@case
async def a_resent_batch_gets_its_first_answers_and_changes_nothing(bench: Bench) -> None:  # I3
    await bench.send(Job(id="a", task="t"))
    batch = [Commit(fence=held(await bench.take("a")), outcome=Retried(0, Fault("E")), emit=(Event("a", "tried", "1"),))]
    first = await bench.store.commit(batch, batch=("w", 1))
    again = await bench.take("a")  # between the two: what is resent no longer fits the state, and is answered all the same
    expect(await bench.store.commit(batch, batch=("w", 1)), first, "the same batch")
    expect(first, ["applied"], "the first time")
    view = await bench.view("a")
    expect((view.state, view.lease, view.attempt), ("leased", again.lease, 2), "the second attempt goes on")


@case
async def a_resent_batch_is_known_although_its_jobs_are_long_gone(bench: Bench) -> None:  # I3
    sends = [Commit(send=(Job(id="a", task="t", keep_ms=0),))]
    await bench.store.commit(sends, batch=("app", 7))
    ends = [Commit(fence=held(await bench.take("a")), outcome=OK, keep_ms=0)]
    expect(await bench.store.commit(ends, batch=("w", 1)), ["applied"])
    expect(await bench.state("a"), "absent", "kept for no time")
    expect(await bench.store.commit(sends, batch=("app", 7)), ["applied"], "the send again")
    expect(await bench.store.commit(ends, batch=("w", 1)), ["applied"], "the end again")
    expect(await bench.state("a"), "absent", "it does not run twice")


@case_needing("order")
async def a_batch_older_than_the_clients_last_is_refused_and_changes_nothing(bench: Bench) -> None:
    await bench.store.commit([Commit(send=(Job(id="a", task="t"),))], batch=("app", 5))
    older = [Commit(send=(Job(id="b", task="t"),)), Commit(emit=(Event("", "said", "x"),))]
    expect(await bench.store.commit(older, batch=("app", 4)), ["lease_lost", "lease_lost"])
    expect((await bench.state("b"), await bench.keys("", "said")), ("absent", []))


@case
async def each_client_counts_its_batches_for_itself(bench: Bench) -> None:
    for n, client in enumerate(("app", "other", "app/1")):
        answers = await bench.store.commit([Commit(send=(Job(id=f"j{n}", task="t"),))], batch=(client, 1))
        expect((answers, await bench.state(f"j{n}")), (["applied"], "open"), client)


@case
async def a_refusal_is_remembered_as_well(bench: Bench) -> None:
    late = [Commit(fence=Held("a", "w/1"), outcome=OK)]
    expect(await bench.store.commit(late, batch=("w", 1)), ["lease_lost"])
    await bench.send(Job(id="a", task="t"))
    await bench.store.claim(["default"], lease="w/1", limit=1, for_ms=1000)
    expect(await bench.store.commit(late, batch=("w", 1)), ["lease_lost"], "although it would fit now")
    expect(await bench.state("a"), "leased")


@case
async def one_refused_commit_does_not_harm_its_neighbours(bench: Bench) -> None:
    await bench.send(Job(id="known", task="t"))
    answers = await bench.batch(
        Commit(send=(Job(id="a", task="t"),)),
        Commit(send=(Job(id="known", task="other"),)),
        Commit(fence=Held("known", "w/9"), outcome=OK),
        Commit(send=(Job(id="b", task="t"),)),
    )
    expect(answers, ["applied", "conflict", "lease_lost", "applied"])
    expect([await bench.state(i) for i in ("a", "known", "b")], ["open"] * 3)


@case
async def the_commits_of_a_batch_are_applied_in_order(bench: Bench) -> None:  # I3
    await bench.send(Job(id="a", task="t"))
    fence = held(await bench.take("a"))
    answers = await bench.batch(
        Commit(send=(Job(id="a~b", task="t"),), fence=fence),
        Commit(send=(Job(id="a~b", task="other"),)),
        Commit(fence=fence, outcome=Succeeded(b"\x01")),
        Commit(fence=fence, outcome=Succeeded(b"\x02")),
    )
    expect(answers, ["applied", "conflict", "applied", "lease_lost"])
    expect(await bench.ended("a"), Succeeded(b"\x01"), "the first end stands")


@case_needing("order")
async def batches_apply_in_the_order_in_which_they_were_asked(bench: Bench) -> None:
    """Of a store that says so, before the former are answered."""
    names = [f"j{n:03}" for n in range(200)]
    sends = [
        bench.store.commit([Commit(send=(Job(id=name, task="t"),)) for name in names[at : at + 5]], batch=(f"app{at % 2}", at + 1))
        for at in range(0, len(names), 5)
    ]
    answers = await asyncio.gather(*sends) if isinstance(bench.store, InOrder) else [await send for send in sends]
    expect(answers, [["applied"] * 5] * len(answers))
    expect([d.job.id for d in await bench.claim(limit=1000)], names)


@case
async def what_is_committed_at_once_is_committed(bench: Bench) -> None:
    """By a store that may answer without a wait; what it cannot is committed the other way."""
    for n in range(1, 21):
        sends, batch = [Commit(send=(Job(id=f"j{n:02}", task="t"),))], ("app", n)
        at_once = await _at_once(bench, sends, batch)
        expect(await bench.store.commit(sends, batch=batch) if at_once is None else at_once, ["applied"])
        expect(await bench.store.commit(sends, batch=batch), ["applied"], "again")
        expect(await _at_once(bench, sends, batch) in (None, ["applied"]), True, "again, at once")
    new, batch = [Commit(send=(Job(id=f"new{n}", task="t"),)) for n in range(5)], ("app", 21)
    for n in range(2):
        at_once = await _at_once(bench, new, batch, fresh=True)
        expect(await bench.store.commit(new, batch=batch) if at_once is None else at_once, ["applied"] * 5, f"under new ids, {n}")
    deliveries = await bench.claim(limit=1000)
    expect(sorted(d.job.id for d in deliveries), [f"j{n:02}" for n in range(1, 21)] + [f"new{n}" for n in range(5)])
    deliveries = [d for d in deliveries if d.job.id.startswith("j")]
    ends = [Commit(fence=Held(d.job.id, d.lease), outcome=Succeeded(), keep_ms=0) for d in deliveries[:10]]
    for n in range(2):
        expect(await _at_once(bench, ends, ("w1", 1)) or await bench.store.commit(ends, batch=("w1", 1)), ["applied"] * 10, f"ends, {n}")
    expect(await _at_once(bench, ends, ("w1", 2)) in (None, ["lease_lost"] * 10), True, "ends, under another number")
    expect(len(await bench.store.jobs(limit=100)), 15)


async def _at_once(bench: Bench, commits: list[Commit], batch: BatchId, *, fresh: bool = False) -> list[Committed] | None:
    """Its answers; None: it has to be asked the other way."""
    if not isinstance(bench.store, Prompt):
        return None
    told: asyncio.Future[list[Committed] | None] = asyncio.get_running_loop().create_future()
    return await told if bench.store.commit_at_once(commits, batch=batch, alone=True, fresh=fresh, then=told.set_result) else None


@case
async def the_same_job_twice_in_one_commit_is_one_job(bench: Bench) -> None:  # I9
    expect(await bench.commit(Commit(send=(Job(id="a", task="t", priority=9), Job(id="a", task="t", priority=1)))), "applied")
    delivery = await bench.take("a")
    expect(delivery.job.priority, 9, "the first stands")
    await bench.finish(delivery, Succeeded())
    expect(await bench.claim_ids(), [])


@case
async def an_empty_batch_has_no_answers(bench: Bench) -> None:
    expect(await bench.batch(), [])
    await bench.send(Job(id="a", task="t"))


@case
async def a_large_batch_is_applied_whole(bench: Bench) -> None:
    many = [Commit(send=(Job(id=f"j{n:04}", task="t"),)) for n in range(1200)]
    expect(await bench.batch(*many), ["applied"] * 1200)
    expect(len(await bench.claim(limit=1000)), 1000, "claimed")
    expect(len(await bench.claim(limit=1000)), 200, "the others")


@case
async def one_commit_may_carry_thousands_of_effects(bench: Bench) -> None:
    jobs = tuple(Job(id=f"r~{n:04}", task="t") for n in range(1100))
    events = tuple(Event("r", "said", f"{n:04}") for n in range(1100))
    expect(await bench.commit(Commit(send=jobs, emit=events)), "applied")
    expect(len(await bench.claim_ids(limit=2000)), 1100)
    expect(len(await bench.store.events("r", "said", limit=2000)), 1100)

"""Dead letters: what failed or was lost waits for somebody to replay or discard it."""

from __future__ import annotations

from culm.commit import Trigger
from culm.job import Job
from culm.outcome import Failed, Fault, Lost, Retried, Succeeded
from culm.store import Absent, Pending
from culm.testing.conformance.bench import LEASE_MS, Bench, by_id, expect
from culm.testing.conformance.suite import case


async def dead(bench: Bench, *ids: str) -> None:
    await bench.send(*(Job(id=i, task="t") for i in ids))
    for n, delivery in enumerate(by_id(await bench.claim())):
        await bench.finish(delivery, Lost("x") if n % 2 else Failed(Fault("E")))


@case
async def a_replayed_job_is_claimable_now_with_its_attempts_from_zero(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t", after_ms=100))
    bench.clock.advance(ms=100)
    await bench.take("a")
    bench.clock.advance(ms=LEASE_MS)
    expect(await bench.end(await bench.take("a"), Retried(0, Fault("E"))), "applied")
    before = await bench.take("a")
    await bench.finish(before, Failed(Fault("E")))
    expect(await bench.store.replay(["a"]), 1)
    expect((await bench.state("a"), await bench.store.outcome("a")), ("open", Pending()))
    after = await bench.take("a")
    expect((after.attempt, after.expiries, after.age_ms), (1, 0, 0))
    expect(after.fence > before.fence, True, "the fence still grows")
    await bench.finish(after, Succeeded())


@case
async def replay_counts_dead_letters_only_and_each_once(bench: Bench) -> None:
    await dead(bench, "a", "b")
    await bench.send(Job(id="open", task="t"), Job(id="ok", task="t", queue="other"))
    expect(await bench.claim_ids("other"), ["ok"])
    await bench.send(Job(id="done", task="t", queue="other"))
    (done,) = await bench.claim("other")
    await bench.finish(done, Succeeded())
    expect(await bench.store.replay(["a", "b", "a", "open", "ok", "done", "never"]), 2)
    expect(await bench.store.replay(["a", "b"]), 0, "they are dead no more")
    expect([await bench.state(i) for i in ("a", "b", "open", "ok", "done")], ["open", "open", "open", "leased", "succeeded"])
    expect(await bench.store.replay([]), 0)


@case
async def a_replayed_job_may_die_again(bench: Bench) -> None:
    await dead(bench, "a")
    await bench.store.replay(["a"])
    await bench.finish(await bench.take("a"), Lost("again"))
    expect(await bench.ended("a"), Lost("again"))
    expect(await bench.store.replay(["a"]), 1)


@case
async def a_replayed_member_is_not_counted_twice_by_its_join(bench: Bench) -> None:  # I13
    join = Job(id="r~join", task="t", after_ms=None)
    await bench.do(send=[Job(id="r~a", task="t", topic="ended"), join], triggers=[Trigger("r~join", "r", (("ended", 2),), 1)])
    await bench.finish(await bench.take("r~a"), Failed(Fault("E")))
    await bench.store.replay(["r~a"])
    await bench.finish(await bench.take("r~a"), Succeeded())
    expect((await bench.keys("r", "ended"), await bench.due_in_ms("r~join")), (["r~a"], None))


@case
async def a_replayed_job_is_swept_like_any_other(bench: Bench) -> None:
    await dead(bench, "a")
    await bench.store.replay(["a"])
    await bench.finish(await bench.take("a"), Succeeded(), keep_ms=100)
    bench.clock.advance(ms=100)
    expect((await bench.sweep(), await bench.state("a")), (1, "absent"))


@case
async def discard_forgets_dead_letters_only(bench: Bench) -> None:
    await dead(bench, "a", "b", "c")
    await bench.send(Job(id="open", task="t"))
    expect(await bench.store.discard(["a", "b", "a", "open", "never"]), 2)
    expect([await bench.state(i) for i in ("a", "b", "c", "open")], ["absent", "absent", "failed", "open"])
    expect(await bench.store.outcome("a"), Absent())
    expect(await bench.store.discard(["a"]), 0)

"""Dead letters: what failed or was lost waits for somebody to replay or discard it."""

from __future__ import annotations

from typing import Any

from culm.commit import Trigger
from culm.job import Job
from culm.outcome import Failed, Fault, Lost, Retried, Succeeded
from culm.store import Absent, Pending, Shown
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
async def a_dead_letter_tells_how_long_it_is_one(bench: Bench) -> None:
    await dead(bench, "a", "b")
    bench.clock.advance(ms=70)
    await dead(bench, "c")
    bench.clock.advance(ms=5)
    expect([(v.id, v.dead_ms) for v in await bench.store.jobs(state="dead")], [("a", 75), ("b", 75), ("c", 5)])
    await bench.store.replay(["b"])
    expect((await bench.view("b")).dead_ms, None)
    expect([(await bench.view(i)).age_ms for i in ("a", "c")], [75, 5], "they are as old as their send")


@case
async def a_replayed_job_keeps_its_history(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    await bench.take("a")
    bench.clock.advance(ms=LEASE_MS)
    await bench.finish(await bench.take("a"), Failed(Fault("E", "first")))
    for n in (1, 2):
        await bench.store.replay(["a"])
        view = await bench.view("a")
        expect((view.attempt, view.expiries, view.claims, view.replays), (0, 0, n + 1, n))
        expect(view.last, Failed(Fault("E", "first")) if n == 1 else Lost("second"), "how it died is told until it ends anew")
        await bench.finish(await bench.take("a"), Lost("second"))
        view = await bench.view("a")
        expect((view.attempt, view.claims, view.replays, view.dead_ms), (1, n + 2, n, 0))
    await bench.store.replay(["a"])
    expect(await bench.end(await bench.take("a"), Retried(0, Fault("E"))), "applied")
    await bench.finish(await bench.take("a"), Succeeded())
    view = await bench.view("a")
    expect((view.state, view.attempt, view.claims, view.replays), ("succeeded", 2, 6, 3))


@case
async def a_job_that_is_sent_anew_after_a_discard_has_no_history(bench: Bench) -> None:
    await dead(bench, "a")
    await bench.store.replay(["a"])
    await bench.finish(await bench.take("a"), Lost())
    await bench.store.discard(["a"])
    await bench.send(Job(id="a", task="t"))
    view = await bench.view("a")
    expect((view.claims, view.replays, view.dead_ms, view.last), (0, 0, None, None))


@case
async def dead_letters_are_listed_by_id_and_by_page_whatever_killed_them(bench: Bench) -> None:
    await dead(bench, "b", "d", "a", "c")
    await bench.send(Job(id="alive", task="t"), Job(id="ok", task="t", queue="other"))
    [ok] = await bench.claim("other")
    await bench.finish(ok, Succeeded())

    async def ids(state: Shown, **asked: Any) -> list[str]:
        return [v.id for v in await bench.store.jobs(state=state, **asked)]

    expect(await ids("dead"), ["a", "b", "c", "d"])
    expect((await ids("dead", limit=2), await ids("dead", after="b", limit=1), await ids("dead", after="d")), (["a", "b"], ["c"], []))
    expect((await ids("failed"), await ids("lost")), (["a", "c"], ["b", "d"]))
    expect((await ids("dead", task="u"), await ids("dead", queue="x"), await ids("dead", scope="c")), ([], [], ["c"]))
    await bench.store.replay(["a"])
    await bench.store.discard(["b"])
    expect(await ids("dead"), ["c", "d"])


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

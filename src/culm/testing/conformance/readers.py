"""What a reader sees: jobs by id, state, queue and task, and events by key; all of it by page."""

from __future__ import annotations

from culm.commit import GLOBAL_SCOPE, Event, Trigger
from culm.job import Job
from culm.outcome import Cancelled, Expired, Failed, Fault, Final, Lost, Retried, Succeeded
from culm.store import Absent, Awaited, Ended, JobView, Pending, Waits
from culm.testing.conformance.bench import LEASE_MS, Bench, by_id, expect
from culm.testing.conformance.suite import case, case_needing


@case
async def a_job_that_never_was_is_absent(bench: Bench) -> None:  # I4
    expect((await bench.store.job("a"), await bench.store.outcome("a")), (None, Absent()))


@case
async def a_job_is_read_as_it_was_sent_while_it_is_known(bench: Bench) -> None:  # I7
    job = Job(id="a", task="t", args=bytes(range(256)), priority=7, after_ms=40, keep_ms=50, headers={"who": "ä"})
    expect(await bench.store.sent("a"), None, "before")
    await bench.send(job)
    expect(await bench.store.sent("a"), job)
    bench.clock.advance(ms=40)
    delivery = await bench.take("a")
    expect(await bench.store.sent("a"), job, "while it runs")
    await bench.finish(delivery, Failed(Fault("E", "m", "l")))
    expect(await bench.store.sent("a"), job, "as a dead letter")
    expect(await bench.store.discard(["a"]), 1)
    expect(await bench.store.sent("a"), None, "after")


@case
async def a_view_shows_where_a_job_stands(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t", queue="x", priority=7, topic="ended", after_ms=40))
    bench.clock.advance(ms=15)
    view = JobView(
        id="a", task="t", queue="x", priority=7, state="open", attempt=0, expiries=0, due_in_ms=25, age_ms=15, last=None, topic="ended"
    )
    expect(await bench.store.job("a"), view)
    expect(await bench.store.jobs(), [view])


@case
async def a_view_shows_the_lease_and_the_last_outcome(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t"))
    expect(await bench.end(await bench.take("a"), Retried(0, Fault("E", "m", "l"))), "applied")
    delivery = await bench.take("a")
    bench.clock.advance(ms=1)
    view = await bench.view("a")
    expect((view.state, view.attempt, view.lease, view.due_in_ms), ("leased", 2, delivery.lease, LEASE_MS - 1))
    expect((view.claims, view.replays, view.dead_ms), (2, 0, None))
    expect(view.last, Retried(0, Fault("E", "m", "l")))


@case
async def an_outcome_is_read_as_it_was_committed(bench: Bench) -> None:  # I7
    ends = (Succeeded(bytes(range(256))), Failed(Fault("E", "ä", "l\n")), Cancelled("c"), Expired("e"), Lost("l"))
    await bench.send(*(Job(id=f"j{n}", task="t") for n in range(len(ends))))
    for n, delivery in enumerate(by_id(await bench.claim())):
        expect(await bench.store.outcome(f"j{n}"), Pending(), "before")
        await bench.finish(delivery, ends[n])
        expect(await bench.store.outcome(f"j{n}"), Ended(ends[n]), "after")


@case
async def jobs_are_listed_by_ascending_id_and_by_page(bench: Bench) -> None:
    await bench.send(*(Job(id=i, task="t") for i in ("b", "d", "a", "e", "c")))

    async def page(*, after: str = "", limit: int = 100) -> list[str]:
        return [v.id for v in await bench.store.jobs(after=after, limit=limit)]

    expect(await page(), ["a", "b", "c", "d", "e"])
    expect(await page(limit=2), ["a", "b"])
    expect(await page(after="b", limit=2), ["c", "d"])
    expect(await page(after="bb", limit=2), ["c", "d"])
    expect(await page(after="e"), [])


@case
async def jobs_are_filtered_by_state(bench: Bench) -> None:
    ends: dict[str, Final] = {"s": Succeeded(), "f": Failed(Fault("E")), "c": Cancelled(), "e": Expired(), "l": Lost()}
    await bench.send(*(Job(id=i, task="t") for i in ends))
    for delivery in await bench.claim():
        await bench.finish(delivery, ends[delivery.job.id])
    await bench.send(Job(id="o1", task="t", priority=9))
    await bench.take("o1")
    await bench.send(Job(id="o2", task="t"), Job(id="o3", task="t", after_ms=None))
    wanted = {"succeeded": ["s"], "failed": ["f"], "cancelled": ["c"], "expired": ["e"], "lost": ["l"]}
    for state, ids in {**wanted, "open": ["o2", "o3"], "leased": ["o1"]}.items():
        expect([v.id for v in await bench.store.jobs(state=state)], ids, state)  # type: ignore[arg-type]  # all of them are states


@case
async def jobs_are_filtered_by_queue_and_task_together(bench: Bench) -> None:
    await bench.send(*(Job(id=f"{q}{t}{n}", task=t, queue=q) for q in "xy" for t in "tu" for n in range(2)))

    async def ids(**asked: str) -> list[str]:
        return [v.id for v in await bench.store.jobs(**asked)]  # type: ignore[arg-type]  # the names of its filters

    expect(await ids(queue="x"), ["xt0", "xt1", "xu0", "xu1"])
    expect(await ids(task="u"), ["xu0", "xu1", "yu0", "yu1"])
    expect(await ids(task="u", queue="y"), ["yu0", "yu1"])
    expect(await ids(task="u", queue="y", state="open", after="yu0"), ["yu1"])
    expect(await ids(task="u", queue="y", state="leased"), [])
    expect(await ids(queue="z"), [])


@case
async def jobs_are_filtered_by_scope(bench: Bench) -> None:
    await bench.send(*(Job(id=i, task="t") for i in ("r", "r~a", "r~b", "r-", "ra", "r0~c", "q")))

    async def ids(scope: str, after: str = "", limit: int = 100) -> list[str]:
        return [v.id for v in await bench.store.jobs(scope=scope, after=after, limit=limit)]

    expect(await ids("r"), ["r", "r~a", "r~b"])
    expect((await ids("r", limit=2), await ids("r", after="r~a")), (["r", "r~a"], ["r~b"]))
    expect((await ids("q"), await ids("nobody"), await ids("r~a")), (["q"], [], []), "only a root has a scope")


@case_needing("order")
async def a_job_waits_for_those_that_are_claimed_before_it(bench: Bench) -> None:
    await bench.send(
        Job(id="first", task="t"),
        Job(id="mine", task="t"),
        Job(id="behind", task="t"),
        Job(id="lower", task="t", priority=1),
        Job(id="higher", task="t", priority=9),
        Job(id="higher-later", task="t", priority=9, after_ms=50),
        Job(id="later", task="t", after_ms=80),
        Job(id="other", task="t", queue="x", priority=9),
    )

    async def ahead(job_id: str) -> int | None:
        return (await bench.store.waits(job_id)).ahead

    expect([await ahead(i) for i in ("higher", "first", "mine", "behind", "lower")], [0, 1, 2, 3, 4], "what is due later is not ahead")
    expect([await ahead(i) for i in ("higher-later", "later", "other")], [1, 5, 0], "all that is due by then is")
    await bench.claim(limit=1)
    expect((await ahead("higher"), await ahead("mine")), (None, 1), "what is leased is ahead of nobody")
    await bench.do(cancel=["first"])
    expect((await ahead("first"), await ahead("mine"), await ahead("nobody")), (None, 0, None))


@case_needing("order")
async def a_job_waits_for_the_topics_that_its_triggers_have_not_reached(bench: Bench) -> None:  # I13
    await bench.do(
        send=[
            Job(id="r~join", task="t", after_ms=None),
            Job(id="r~a", task="t", topic="packed"),
            Job(id="r~b", task="t", topic="packed"),
            Job(id="r~c", task="t", after_ms=None),
        ],
        triggers=[
            Trigger("r~join", "r", (("packed", 2), ("paid", 1), ("done/r~c", 1)), 3),
            Trigger("r~join", GLOBAL_SCOPE, (("opened", 1),), 1),
            Trigger("r~c", "r", (("packed", 3),), 1),
        ],
    )
    opened = Awaited(scope=GLOBAL_SCOPE, need=1, reached=0, topics=(("opened", 1, 0),))
    wanted = Awaited(scope="r", need=3, reached=0, topics=(("done/r~c", 1, 0), ("packed", 2, 0), ("paid", 1, 0)))
    expect(await bench.store.waits("r~join"), Waits(ahead=None, awaits=(opened, wanted)))
    await bench.finish((await bench.claim(limit=1))[0], Succeeded())
    await bench.emit("r", "paid", "k")
    wanted = Awaited(scope="r", need=3, reached=1, topics=(("done/r~c", 1, 0), ("packed", 2, 1)))
    expect((await bench.store.waits("r~join")).awaits, (opened, wanted), "one event of two, and the other topic reached")
    expect((await bench.store.waits("r~a"), await bench.store.waits("nobody")), (Waits(), Waits()))
    await bench.emit(GLOBAL_SCOPE, "opened", "k")
    expect(await bench.store.waits("r~join"), Waits(ahead=0, awaits=(wanted,)), "released by one, it still waits for the other")


@case
async def events_are_read_by_key_and_by_page(bench: Bench) -> None:
    for key in ("c", "a", "e", "b", "d"):
        await bench.do(emit=[Event("r", "said", key, key.encode())])
    await bench.emit("r", "other", "x")
    await bench.emit("q", "said", "y")
    wanted = [Event("r", "said", key, key.encode()) for key in "abcde"]
    expect(await bench.store.events("r", "said"), wanted)
    expect(await bench.store.events("r", "said", limit=2), wanted[:2])
    expect(await bench.store.events("r", "said", after="b", limit=2), wanted[2:4])
    expect(await bench.store.events("r", "said", after="e"), [])
    expect(await bench.store.events("r", "silent"), [])
    expect(await bench.store.events("nobody", "said"), [])


@case
async def ids_and_topics_may_hold_any_character(bench: Bench) -> None:
    ids = ["a'b", 'a"b', "a%b", "a_b", "a\\b", "ä\U0001f38b", "a b", "a/b/1", "a:b", "a{b}"]
    await bench.send(*(Job(id=i, task="t'%", queue="q'%") for i in ids))
    expect(sorted(await bench.claim_ids("q'%")), sorted(ids))
    for i in ids:
        await bench.emit(i, i, i)
        expect(await bench.keys(i, i), [i])
    expect([v.id for v in await bench.store.jobs()], sorted(ids), "by code point")


@case
async def a_store_says_which_falls_it_survives_and_its_own_time(bench: Bench) -> None:
    condition = await bench.store.condition()
    expect(condition.durability[:2] in ("D0", "D1", "D2", "D3"), True, condition.durability)
    expect(condition.now_ms, bench.clock.now_ms())
    expect("" in (condition.place, condition.engine), False)

"""A join is a job that waits and a Trigger that releases it: event before trigger or after, it fires once, after its full set."""

from __future__ import annotations

from culm.commit import Commit, Event, Trigger
from culm.job import Job
from culm.outcome import Fault, Retried, Snoozed, Succeeded, Suspended
from culm.testing.conformance.bench import Bench, expect, held
from culm.testing.conformance.suite import case, case_needing

JOIN = Job(id="r~join", task="t", after_ms=None)


def on(*topics: tuple[str, int], need: int = 1, job: str = "r~join", scope: str = "r") -> Trigger:
    return Trigger(job, scope, topics, need)


@case
async def an_event_after_the_trigger_releases(bench: Bench) -> None:  # I13, I16
    await bench.do(send=[JOIN], triggers=[on(("paid", 1))])
    expect(await bench.claim_ids(), [], "before the event")
    await bench.emit("r", "paid", "x")
    expect(await bench.claim_ids(), ["r~join"])


@case
async def an_event_before_the_trigger_releases(bench: Bench) -> None:  # I16
    await bench.emit("r", "paid", "x")
    await bench.do(send=[JOIN], triggers=[on(("paid", 1))])
    expect(await bench.claim_ids(), ["r~join"])


@case
async def an_event_in_the_triggers_own_commit_releases(bench: Bench) -> None:  # I16
    await bench.do(send=[JOIN], triggers=[on(("paid", 2))], emit=[Event("r", "paid", "x"), Event("r", "paid", "y")])
    expect(await bench.claim_ids(), ["r~join"])


@case
async def the_same_event_twice_counts_once(bench: Bench) -> None:  # I13
    await bench.do(send=[JOIN], triggers=[on(("paid", 2))])
    await bench.emit("r", "paid", "x", "x")
    await bench.emit("r", "paid", "x")
    expect(await bench.claim_ids(), [], "one fact, said three times")
    await bench.emit("r", "paid", "y")
    expect(await bench.claim_ids(), ["r~join"])


@case
async def the_same_event_twice_before_the_trigger_counts_once(bench: Bench) -> None:  # I13
    await bench.emit("r", "paid", "x", "x")
    await bench.do(send=[JOIN], triggers=[on(("paid", 2))])
    expect(await bench.claim_ids(), [])


@case
async def the_first_value_of_an_event_stands(bench: Bench) -> None:
    await bench.do(emit=[Event("r", "paid", "x", b"\x01")])
    await bench.do(emit=[Event("r", "paid", "x", b"\x02")])
    expect(await bench.store.events("r", "paid"), [Event("r", "paid", "x", b"\x01")])


@case
async def a_count_of_n_needs_n_events_some_before_some_after(bench: Bench) -> None:  # I13, I14
    await bench.emit("r", "done", "0", "1")
    await bench.do(send=[JOIN], triggers=[on(("done", 4))])
    await bench.emit("r", "done", "2")
    expect(await bench.claim_ids(), [], "three of four")
    await bench.emit("r", "done", "3")
    expect(await bench.claim_ids(), ["r~join"])


@case
async def a_join_of_several_topics_needs_all_of_them(bench: Bench) -> None:  # I13
    await bench.do(send=[JOIN], triggers=[on(("paid", 1), ("packed", 2), need=2)])
    await bench.emit("r", "paid", "x", "y", "z")
    await bench.emit("r", "packed", "x")
    expect(await bench.claim_ids(), [], "packed holds one of two; many of one topic are no substitute")
    await bench.emit("r", "packed", "y")
    expect(await bench.claim_ids(), ["r~join"])


@case
async def a_race_needs_one_topic_of_many(bench: Bench) -> None:
    await bench.do(send=[JOIN], triggers=[on(("a", 1), ("b", 1), ("c", 1))])
    await bench.emit("r", "b", "x")
    expect(await bench.claim_ids(), ["r~join"])


@case
async def two_of_three_topics_are_enough_when_two_are_needed(bench: Bench) -> None:
    await bench.do(send=[JOIN], triggers=[on(("a", 1), ("b", 1), ("c", 1), need=2)])
    await bench.emit("r", "c", "x")
    expect(await bench.claim_ids(), [], "one of three")
    await bench.emit("r", "a", "x")
    expect(await bench.claim_ids(), ["r~join"])


@case
async def a_trigger_fires_once(bench: Bench) -> None:  # I13
    await bench.do(send=[JOIN], triggers=[on(("a", 1), ("b", 1))])
    await bench.emit("r", "a", "x")
    expect(await bench.end(await bench.take("r~join"), Suspended()), "applied")
    await bench.emit("r", "a", "y")
    await bench.emit("r", "b", "x")
    expect(await bench.claim_ids(), [], "the loser of the race releases nothing")


@case
async def the_nth_event_of_a_topic_can_be_awaited_after_the_first(bench: Bench) -> None:  # I16
    await bench.do(send=[JOIN], triggers=[on(("said", 1))])
    await bench.emit("r", "said", "x")
    delivery = await bench.take("r~join")
    expect(await bench.commit(Commit(fence=held(delivery), outcome=Suspended(), triggers=(on(("said", 2)),))), "applied")
    expect(await bench.claim_ids(), [], "the first is not consumed again")
    await bench.emit("r", "said", "y")
    expect(await bench.claim_ids(), ["r~join"])


@case
async def one_event_releases_all_who_wait_for_it(bench: Bench) -> None:  # I14
    jobs = [Job(id=f"r~{n}", task="t", after_ms=None) for n in range(5)]
    await bench.do(send=jobs, triggers=[on(("go", 1), job=j.id) for j in jobs])
    await bench.emit("r", "go", "x")
    expect(sorted(await bench.claim_ids()), [j.id for j in jobs])


@case
async def several_triggers_of_one_job_are_independent(bench: Bench) -> None:
    await bench.do(send=[JOIN], triggers=[on(("a", 1)), on(("b", 1))])
    await bench.emit("r", "a", "x")
    expect(await bench.end(await bench.take("r~join"), Suspended()), "applied")
    await bench.emit("r", "b", "x")
    expect(await bench.claim_ids(), ["r~join"])


@case
async def topics_of_another_scope_do_not_count(bench: Bench) -> None:
    await bench.do(send=[JOIN], triggers=[on(("paid", 1))])
    await bench.emit("q", "paid", "x")
    await bench.emit("", "paid", "x")
    expect(await bench.claim_ids(), [])


@case
async def a_join_may_wait_for_the_global_scope(bench: Bench) -> None:
    await bench.do(send=[JOIN], triggers=[on(("open", 1), scope="")])
    await bench.emit("", "open", "x")
    expect(await bench.claim_ids(), ["r~join"])


@case
async def a_join_may_wait_for_what_happened_in_the_global_scope_before(bench: Bench) -> None:  # I16
    await bench.emit("", "open", "x")
    for n in range(4):  # wherever their roots lie
        join = Job(id=f"r{n}~join", task="t", after_ms=None)
        await bench.do(send=[join], triggers=[Trigger(join.id, "", (("open", 1),), 1)])
        expect(await bench.due_in_ms(join.id), 0, join.id)


@case
async def a_release_while_leased_makes_the_suspended_job_due_at_once(bench: Bench) -> None:  # I14, I16
    await bench.send(Job(id="r", task="t"))
    for outcome in (Suspended(), Suspended(60_000)):
        delivery = await bench.take("r")
        await bench.do(triggers=[on((f"go{outcome.after_ms}", 1), job="r")])
        await bench.emit("r", f"go{outcome.after_ms}", "x")
        expect(await bench.end(delivery, outcome), "applied")
        expect(await bench.due_in_ms("r"), 0, f"{outcome}")


@case
async def a_release_is_remembered_for_one_suspension_only(bench: Bench) -> None:
    await bench.send(Job(id="r", task="t"))
    delivery = await bench.take("r")
    await bench.do(triggers=[on(("go", 1), job="r")], emit=[Event("r", "go", "x")])
    expect(await bench.end(delivery, Suspended()), "applied")
    expect(await bench.end(await bench.take("r"), Suspended()), "applied")
    expect(await bench.due_in_ms("r"), None)


@case
async def a_release_while_leased_does_not_hasten_a_retry(bench: Bench) -> None:  # I20
    await bench.send(Job(id="r", task="t"))
    for outcome in (Retried(7_000, Fault("E")), Snoozed(7_000)):
        delivery = await bench.take("r")
        await bench.do(triggers=[on((f"go{type(outcome).__name__}", 1), job="r")])
        await bench.emit("r", f"go{type(outcome).__name__}", "x")
        expect(await bench.end(delivery, outcome), "applied")
        expect(await bench.due_in_ms("r"), 7_000, f"{outcome}")
        bench.clock.advance(ms=7_000)
    delivery = await bench.take("r")
    expect(await bench.end(delivery, Suspended()), "applied")
    expect(await bench.due_in_ms("r"), None, "the release is forgotten with the attempt that it was for")


@case
async def a_trigger_that_is_reached_in_the_suspending_commit_releases(bench: Bench) -> None:  # I16
    await bench.send(Job(id="r", task="t"))
    await bench.emit("r", "go", "x")
    commit = Commit(fence=held(await bench.take("r")), outcome=Suspended(60_000), triggers=(on(("go", 1), job="r"),))
    expect(await bench.commit(commit), "applied")
    expect(await bench.claim_ids(), ["r"])


@case
async def a_join_with_a_timeout_comes_due_by_itself(bench: Bench) -> None:
    await bench.do(send=[Job(id="r~join", task="t", after_ms=9_000)], triggers=[on(("paid", 1))])
    bench.clock.advance(ms=8_999)
    expect(await bench.claim_ids(), [], "early")
    bench.clock.advance(ms=1)
    expect(await bench.claim_ids(), ["r~join"])


@case
async def a_join_with_a_timeout_is_released_before_it(bench: Bench) -> None:
    await bench.do(send=[Job(id="r~join", task="t", after_ms=9_000)], triggers=[on(("paid", 1))])
    await bench.emit("r", "paid", "x")
    expect(await bench.claim_ids(), ["r~join"])


@case_needing("order")
async def a_job_that_is_due_already_is_not_moved_back_by_a_release(bench: Bench) -> None:
    await bench.send(Job(id="r", task="t"))
    bench.clock.advance(ms=1)
    await bench.send(Job(id="q", task="t"))
    bench.clock.advance(ms=1)
    await bench.do(triggers=[on(("go", 1), job="r")], emit=[Event("r", "go", "x")])
    expect(await bench.claim_ids(), ["r", "q"], "its place in the line")


@case
async def a_cancelled_join_is_not_released(bench: Bench) -> None:
    await bench.do(send=[JOIN], triggers=[on(("paid", 1))])
    await bench.do(cancel=["r~join"])
    await bench.emit("r", "paid", "x")
    expect((await bench.claim_ids(), await bench.state("r~join")), ([], "cancelled"))


@case
async def a_finished_job_is_not_released(bench: Bench) -> None:  # I3
    await bench.send(Job(id="r", task="t"))
    await bench.do(triggers=[on(("go", 1), job="r")])
    await bench.finish(await bench.take("r"), Succeeded())
    await bench.emit("r", "go", "x")
    expect((await bench.claim_ids(), await bench.state("r")), ([], "succeeded"))

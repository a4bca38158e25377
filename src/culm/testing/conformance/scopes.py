"""A scope counts its live jobs; at zero its events, triggers and records go with `keep`, and not before."""

from __future__ import annotations

from culm.commit import Event, Record, Trigger
from culm.job import DEFAULT_KEEP_MS, Job
from culm.outcome import Failed, Fault, Succeeded
from culm.testing.conformance.bench import Bench, expect
from culm.testing.conformance.suite import case

DAY_MS = 86_400_000


async def marked(bench: Bench, *, scope: str = "r") -> None:
    """Something to remember in that scope."""
    await bench.do(emit=[Event(scope, "said", "x")], records=[Record(scope, 0)])


async def remembered(bench: Bench, *, scope: str = "r") -> bool:
    events, records = await bench.keys(scope, "said"), await bench.store.records(scope)
    expect(bool(events), bool(records), "events and records go together")
    return bool(events)


@case
async def a_scope_is_remembered_while_its_root_lives(bench: Bench) -> None:  # I30
    await bench.send(Job(id="r", task="t"))
    await marked(bench)
    bench.clock.advance(ms=30 * DAY_MS)
    expect((await bench.sweep(), await remembered(bench)), (0, True))


@case
async def a_scope_is_remembered_while_any_child_lives(bench: Bench) -> None:  # I30
    await bench.do(send=[Job(id="r", task="t"), Job(id="r~a", task="t", after_ms=None)])
    await marked(bench)
    await bench.finish(await bench.take("r"), Succeeded(), keep_ms=100)
    bench.clock.advance(ms=30 * DAY_MS)
    expect((await bench.sweep(), await remembered(bench)), (1, True), "the root's row only")
    await bench.do(cancel=["r~a"])
    bench.clock.advance(ms=DEFAULT_KEEP_MS - 1)
    expect((await bench.sweep(), await remembered(bench)), (0, True), "early")
    bench.clock.advance(ms=1)
    expect((await bench.sweep(), await remembered(bench)), (2, False), "the child's row, and the scope")


@case
async def the_last_jobs_keep_is_the_scopes(bench: Bench) -> None:  # I18
    await bench.do(send=[Job(id="r", task="t"), Job(id="r~a", task="t")])
    await marked(bench)
    first, last = await bench.claim()
    await bench.finish(first, Succeeded(), keep_ms=50_000)
    await bench.finish(last, Succeeded(), keep_ms=2_000)
    bench.clock.advance(ms=1_999)
    expect((await bench.sweep(), await remembered(bench)), (0, True))
    bench.clock.advance(ms=1)
    expect((await bench.sweep(), await remembered(bench)), (2, False))


@case
async def a_job_that_joins_a_scope_in_time_keeps_it(bench: Bench) -> None:
    await bench.send(Job(id="r", task="t"))
    await marked(bench)
    await bench.finish(await bench.take("r"), Succeeded(), keep_ms=1_000)
    bench.clock.advance(ms=999)
    await bench.send(Job(id="r~late", task="t", after_ms=None))
    bench.clock.advance(ms=DAY_MS)
    expect((await bench.sweep(), await remembered(bench)), (1, True), "the root's row only")


@case
async def what_is_said_to_a_scope_before_its_root_is_kept_for_an_hour(bench: Bench) -> None:  # I16
    await marked(bench)
    bench.clock.advance(ms=DEFAULT_KEEP_MS - 1)
    expect((await bench.sweep(), await remembered(bench)), (0, True))
    await bench.send(Job(id="r", task="t", after_ms=None))
    bench.clock.advance(ms=DAY_MS)
    expect((await bench.sweep(), await remembered(bench)), (0, True), "the root came in time")


@case
async def what_is_said_to_nobody_goes_after_an_hour(bench: Bench) -> None:
    await marked(bench)
    await marked(bench, scope="")
    bench.clock.advance(ms=DEFAULT_KEEP_MS)
    expect(await bench.sweep(), 2, "two scopes")
    expect((await remembered(bench), await remembered(bench, scope="")), (False, False))


@case
async def an_event_said_again_after_its_scope_is_gone_is_new(bench: Bench) -> None:
    await bench.emit("r", "said", "x")
    bench.clock.advance(ms=DEFAULT_KEEP_MS)
    await bench.sweep()
    await bench.do(send=[Job(id="r~join", task="t", after_ms=None)], triggers=[Trigger("r~join", "r", (("said", 1),), 1)])
    expect(await bench.due_in_ms("r~join"), None)
    await bench.emit("r", "said", "x")
    expect(await bench.claim_ids(), ["r~join"])


@case
async def triggers_go_with_their_scope(bench: Bench) -> None:  # I18
    await bench.send(Job(id="q", task="t", after_ms=None))
    await bench.do(triggers=[Trigger("q", "", (("open", 1),), 1)])
    bench.clock.advance(ms=DEFAULT_KEEP_MS)
    expect(await bench.sweep(), 1)
    await bench.emit("", "open", "x")
    expect(await bench.due_in_ms("q"), None, "the global scope was idle for an hour")


@case
async def a_scope_with_dead_letters_only_goes_and_they_stay(bench: Bench) -> None:
    await bench.send(Job(id="r", task="t"))
    await marked(bench)
    await bench.finish(await bench.take("r"), Failed(Fault("E")), keep_ms=100)
    bench.clock.advance(ms=100)
    expect((await bench.sweep(), await remembered(bench), await bench.state("r")), (1, False, "failed"))


@case
async def a_replayed_job_counts_in_its_scope_again(bench: Bench) -> None:
    await bench.send(Job(id="r", task="t"))
    await marked(bench)
    await bench.finish(await bench.take("r"), Failed(Fault("E")), keep_ms=100)
    await bench.store.replay(["r"])
    bench.clock.advance(ms=DAY_MS)
    expect((await bench.sweep(), await remembered(bench)), (0, True), "it lives")
    await bench.finish(await bench.take("r"), Succeeded(), keep_ms=100)
    bench.clock.advance(ms=100)
    expect((await bench.sweep(), await remembered(bench)), (2, False))


@case
async def a_child_replayed_after_its_scope_is_gone_counts_in_a_new_one(bench: Bench) -> None:
    await bench.send(Job(id="r~a", task="t"))
    await bench.finish(await bench.take("r~a"), Failed(Fault("E")), keep_ms=100)
    bench.clock.advance(ms=100)
    expect(await bench.sweep(), 1, "the scope")
    await bench.store.replay(["r~a"])
    await marked(bench)
    bench.clock.advance(ms=DAY_MS)
    expect((await bench.sweep(), await remembered(bench)), (0, True), "it lives")
    await bench.finish(await bench.take("r~a"), Succeeded(), keep_ms=100)
    bench.clock.advance(ms=100)
    expect((await bench.sweep(), await remembered(bench)), (2, False))

"""Never early: a delay is judged by the store's clock, to the millisecond."""

from __future__ import annotations

from culm.job import Job
from culm.outcome import Fault, NotFinal, Released, Retried, Snoozed, Suspended
from culm.testing.conformance.bench import Bench, expect
from culm.testing.conformance.suite import case


async def expect_due_after(bench: Bench, ms: int, why: str = "") -> None:
    """The one job that is there can be claimed after `ms`, and not a millisecond earlier."""
    expect(await bench.claim_ids(), [], f"{why} at once")
    bench.clock.advance(ms=ms - 1)
    expect(await bench.claim_ids(), [], f"{why} a millisecond early")
    bench.clock.advance(ms=1)


@case
async def a_delayed_job_is_not_claimed_early(bench: Bench) -> None:  # I20
    await bench.send(Job(id="a", task="t", after_ms=1_500))
    await expect_due_after(bench, 1_500)
    expect(await bench.claim_ids(), ["a"])


@case
async def a_job_for_an_instant_is_not_claimed_before_it(bench: Bench) -> None:  # I20
    await bench.send(Job(id="a", task="t", at_ms=bench.clock.now_ms() + 2_500))
    await expect_due_after(bench, 2_500)
    expect(await bench.claim_ids(), ["a"])


@case
async def a_job_for_an_instant_that_has_passed_is_due_now(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t", at_ms=bench.clock.now_ms() - 1))
    expect(await bench.due_in_ms("a"), 0)
    expect(await bench.claim_ids(), ["a"])


@case
async def of_a_delay_and_an_instant_the_later_counts(bench: Bench) -> None:  # I20
    now = bench.clock.now_ms()
    await bench.send(Job(id="a", task="t", after_ms=100, at_ms=now + 300), Job(id="b", task="t", after_ms=300, at_ms=now + 100))
    expect([await bench.due_in_ms("a"), await bench.due_in_ms("b")], [300, 300])


@case
async def an_outcome_that_does_not_end_the_job_is_not_claimed_early(bench: Bench) -> None:  # I20
    await bench.send(Job(id="a", task="t"))
    outcomes: tuple[NotFinal, ...] = (Retried(700, Fault("E")), Snoozed(600), Suspended(500), Released(400))
    for outcome in outcomes:
        expect(await bench.end(await bench.take("a"), outcome), "applied")
        await expect_due_after(bench, outcome.after_ms or 0, f"{outcome}")


@case
async def a_suspended_job_is_not_claimed_until_it_is_released(bench: Bench) -> None:  # I20
    await bench.send(Job(id="a", task="t"))
    expect(await bench.end(await bench.take("a"), Suspended()), "applied")
    bench.clock.advance(ms=10 * 86_400_000)
    expect(await bench.claim_ids(), [])


@case
async def a_waiting_job_is_not_claimed_although_its_instant_has_come(bench: Bench) -> None:
    await bench.send(Job(id="a", task="t", after_ms=None, at_ms=bench.clock.now_ms() + 5))
    bench.clock.advance(ms=10)
    expect((await bench.claim_ids(), await bench.due_in_ms("a")), ([], None))

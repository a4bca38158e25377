"""Hints reach whoever is subscribed to their channel, in order; nobody else, and nobody who left."""

from __future__ import annotations

import asyncio

from culm.store import Hint
from culm.testing.conformance.bench import Bench, expect
from culm.testing.conformance.suite import case_needing
from culm.testing.conformance.wakes import LONG_MS, prompt, started

ACCEPTED = Hint("me", "accepted", "a")
PROGRESS = Hint("me", "progress", "a", b"\x92\x01\x02")
OUTCOME = Hint("me", "outcome", "a", b"\x01")


@case_needing("hints")
async def a_subscriber_hears_its_channel_in_order(bench: Bench) -> None:
    mine = await bench.store.subscribe("me")
    await bench.store.publish([ACCEPTED, Hint("you", "accepted", "b"), PROGRESS])
    await bench.store.publish([OUTCOME])
    heard: list[Hint] = []
    while len(heard) < 3:
        got = await prompt(await started(mine.next(for_ms=LONG_MS)))
        expect(bool(got), True, f"heard {heard}, then nothing")
        heard += got
    expect(heard, [ACCEPTED, PROGRESS, OUTCOME])
    await mine.close()


@case_needing("hints")
async def a_hint_is_heard_once(bench: Bench) -> None:
    mine = await bench.store.subscribe("me")
    await bench.store.publish([ACCEPTED])
    expect(list(await prompt(await started(mine.next(for_ms=LONG_MS)))), [ACCEPTED])
    expect(list(await mine.next(for_ms=10)), [], "its time is over")
    await mine.close()


@case_needing("hints")
async def whoever_waits_for_a_hint_is_woken(bench: Bench) -> None:
    mine = await bench.store.subscribe("me")
    waiting = await started(mine.next(for_ms=LONG_MS))
    await bench.store.publish([OUTCOME])
    expect(list(await prompt(waiting)), [OUTCOME])
    await mine.close()


@case_needing("hints")
async def all_subscribers_of_a_channel_hear_it(bench: Bench) -> None:
    both = [await bench.store.subscribe("me") for _ in range(2)]
    await bench.store.publish([OUTCOME])
    heard = await asyncio.gather(*(s.next(for_ms=LONG_MS) for s in both))
    expect([list(h) for h in heard], [[OUTCOME], [OUTCOME]])
    for s in both:
        await s.close()


@case_needing("hints")
async def each_subscription_of_a_channel_has_a_place_of_its_own(bench: Bench) -> None:
    """One that has heard everything, or is closed, takes nothing from another that has not."""
    quick, slow = [await bench.store.subscribe("me") for _ in range(2)]
    await bench.store.publish([OUTCOME])
    expect(list(await quick.next(for_ms=LONG_MS)), [OUTCOME])
    await quick.close()
    expect(list(await slow.next(for_ms=LONG_MS)), [OUTCOME])
    await bench.store.publish([OUTCOME])
    expect(list(await slow.next(for_ms=LONG_MS)), [OUTCOME])
    await slow.close()


@case_needing("hints")
async def a_subscription_can_be_closed_twice_and_the_others_go_on(bench: Bench) -> None:
    gone, stays = await bench.store.subscribe("me"), await bench.store.subscribe("me")
    await gone.close()
    await gone.close()
    await bench.store.publish([OUTCOME])
    expect(list(await prompt(await started(stays.next(for_ms=LONG_MS)))), [OUTCOME])
    await stays.close()


@case_needing("hints")
async def a_hint_for_nobody_is_lost_quietly(bench: Bench) -> None:
    await bench.store.publish([OUTCOME])
    await bench.store.publish([])
    late = await bench.store.subscribe("me")
    expect(list(await late.next(for_ms=10)), [], "hints are not stored")
    await late.close()

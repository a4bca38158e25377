"""`culm doctor`: what the store is, what it survives, how far away it is, and what of it wants attention.

A store that cannot be the truth's place is an error.
"""

from __future__ import annotations

import asyncio
import platform
import statistics
import time
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from culm import __version__
from culm.app import App
from culm.cli.output import Exit, say, say_json
from culm.cli.queues import Sight, see
from culm.store import Condition, FullStore
from culm.stores.open import masked

LOOKS = 21
NOBODY = "culm-doctor"  # no job's id: looking for it changes nothing
SLOW_MS = 50.0
CLOCKS_MS = 1_000  # beyond this `at=` and the hours in logs mislead; leases and delays are the store's own


class Clocks(Struct, frozen=True):
    ahead_ms: float  # the store's clock, of this machine's
    give_or_take_ms: float  # half of the question's way and back


class Latency(Struct, frozen=True):
    """Of a look-up, there and back."""

    median_ms: float
    worst_ms: float


async def doctor(app: App, *, as_json: bool) -> int:
    async with app:
        store = app.store
        condition, clocks = await _clocks(store)
        latency = await _latency(store)
        counts, workers, dead = await asyncio.gather(store.counts(), store.workers(), store.jobs(state="dead", limit=1))
    attention = findings(clocks, latency, see(counts, workers), has_dead=bool(dead))
    found: dict[str, Any] = {
        "address": masked(app.url or condition.place),
        "place": condition.place,
        "engine": condition.engine,
        "durability": condition.durability,
        "layout": condition.layout,
        **condition.more,
        "latency_ms": round(latency.median_ms, 3),
        "worst_ms": round(latency.worst_ms, 3),
        "clock_ahead_ms": round(clocks.ahead_ms),
        "clock_error_ms": round(clocks.give_or_take_ms, 3),
        "workers": len(workers),
        "culm": __version__,
        "python": platform.python_version(),
    }
    if as_json:
        say_json(found | {"attention": attention})
        return Exit.OK
    found["latency_ms"] = f"{latency.median_ms:.2f} (median of {LOOKS} look-ups)"
    found["clock_ahead_ms"] = f"{round(clocks.ahead_ms):+d} (of this machine's clock)"
    for name, value in found.items():
        say(f"{name:<14}  {value}")
    for text in attention:
        say(f"attention       {text}")
    return Exit.OK


def findings(clocks: Clocks, latency: Latency, sights: Sequence[Sight], *, has_dead: bool) -> list[str]:
    """What a person should look at; a line each."""
    found: list[str] = []
    if abs(clocks.ahead_ms) > CLOCKS_MS + clocks.give_or_take_ms:
        text = f"the store's clock is {clocks.ahead_ms / 1000:+.1f} s off this machine's; let both follow one time server"
        found.append(text)
    if latency.median_ms > SLOW_MS:
        found.append(f"a look-up takes {latency.median_ms:.0f} ms: the store is busy, or far away")
    found += [f"queue {s.queue} is paused; go on with: culm resume {s.queue}" for s in sights if s.paused]
    found += [f"queue {s.queue} has {s.ready} jobs due, and no live worker listens to it" for s in sights if s.ready and not s.workers]
    if has_dead:
        found.append("there are dead letters; see: culm dead list")
    return found


async def _clocks(store: FullStore) -> tuple[Condition, Clocks]:
    """The store's condition, and how its clock differs from ours."""
    await store.condition()  # the first one connects
    asked_at = time.time()
    condition = await store.condition()
    answered_at = time.time()
    return condition, Clocks(condition.now_ms - (asked_at + answered_at) / 2 * 1000, (answered_at - asked_at) / 2 * 1000)


async def _latency(store: FullStore) -> Latency:
    took: list[float] = []
    for _ in range(LOOKS):
        begun = time.perf_counter()
        await store.outcome(NOBODY)
        took.append((time.perf_counter() - begun) * 1000)
    return Latency(statistics.median(took), max(took))

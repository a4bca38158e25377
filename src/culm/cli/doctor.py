"""`culm doctor`: what the store is, what it survives, how far away it is. A store that cannot be the truth's place is an error."""

from __future__ import annotations

import statistics
import time
from typing import Any

from culm.app import App
from culm.cli.output import Exit, say, say_json
from culm.store import Condition, FullStore
from culm.stores.open import masked

LOOKS = 21
NOBODY = "culm-doctor"  # no job's id: looking for it changes nothing


async def doctor(app: App, *, as_json: bool) -> int:
    async with app:
        condition, store_ahead_ms = await _clocks(app.store)
        latency_ms = await _latency_ms(app.store)
        workers = len(await app.store.workers())
    found: dict[str, Any] = {
        "address": masked(app.url or condition.place),
        "place": condition.place,
        "engine": condition.engine,
        "durability": condition.durability,
        "layout": condition.layout,
        **condition.more,
        "latency_ms": round(latency_ms, 3),
        "clock_ahead_ms": round(store_ahead_ms),
        "workers": workers,
    }
    if as_json:
        say_json(found)
        return Exit.OK
    found["latency_ms"] = f"{latency_ms:.2f} (median of {LOOKS} look-ups)"
    found["clock_ahead_ms"] = f"{round(store_ahead_ms):+d} (of this machine's clock)"
    for name, value in found.items():
        say(f"{name:<14}  {value}")
    return Exit.OK


async def _clocks(store: FullStore) -> tuple[Condition, float]:
    """The store's condition, and by how many ms its clock is ahead of ours."""
    await store.condition()  # the first one connects
    asked_at = time.time()
    condition = await store.condition()
    return condition, condition.now_ms - (asked_at + time.time()) / 2 * 1000


async def _latency_ms(store: FullStore) -> float:
    took: list[float] = []
    for _ in range(LOOKS):
        begun = time.perf_counter()
        await store.outcome(NOBODY)
        took.append(time.perf_counter() - begun)
    return statistics.median(took) * 1000

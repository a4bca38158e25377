"""Workers show themselves for a while; closing a store can be repeated."""

from __future__ import annotations

import msgspec

from culm.store import WorkerInfo
from culm.testing.conformance.bench import Bench, expect
from culm.testing.conformance.suite import case

ONE = WorkerInfo("w1", "host", 7, ("a", "b"), ("t", "u"), 8, 3, 99, 1_700_000_000_000)
TWO = WorkerInfo("w2", "host", 8, ("a",), ("t",), 8)


@case
async def workers_are_shown_by_id_until_their_time_is_over(bench: Bench) -> None:
    await bench.store.register(TWO, for_ms=2_000)
    await bench.store.register(ONE, for_ms=1_000)
    expect(await bench.store.workers(), [ONE, TWO])
    bench.clock.advance(ms=999)
    expect(await bench.store.workers(), [ONE, TWO])
    bench.clock.advance(ms=1)
    expect(await bench.store.workers(), [TWO])
    bench.clock.advance(ms=1_000)
    expect(await bench.store.workers(), [])


@case
async def a_worker_that_registers_again_is_shown_once_as_it_is_now(bench: Bench) -> None:
    await bench.store.register(ONE, for_ms=1_000)
    bench.clock.advance(ms=900)
    busy = msgspec.structs.replace(ONE, running=8)
    await bench.store.register(busy, for_ms=1_000)
    bench.clock.advance(ms=900)
    expect(await bench.store.workers(), [busy])


@case
async def a_worker_leaves_by_registering_for_no_time(bench: Bench) -> None:
    await bench.store.register(ONE, for_ms=1_000)
    await bench.store.register(ONE, for_ms=0)
    expect(await bench.store.workers(), [])


@case
async def closing_is_safe_to_repeat(bench: Bench) -> None:
    await bench.store.close()
    await bench.store.close()

"""What a worker does beside its jobs for as long as it runs: it says how far they are, and sweeps the store. A failure is a warning."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Collection

import msgspec

from culm.current import Attempt
from culm.errors import StoreError
from culm.payload import Payloads
from culm.store import FullStore, Hint

log = logging.getLogger("culm.worker")

NEWS_S = 0.25  # between two publications of progress
SWEEP_S = 10.0
PAYLOADS_EVERY = 6  # rounds of that

_encode = msgspec.msgpack.Encoder().encode


async def tell_progress(store: FullStore, running: Collection[Attempt]) -> None:
    """Publish what running tasks say of their progress; apart from the tick, which must not wait for a store."""
    while True:
        await asyncio.sleep(NEWS_S)
        hints = []
        for attempt in running:
            if attempt.news is not None:
                news, attempt.news = attempt.news, None
                hints.append(Hint(attempt.job.reply_to or attempt.id, "progress", attempt.id, _encode(news)))
        if hints:
            await _or_warn(store.publish(hints), "progress")


async def sweep(store: FullStore, payloads: Payloads, rng: random.Random) -> None:
    """Let the store, and now and then the payloads, drop what nobody needs any more."""
    rounds = 0
    while True:
        await asyncio.sleep(SWEEP_S * (0.5 + rng.random()))
        await _or_warn(_sweep_store(store), "sweep")
        if rounds % PAYLOADS_EVERY == 0:
            await _or_warn(_sweep_payloads(payloads), "sweep")
        rounds += 1


async def _sweep_store(store: FullStore) -> None:
    while await store.sweep(limit=1_000):
        await asyncio.sleep(0)


async def _sweep_payloads(payloads: Payloads) -> None:
    while await payloads.sweep():
        await asyncio.sleep(0)


async def _or_warn(work: Awaitable[None], what: str) -> None:
    try:
        await work
    except StoreError as e:
        log.warning("%s.failed: %s", what, e)

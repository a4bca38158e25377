"""Who cancels a job says so aloud, and the worker that runs it asks its store at once.

If that is not heard, its heart learns of it with the next beat.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from culm.commit import Held
from culm.errors import StoreError
from culm.store import CANCELS, FullStore, LeaseState

log = logging.getLogger("culm.worker")

LISTEN_MS = 10_000  # of one wait for news
PAUSE_S = 1.0  # until a store that did not answer is listened to again


async def hear_cancels(
    store: FullStore,
    held: Callable[[], Sequence[Held]],
    leases_are: Callable[[Sequence[Held], Sequence[LeaseState]], None],
    *,
    lease_ms: int,
) -> None:
    """For ever: ask after the held jobs that somebody cancelled, and tell how their leases are."""
    while True:
        try:
            subscription = await store.subscribe(CANCELS)
            try:
                while True:
                    named = {hint.job_id for hint in await subscription.next(for_ms=LISTEN_MS)}
                    if named and (asked := [h for h in held() if h.job_id in named]):
                        leases_are(asked, await store.extend(asked, for_ms=lease_ms))
            finally:
                await subscription.close()
        except StoreError as e:
            log.debug("cancels.wait: %s", e)
            await asyncio.sleep(PAUSE_S)

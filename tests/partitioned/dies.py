"""A worker process: `python -m tests.partitioned.dies URL NAME WHEN NTH`. Runs orders until there are none, or until its NTH delivery.

Each order starts a root that most likely lies elsewhere, and records a global event. WHEN is `before` the delivery, `after` it (and before
its outbox job is removed) or `never`: then it ends when nothing is left, with 0.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence

from culm.commit import Commit, Event, Held
from culm.job import Delivery, Job
from culm.outcome import Succeeded
from culm.stores.open import open_store
from culm.stores.partitioned.crossing import Parcel
from culm.stores.partitioned.outbox import Outbox
from tests.crash.tasks import die_with_parent

LEASE_MS = 700
IDLE_MS = 4_000  # longer than a lease and the outbox's grace


def mortal(when: str, nth: int) -> None:
    deliver, done = Outbox.deliver, 0

    async def dying(self: Outbox, outbox: str, parcels: Sequence[Parcel]) -> list[str]:
        nonlocal done
        done += 1
        mine = done == nth
        if when == "before" and mine:
            os.kill(os.getpid(), signal.SIGKILL)
        conflicts = await deliver(self, outbox, parcels)
        if when == "after" and mine:
            os.kill(os.getpid(), signal.SIGKILL)
        return conflicts

    Outbox.deliver = dying  # type: ignore[method-assign]


def end(d: Delivery) -> Commit:
    fence, _, number = Held(d.job.id, d.lease), *d.job.id.split("-")
    if d.job.task != "order":
        return Commit(fence=fence, outcome=Succeeded())
    started = Job(id=f"started-{number}", task="started", keep_ms=0)
    return Commit(fence=fence, outcome=Succeeded(), send=(started,), emit=(Event("", "ordered", number),))


async def main(url: str, name: str, when: str, nth: int) -> None:
    mortal(when, nth)
    store, number, idle_ms = open_store(url), 0, 0
    while idle_ms < IDLE_MS:
        number += 1
        claimed = await store.claim(["default"], lease=f"{name}/{number}", limit=3, for_ms=LEASE_MS)
        if claimed.deliveries:
            idle_ms = 0
            await store.commit([end(d) for d in claimed.deliveries], batch=(name, number))
        else:
            idle_ms += 100
            await store.wait(["nothing"], for_ms=100)
    await store.close()


if __name__ == "__main__":
    die_with_parent()
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))

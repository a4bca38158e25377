"""A client process: `python -m tests.crash.client FIRST LAST SEED [LIVES]`. Sends the jobs FIRST..LAST-1 of the run, in calls of all kinds.

What an earlier client may have sent without hearing the answer is sent again under the same ids, except every tenth such
call, which stays unknown. With LIVES it kills itself with SIGKILL while its call of that number is under way.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from culm import Bound
from tests.crash import records
from tests.crash.records import Ack, Invoke
from tests.crash.tasks import app, die_with_parent, journal, work

CALL = 40  # jobs of one call
PAUSE_S = 0.02
DEATH_S = 0.004  # within this time of a call's start: before, while or after the store takes it


async def main(first: int, last: int, seed: int, path: Path, *, lives: int | None) -> None:
    entries = records.read(path)
    acked = {i for e in records.of(Ack, entries) for i in e.ids}
    tried = {i for e in records.of(Invoke, entries) for i in e.ids}
    calls = 0
    async with app:
        for start in range(first, last, CALL):
            numbers = range(start, min(start + CALL, last))
            ids = [f"job-{n}" for n in numbers]
            if acked.issuperset(ids) or (tried.issuperset(ids) and (start // CALL) % 10 == 0):
                continue
            bounds = [work.using(id=f"job-{n}").bind(_duration(seed, n)) for n in numbers]
            journal.write(Invoke(ids))
            calls += 1
            sending = asyncio.ensure_future(_send(bounds, in_one=(start // CALL) % 2 == 0))
            if calls == lives:
                await asyncio.wait([sending], timeout=random.Random(f"{seed}/{start}").uniform(0, DEATH_S))
                os.kill(os.getpid(), signal.SIGKILL)
            await sending
            journal.write(Ack(ids))
            await asyncio.sleep(PAUSE_S)


async def _send(bounds: Sequence[Bound[Any]], *, in_one: bool) -> None:
    if in_one:
        await app.enqueue_many(bounds)
    else:
        await asyncio.gather(*(app.enqueue_many([b]) for b in bounds))


def _duration(seed: int, n: int) -> int:
    return random.Random(f"{seed}/{n}").choice((0, 0, 5, 20, 60, 150))


if __name__ == "__main__":
    die_with_parent()
    first, last, seed, *lives = map(int, sys.argv[1:])
    asyncio.run(main(first, last, seed, Path(os.environ["CULM_JOURNAL"]), lives=lives[0] if lives else None))

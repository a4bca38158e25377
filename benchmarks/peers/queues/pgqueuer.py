"""pgqueuer: rows that a worker picks in batches; it keeps no results, so a caller watches until its job is logged as successful.

Its watcher gathers for 50 ms before it looks; here for one of `poll_s`, else the round trip would be all waiting.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.core.completion import CompletionWatcher
from pgqueuer.db import AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.peers.contract import URL, AsyncClient, tick

FILL = 1_000
BATCH = 100
queries: Any = None
driver: Any = None
watcher: Any = None


async def worker() -> PgQueuer:
    queue = PgQueuer.from_asyncpg_pool(await asyncpg.create_pool(URL, min_size=4, max_size=10))

    @queue.entrypoint("noop")
    async def noop(job: Job) -> None:
        tick()

    @queue.entrypoint("echo")
    async def echo(job: Job) -> None:
        pass

    return queue


async def start() -> None:
    global queries, driver
    driver = AsyncpgPoolDriver(await asyncpg.create_pool(URL, min_size=4, max_size=10))
    queries = Queries(driver)


async def enqueue(i: int) -> None:
    await queries.enqueue("noop", str(i).encode())


async def fill(n: int) -> None:
    for at in range(0, n, FILL):
        count = min(FILL, n - at)
        await queries.enqueue(["noop"] * count, [b"1"] * count, [0] * count)


async def call(i: int, poll_s: float) -> None:
    global watcher
    if watcher is None:
        watcher = CompletionWatcher(driver, queries=queries, debounce=timedelta(seconds=poll_s), refresh_interval=timedelta(seconds=0.1))
        await watcher.__aenter__()
    [job_id] = await queries.enqueue("echo", str(i).encode())
    assert await watcher.wait_for(job_id) == "successful"


CLIENT = AsyncClient(start=start, enqueue=enqueue, call=call, fill=fill)


async def main() -> None:
    queue = await worker()
    await queue.run(batch_size=BATCH, max_concurrent_tasks=2 * BATCH)


if __name__ == "__main__":  # the command line of 1.6.0 cannot start a worker: it stumbles over its own --log-level
    uvloop.run(main())

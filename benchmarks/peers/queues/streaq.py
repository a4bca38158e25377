"""streaQ: Redis Streams and a Lua library; acknowledged together with the result."""

from __future__ import annotations

import asyncio

from streaq import TaskStatus, Worker

from benchmarks.peers.contract import CONCURRENCY, RESULT_S, URL, AsyncClient, tick

BULK = 1_000

worker = Worker(redis_url=URL, concurrency=CONCURRENCY, prefetch=CONCURRENCY * 2, anyio_kwargs={"use_uvloop": True})


@worker.task(ttl=0, silent=True)
async def noop(x: int) -> None:
    tick()


@worker.task(ttl=RESULT_S, silent=True)
async def echo(x: int) -> int:
    return x


async def start() -> None:
    await worker.__aenter__()


async def enqueue(i: int) -> None:
    await noop.enqueue(i)


async def fill(n: int) -> None:
    for at in range(0, n, BULK):
        await worker.enqueue_many([noop.enqueue(i) for i in range(at, min(n, at + BULK))])


async def call(i: int, poll_s: float) -> None:
    """Polls: with these versions task.result() takes 100 ms more, until an unsubscription has timed out."""
    task = await echo.enqueue(i)
    while await task.status() != TaskStatus.DONE:
        await asyncio.sleep(poll_s)


CLIENT = AsyncClient(start=start, enqueue=enqueue, call=call, fill=fill)

"""One workload of one queue, in a process of its own: `python -m benchmarks.peers.client QUEUE WORKLOAD N`. Prints JSON.

Runs in the environment of the peer: standard library, and uvloop where that environment has it.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from benchmarks.peers.contract import AsyncClient, BlockingClient

CALLERS = 100
WARM_UP = 10
POLL_ALONE_S, POLL_AMONG_S = 0.001, 0.01  # how often a caller looks for its result: alone, and among a hundred

Figures = dict[str, float]


def p50_ms(took: list[float]) -> Figures:
    return {"p50_ms": sorted(took)[len(took) // 2] * 1000}


def rate(n: int, started: float) -> Figures:
    return {"n": n, "per_s": n / (time.perf_counter() - started)}


async def enqueue(client: AsyncClient, n: int) -> Figures:
    await client.enqueue(0)
    started = time.perf_counter()
    for i in range(1, n):
        await client.enqueue(i)
    return {**rate(n - 1, started), "queued": n}


async def fill(client: AsyncClient, n: int) -> Figures:
    if client.fill is not None:
        await client.fill(n)
    else:
        for start in range(0, n, CALLERS):
            await asyncio.gather(*(client.enqueue(i) for i in range(start, min(n, start + CALLERS))))
    return {"queued": n}


async def round_trip(client: AsyncClient, n: int) -> Figures:
    took: list[float] = []
    for i in range(n + WARM_UP):
        started = time.perf_counter()
        await client.call(i, POLL_ALONE_S)
        took.append(time.perf_counter() - started)
    return p50_ms(took[WARM_UP:])


async def callers(client: AsyncClient, n: int) -> Figures:
    async def caller(each: int) -> None:
        for i in range(each):
            await client.call(i, POLL_AMONG_S)

    each = max(1, n // CALLERS)
    await asyncio.gather(*(caller(1) for _ in range(WARM_UP)))
    started = time.perf_counter()
    await asyncio.gather(*(caller(each) for _ in range(CALLERS)))
    return rate(each * CALLERS, started)


def enqueue_blocking(client: BlockingClient, n: int) -> Figures:
    client.enqueue(0)
    started = time.perf_counter()
    for i in range(1, n):
        client.enqueue(i)
    return {**rate(n - 1, started), "queued": n}


def fill_blocking(client: BlockingClient, n: int) -> Figures:
    if client.fill is not None:
        client.fill(n)
    else:
        for i in range(n):
            client.enqueue(i)
    return {"queued": n}


def round_trip_blocking(client: BlockingClient, n: int) -> Figures:
    took: list[float] = []
    for i in range(n + WARM_UP):
        started = time.perf_counter()
        client.call(i, POLL_ALONE_S)
        took.append(time.perf_counter() - started)
    return p50_ms(took[WARM_UP:])


def callers_blocking(client: BlockingClient, n: int) -> Figures:
    def caller(each: int) -> None:
        for i in range(each):
            client.call(i, POLL_AMONG_S)

    each = max(1, n // CALLERS)
    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(caller, [1] * CALLERS))  # each thread opens its connection
        started = time.perf_counter()
        list(pool.map(caller, [each] * CALLERS))
        return rate(each * CALLERS, started)


ASYNC: dict[str, Callable[[AsyncClient, int], Awaitable[Figures]]] = {
    "enqueue": enqueue,
    "fill": fill,
    "round_trip": round_trip,
    "callers": callers,
}
BLOCKING: dict[str, Callable[[BlockingClient, int], Figures]] = {
    "enqueue": enqueue_blocking,
    "fill": fill_blocking,
    "round_trip": round_trip_blocking,
    "callers": callers_blocking,
}


async def started(client: AsyncClient, workload: str, n: int) -> Figures:
    await client.start()
    return await ASYNC[workload](client, n)


def figures(client: AsyncClient | BlockingClient, workload: str, n: int) -> Figures:
    if isinstance(client, BlockingClient):
        return BLOCKING[workload](client, n)
    main = partial(started, client, workload, n)
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main())
    return uvloop.run(main())


def show(found: Figures) -> None:
    print(json.dumps(found), flush=True)
    os._exit(0)  # what a peer would still tidy up is not measured, and some never end


def main() -> None:
    # Imported by its name, never run as "__main__": some queues name tasks after their module.
    client = importlib.import_module(f"benchmarks.peers.queues.{sys.argv[1]}").CLIENT
    show(figures(client, sys.argv[2], int(sys.argv[3])))


if __name__ == "__main__":
    main()

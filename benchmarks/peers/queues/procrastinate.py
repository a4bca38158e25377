"""Procrastinate: one row at a time by a function of the database; it keeps no results, so a caller asks for the job's status."""

from __future__ import annotations

import asyncio

from procrastinate import App, PsycopgConnector
from procrastinate.jobs import Status

from benchmarks.peers.contract import URL, AsyncClient, tick

FILL = 1_000
app = App(connector=PsycopgConnector(conninfo=URL, min_size=4, max_size=10), import_paths=["benchmarks.peers.queues.procrastinate"])


@app.task(name="noop")
async def noop(x: int) -> None:
    tick()


@app.task(name="echo")
async def echo(x: int) -> int:
    return x


async def start() -> None:
    await app.open_async()


async def enqueue(i: int) -> None:
    await noop.defer_async(x=i)


async def fill(n: int) -> None:
    for at in range(0, n, FILL):
        await noop.batch_defer_async(*({"x": i} for i in range(at, min(at + FILL, n))))


async def call(i: int, poll_s: float) -> None:
    job_id = await echo.defer_async(x=i)
    while await app.job_manager.get_job_status_async(job_id) != Status.SUCCEEDED:
        await asyncio.sleep(poll_s)


CLIENT = AsyncClient(start=start, enqueue=enqueue, call=call, fill=fill)

"""culm, measured as its peers are: its worker from the command line, its client in another process, the same ticks."""

from __future__ import annotations

import asyncio

from benchmarks.peers.contract import RESULT_S, URL, AsyncClient, tick
from culm import App

app = App(URL)


@app.task(keep=0, timeout=30)
async def noop(x: int) -> None:
    tick()


@app.task(keep=RESULT_S, timeout=30)
async def echo(x: int) -> int:
    return x


async def start() -> None:
    await asyncio.sleep(0)  # the first enqueue opens the store


async def enqueue(i: int) -> None:
    await noop.enqueue(i)


async def fill(n: int) -> None:
    await app.enqueue_many(noop.bind(i) for i in range(n))


async def call(i: int, poll_s: float) -> None:
    assert await (await echo.enqueue(i)).result() == i


CLIENT = AsyncClient(start=start, enqueue=enqueue, call=call, fill=fill)

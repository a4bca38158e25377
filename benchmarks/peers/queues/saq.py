"""SAQ on Redis: a list for each queue. Two tries: with the default of one, a job whose worker died is aborted, not run again."""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop
from saq import Queue

from benchmarks.peers.contract import CONCURRENCY, PATIENCE_S, URL, AsyncClient, tick

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # the command line of its worker knows no other way

queue = Queue.from_url(URL, max_concurrent_ops=CONCURRENCY)


async def noop(context: Any, *, x: int) -> None:
    tick()


async def echo(context: Any, *, x: int) -> int:
    return x


settings = {"queue": queue, "functions": [noop, echo], "concurrency": CONCURRENCY}


async def start() -> None:
    await queue.connect()


async def enqueue(i: int) -> None:
    await queue.enqueue("noop", x=i, ttl=-1, retries=2)


async def call(i: int, poll_s: float) -> None:
    assert await queue.apply("echo", x=i, timeout=PATIENCE_S, poll_interval=poll_s, retries=2) == i


CLIENT = AsyncClient(start=start, enqueue=enqueue, call=call)

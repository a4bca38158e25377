"""arq: a sorted set that the worker polls, every 10 ms instead of every 500, else the round trip would be all polling."""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop
from arq import create_pool, func
from arq.connections import RedisSettings

from benchmarks.peers.contract import CONCURRENCY, PATIENCE_S, RESULT_S, URL, AsyncClient, tick

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # the command line of its worker knows no other way
asyncio.set_event_loop(asyncio.new_event_loop())  # its worker asks for the current one, which newer Pythons no longer make


async def noop(context: Any, x: int) -> None:
    tick()


async def echo(context: Any, x: int) -> int:
    return x


class WorkerSettings:
    functions = (func(noop, keep_result=0), func(echo, keep_result=RESULT_S))
    redis_settings = RedisSettings.from_dsn(URL)
    max_jobs = CONCURRENCY
    poll_delay = 0.01
    log_results = False


QUIET = {"version": 1, "disable_existing_loggers": False, "loggers": {"arq": {"level": "WARNING"}}}
pool: Any = None


async def start() -> None:
    global pool
    pool = await create_pool(WorkerSettings.redis_settings)


async def enqueue(i: int) -> None:
    await pool.enqueue_job("noop", i)


async def call(i: int, poll_s: float) -> None:
    job = await pool.enqueue_job("echo", i)
    assert await job.result(timeout=PATIENCE_S, poll_delay=poll_s) == i


CLIENT = AsyncClient(start=start, enqueue=enqueue, call=call)

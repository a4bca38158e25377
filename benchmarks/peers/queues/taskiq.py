"""taskiq on Redis Streams (acknowledged when the result is saved) or, with PEER_VARIANT=list, on a list (popped, then run).

It has no bulk call. The no-ops are on a broker without a result backend, so that none is kept.
"""

from __future__ import annotations

import os

from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.peers.contract import PATIENCE_S, RESULT_S, URL, AsyncClient, tick

results = RedisAsyncResultBackend(URL, result_ex_time=RESULT_S)
if os.environ.get("PEER_VARIANT") == "list":
    plain = ListQueueBroker(URL, queue_name="plain")
    answering = ListQueueBroker(URL, queue_name="answering").with_result_backend(results)
else:
    # consumer_id "0": a group reads what was queued before it was made; and no entry of a run is trimmed.
    options = {"consumer_id": "0", "xread_count": 500, "maxlen": 1_000_000}
    plain = RedisStreamBroker(URL, queue_name="plain", **options)
    answering = RedisStreamBroker(URL, queue_name="answering", **options).with_result_backend(results)


@plain.task(task_name="noop")
async def noop(x: int) -> None:
    tick()


@answering.task(task_name="echo")
async def echo(x: int) -> int:
    return x


async def start() -> None:
    await plain.startup()
    await answering.startup()


async def enqueue(i: int) -> None:
    await noop.kiq(i)


async def call(i: int, poll_s: float) -> None:
    task = await echo.kiq(i)
    result = await task.wait_result(check_interval=poll_s, timeout=PATIENCE_S)
    assert result.return_value == i


CLIENT = AsyncClient(start=start, enqueue=enqueue, call=call)

"""RQ with its SimpleWorker: five times as fast as a fork for each job. A retry: without one, a job whose worker died is not run again."""

from __future__ import annotations

from typing import Any

from redis import Redis
from rq import Queue, Retry

from benchmarks.peers.contract import PATIENCE_S, RESULT_S, URL, BlockingClient, tick

BULK = 500

connection: Any = Redis.from_url(URL)
queue = Queue("bench", connection=connection)
retry = Retry(max=1)


def noop(x: int) -> None:
    tick()


def echo(x: int) -> int:
    return x


def enqueue(i: int) -> None:
    queue.enqueue(noop, i, result_ttl=0, retry=retry)


def fill(n: int) -> None:
    for at in range(0, n, BULK):
        queue.enqueue_many([Queue.prepare_data(noop, (i,), result_ttl=0, retry=retry) for i in range(at, min(n, at + BULK))])


def call(i: int, poll_s: float) -> None:
    job = queue.enqueue(echo, i, result_ttl=RESULT_S, retry=retry)
    assert job.latest_result(timeout=PATIENCE_S).return_value == i


CLIENT = BlockingClient(enqueue=enqueue, call=call, fill=fill)

"""Celery on Redis, prefork. acks_late: by default the task in hand is lost with its worker."""

from __future__ import annotations

from celery import Celery

from benchmarks.peers.contract import PATIENCE_S, RESULT_S, URL, BlockingClient, tick

app = Celery("bench", broker=URL, backend=URL)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_default_queue="bench",
    worker_prefetch_multiplier=128,
    worker_disable_rate_limits=True,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
    broker_pool_limit=20,
    redis_max_connections=400,
    result_expires=RESULT_S,
)


@app.task(name="noop", ignore_result=True)
def noop(x: int) -> None:
    tick()


@app.task(name="echo")
def echo(x: int) -> int:
    return x


def enqueue(i: int) -> None:
    noop.delay(i)


def fill(n: int) -> None:
    """One producer for all, as its documentation says for bursts."""
    with app.pool.acquire(block=True) as connection, connection.Producer() as producer:
        for i in range(n):
            noop.apply_async((i,), producer=producer)


def call(i: int, poll_s: float) -> None:
    assert echo.delay(i).get(timeout=PATIENCE_S) == i


CLIENT = BlockingClient(enqueue=enqueue, call=call, fill=fill)

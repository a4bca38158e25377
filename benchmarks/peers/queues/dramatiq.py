"""Dramatiq on Redis: ids in a set of the worker's own until they are acknowledged; results are pushed, so callers block."""

from __future__ import annotations

from typing import Any

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.peers.contract import PATIENCE_S, URL, BlockingClient, tick

# 100 calling threads need more connections than the pool's default.
client: Any = redis.Redis(connection_pool=redis.ConnectionPool.from_url(URL, max_connections=1_000))
broker = RedisBroker(client=client)
broker.add_middleware(Results(backend=RedisBackend(client=client)))
dramatiq.set_broker(broker)


@dramatiq.actor
def noop(x: int) -> None:
    tick()


@dramatiq.actor(store_results=True)
def echo(x: int) -> int:
    return x


def enqueue(i: int) -> None:
    noop.send(i)


def call(i: int, poll_s: float) -> None:
    assert echo.send(i).get_result(block=True, timeout=PATIENCE_S * 1_000) == i


CLIENT = BlockingClient(enqueue=enqueue, call=call)

"""huey, on Redis (blocking pops, results announced) or on SQLite, by the address. It pops a task before it runs it, in both."""

from __future__ import annotations

from huey import RedisHuey, SqliteHuey

from benchmarks.peers.contract import PATIENCE_S, URL, BlockingClient, tick

if URL.startswith("sqlite:///"):
    huey = SqliteHuey("bench", filename=URL.removeprefix("sqlite:///"))
else:
    from redis import ConnectionPool

    # 100 calling threads need more connections than the pool's default.
    huey = RedisHuey("bench", connection_pool=ConnectionPool.from_url(URL, max_connections=1_000), notify_result=True)


@huey.task()
def noop(x: int) -> None:
    tick()


@huey.task()
def echo(x: int) -> int:
    return x


def enqueue(i: int) -> None:
    noop(i)


def call(i: int, poll_s: float) -> None:
    assert echo(i).get(blocking=True, timeout=PATIENCE_S, backoff=1.05, max_delay=2 * poll_s) == i


CLIENT = BlockingClient(enqueue=enqueue, call=call)

"""`python -m benchmarks.redis [--rounds 3] [--aof everysec|always]`: culm on a private Redis, beside raw loops of hiredis on the same one.

A ratio is taken within a round; the table shows the median of the ratios, with the least and the greatest.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hiredis
from tests.servers import HOST, RedisServer

from benchmarks.__main__ import Row, drain, one, table

N = 100_000
DRAINED = 200_000
BODY = b"\x94" + b"x" * 99  # about what the record of a no-op job takes


class Raw:
    """A blocking socket and hiredis: the least that a client could cost."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader(notEnoughData=self)

    def ask(self, *commands: tuple[Any, ...]) -> list[Any]:
        self._socket.sendall(b"".join(map(hiredis.pack_command, commands)))
        found: list[Any] = []
        while len(found) < len(commands):
            reply = self._reader.gets()
            if reply is self:
                self._reader.feed(self._socket.recv(1 << 20))
            else:
                found.append(reply)
        return found


def stream_drain(port: int) -> float:
    """Entries of a stream per second: XREADGROUP 100, then XACK and XDEL of these."""
    raw = Raw(port)
    raw.ask(("DEL", "raw"), ("XGROUP", "CREATE", "raw", "g", "0", "MKSTREAM"))
    for _ in range(0, N, 100):
        raw.ask(*[("XADD", "raw", "*", "b", BODY)] * 100)
    started = time.perf_counter()
    while (entries := raw.ask(("XREADGROUP", "GROUP", "g", "c", "COUNT", 100, "STREAMS", "raw", ">"))[0]) is not None:
        ids = [i for i, _ in entries[0][1]]
        raw.ask(("XACK", "raw", "g", *ids), ("XDEL", "raw", *ids))
    return N / (time.perf_counter() - started)


def pipelines(port: int) -> float:
    """Writes of a job's size per second, 100 to a pipeline."""
    raw = Raw(port)
    started = time.perf_counter()
    for at in range(0, N, 100):
        raw.ask(*[("SET", f"raw:{i}", BODY) for i in range(at, at + 100)])
    took = time.perf_counter() - started
    raw.ask(("FLUSHALL",))
    return N / took


def round_trips(port: int) -> float:
    raw = Raw(port)
    started = time.perf_counter()
    for i in range(5_000):
        raw.ask(("SET", "raw", i))
    return 5_000 / (time.perf_counter() - started)


def ping_pong_us(port: int) -> float:
    """Two hops: push, blocking pop, push, blocking pop; the median."""
    here, there = Raw(port), Raw(port)

    def echo() -> None:
        for _ in range(1_000):
            there.ask(("BLPOP", "ping", 0))
            there.ask(("LPUSH", "pong", "x"))

    thread = threading.Thread(target=echo)
    thread.start()
    times = []
    for _ in range(1_000):
        started = time.perf_counter()
        here.ask(("LPUSH", "ping", "x"))
        here.ask(("BLPOP", "pong", 0))
        times.append(time.perf_counter() - started)
    thread.join()
    return statistics.median(times) * 1e6


class Bench:
    """Figures on one server, each between two looks at what it stands beside: this machine's pace changes within seconds."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    def rate(self, name: str, figure: str = "per_s") -> float:
        self._server.ask("FLUSHALL")
        return one(name, self._server.url)[figure]

    def drained(self, task: str, workers: int = 1) -> float:
        self._server.ask("FLUSHALL")
        return drain(self._server.url, task, workers, DRAINED)

    def beside(self, what: str, name: str, raw: Callable[[int], float], figure: Callable[[], float]) -> Row:
        self._server.ask("FLUSHALL")
        before, found = raw(self._server.port), figure()
        self._server.ask("FLUSHALL")
        return what, name, found, (before + raw(self._server.port)) / 2

    def round(self) -> list[Row]:
        stream = "XREADGROUP 100 + XACK, XDEL"
        rows = [
            self.beside("drain, keep=0", stream, stream_drain, lambda: self.drained("gone")),
            self.beside("drain, kept for an hour", stream, stream_drain, lambda: self.drained("kept")),
            self.beside("enqueue one by one", "round trips", round_trips, lambda: self.rate("enqueue_one")),
            self.beside("100 callers enqueue", stream, stream_drain, lambda: self.rate("callers_100")),
            self.beside("enqueue_many", "pipelines of 100", pipelines, lambda: self.rate("enqueue_many")),
            self.beside("100 callers await results", stream, stream_drain, lambda: self.rate("calls_100")),
            self.beside("enqueue to result, p50 us", "two hops, us", ping_pong_us, lambda: self.rate("round_trip", "p50_us")),
        ]
        return [*rows, ("drain, two workers", "drain, one worker", self.drained("gone", 2), self.drained("gone"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--aof", choices=["no", "everysec", "always"], default="no")
    asked = parser.parse_args()
    rounds = []
    for n in range(asked.rounds):
        print(f"round {n + 1} of {asked.rounds} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            settings = {"appendonly": "no"} if asked.aof == "no" else {"appendonly": "yes", "appendfsync": asked.aof}
            server = RedisServer(Path(folder), **settings)
            try:
                rounds.append(Bench(server).round())
            finally:
                server.kill()
    table(rounds)


if __name__ == "__main__":
    main()

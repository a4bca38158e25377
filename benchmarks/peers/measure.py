"""One peer, one time: each workload's figure, or why there is none.

enqueue: one process, one no-op after another, each awaited. drain: the no-ops are queued already, then the worker starts; runs a second
from the first to the last, and their number must be the number queued. round_trip: enqueue and await the result, in turn, against one
idle worker; the median. callers: 100 at once.
"""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from msgspec import Struct

from benchmarks.peers.environments import programs
from benchmarks.peers.failed import Failed, tail
from benchmarks.peers.postgres_server import Databases
from benchmarks.peers.redis_server import ask as ask_redis
from benchmarks.peers.roster import Peer, StoreName
from benchmarks.peers.running import Place, ask, prepare, worker

Workload = Literal["drain", "enqueue", "callers", "round_trip"]
WORKLOADS: tuple[Workload, ...] = ("drain", "enqueue", "callers", "round_trip")
Figures = dict[Workload, float | Failed]  # a second; round_trip in milliseconds

STORES: dict[StoreName, str] = {"redis": "redis://127.0.0.1:{port}", "sqlite": "sqlite:///{folder}/bench.db", "postgres": "{database}"}
SETTLE_S = 0.3  # for a task that runs twice to show
LEAST = 100  # tasks, however short the runs are meant to be


class Runs(Struct, frozen=True, kw_only=True):
    """How this run measures."""

    port: int  # of the Redis that is ours
    databases: Databases | None  # of the PostgreSQL that is ours; None: nobody needs it
    seconds: float  # that each workload should take, about

    @property
    def limit_s(self) -> float:
        return 60 + 10 * self.seconds

    def size(self, per_s: int) -> int:
        return max(LEAST, int(per_s * self.seconds))


def measured(peer: Peer, runs: Runs, *, url: str) -> Figures:
    """All workloads of a peer, on the store at that address, where {port} and {folder} are filled in."""
    try:
        found = programs(peer.queue)
    except Failed as e:
        return dict.fromkeys(WORKLOADS, e)
    with _fresh_place(peer, found, runs, url) as place:
        queued = _queued(place, runs)
    with _fresh_place(peer, found, runs, url) as place:
        return queued | _answered(place, runs)


def _queued(place: Place, runs: Runs) -> Figures:
    try:
        sent = ask(place, "enqueue", runs.size(place.peer.rates.enqueue), timeout_s=runs.limit_s)
    except Failed as e:
        return {"enqueue": e, "drain": Failed("nothing was enqueued")}
    return {"enqueue": sent["per_s"], "drain": _or_failed(lambda: _drain(place, runs, int(sent["queued"])))}


def _answered(place: Place, runs: Runs) -> Figures:
    rates = place.peer.rates
    with worker(place, place.peer.answering or place.peer.worker):
        alone = _or_failed(lambda: ask(place, "round_trip", runs.size(rates.round_trips), timeout_s=runs.limit_s)["p50_ms"])
        among = _or_failed(lambda: ask(place, "callers", runs.size(rates.callers), timeout_s=runs.limit_s)["per_s"])
    return {"round_trip": alone, "callers": among}


@contextlib.contextmanager
def _fresh_place(peer: Peer, found: Path, runs: Runs, url: str) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(dir=os.environ.get("CULM_BENCH_DIR"), ignore_cleanup_errors=True) as folder:
        ask_redis(runs.port, "FLUSHALL")
        database = runs.databases.fresh() if "{database}" in url and runs.databases is not None else ""
        place = Place(peer, found, Path(folder), url.format(port=runs.port, folder=folder, database=database))
        if database and peer.prepare:
            prepare(place)
        yield place


def _or_failed(measure: Callable[[], float]) -> float | Failed:
    try:
        return measure()
    except Failed as e:
        return e


def _drain(place: Place, runs: Runs, queued: int) -> float:
    if (more := runs.size(place.peer.rates.drain) - queued) > 0:
        queued += int(ask(place, "fill", more, timeout_s=runs.limit_s)["queued"])
    with worker(place, place.peer.worker) as child:
        _wait_for_ticks(place, child, queued, runs.limit_s)
        time.sleep(SETTLE_S)
    stamps: list[float] = [at for (at,) in struct.iter_unpack("d", place.ticks.read_bytes())] if place.ticks.exists() else []
    if len(stamps) != queued:
        raise Failed(f"{len(stamps)} runs of {queued} tasks queued", printed=tail(place.log))
    return (queued - 1) / (max(stamps) - min(stamps))


def _wait_for_ticks(place: Place, child: subprocess.Popen[bytes], queued: int, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and child.poll() is None:
        if place.ticks.exists() and place.ticks.stat().st_size >= 8 * queued:
            return
        time.sleep(0.05)

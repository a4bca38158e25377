"""One figure, in a process of its own: `python -m benchmarks.one WORKLOAD`, the store in `$CULM_URL`. Prints JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import ceilings
from benchmarks.tasks import app, gone, held, kept
from culm.worker.process import tune

N = 100_000


async def enqueue_one() -> dict[str, float]:
    n = 50_000 if (app.url or os.environ["CULM_URL"]).startswith("memory") else 3_000
    await gone.enqueue(0)
    started = time.perf_counter()
    for i in range(n):
        await gone.enqueue(i)
    return {"per_s": n / (time.perf_counter() - started)}


async def callers_100() -> dict[str, float]:
    async def caller(times: int) -> None:
        for i in range(times):
            await gone.enqueue(i)

    await asyncio.gather(*(caller(5) for _ in range(100)))
    started = time.perf_counter()
    await asyncio.gather(*(caller(400) for _ in range(100)))
    return {"per_s": 40_000 / (time.perf_counter() - started)}


async def enqueue_many() -> dict[str, float]:
    await gone.enqueue(0)
    started = time.perf_counter()
    await app.enqueue_many(gone.bind(i) for i in range(N))
    return {"per_s": N / (time.perf_counter() - started)}


async def drain() -> dict[str, float]:
    """Run what is queued; the parent says when to start, so that two can start together."""
    _ = app.store
    if app.store.__class__.__name__ == "MemoryStore":
        await app.enqueue_many(gone.bind(i) for i in range(N))
    else:
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    started = time.time()
    worker = app.worker(heartbeat=1)
    await worker.start()
    done, ended, quiet = 0, started, 0
    while quiet < 100:
        await asyncio.sleep(0.002)
        quiet = 0 if worker.done != done or not done else quiet + 1
        if worker.done != done or worker.held():
            done, ended = worker.done, time.time()
    await worker.stop()
    return {"done": done, "started": started, "ended": ended, "per_s": done / max(ended - started, 1e-9)}


async def round_trip() -> dict[str, float]:
    times: list[float] = []
    async with app, app.worker():
        for i in range(1_100):
            started = time.perf_counter()
            await (await kept.enqueue(i)).result()
            times.append(time.perf_counter() - started)
    times = sorted(times[100:])
    return {"p50_us": times[500] * 1e6, "p99_us": times[990] * 1e6}


async def calls_100() -> dict[str, float]:
    """100 callers, each enqueues and awaits the result, one after another; the worker is in this process."""

    async def caller(times: int) -> None:
        for i in range(times):
            await (await kept.enqueue(i)).result()

    async with app, app.worker():
        await asyncio.gather(*(caller(5) for _ in range(100)))
        started = time.perf_counter()
        await asyncio.gather(*(caller(100) for _ in range(100)))
        return {"per_s": 10_000 / (time.perf_counter() - started)}


async def in_flight() -> dict[str, float]:
    """Memory of 1,000 jobs that run at once, after a warm-up."""
    async with app, app.worker(concurrency=10_000, grace=0) as worker:
        await (await kept.enqueue(1)).result()
        before = rss_kib()
        await app.enqueue_many(held.bind(i) for i in range(5_000))
        while len(worker.held()) < 5_000:
            await asyncio.sleep(0.05)
        return {"kib_per_1000": (rss_kib() - before) / 5}


async def ceiling_bare_loop() -> dict[str, float]:
    return {"per_s": await ceilings.bare_loop(N)}


def rss_kib() -> float:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


def _raw(synchronous: str, per: int, n: int, *, take: bool) -> Callable[[], Awaitable[dict[str, float]]]:
    async def measure() -> dict[str, float]:
        with tempfile.TemporaryDirectory(dir=os.environ.get("CULM_BENCH_DIR")) as folder:
            return {"per_s": ceilings.sqlite(Path(folder), synchronous=synchronous, per=per, n=n, take=take)}

    return measure


def _awaited(synchronous: str) -> Callable[[], Awaitable[dict[str, float]]]:
    async def measure() -> dict[str, float]:
        with tempfile.TemporaryDirectory(dir=os.environ.get("CULM_BENCH_DIR")) as folder:
            return {"per_s": await ceilings.sqlite_from_a_loop(Path(folder), synchronous=synchronous, n=3_000)}

    return measure


WORKLOADS: dict[str, Callable[[], Awaitable[dict[str, float]]]] = {
    "enqueue_one": enqueue_one,
    "callers_100": callers_100,
    "enqueue_many": enqueue_many,
    "drain": drain,
    "round_trip": round_trip,
    "calls_100": calls_100,
    "in_flight": in_flight,
    "bare_loop": ceiling_bare_loop,
}
for _sync in ("FULL", "NORMAL"):
    WORKLOADS[f"insert_1_{_sync}"] = _raw(_sync, 1, 3_000, take=False)
    WORKLOADS[f"awaited_1_{_sync}"] = _awaited(_sync)
    WORKLOADS[f"insert_100_{_sync}"] = _raw(_sync, 100, N, take=False)
    WORKLOADS[f"take_100_{_sync}"] = _raw(_sync, 100, N, take=True)


def main() -> None:
    tune()
    name = sys.argv[1]

    async def run() -> dict[str, Any]:
        return dict(await WORKLOADS[name]())

    print(json.dumps(uvloop.run(run())), flush=True)


if __name__ == "__main__":
    main()

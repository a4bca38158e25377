"""Where the time of a job goes: `python -m benchmarks.parts [redis://host]` times each step by itself, in microseconds a job.

Steps in a store are timed in batches of 500, as a busy worker meets them; SQLite by the CPU time of its desk's thread and by the wall.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from culm import App
from culm.commit import Commit, Held
from culm.current import Attempt, enter
from culm.job import Delivery, decode_job, encode_job
from culm.outcome import Succeeded
from culm.store import FullStore
from culm.stores.memory import MemoryStore
from culm.stores.open import open_store
from culm.stores.sqlite.store import SqliteStore
from culm.task import Bound, make_job
from culm.worker.process import tune

N, BATCH = 50_000, 500

app = App("memory://")


@app.task(keep=0, timeout=30)
async def noop(x: int) -> None: ...


def timed(label: str, step: Callable[[], object]) -> None:
    started = time.perf_counter()
    for _ in range(N):
        step()
    report(label, time.perf_counter() - started)


def report(label: str, seconds: float) -> None:
    print(f"{label:52s} {seconds / N * 1e6:7.2f}", flush=True)


async def tasks(label: str, *, current: bool) -> None:
    loop, base = asyncio.get_running_loop(), contextvars.copy_context()
    delivery = Delivery(make_job(noop.bind(1), "a"), "w/1")

    async def plain() -> None: ...

    async def attempt() -> None:
        enter(Attempt(delivery, delivery.job, app))

    started = time.perf_counter()
    for _ in range(N // 100):
        for _ in range(100):
            loop.create_task((attempt if current else plain)(), context=base.copy())
        await asyncio.sleep(0)
    report(label, time.perf_counter() - started)


async def store(label: str, store: FullStore) -> None:
    jobs = [make_job(noop.bind(i), app.new_id()) for i in range(N)]
    spent = {"send": 0.0, "claim": 0.0, "commit": 0.0}
    for number, start in enumerate(range(0, N, BATCH), start=1):
        at = time.perf_counter()
        await store.commit([Commit(send=tuple(jobs[start : start + BATCH]))], batch=("client", number))
        spent["send"] += time.perf_counter() - at
    for number in range(1, N // BATCH + 1):
        at = time.perf_counter()
        claimed = await store.claim(["default"], lease=f"w/{number}", limit=BATCH, for_ms=30_000)
        spent["claim"] += time.perf_counter() - at
        commits = [Commit(fence=Held(d.job.id, d.lease), outcome=Succeeded(), keep_ms=0) for d in claimed.deliveries]
        at = time.perf_counter()
        await store.commit(commits, batch=("worker", number))
        spent["commit"] += time.perf_counter() - at
    for what, seconds in spent.items():
        report(f"{label}: {what}, batches of {BATCH}", seconds)
    await store.close()


async def main() -> None:
    signature, data = noop.signature, noop.signature.encode_call((1,), {})
    job = make_job(Bound(noop, data), "0" * 26)
    row = encode_job(job)
    delivery = Delivery(job, "w/1")
    timed("send: check and encode the arguments", lambda: signature.encode_call((1,), {}))
    timed("send: a new id", app.new_id)
    timed("send: the Job", lambda: make_job(Bound(noop, data), "0" * 26))
    timed("send: encode the Job", lambda: encode_job(job))
    timed("run: decode the Job", lambda: decode_job(row, job_id=job.id))
    timed("run: decode the arguments", lambda: signature.decode_call(data))
    timed("run: the Attempt", lambda: Attempt(delivery, job, app))
    await tasks("run: an asyncio task in a context of its own", current=False)
    await tasks("run: the same, with an Attempt as its current()", current=True)
    timed("run: the Commit", lambda: Commit(fence=Held(job.id, "w/1"), outcome=Succeeded(), keep_ms=0))
    await store("memory", MemoryStore())
    for url in sys.argv[1:]:
        await store("Redis", open_store(url))
    with tempfile.TemporaryDirectory() as folder:
        await store("SQLite FULL", SqliteStore(Path(folder) / "parts.db"))
    with tempfile.TemporaryDirectory() as folder:
        await store("SQLite NORMAL", SqliteStore(Path(folder) / "parts.db", durability="relaxed"))


if __name__ == "__main__":
    tune()
    uvloop.run(main())

"""`python -m benchmarks.processes [--rounds 3] [--jobs 16]`: what two processors gain for tasks that compute.

In each round the same jobs run one at a time and two at a time, with `runs_in="process"` and, as a control, as plain `def` tasks in threads
of one process, which share the interpreter's lock. Beside them stands what the machine gives at that moment: the same work in plain
processes, without culm. A ratio is of one round; each figure is the median of the rounds, with the least and the greatest.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import sys
import time

from culm import App

app = App("memory://")
STEPS = 2_000_000  # some tenths of a second


def compute(steps: int) -> int:
    total = 0
    for n in range(steps):
        total += n * n
    return total


@app.task(runs_in="process", keep=60)
def in_process(steps: int) -> int:
    return compute(steps)


@app.task(keep=60)
def in_thread(steps: int) -> int:
    return compute(steps)


async def culm_s(jobs: int, *, at_once: int, kind: str) -> float:
    """Seconds for so many jobs; the processes have been started before."""
    task = in_process if kind == "process" else in_thread
    async with app, app.worker(concurrency=jobs, children=at_once, threads=at_once):
        for handle in [await task.enqueue(1) for _ in range(at_once * 2)]:
            await handle.result()
        started = time.perf_counter()
        for handle in await app.enqueue_many(task.bind(STEPS) for _ in range(jobs)):
            await handle.result()
        return time.perf_counter() - started


def plain_s(jobs: int, *, at_once: int) -> float:
    with multiprocessing.get_context("spawn").Pool(at_once) as pool:
        pool.map(compute, [1] * at_once * 2, chunksize=1)
        started = time.perf_counter()
        pool.map(compute, [STEPS] * jobs, chunksize=1)
        return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=16)
    given = parser.parse_args()
    ratios: dict[str, list[float]] = {"plain processes": [], 'runs_in="process"': [], "threads": []}
    print(f"{len(os.sched_getaffinity(0))} processors, load {os.getloadavg()[0]:.2f} before, Python {sys.version.split()[0]}")
    for _ in range(given.rounds):
        ratios["plain processes"].append(plain_s(given.jobs, at_once=1) / plain_s(given.jobs, at_once=2))
        for name, kind in (('runs_in="process"', "process"), ("threads", "thread")):
            one, two = (asyncio.run(culm_s(given.jobs, at_once=n, kind=kind)) for n in (1, 2))
            ratios[name].append(one / two)
    print("| one at a time / two at a time | ratio (least-greatest) |\n|---|---|")
    for name, found in ratios.items():
        print(f"| {name} | {statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f}) |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

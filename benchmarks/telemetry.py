"""`python -m benchmarks.telemetry [--rounds 9] [--callgrind]`: what metrics, traces, middleware and seals cost a drain of no-ops.

The drain is that of the memory store: no store is faster, so nowhere is the share of what is added greater. Rounds are paired: in
each, every variant is beside a plain drain that was taken right before it; the ratio is by processor time, which a busy machine
changes least. With --callgrind it counts instructions instead, per job: of a long and a short run the difference, less that of two runs
that only send.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from culm import App, Delivery, Keys, Next, Outcome
from culm.worker.process import log_to_stderr, tune

VARIANTS = ("metrics", "middleware", "traces, no SDK", "traces, not sampled", "traces, sampled", "signed", "encrypted")
ONLY_AT_WORK = ("metrics", "middleware")  # senders know nothing of them


def app_of(variant: str) -> App:
    if variant in ("signed", "encrypted"):
        return App("memory://", keys=Keys({"a": bytes(32)}, encrypt=variant == "encrypted"))
    if not variant.startswith("traces"):
        return App("memory://")
    from culm.telemetry.otel import Tracing

    if variant == "traces, no SDK":
        return App("memory://", tracing=Tracing())
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

    return App("memory://", tracing=Tracing(TracerProvider(sampler=ALWAYS_ON if variant == "traces, sampled" else ALWAYS_OFF)))


async def drain(variant: str, n: int, *, runs: bool) -> float:
    """Processor seconds of this process for n jobs that were queued before."""
    app = app_of(variant)
    options: Any = {}
    if variant == "metrics":
        log_to_stderr("json")
        logging.getLogger().setLevel(logging.WARNING)
        options["metrics"] = "127.0.0.1:0"
    if variant == "middleware":

        @app.middleware
        async def through(delivery: Delivery, next: Next) -> Outcome:  # noqa: A002  # the word of the documentation
            return await next(delivery)

    @app.task(keep=0, timeout=30)
    async def gone(x: int) -> None: ...

    await app.enqueue_many(gone.bind(i) for i in range(n))
    if not runs:
        return 0.0
    worker = app.worker(heartbeat=1, concurrency=500, **options)  # large batches, however slowly it is measured
    started = time.process_time()
    await worker.start()
    while worker.done < n or worker.held():
        await asyncio.sleep(0.002)
    spent = time.process_time() - started
    await worker.stop()
    await app.close()
    return spent


def child(variant: str, n: int, *before: str, runs: bool = True) -> float:
    command = [*before, sys.executable, "-m", "benchmarks.telemetry", "--one", variant, "--jobs", str(n)]
    command += [] if runs else ["--send-only"]
    done = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{variant} failed:\n{done.stderr[-2000:]}")
    if before:
        return float(re.findall(r"Collected : (\d+)", done.stderr)[-1])
    return float(json.loads(done.stdout))


def instructions(variant: str, *, runs: bool) -> float:
    """Per job that was sent, and run if so."""
    few, many = 500, 2_500
    with tempfile.TemporaryDirectory() as folder:
        grind = ("valgrind", "--tool=callgrind", f"--callgrind-out-file={Path(folder) / 'out'}")
        return (child(variant, many, *grind, runs=runs) - child(variant, few, *grind, runs=runs)) / (many - few)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--callgrind", action="store_true")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    parser.add_argument("--one")
    parser.add_argument("--send-only", action="store_true")
    asked = parser.parse_args()
    if asked.one is not None:
        tune()
        print(json.dumps(uvloop.run(drain(asked.one, asked.jobs, runs=not asked.send_only))))
        return
    if asked.callgrind:
        sent = instructions("plain", runs=False)
        plain = instructions("plain", runs=True) - sent
        print(f"{'plain':24s} {sent:10,.0f} instructions to send a job, {plain:10,.0f} to drain it", flush=True)
        for variant in asked.variants:
            sends = sent if variant in ONLY_AT_WORK else instructions(variant, runs=False)
            found = instructions(variant, runs=True) - sends
            print(f"{variant:24s} {sends:10,.0f} {sends / sent - 1:+7.1%} {found:10,.0f} {found / plain - 1:+7.1%}", flush=True)
        return
    for variant in asked.variants:
        pairs = [(child("plain", asked.jobs), child(variant, asked.jobs)) for _ in range(asked.rounds)]
        ratios = sorted(found / plain for plain, found in pairs)
        plain_us, found_us = (statistics.median(column) / asked.jobs * 1e6 for column in zip(*pairs, strict=True))
        spread = f"{statistics.median(ratios) - 1:+.1%} ({ratios[0] - 1:+.1%} to {ratios[-1] - 1:+.1%})"
        print(f"{variant:24s} {plain_us:6.2f} us a job plain, {found_us:6.2f} with it: {spread}", flush=True)


if __name__ == "__main__":
    main()

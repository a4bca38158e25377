"""A worker process: `python -m tests.crash.work CONCURRENCY`. Ends gracefully with SIGTERM. Its log goes to stderr."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import sys
from types import FrameType

import uvloop

from tests.crash.records import Boot, now
from tests.crash.tasks import app, die_with_parent, journal

LEASE_S, HEARTBEAT_S = 1.0, 0.3


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    worker = app.worker(concurrency=int(sys.argv[1]), lease=LEASE_S, heartbeat=HEARTBEAT_S, poll=0.2, grace=5)
    journal.write(Boot(os.getpid(), worker.name, now()))
    async with app, worker:
        await stop.wait()


def show(_: int, __: FrameType | None) -> None:
    """What its asyncio tasks are doing, on stderr; what its threads do, faulthandler shows."""
    with contextlib.suppress(RuntimeError):
        for task in asyncio.all_tasks():
            task.print_stack(file=sys.stderr)


if __name__ == "__main__":
    die_with_parent()
    signal.signal(signal.SIGUSR1, show)
    faulthandler.register(signal.SIGUSR1, chain=True)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    uvloop.run(main())

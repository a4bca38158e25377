"""`python -m tests.sqlite.syncs URL`: sends and works until SIGTERM, and ends when all is done. Each acknowledged id is a line."""

from __future__ import annotations

import asyncio
import signal
import sys

from culm import App
from culm.errors import CulmError


async def main(url: str) -> None:
    app = App(url)
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)

    @app.task(name="add")
    async def add(a: int) -> int:
        return a + 1

    async with app, app.worker(poll=0.1, lease=2, heartbeat=0.5):
        number = 0
        while not over.is_set():
            number += 1
            try:
                job = await add.enqueue(number)
            except CulmError as e:
                print(f"unknown {e}".partition("\n")[0], flush=True)
            else:
                print(f"acked {job.id}", flush=True)
            await asyncio.sleep(0.005)
        while await app.store.jobs(state="open", limit=1) or await app.store.jobs(state="leased", limit=1):
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

"""Makes `store.sql`, a store as a release left it: run by that release's Python, never by a test.

    SHOP_LEDGER=/dev/null PYTHONPATH=. OLD/bin/python tests/upgrade/make_store.py > tests/upgrade/store.sql

What is in it must be done by every later version. All of it happens at one moment of 2023, so that it is due whenever it is read.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
from pathlib import Path

from culm import Reject
from culm.stores.sqlite.store import SqliteStore
from tests.upgrade import shop


class Moment:
    """A clock that stands still, unless it is pushed."""

    at = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.at


@shop.app.task(name="dies")
async def dies() -> None:
    raise Reject("no way")


async def make(path: Path) -> None:
    clock = Moment()
    store = SqliteStore(path, clock=clock)
    app = shop.app
    app._given = app._store = store
    await dies.using(id="dies").enqueue()
    await shop.one.using(id="done").enqueue(7)
    await shop.fork.using(id="forked").enqueue(5)
    async with app.worker(concurrency=1, poll=0.01):
        while (await app.job("forked", shop.fork).status()) != "succeeded" or await app.job("done", shop.one).status() != "succeeded":
            await asyncio.sleep(0.001)
    await shop.one.using(id="open").enqueue(1)
    await shop.again.using(id="later", delay=60, priority=9).enqueue(2)
    await shop.fork.using(id="fork").enqueue(3)
    await shop.one.using(id="cancelled").enqueue(4)
    await app.job("cancelled", shop.one).cancel()
    await store.claim(["default"], lease="gone/1", limit=1, for_ms=30_000)
    await store.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "jobs.db"
        asyncio.run(make(path))
        connection = sqlite3.connect(path)
        for pragma in ("application_id", "user_version"):
            (value,) = connection.execute(f"PRAGMA {pragma}").fetchone()
            sys.stdout.write(f"PRAGMA {pragma} = {value};\n")
        for line in connection.iterdump():
            sys.stdout.write(f"{line}\n")
        connection.close()


if __name__ == "__main__":
    main()

"""A server whose disk refuses to sync stops itself: no send is a false yes, and after its return nothing acknowledged is missing."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from culm import App
from culm.errors import CulmError
from culm.store import Ended
from tests.failing_sync import failing_sync
from tests.on_redis.asking import again
from tests.servers import PostgresServer

CLIENTS = 4


async def test_a_server_that_cannot_sync_acknowledges_nothing_and_loses_nothing(
    server: PostgresServer, tmp_path: Path
) -> None:  # I1, I3, I30, I31
    app = App(server.url(ledger="on"))
    acked: dict[str, float] = {}
    sent = unknown = 0
    over = asyncio.Event()

    @app.task(name="add")
    async def add(a: int) -> int:
        return a + 1

    async def client() -> None:
        nonlocal sent, unknown
        while not over.is_set():
            sent += 1
            try:
                acked[(await add.enqueue(sent)).id] = time.monotonic()
            except CulmError:
                unknown += 1
            await asyncio.sleep(0.002)

    def panicked() -> bool:
        return "PANIC" in (server.folder / "log").read_text(errors="replace")

    async with app, app.worker(lease=30):
        clients = asyncio.gather(*(client() for _ in range(CLIENTS)))
        while len(acked) < 100:
            await asyncio.sleep(0.01)
        with failing_sync(server.processes(), tmp_path) as refused:
            while not panicked():
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)  # for the replies that were sent before
            began = time.monotonic()
            await asyncio.sleep(1)  # the fault itself: nothing is awaited
            ended = time.monotonic()
            assert refused.count() > 0
        assert [i for i, at in acked.items() if began < at < ended] == [], "acknowledged while nothing could be kept"
        await asyncio.to_thread(server.kill)  # whatever is left of it: it ends itself when its recovery cannot sync, either
        await asyncio.to_thread(server.start)
        before = len(acked)
        while len(acked) < before + 100:
            await asyncio.sleep(0.01)
        over.set()
        await asyncio.wait_for(clients, 60)
        for job_id in acked:
            assert isinstance(await again(app.store.outcome, job_id, for_ms=20_000), Ended)
    rows = [i for i, _, _ in server.ask("SELECT * FROM culm.ledger")]
    assert len(rows) == len(set(rows)), "one final commit for each"
    assert set(acked) <= set(rows)
    assert len(rows) <= sent
    assert unknown <= sent - len(acked)

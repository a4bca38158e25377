"""A cancel reaches a job that runs, wherever it was said: within moments, not with the next heartbeat."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from culm import App, TaskCancelled, current

app = App()


@app.task
async def naps() -> None:
    await asyncio.sleep(60)


@app.task
def looks() -> None:
    while True:
        current().check()
        time.sleep(0.01)


@pytest.mark.parametrize("url", ["memory://", "sqlite"])
@pytest.mark.parametrize("task", [naps, looks])
def test_a_running_job_is_stopped_long_before_the_next_heartbeat(tmp_path: Path, url: str, task: object) -> None:
    app.url = f"sqlite:///{tmp_path}/jobs.db" if url == "sqlite" else url

    async def main() -> None:
        async with app, app.worker(lease=300, heartbeat=100):
            handle = await (naps if task is naps else looks).enqueue()
            while (view := await handle.view()) is None or view.state != "leased":
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)  # it may have to begin
            await handle.cancel()
            with pytest.raises(TaskCancelled):
                await handle.result(timeout=20)

    asyncio.run(main())

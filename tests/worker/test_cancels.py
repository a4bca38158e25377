"""A cancel reaches a job that runs, wherever it was said: within moments, not with the next heartbeat."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path

import pytest

from culm import App, TaskCancelled, TreeGrows, current

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


tree = App()


@tree.task
async def grows(depth: int) -> None:
    for _ in range(2):
        if depth:
            await grows.enqueue(depth - 1)


@tree.task
async def trunk() -> None:
    """Sends while it runs, and does not end by itself."""
    for _ in range(1_000):
        await grows.using(now=True, delay=60).enqueue(3)
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("url", ["memory://", "sqlite"])
def test_a_whole_tree_is_cancelled_with_what_is_sent_meanwhile(tmp_path: Path, url: str) -> None:
    tree.url = f"sqlite:///{tmp_path}/jobs.db" if url == "sqlite" else url

    async def main() -> None:
        async with tree, tree.worker(lease=300, heartbeat=100):
            root = await trunk.enqueue()
            other = await grows.using(delay=60).enqueue(0)
            while len(await tree.store.jobs(scope=root.id)) < 5:
                await asyncio.sleep(0.01)
            await root.cancel(tree=True)
            views = await tree.store.jobs(scope=root.id)
            assert len(views) >= 5
            assert {view.state for view in views} == {"cancelled"}
            assert await other.status() == "open"
            with pytest.raises(ValueError, match="only a whole tree can be cancelled"):
                await tree.job(views[-1].id, grows).cancel(tree=True)

    asyncio.run(main())


@tree.task
async def weed(until: str) -> None:
    """Does not listen, and starts others until a file is there."""
    while not os.path.exists(until):  # noqa: ASYNC240  # it is quick
        with contextlib.suppress(asyncio.CancelledError):
            await grows.using(now=True, delay=60).enqueue(0)
            await asyncio.sleep(0.01)


def test_a_tree_that_grows_for_longer_than_it_is_cancelled_is_an_error_that_says_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("culm.trees.GROWTH_S", 1.0)
    tree.url = f"sqlite:///{tmp_path}/jobs.db"

    async def main() -> None:
        async with tree, tree.worker(lease=300, heartbeat=100, grace=5):
            root = await weed.enqueue(str(tmp_path / "enough"))
            while len(await tree.store.jobs(scope=root.id)) < 5:
                await asyncio.sleep(0.01)
            try:
                async with asyncio.timeout(20):
                    with pytest.raises(TreeGrows, match="still grows") as grown:
                        await root.cancel(tree=True)
            finally:
                (tmp_path / "enough").touch()
            assert grown.value.root == root.id
            assert root.id in grown.value.asked
            assert len(grown.value.left) >= 1
            await root.cancel(tree=True)
            states = {view.state for view in await tree.store.jobs(scope=root.id, limit=10_000)}
            assert states <= {"cancelled", "succeeded"}

    asyncio.run(main())

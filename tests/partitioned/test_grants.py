"""What a dead process was granted last is found from another, on partitions of each kind; nothing is granted for that."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from culm.commit import Commit, Held
from culm.job import Job
from culm.outcome import Released
from culm.store import TellsGrants
from culm.stores.open import open_store
from tests.servers import RedisServer

JOBS = 60


async def asked_elsewhere(url: str) -> None:
    dead, other = open_store(url), open_store(url)
    assert isinstance(other, TellsGrants)
    await dead.commit([Commit(send=(Job(id=f"job-{n}", task="t"),)) for n in range(JOBS)], batch=("app", 1))
    claimed = await dead.claim(["default"], lease="w/1", limit=JOBS - 10, for_ms=60_000)
    held = {Held(d.job.id, d.lease) for d in claimed.deliveries}
    assert len(held) == JOBS - 10
    for _ in range(2):
        assert {Held(d.job.id, d.lease) for d in await other.granted(["default"], lease="w/1")} == held
    assert await other.granted(["default"], lease="nobody/1") == []
    back = [Commit(fence=one, outcome=Released()) for one in held]
    assert await other.commit(back, batch=("other", 1)) == ["applied"] * len(back)
    assert await other.granted(["default"], lease="w/1") == []
    (counts,) = await other.counts()
    assert (counts.queue, counts.ready) == ("default", JOBS)
    await dead.close()
    await other.close()


def test_in_files(tmp_path: Path) -> None:
    asyncio.run(asked_elsewhere(f"sqlite:///{tmp_path}/folder?partitions=3"))


@pytest.mark.server
def test_on_redis(tmp_path: Path) -> None:
    servers = [RedisServer(tmp_path / str(n)) for n in range(2)]
    try:
        asyncio.run(asked_elsewhere("|".join(f"redis://127.0.0.1:{server.port}" for server in servers)))
    finally:
        for server in servers:
            server.kill()

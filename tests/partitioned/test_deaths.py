"""Real processes over SQLite files, killed between a commit and the delivery of what crosses."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from culm.commit import Commit, Trigger
from culm.job import Job
from culm.store import FullStore
from culm.stores.open import open_store

ROOT = Path(__file__).parents[2]
PARTITIONS = 4
ORDERS = 60
DEATHS = [(when, nth) for nth in (1, 2, 3) for when in ("before", "after")]


def run(url: str, name: str, when: str, nth: int) -> int:
    command = [sys.executable, "-m", "tests.partitioned.dies", url, name, when, str(nth)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60, check=False).returncode


async def prepare(url: str) -> None:
    store = open_store(url)
    orders = tuple(Job(id=f"order-{n}", task="order") for n in range(ORDERS))
    join = Commit(send=(Job(id="join-all", task="join", after_ms=None),), triggers=(Trigger("join-all", "", (("ordered", ORDERS),), 1),))
    assert await store.commit([join, Commit(send=orders)], batch=("client", 1)) == ["applied", "applied"]
    await store.close()


async def left(store: FullStore) -> tuple[int, list[str]]:
    """How many events there are, and what has not ended."""
    events = await store.events("", "ordered", limit=1_000)
    views = [*await store.jobs(limit=1_000), *await store.jobs(queue="~outbox", limit=1_000)]
    await store.close()
    return len(events), [v.id for v in views if v.state != "succeeded"]


def ledger(folder: Path) -> list[str]:
    found: list[str] = []
    for n in range(PARTITIONS):
        with closing(sqlite3.connect(folder / f"{n}.db")) as file:
            found += [job_id for (job_id,) in file.execute("SELECT id FROM ledger") if not job_id.startswith("culm ")]
    return sorted(found)


@pytest.mark.slow
def test_what_crosses_arrives_exactly_once_whenever_its_process_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    url = f"sqlite:///{folder}?partitions={PARTITIONS}&durability=relaxed&ledger=on"
    asyncio.run(prepare(url))
    codes = [run(url, f"mortal-{n}", when, nth) for n, (when, nth) in enumerate(DEATHS)]
    assert codes == [-signal.SIGKILL] * len(DEATHS), "each was killed at a delivery"
    assert run(url, "survivor", "never", 0) == 0
    once = sorted([*(f"order-{n}" for n in range(ORDERS)), *(f"started-{n}" for n in range(ORDERS)), "join-all"])
    assert ledger(folder) == once
    assert asyncio.run(left(open_store(url))) == (ORDERS, [])

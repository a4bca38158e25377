"""Small writes are done on the event loop while the file is quick; what could stop the loop goes to the thread."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from culm import StoreError
from culm.commit import Commit
from culm.job import Job
from culm.store import Claimed, ClaimOrder, Pending
from culm.stores.sqlite import file, spot
from culm.stores.sqlite.leases import Claim
from culm.stores.sqlite.store import SqliteStore
from tests.sqlite.test_batches import ended, jobs

HERE, THREAD = "here", "thread"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is just now."""
    monkeypatch.setattr(spot, "QUICK_S", 60.0)


class Scene:
    """A store, and where each of its statements was done."""

    def __init__(self, path: Path) -> None:
        self.store = SqliteStore(path, durability="relaxed")
        self.number = 0
        self._heard: list[str] = []

    async def listen(self) -> None:
        await self.store._writes.do(lambda connection: connection.set_trace_callback(self._hear))

    def _hear(self, statement: str) -> None:
        if not statement.startswith(("--", "PRAGMA")):
            self._heard.append(THREAD if threading.current_thread().name == "culm-sqlite" else HERE)

    async def send(self, *commits: Commit) -> list[str]:
        self.number += 1
        return list(await self.store.commit(commits, batch=("c", self.number)))

    async def earn(self) -> None:
        for _ in range(spot.IN_A_ROW):
            await self.send(jobs(f"earning {self.number}"))

    def where(self) -> set[str]:
        where = set(self._heard)
        self._heard.clear()
        return where


def played(path: Path, play: Any) -> Scene:
    async def main() -> Scene:
        scene = Scene(path)
        await scene.listen()
        await play(scene)
        await scene.store.close()
        return scene

    return asyncio.run(main())


def test_what_is_small_is_done_here_once_the_thread_was_quick(tmp_path: Path) -> None:
    async def play(scene: Scene) -> None:
        await scene.earn()
        assert scene.where() == {THREAD}
        assert await scene.send(jobs("a"), jobs("b")) == ["applied", "applied"]
        assert scene.where() == {HERE}
        deliveries = (await scene.store.claim(["default"], lease="w/1", limit=2, for_ms=10_000)).deliveries
        assert scene.where() == {HERE}
        assert await scene.send(*[ended(d) for d in deliveries]) == ["applied", "applied"]
        assert scene.where() == {HERE}

    played(tmp_path / "jobs.db", play)


def test_a_slow_write_ends_it_until_it_is_earned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(scene: Scene) -> None:
        await scene.earn()
        scene.where()
        with monkeypatch.context() as patch:
            patch.setattr(spot, "QUICK_S", -1.0)
            await scene.send(jobs("slow"))
            assert scene.where() == {HERE}
            await scene.earn()
            assert scene.where() == {THREAD}
        await scene.earn()
        assert scene.where() == {THREAD}
        await scene.send(jobs("quick"))
        assert scene.where() == {HERE}

    played(tmp_path / "jobs.db", play)


@pytest.mark.parametrize(
    "commits",
    [
        [jobs(*[f"{n}" for n in range(spot.SMALL + 1)])],
        [jobs(f"{n}") for n in range(spot.SMALL + 1)],
        [jobs("large", args=bytes(spot.SMALL_BYTES + 1))],
    ],
    ids=["many at once", "many", "large"],
)
def test_what_is_large_goes_to_the_thread(tmp_path: Path, commits: list[Commit]) -> None:
    async def play(scene: Scene) -> None:
        await scene.earn()
        scene.where()
        await scene.send(*commits)
        assert scene.where() == {THREAD}

    played(tmp_path / "jobs.db", play)


def test_a_locked_file_does_not_stop_the_loop(tmp_path: Path) -> None:
    async def play(scene: Scene) -> None:
        await scene.earn()
        with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            sending = asyncio.ensure_future(scene.send(jobs("a")))
            longest, last = 0.0, time.monotonic()
            for _ in range(50):
                await asyncio.sleep(0.002)
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
            assert not sending.done()
            other.execute("COMMIT")
        assert await sending == ["applied"]
        assert longest < 5, "the loop stood still while the file was locked"
        scene.where()
        await scene.send(jobs("b"))
        assert scene.where() == {THREAD}, "another process writes: the lock has to be waited for"

    played(tmp_path / "jobs.db", play)


def test_it_does_not_overtake_what_was_asked_before(tmp_path: Path) -> None:
    async def play(scene: Scene) -> None:
        await scene.earn()
        before = asyncio.ensure_future(scene.store._writes.do(lambda _: time.sleep(0.1)))
        await asyncio.sleep(0)
        scene.where()
        assert await scene.send(jobs("a")) == ["applied"]
        assert before.done()
        assert scene.where() == {THREAD}

    played(tmp_path / "jobs.db", play)


def test_one_that_the_checks_refuse_is_answered_by_the_thread(tmp_path: Path) -> None:
    async def play(scene: Scene) -> None:
        await scene.earn()
        another = Commit(send=(Job(id="a", task="another"),))
        await scene.send(jobs("a"))
        assert await scene.send(jobs("a"), jobs("b")) == ["applied", "applied"]
        assert await scene.send(another, jobs("c")) == ["conflict", "applied"]
        scene.number -= 1
        assert await scene.send(another, jobs("c")) == ["conflict", "applied"], "sent again after a lost reply"
        assert [type(await scene.store.outcome(job_id)) for job_id in "abc"] == [Pending] * 3

    played(tmp_path / "jobs.db", play)


def test_a_claim_that_fails_after_it_was_granted_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = Claim.at_once

    def failing(claim: Claim, queues: list[str], *, limit: int, order: ClaimOrder) -> Claimed | None:
        found = at_once(claim, queues, limit=limit, order=order)
        if threading.current_thread() is threading.main_thread():
            raise sqlite3.OperationalError("disk I/O error")
        return found

    async def play(scene: Scene) -> None:
        await scene.earn()
        scene.where()
        monkeypatch.setattr(Claim, "at_once", failing)
        deliveries = (await scene.store.claim(["default"], lease="w/1", limit=2, for_ms=10_000)).deliveries
        assert scene.where() == {HERE, THREAD}
        assert len(deliveries) == 2
        assert await scene.send(*[ended(d) for d in deliveries]) == ["applied", "applied"]
        assert len((await scene.store.claim(["default"], lease="w/2", limit=9, for_ms=10_000)).deliveries) == spot.IN_A_ROW - 2

    played(tmp_path / "jobs.db", play)


def test_the_log_is_checkpointed_by_the_thread_and_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "CHECKPOINT_PAGES", 50)
    monkeypatch.setattr(spot, "MOST_PAGES", 40)

    async def play(scene: Scene) -> None:
        seen = set()
        for n in range(300):
            await scene.send(jobs(f"{n}"))
            (pages,) = scene.store._writes._line._connection.execute("PRAGMA wal_autocheckpoint").fetchone()  # type: ignore[union-attr]
            seen.add((pages, *scene.where()))
        assert seen == {(50, THREAD), (0, HERE)}, "no checkpoint here"

    played(tmp_path / "jobs.db", play)


def test_the_log_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "CHECKPOINT_PAGES", 50)
    monkeypatch.setattr(spot, "MOST_PAGES", 40)

    async def play(scene: Scene) -> None:
        for n in range(1_000):
            await scene.send(jobs(f"{n}"))
        pages = (tmp_path / "jobs.db-wal").stat().st_size / 4096
        assert pages < 250, "a thousand of them write four thousand pages"

    played(tmp_path / "jobs.db", play)


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    async def play(scene: Scene) -> None:
        await scene.earn()
        await scene.store.close()
        with pytest.raises(StoreError, match="closed"):
            await scene.send(jobs("a"))

    played(tmp_path / "jobs.db", play)

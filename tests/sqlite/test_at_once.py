"""What is plain is one statement, outside a transaction; what its checks refuse takes the long way, to the same end."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from culm import StoreUnavailable
from culm.commit import Commit, Held
from culm.outcome import Released
from culm.store import Claimed, ClaimOrder, FullStore
from culm.stores.memory import MemoryStore
from culm.stores.sqlite.leases import Claim
from culm.stores.sqlite.store import SqliteStore
from culm.testing.clock import ManualClock
from tests.sqlite.test_batches import ended, jobs


class Traced:
    """The statements that the writing desk of a store was given, by their first words. One that runs triggers is heard for each of them."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def of(self, store: SqliteStore) -> None:
        await store._writes.do(lambda connection: connection.set_trace_callback(self._hear))

    def _hear(self, statement: str) -> None:
        words = " ".join(statement.split()[:3])
        if not words.startswith("--") and self.heard[-1:] != [words]:
            self.heard.append(words)

    def take(self) -> list[str]:
        heard, self.heard = self.heard, []
        return heard


def test_plain_calls_are_a_statement_each(tmp_path: Path) -> None:
    async def main() -> None:
        store, traced = SqliteStore(tmp_path / "jobs.db"), Traced()
        await store.commit([jobs("first")], batch=("c", 1))
        await store.claim(["default"], lease="w/1", limit=1, for_ms=10_000)
        await traced.of(store)
        traced.take()
        await store.commit([jobs("a")], batch=("c", 2))
        assert traced.take() == ["INSERT INTO sends"]
        await store.commit([jobs("b"), jobs("c", priority=9)], batch=("c", 3))
        assert traced.take() == ["INSERT INTO writes"]
        found = (await store.claim(["default"], lease="w/2", limit=1, for_ms=10_000)).deliveries
        assert [d.job.id for d in found] == ["c"]
        assert traced.take() == ["INSERT INTO claims", "SELECT '[' ||"]
        assert await store.commit([ended(d) for d in found], batch=("c", 4)) == ["applied"]
        assert traced.take() == ["INSERT INTO writes"]
        await store.close()

    asyncio.run(main())


Scene = Callable[[FullStore, ManualClock], Awaitable[None]]


async def nothing(store: FullStore, clock: ManualClock) -> None: ...


async def paused(store: FullStore, clock: ManualClock) -> None:
    await store.pause("other")


async def overdue(store: FullStore, clock: ManualClock) -> None:
    await store.claim(["default"], lease="v/1", limit=2, for_ms=1_000)
    clock.advance(ms=1_001)


async def asked_before(store: FullStore, clock: ManualClock) -> None:
    await store.claim(["default"], lease="w/1", limit=3, for_ms=10_000)


async def given_back(store: FullStore, clock: ManualClock) -> None:
    found = (await store.claim(["default"], lease="v/1", limit=2, for_ms=1_000)).deliveries
    await store.commit([Commit(fence=Held(d.job.id, d.lease), outcome=Released()) for d in found], batch=("v", 1))


async def a_queue_beside(store: FullStore, clock: ManualClock) -> None:
    clock.advance(ms=1)
    await store.commit([jobs("o1", "o2", queue="other"), jobs("j7")], batch=("d", 1))


async def more_urgent(store: FullStore, clock: ManualClock) -> None:
    await store.commit([jobs("u1", "u2", priority=9)], batch=("d", 1))


SCENES: dict[str, tuple[Scene, int, ClaimOrder, bool]] = {
    "a lane that has more": (nothing, 3, "priority", True),
    "a lane that has less": (nothing, 9, "age", True),
    "a lane that has as many": (nothing, 5, "priority", True),
    "an urgent lane that has enough": (more_urgent, 2, "priority", True),
    "an urgent lane that has too few": (more_urgent, 4, "priority", False),
    "an urgent lane, by age": (more_urgent, 2, "age", False),
    "a paused queue": (paused, 9, "priority", True),
    "none at all": (nothing, 0, "priority", False),
    "jobs whose lease ran out": (overdue, 9, "priority", False),
    "a claim that was answered": (asked_before, 9, "priority", False),
    "jobs that somebody had": (given_back, 9, "priority", False),
    "two queues, to be merged": (a_queue_beside, 9, "priority", False),
}


@pytest.mark.parametrize("what", SCENES)
def test_a_claim_that_is_refused_at_once_takes_the_same_the_long_way(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, limit, order, plain = SCENES[what]
    long: list[str] = []
    right = Claim.take

    def take(claim: Claim, queues: Sequence[str], *, limit: int, order: ClaimOrder) -> Claimed:
        long.append(claim._lease)
        return right(claim, queues, limit=limit, order=order)

    monkeypatch.setattr(Claim, "take", take)

    async def main() -> None:
        answers: list[list[Claimed]] = []
        for clock in (ManualClock(), ManualClock()):
            store: FullStore = MemoryStore(clock=clock) if answers else SqliteStore(tmp_path / "jobs.db", clock=clock)
            sent = [jobs("j1", "j2"), jobs("later", after_ms=5_000), jobs("j3", args=b"\x91\xc4\x02ab"), jobs("j4", "j5")]
            await store.commit(sent, batch=("c", 1))
            await store.commit([jobs("o0", queue="other", after_ms=None)], batch=("c", 2))
            await scene(store, clock)
            clock.advance(ms=7)
            long.clear()
            found = [await store.claim(["default", "other"], lease=f"w/{n}", limit=limit, for_ms=10_000, order=order) for n in (1, 2)]
            answers.append(found)
            if isinstance(store, SqliteStore):
                assert ("w/1" not in long) is plain
            await store.close()
        assert answers[0] == answers[1]

    asyncio.run(main())


def test_bytes_that_are_no_job_come_as_broken_beside_the_others(tmp_path: Path) -> None:
    async def main() -> None:
        store = SqliteStore(tmp_path / "jobs.db")
        await store.commit([jobs("a", "b", "c")], batch=("c", 1))
        with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as other:
            other.execute("UPDATE jobs SET job = x'c1ff' WHERE id = 'b'")
        found = (await store.claim(["default"], lease="w/1", limit=9, for_ms=10_000)).deliveries
        assert [(d.job.id, bool(d.broken)) for d in found] == [("a", False), ("b", True), ("c", False)]
        assert await store.commit([ended(d) for d in found], batch=("c", 2)) == ["applied"] * 3
        await store.close()

    asyncio.run(main())


def test_a_statement_that_finds_the_file_locked_waits_and_is_done_once(tmp_path: Path) -> None:
    async def main() -> None:
        store = SqliteStore(tmp_path / "jobs.db")
        await store.commit([jobs("a")], batch=("c", 1))
        blocker = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None, check_same_thread=False)

        def block() -> None:
            blocker.execute("BEGIN IMMEDIATE")
            threading.Timer(0.1, blocker.execute, ["COMMIT"]).start()

        block()
        assert await store.commit([jobs("b")], batch=("c", 2)) == ["applied"]
        block()
        assert await store.commit([jobs("c"), jobs("d")], batch=("c", 3)) == ["applied"] * 2
        block()
        found = await store.claim(["default"], lease="w/1", limit=9, for_ms=10_000)
        assert [d.job.id for d in found.deliveries] == ["a", "b", "c", "d"]
        blocker.close()
        await store.close()

    asyncio.run(main())


def test_a_statement_that_the_file_has_no_room_for_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        store = SqliteStore(tmp_path / "jobs.db")
        await store.commit([jobs("a")], batch=("c", 1))
        await store._writes.do(lambda connection: connection.execute("PRAGMA max_page_count = 1").fetchall())
        many = [jobs(f"j{n}", args=b"\xc5\x0f\xff" + bytes(0xFFF)) for n in range(500)]
        with pytest.raises(StoreUnavailable, match="full"):
            await store.commit(many, batch=("c", 2))
        assert [view.id for view in await store.jobs()] == ["a"]
        await store._writes.do(lambda connection: connection.execute("PRAGMA max_page_count = 1000000").fetchall())
        assert await store.commit(many, batch=("c", 2)) == ["applied"] * 500
        assert len(await store.jobs(limit=1_000)) == 501
        await store.close()

    asyncio.run(main())

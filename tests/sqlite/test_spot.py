"""Small writes are done on the event loop while the file is quick; what could stop the loop goes to the thread."""

from __future__ import annotations

import asyncio
import linecache
import os
import sqlite3
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from culm import StoreError, forks
from culm.commit import Commit, Held
from culm.job import Job
from culm.outcome import Failed, Fault
from culm.store import Claimed, ClaimOrder, Pending
from culm.stores.sqlite import file, spot
from culm.stores.sqlite.address import open_sqlite
from culm.stores.sqlite.leases import Claim
from culm.stores.sqlite.plain import MOST_AT_ONCE
from tests.sqlite.test_batches import ended, jobs

HERE, THREAD = "here", "thread"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is just now."""
    monkeypatch.setattr(spot, "QUICK_S", 60.0)


class Scene:
    """A store, and where each of its statements was done."""

    def __init__(self, path: Path, address: str) -> None:
        self.store = open_sqlite(f"sqlite:///{path}{address}")
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


def played(path: Path, play: Any, address: str = "?durability=relaxed") -> Scene:
    async def main() -> Scene:
        scene = Scene(path, address)
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
        [jobs("large", headers={"x": "y" * spot.SMALL_BYTES})],
        [jobs("elsewhere", queue="new")],
        [jobs(f"{n}", priority=n % 10) for n in range(MOST_AT_ONCE + 1)],
    ],
    ids=["many at once", "many", "large", "large headers", "a new queue", "many steps"],
)
def test_what_is_no_small_statement_goes_to_the_thread(tmp_path: Path, commits: list[Commit]) -> None:
    async def play(scene: Scene) -> None:
        await scene.earn()
        scene.where()
        assert set(await scene.send(*commits)) == {"applied"}
        assert scene.where() == {THREAD}

    played(tmp_path / "jobs.db", play)


def test_a_large_fault_and_a_claim_of_large_jobs_go_to_the_thread(tmp_path: Path) -> None:
    async def play(scene: Scene) -> None:
        await scene.send(*[jobs(f"{n}", args=bytes(20_000)) for n in range(spot.IN_A_ROW)])
        await scene.earn()
        scene.where()
        deliveries = (await scene.store.claim(["default"], lease="w/1", limit=spot.IN_A_ROW, for_ms=10_000)).deliveries
        assert len(deliveries) == spot.IN_A_ROW
        assert THREAD in scene.where()
        fault = Fault("ValueError", "m" * spot.SMALL_BYTES)
        held = deliveries[0]
        assert await scene.send(Commit(fence=Held(held.job.id, held.lease), outcome=Failed(fault))) == ["applied"]
        assert scene.where() == {THREAD}

    played(tmp_path / "jobs.db", play)


def test_claims_that_find_nothing_earn_nothing(tmp_path: Path) -> None:
    async def play(scene: Scene) -> None:
        for n in range(3 * spot.IN_A_ROW):
            await scene.store.claim(["default"], lease=f"w/{n}", limit=1, for_ms=10_000)
        scene.where()
        await scene.send(jobs("a"))
        assert scene.where() == {THREAD}

    played(tmp_path / "jobs.db", play)


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    async def play(scene: Scene) -> None:
        for _ in range(3):
            await scene.earn()
        assert scene.where() == {THREAD}

    played(tmp_path / "jobs.db", play, address="?on_loop=off&durability=relaxed")


class Interrupted(BaseException):
    """As a signal may raise on the main thread, at any time."""


NO_SIGNALS = ("with ", "try:")  # these call nothing of their own, and only after a call signals are looked for


class InterruptAt:
    """Raises before the nth line that is done on the spot."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        above: FrameType | None = frame
        while above is not None and above.f_code is not spot.Spot.do.__code__:
            above = above.f_back
        if above is None:
            return None
        source = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and not source.lstrip().startswith(NO_SIGNALS):
            self.left -= 1
            if not self.left:
                raise Interrupted
        return self


def test_an_interrupt_leaves_neither_the_line_taken_nor_a_transaction_open(tmp_path: Path) -> None:
    async def play(scene: Scene) -> None:
        await scene.earn()
        line, sent, nth, interrupts = scene.store._writes._line, ["last"], 0, 0
        while nth == interrupts:  # each line has been interrupted when one more is never reached
            nth += 1
            sys.settrace(InterruptAt(nth))
            try:
                await scene.send(jobs(f"{nth}"), jobs(f"{nth}!", priority=8))
                sent += [f"{nth}", f"{nth}!"]
            except Interrupted:
                interrupts += 1
            finally:
                sys.settrace(None)
            assert not line.lock.locked()
            assert line.connection is not None
            assert not line.connection.in_transaction
            async with asyncio.timeout(10):
                assert await scene.send(jobs(f"after {nth}")) == ["applied"]
            sent.append(f"after {nth}")
        assert interrupts > 20
        assert await scene.send(jobs("last")) == ["applied"]
        with closing(sqlite3.connect(tmp_path / "jobs.db")) as other:
            found = {job_id for (job_id,) in other.execute("SELECT id FROM jobs")}
        assert found.issuperset(sent)

    played(tmp_path / "jobs.db", play)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_handler_that_forks_in_the_middle_does_not_wait_for_itself(tmp_path: Path) -> None:
    async def play(scene: Scene) -> None:
        await scene.earn()
        children: list[int] = []

        def fork() -> bool:
            if threading.current_thread() is threading.main_thread() and not children:
                child = os.fork()
                if not child:
                    os._exit(0)
                children.append(child)
            return False

        scene.store._writes._spot._begun = fork
        began = time.monotonic()
        assert await scene.send(jobs("a")) == ["applied"]
        assert len(children) == 1
        assert time.monotonic() - began < forks.PARKING_WAIT_S / 2
        assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0  # noqa: ASYNC222  # it has ended
        assert isinstance(await scene.store.outcome("a"), Pending)
        assert await scene.send(jobs("b")) == ["applied"]

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
    monkeypatch.setattr(spot, "SMALL_CHECKPOINT_BYTES", 50 * file.PAGE_BYTES)
    monkeypatch.setattr(spot, "MOST_PAGES", 40)

    async def play(scene: Scene) -> None:
        seen = set()
        for n in range(300):
            await scene.send(jobs(f"{n}"))
            connection = scene.store._writes._line.connection
            assert connection is not None
            (pages,) = connection.execute("PRAGMA wal_autocheckpoint").fetchone()
            seen.add((pages, *scene.where()))
        before_it_was_small = file.CHECKPOINT_BYTES // file.PAGE_BYTES
        assert seen == {(before_it_was_small, THREAD), (50, THREAD), (0, HERE)}, "no checkpoint here"

    played(tmp_path / "jobs.db", play)


def test_the_log_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spot, "SMALL_CHECKPOINT_BYTES", 50 * file.PAGE_BYTES)
    monkeypatch.setattr(spot, "MOST_PAGES", 40)

    async def play(scene: Scene) -> None:
        for n in range(1_000):
            await scene.send(jobs(f"{n}"))
        pages = (tmp_path / "jobs.db-wal").stat().st_size / file.PAGE_BYTES
        assert pages < 250, "a thousand of them write four thousand pages"

    played(tmp_path / "jobs.db", play)


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    async def play(scene: Scene) -> None:
        await scene.earn()
        await scene.store.close()
        with pytest.raises(StoreError, match="closed"):
            await scene.send(jobs("a"))

    played(tmp_path / "jobs.db", play)

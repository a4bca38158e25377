"""What a batch costs and answers when one of its commits is odd, and what a store that cannot write says."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from culm import ConfigError, StoreError, StoreUnavailable
from culm.commit import Commit, Committed, Held, Trigger
from culm.job import Delivery, Job
from culm.outcome import Failed, Fault, Outcome, Retried, Succeeded
from culm.stores.sqlite import file
from culm.stores.sqlite.commits import Commits
from culm.stores.sqlite.desk import translated
from culm.stores.sqlite.store import SqliteStore
from culm.testing.clock import ManualClock


def jobs(*ids: str, **options: Any) -> Commit:
    return Commit(send=tuple(Job(id=i, task="t", **options) for i in ids))


def ended(delivery: Delivery) -> Commit:
    return Commit(fence=Held(delivery.job.id, delivery.lease), outcome=Succeeded(), keep_ms=0)


class Counting:
    """How many commits took the plain path, statement by statement."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.alone = 0
        right = Commits._apply_one

        def apply_one(commits: Commits, commit: Commit) -> Committed:
            self.alone += 1
            return right(commits, commit)

        patch.setattr(Commits, "_apply_one", apply_one)


ODD: dict[str, tuple[Commit, Committed]] = {
    "a send within a scope": (jobs("root~a", after_ms=None), "applied"),
    "a job whose end is waited for": (Commit(fence=Held("j250", "w/1"), outcome=Succeeded(), keep_ms=0), "applied"),
    "a stale lease": (Commit(fence=Held("j250", "w/0"), outcome=Succeeded()), "lease_lost"),
    "a job that nobody knows": (Commit(fence=Held("nobody", "w/1"), outcome=Succeeded()), "lease_lost"),
    "an id that is there": (jobs("j0"), "applied"),
    "an id of another task's job": (Commit(send=(Job(id="other", task="u"),)), "conflict"),
    "an id with a NUL": (jobs("a\0b", "c"), "applied"),
}


@pytest.mark.parametrize("what", ODD)
def test_one_odd_commit_does_not_slow_the_others(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        store = SqliteStore(tmp_path / "jobs.db", durability="relaxed")
        await store.commit([jobs(*(f"j{n}" for n in range(500)))], batch=("c", 1))
        await store.commit([jobs("other", queue="q"), jobs("j250~a", after_ms=None, queue="q")], batch=("c", 2))
        found = (await store.claim(["default"], lease="w/1", limit=500, for_ms=10_000)).deliveries
        batch = [ended(d) for d in found]
        commit, answer = ODD[what]
        batch[250] = commit
        counting = Counting(monkeypatch)
        answers = await store.commit(batch, batch=("c", 3))
        assert (answers[250], answers.count("applied")) == (answer, 499 + (answer == "applied"))
        assert counting.alone == 1
        await store.close()

    asyncio.run(main())


def test_a_later_commit_of_a_batch_still_sees_an_earlier_odd_one(tmp_path: Path) -> None:
    async def main() -> None:
        store = SqliteStore(tmp_path / "jobs.db", durability="relaxed")
        await store.commit([jobs("a", "b", "c")], batch=("c", 1))
        a, b, c = (await store.claim(["default"], lease="w/1", limit=3, for_ms=10_000)).deliveries
        batch = [
            jobs("x"),
            jobs("b~1", after_ms=None),  # odd: a scope
            jobs("b~1"),  # the same again: nothing, it waits on
            ended(a),
            ended(a),  # stale by now
            Commit(triggers=(Trigger("b~1", "b", (("done/b", 1),), 1),)),
            ended(b),  # watched by now: its end releases b~1
            jobs("y", "y"),
            Commit(send=(Job(id="y", task="u"),)),
            ended(c),
        ]
        answers = await store.commit(batch, batch=("c", 2))
        assert answers == [*["applied"] * 4, "lease_lost", *["applied"] * 3, "conflict", "applied"]
        found = await store.claim(["default"], lease="w/2", limit=9, for_ms=10_000)
        assert [d.job.id for d in found.deliveries] == ["x", "b~1", "y"]
        await store.close()

    asyncio.run(main())


def test_ids_that_json_would_cut_are_whole(tmp_path: Path) -> None:
    async def main() -> None:
        store = SqliteStore(tmp_path / "jobs.db", durability="relaxed")
        ids = ["a\0b", "a\0c", "a", "\0", "b\x1fc"]
        assert await store.commit([jobs(*ids[:2]), *(jobs(i) for i in ids[2:])], batch=("c", 1)) == ["applied"] * 4
        assert sorted(v.id for v in await store.jobs()) == sorted(ids)
        found = (await store.claim(["default"], lease="w/1", limit=9, for_ms=10_000)).deliveries
        assert [(d.job.id, d.broken) for d in found] == [(i, "") for i in ids]
        failed = [Commit(fence=Held(d.job.id, d.lease), outcome=Failed(Fault("E"))) for d in found]
        assert await store.commit(failed, batch=("c", 2)) == ["applied"] * 5
        assert (await store.replay(ids[:2]), await store.discard(ids)) == (2, 3)
        assert sorted(v.id for v in await store.jobs()) == sorted(ids[:2])
        await store.close()

    asyncio.run(main())


def test_a_job_that_the_end_of_a_lapsed_one_released_is_claimed_at_once(tmp_path: Path) -> None:
    """The claim that stops a cancelled job whose lease ran out also finds what its end released."""

    async def main() -> None:
        clock = ManualClock()
        store = SqliteStore(tmp_path / "jobs.db", durability="relaxed", clock=clock)
        joining = Commit(
            send=(Job(id="r~a", task="t", after_ms=0), Job(id="r~b", task="t", after_ms=None)),
            triggers=(Trigger("r~b", "r", (("done/r~a", 1),), 1),),
        )
        await store.commit([joining], batch=("c", 1))
        await store.claim(["default"], lease="w/1", limit=1, for_ms=1_000)
        await store.commit([Commit(cancel=("r~a",))], batch=("c", 2))
        clock.advance(ms=1_001)
        found = await store.claim(["default"], lease="w/2", limit=5, for_ms=1_000)
        assert [d.job.id for d in found.deliveries] == ["r~b"]
        await store.close()

    asyncio.run(main())


def test_leases_that_ran_out_elsewhere_are_forgotten_here(tmp_path: Path) -> None:
    """I32: what was learnt at the claim goes, also when the commit is refused."""

    async def main() -> None:
        clock = ManualClock()
        store = SqliteStore(tmp_path / "jobs.db", durability="relaxed", clock=clock)
        await store.commit([jobs(*(f"j{n}" for n in range(20)))], batch=("c", 1))
        stale = (await store.claim(["default"], lease="w/1", limit=20, for_ms=1_000)).deliveries
        clock.advance(ms=1_001)
        other = SqliteStore(tmp_path / "jobs.db", durability="relaxed", clock=clock)
        await other.claim(["default"], lease="v/1", limit=20, for_ms=1_000)
        refused = [Commit(fence=Held(d.job.id, d.lease), outcome=outcome()) for d, outcome in zip(stale, OUTCOMES * 10, strict=True)]
        assert await store.commit(refused, batch=("c", 2)) == ["lease_lost"] * 20
        assert store._leases._rids == {}
        await asyncio.gather(store.close(), other.close())

    asyncio.run(main())


OUTCOMES: list[Callable[[], Outcome]] = [Succeeded, lambda: Retried(0, Fault("E"))]


def test_many_leases_that_lapse_are_refreshed_in_one_walk(tmp_path: Path) -> None:
    """Jobs that were claimed one by one and extended since: the first claim after their first end took 6 s for 8,000 of them."""

    async def main() -> None:
        clock = ManualClock()
        store = SqliteStore(tmp_path / "jobs.db", durability="relaxed", clock=clock)
        await store.commit([jobs(*(f"j{n}" for n in range(400)))], batch=("c", 1))
        held = []
        for n in range(400):
            claimed = await store.claim(["default"], lease=f"w/{n}", limit=1, for_ms=30_000)
            held += [Held(d.job.id, d.lease) for d in claimed.deliveries]
            clock.advance(ms=1)
        clock.advance(ms=10_000)
        await store.extend(held, for_ms=30_000)
        clock.advance(ms=20_000)
        walked = await steps(store, clock)
        assert walked < 400 * 400 / 4, f"{walked} steps of SQLite's machine"
        assert await steps(store, clock) < walked / 4, "the leases are true now: the next claim need not walk again"
        await store.close()

    asyncio.run(main())


async def steps(store: SqliteStore, clock: ManualClock) -> int:
    """Instructions of SQLite's virtual machine in one claim."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 10
        return 0

    await store._writes.do(lambda connection: connection.set_progress_handler(tick, 10))
    await store.claim(["default"], lease=f"x/{clock.now_ms()}", limit=1, for_ms=30_000)
    await store._writes.do(lambda connection: connection.set_progress_handler(None, 0))
    clock.advance(ms=1)
    return count


@pytest.mark.slow
@pytest.mark.parametrize("order", ["priority", "age"])
@pytest.mark.parametrize("priorities", [[5], [2, 5, 9]])
def test_a_claim_takes_no_more_bytes_than_fit_in_memory(order: Literal["priority", "age"], priorities: list[int], tmp_path: Path) -> None:
    async def main() -> None:
        store = SqliteStore(tmp_path / "jobs.db", durability="relaxed")
        sent = [Job(id=f"j{n:02}", task="t", args=bytes(1 << 20), priority=priorities[n % len(priorities)]) for n in range(40)]
        huge = Job(id="z", task="t", args=bytes(17 << 20), priority=min(priorities))
        await store.commit([Commit(send=(*sent, huge))], batch=("c", 1))
        wanted = [*sent, huge] if order == "age" else sorted([*sent, huge], key=lambda j: -j.priority)
        found: list[list[str]] = []
        while True:
            claimed = await store.claim(["default"], lease=f"w/{len(found)}", limit=500, for_ms=10_000, order=order)
            found.append([d.job.id for d in claimed.deliveries])
            if claimed.next_ms is None:
                break
            assert claimed.next_ms == 0, "there is more, at once"
        assert [i for some in found for i in some] == [j.id for j in wanted]
        assert [len(some) for some in found] == [15, 15, 10, 1]
        await store.close()

    asyncio.run(main())


def test_claims_of_what_lapsed_are_bounded_in_bytes_too(tmp_path: Path) -> None:
    async def main() -> None:
        clock = ManualClock()
        store = SqliteStore(tmp_path / "jobs.db", durability="relaxed", clock=clock)
        await store.commit([Commit(send=tuple(Job(id=f"j{n:02}", task="t", args=bytes(1 << 20)) for n in range(30)))], batch=("c", 1))
        for n in range(2):
            assert len((await store.claim(["default"], lease=f"w/{n}", limit=15, for_ms=1_000)).deliveries) == 15
        clock.advance(ms=1_001)
        claimed = [await store.claim(["default"], lease=f"v/{n}", limit=500, for_ms=10_000) for n in range(3)]
        assert [len(c.deliveries) for c in claimed] == [16, 14, 0]
        await store.close()

    asyncio.run(main())


# -- what cannot be written -------------------------------------------------------------------------------------------------------


def sqlite_error(code: int, kind: type[sqlite3.Error] = sqlite3.OperationalError) -> sqlite3.Error:
    error = kind("as it says")
    error.sqlite_errorcode = code
    return error


REFUSED: Sequence[Exception] = [
    sqlite_error(sqlite3.SQLITE_TOOBIG, sqlite3.DataError),
    sqlite_error(sqlite3.SQLITE_CONSTRAINT_CHECK, sqlite3.IntegrityError),
    sqlite_error(sqlite3.SQLITE_MISMATCH, sqlite3.IntegrityError),
    sqlite3.ProgrammingError("type 'object' is not supported"),
    OverflowError("int too large"),
]
UNAVAILABLE: Sequence[Exception] = [
    *(
        sqlite_error(code)
        for code in (
            sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY_DBMOVED, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_ERROR,
            sqlite3.SQLITE_INTERRUPT,
        )
    ),
    MemoryError(),
]  # fmt: skip


@pytest.mark.parametrize("error", REFUSED, ids=repr)
def test_only_what_can_never_be_written_is_refused(error: Exception) -> None:
    assert type(translated(error)) is StoreError


@pytest.mark.parametrize("error", UNAVAILABLE, ids=repr)
def test_what_may_be_written_another_time_is_unavailable(error: Exception) -> None:
    """A refused success is made a failure: nothing that passes may be taken for a refusal."""
    assert type(translated(error)) is StoreUnavailable


@pytest.mark.parametrize("code", [sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB])
def test_a_damaged_file_is_nobodys_failure(code: int) -> None:
    assert isinstance(translated(sqlite_error(code, sqlite3.DatabaseError)), StoreUnavailable)
    assert "the database file is damaged" in str(translated(sqlite_error(code, sqlite3.DatabaseError)))


def test_an_old_sqlite_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 37, 2))
    with pytest.raises(ConfigError, match=r"sqlite:// needs SQLite 3\.38\.0 or newer, this Python has"):
        SqliteStore(tmp_path / "jobs.db")
    assert list(tmp_path.iterdir()) == []


# -- the room that the WAL has ------------------------------------------------------------------------------------------------------


def test_the_wal_grows_where_the_file_is_not_where_the_link_is(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "jobs.db").symlink_to(tmp_path / "real" / "jobs.db")
        (tmp_path / "jobs.db-wal").write_bytes(b"somebody's notes")
        store = SqliteStore(tmp_path / "jobs.db")
        for n in range(3):
            await store.commit([jobs(f"j{n}")], batch=("c", n + 1))
        assert (tmp_path / "jobs.db-wal").read_bytes() == b"somebody's notes"
        assert (tmp_path / "real" / "jobs.db-wal").stat().st_size % file.RESERVE_BYTES == 0
        await store.close()

    asyncio.run(main())


def test_the_wal_of_a_file_that_took_our_place_is_left_alone(tmp_path: Path) -> None:
    path, wal = tmp_path / "jobs.db", tmp_path / "jobs.db-wal"
    path.touch()
    reserve = file.Reserve(path)
    path.rename(tmp_path / "moved.db")
    path.touch()
    wal.write_bytes(b"x")
    reserve()
    assert wal.read_bytes() == b"x"

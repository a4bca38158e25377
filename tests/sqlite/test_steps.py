"""Plain commits in steps: many of them, scattered rows, ends and sends of one id, and leases that are extended together."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from culm.commit import Commit, Held
from culm.job import Job
from culm.outcome import Failed, Fault, Succeeded
from culm.stores.memory import MemoryStore
from culm.stores.sqlite.plain import MOST_AT_ONCE
from culm.stores.sqlite.store import SqliteStore
from tests.sqlite.test_batches import Counting, ended, jobs


def test_more_steps_than_a_statement_has_are_written_together_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        store = SqliteStore(tmp_path / "jobs.db", durability="relaxed")
        queues = [f"q{n}" for n in range(3 * MOST_AT_ONCE)]
        await store.commit([jobs("j90", queue="elsewhere")], batch=("c", 1))
        counting = Counting(monkeypatch)
        answers = await store.commit([jobs(f"j{n}", queue=queue) for n, queue in enumerate(queues)], batch=("c", 2))
        assert answers == ["applied"] * len(queues)
        assert counting.alone == 1, "the others found room in the same batch, although a late step was refused"
        found = (await store.claim(queues, lease="w/1", limit=500, for_ms=10_000)).deliveries
        assert sorted(d.job.id for d in found) == sorted(f"j{n}" for n in range(len(queues)) if n != 90)
        assert await store.commit([ended(d) for d in found], batch=("c", 3)) == ["applied"] * len(found)
        assert [view.id for view in await store.jobs()] == ["j90"]
        await store.close()

    asyncio.run(main())


def test_rows_that_do_not_follow_one_another_end_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        store = SqliteStore(tmp_path / "jobs.db", durability="relaxed")
        await store.commit([jobs(*(f"j{n:02}" for n in range(40)))], batch=("c", 1))
        found = (await store.claim(["default"], lease="w/1", limit=40, for_ms=10_000)).deliveries
        counting = Counting(monkeypatch)
        batch = [ended(d) for d in found[::2]] + [
            Commit(fence=Held(d.job.id, d.lease), outcome=Failed(Fault("E")) if n % 2 else Succeeded(b"\x07"), keep_ms=n % 3 * 1_000)
            for n, d in enumerate(found[1::2])
        ]
        assert await store.commit(batch, batch=("c", 2)) == ["applied"] * 40
        assert counting.alone == 0
        outcomes = {d.job.id: await store.outcome(d.job.id) for d in found}
        for n, d in enumerate(found[1::2]):
            kept = outcomes[d.job.id]
            want = Failed(Fault("E")) if n % 2 else Succeeded(b"\x07")
            assert getattr(kept, "outcome", None) == (want if n % 2 or n % 3 else None), (n, kept)
        assert (await store.claim(["default"], lease="w/2", limit=40, for_ms=10_000)).deliveries == []
        await store.close()

    asyncio.run(main())


def test_a_job_that_a_batch_ends_twice_does_not_end_its_neighbour(tmp_path: Path) -> None:
    async def main() -> None:
        store = SqliteStore(tmp_path / "jobs.db", durability="relaxed")
        await store.commit([jobs("a", "b", "c")], batch=("c", 1))
        a, b, c = (await store.claim(["default"], lease="w/1", limit=3, for_ms=10_000)).deliveries
        assert await store.commit([ended(a), ended(a), ended(c)], batch=("c", 2)) == ["applied", "lease_lost", "applied"]
        assert [view.id for view in await store.jobs()] == ["b"]
        assert await store.commit([ended(b)], batch=("c", 3)) == ["applied"]
        await store.close()

    asyncio.run(main())


@pytest.mark.parametrize("sent_first", [True, False])
def test_an_id_that_a_batch_ends_and_sends_meets_both_in_order(tmp_path: Path, *, sent_first: bool) -> None:
    async def main() -> None:
        left = []
        for store in (SqliteStore(tmp_path / "jobs.db", durability="relaxed"), MemoryStore()):
            await store.commit([jobs("a", "b")], batch=("c", 1))
            a, b = (await store.claim(["default"], lease="w/1", limit=2, for_ms=10_000)).deliveries
            batch = [jobs("a"), ended(a), ended(b)] if sent_first else [ended(a), jobs("a"), ended(b)]
            assert await store.commit(batch, batch=("c", 2)) == ["applied"] * 3
            left.append([d.job.id for d in (await store.claim(["default"], lease="w/2", limit=9, for_ms=10_000)).deliveries])
            await store.close()
        assert left == [[] if sent_first else ["a"]] * 2

    asyncio.run(main())


def test_leases_that_are_extended_together_are_answered_one_by_one_where_they_differ(tmp_path: Path) -> None:
    async def main() -> None:
        store = SqliteStore(tmp_path / "jobs.db", durability="relaxed")
        await store.commit([jobs("a", "b", "c", "a\0b")], batch=("c", 1))
        one = (await store.claim(["default"], lease="w/1", limit=3, for_ms=10_000)).deliveries
        [other] = (await store.claim(["default"], lease="w/2", limit=1, for_ms=10_000)).deliveries
        held = [Held(d.job.id, d.lease) for d in [*one, other]]
        assert await store.extend(held, for_ms=20_000) == ["held"] * 4
        await store.commit([Commit(cancel=("b",)), ended(one[2])], batch=("c", 2))
        assert await store.extend([*held, held[0]], for_ms=30_000) == ["held", "cancelled", "lost", "held", "held"]
        assert await store.extend([Held("a\0b", "w/1"), Held("a", "w/2")], for_ms=1) == ["lost", "lost"]
        assert (await store.claim(["default"], lease="w/3", limit=9, for_ms=10_000)).deliveries == []
        await store.close()

    asyncio.run(main())


def test_a_step_that_is_refused_leaves_a_plain_batch_unremembered_until_it_is_applied(tmp_path: Path) -> None:
    async def main() -> None:
        store = SqliteStore(tmp_path / "jobs.db", durability="relaxed")
        await store.commit([jobs("a"), jobs("b")], batch=("c", 1))
        again = [Commit(send=(Job(id="a", task="u"),)), jobs("c")]
        assert await store.commit(again, batch=("c", 2)) == ["conflict", "applied"]
        assert await store.commit([jobs("d"), jobs("e")], batch=("c", 2)) == ["conflict", "applied"], "the answers of the first time"
        assert await store.commit([jobs("d"), jobs("e")], batch=("c", 1)) == ["lease_lost"] * 2, "older than the last"
        assert sorted(view.id for view in await store.jobs()) == ["a", "b", "c"]
        await store.close()

    asyncio.run(main())

"""Many jobs at once: two batches are on their way together where the store keeps their order, and one where it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from culm import App
from culm.commit import BatchId, Commit, Committed
from culm.stores.memory import MemoryStore
from tests.tasks.harness import run
from tests.tasks.test_gathering import Unordered


class Slow(MemoryStore):
    """Applies at once, in the order in which it is asked, and answers some turns of the loop later; notes how many it has not answered."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way = self.most = 0
        self.clients: set[str] = set()

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        self.clients.add(batch[0])
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        answers = await super().commit(commits, batch=batch)
        for _ in range(3):
            await asyncio.sleep(0)
        self.under_way -= 1
        return answers


class Alone(Slow, Unordered):
    pass


async def nothing(n: int) -> None: ...


@pytest.mark.parametrize("jobs", [1, 999, 1_000, 1_001, 2_500, 4_001, 9_999, 12_345])
def test_they_keep_their_order(jobs: int) -> None:
    async def main() -> None:
        store = Slow()
        app = App(store=store)
        task = app.task(nothing)
        handles = await app.enqueue_many(task.bind(n) for n in range(jobs))
        assert [row.job.id for _, _, row in store.tables.ready["default", 5]] == [handle.id for handle in handles]
        assert store.most == (2 if jobs > 1_000 else 1), "two at once, or there were too few jobs"
        assert len(store.clients) == store.most

    run(main())


def test_where_the_store_does_not_keep_the_order_there_is_one_at_a_time() -> None:
    async def main() -> None:
        store = Alone()
        app = App(store=store)
        task = app.task(nothing)
        await app.enqueue_many(task.bind(n) for n in range(5_500))
        assert store.most == len(store.clients) == 1
        assert len(store.tables.rows) == 5_500

    run(main())


def test_closing_the_app_awaits_both() -> None:
    async def main() -> None:
        store = Slow()
        app = App(store=store)
        task = app.task(nothing)
        sending = asyncio.create_task(app.enqueue_many(task.bind(n) for n in range(2_000)))
        while store.under_way < 2:
            await asyncio.sleep(0)
        await app.close()
        assert store.under_way == 0
        await sending

    run(main())

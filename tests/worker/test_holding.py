"""What a worker holds, as its heart hears of it, and what it makes of the answers to its commits."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

import pytest

from culm import App
from culm.batch import Gatherer
from culm.commit import BatchId, Commit, Committed
from culm.current import Attempt
from culm.errors import StoreError, StoreUnavailable
from culm.job import Delivery
from culm.stores.memory import MemoryStore
from culm.worker.slots import Slots
from tests.tasks.harness import Bench, run, until


def test_a_job_is_held_at_every_moment_from_the_buffer_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """I2: the heart asks from another thread. At each step of a job from one place to the next, all that is unfinished is held."""

    async def main() -> None:
        bench, fed, checks = Bench(), set[str](), list[str]()
        made: list[Slots] = []

        def check(where: str) -> None:
            unfinished = {i for i in fed if not bench.store.tables.rows[i].finished and bench.store.tables.rows[i].lease}
            missed = unfinished - {h.job_id for h in made[0].held()}
            assert not missed, f"{missed} at {where}"
            checks.append(where)

        class Buffer(deque[Delivery]):
            def popleft(self) -> Delivery:
                delivery = super().popleft()
                check("buffer")
                return delivery

        class Running(dict[Attempt, Any]):
            def __setitem__(self, attempt: Attempt, task: Any) -> None:
                check("running")
                super().__setitem__(attempt, task)

            def pop(self, attempt: Attempt, *default: Any) -> Any:
                task = super().pop(attempt, *default)
                check("gatherer")
                return task

        right = Slots.__init__

        def begin(self: Slots, *args: Any, **given: Any) -> None:
            right(self, *args, **given)
            self.buffer, self.running = Buffer(), Running()
            made.append(self)

        def feed(self: Slots, deliveries: Sequence[Delivery]) -> None:
            fed.update(d.job.id for d in deliveries)
            rightly_fed(self, deliveries)

        rightly_fed = Slots.feed
        monkeypatch.setattr(Slots, "__init__", begin)
        monkeypatch.setattr(Slots, "feed", feed)

        @bench.app.task
        async def quick(n: int) -> None:
            await asyncio.sleep(0)
            if n % 50 == 0:
                made[0].release_buffered()

        jobs = await quick.map(range(200))
        async with bench.working(concurrency=4):
            for job in jobs:
                await job.result()
        assert set(checks) == {"buffer", "running", "gatherer"}

    run(main())


class PartlyDown(MemoryStore):
    """Cannot write batches of several endings; of them one by one, it applies the first and is then away."""

    def __init__(self) -> None:
        super().__init__()
        self.alone = 0

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        if any(c.fence for c in commits):
            if len(commits) > 1:
                raise StoreError("one of them cannot be written")
            self.alone += 1
            if self.alone == 2:
                raise StoreUnavailable("it is away")
        return await super().commit(commits, batch=batch)


def test_answers_of_one_batch_are_dealt_with_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    """An unknown one among them is no refusal: its job succeeded, and runs again. It is not made a dead letter."""

    async def main() -> None:
        app, gate = App(store=PartlyDown()), asyncio.Event()

        @app.task
        async def gated(n: int) -> int:
            await gate.wait()
            return n

        jobs = await gated.map(range(3))
        async with app.worker(lease=0.3, heartbeat=0.1, poll=0.05) as worker:
            assert isinstance(worker._gatherer, Gatherer)
            worker._gatherer._give_up_s = 0
            await until(lambda: len(worker.held()) == 3)
            gate.set()
            assert [await j.result(timeout=5) for j in jobs] == [0, 1, 2]

    with caplog.at_level(logging.ERROR):
        run(main())
    assert [r.message.partition(",")[0] for r in caplog.records] == ["commit.unknown: 1 commits"]

"""A store that is away or full costs a job nothing: what ended meanwhile is committed when it is back, or runs again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from culm import App, StoreFull, StoreUnavailable
from culm.commit import BatchId, Commit, Committed, Held
from culm.outcome import Succeeded
from culm.store import Claimed, ClaimOrder, LeaseState, WorkerInfo
from culm.stores.memory import MemoryStore
from culm.worker.heart import AGAIN_MS, beat
from tests.tasks.harness import run, until


class Fickle(MemoryStore):
    """Away, or full for the ends of jobs, as long as it is told so."""

    away = False
    full = False
    refused = 0

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        self._answer()
        if self.full and any(isinstance(c.outcome, Succeeded) for c in commits):
            self.refused += 1
            raise StoreFull("no room")
        return await super().commit(commits, batch=batch)

    async def extend(self, held: Sequence[Held], *, for_ms: int) -> list[LeaseState]:
        self._answer()
        return await super().extend(held, for_ms=for_ms)

    async def register(self, worker: WorkerInfo, *, for_ms: int) -> None:
        self._answer()
        await super().register(worker, for_ms=for_ms)

    def _answer(self) -> None:
        if self.away:
            self.refused += 1
            raise StoreUnavailable("away")


@pytest.mark.slow
def test_what_ended_while_the_store_was_away_longer_than_the_lease_is_committed_when_it_is_back() -> None:
    async def main() -> None:
        store, runs = Fickle(), []
        app = App(store=store)

        @app.task
        async def ends() -> str:
            store.away = True
            runs.append(1)
            return "done"

        async with app:
            job = await ends.enqueue()
            async with app.worker(lease=0.2, heartbeat=0.05, concurrency=1, poll=60):
                await until(lambda: bool(runs))
                await asyncio.sleep(1.3)  # longer than the lease, and than a second: the fault itself
                assert store.refused > 0
                store.away = False
                assert await job.result(timeout=10) == "done"
            assert (runs, (await job.view()).expiries) == ([1], 0)

    run(main())


def test_a_job_whose_end_a_full_store_could_not_take_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("culm.worker.slots.FULL_PAUSE_MS", 20)

    async def main() -> None:
        store = Fickle()
        app = App(store=store)

        @app.task
        async def ends() -> str:
            return "done"

        async with app, app.worker(concurrency=1, poll=0.01):
            store.full = True
            job = await ends.enqueue()
            await until(lambda: store.refused > 0)
            store.full = False
            assert await job.result(timeout=10) == "done"
            view = await job.view()
            assert (view.attempt, view.expiries) == (1, 0), "the attempts that could not end do not count"

    run(main())


def test_a_heart_that_got_no_answer_asks_again_within_a_second() -> None:
    class Body:
        def held(self) -> list[Held]:
            return []

        def is_stuck(self) -> bool:
            return False

        def info(self) -> WorkerInfo:
            return WorkerInfo("w", "h", 1, (), (), 1)

        def leases_are(self, held: Sequence[Held], states: Sequence[LeaseState]) -> None: ...

    async def main() -> None:
        store, pauses = Fickle(), list[float]()

        async def pause(seconds: float) -> bool:
            pauses.append(seconds)
            store.away = len(pauses) == 1
            return len(pauses) < 3

        await beat(Body(), store, every_ms=10_000, lease_ms=30_000, pause=pause)
        assert [round(p, 1) for p in pauses] == [10.0, AGAIN_MS / 1000, 10.0]  # less what a beat took

    run(main())


class Silent(MemoryStore):
    """Does not answer a claim any more, once it is told so."""

    silent = False
    asked = 0  # since then

    async def claim(self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int, order: ClaimOrder = "priority") -> Claimed:
        if self.silent:
            self.asked += 1
            await asyncio.Event().wait()
        return await super().claim(queues, lease=lease, limit=limit, for_ms=for_ms, order=order)


@pytest.mark.parametrize(("lease", "hurries"), [(0.1, False), (600, True)], ids=["for some leases", "for a moment when in a hurry"])
def test_a_stop_does_not_await_a_claim_for_ever(lease: float, hurries: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        store, gate = Silent(), asyncio.Event()
        app = App(store=store)

        @app.task
        async def ends() -> None:
            await gate.wait()

        worker = app.worker(lease=lease, heartbeat=0.03, concurrency=2, poll=0.01)
        await worker.start()
        job = await ends.enqueue()
        await until(lambda: len(worker.held()) == 1)
        store.silent = True
        gate.set()
        await until(lambda: worker.done == 1 and store.asked == 1)
        stopping = asyncio.ensure_future(worker.stop())
        if hurries:
            await asyncio.sleep(0)
            worker.hurry()
        await stopping
        assert await job.status() == "succeeded"

    run(main())
    assert "does not answer a claim" in caplog.text

"""Processes stall and die; stores fail, lose replies and are late; clocks lie. And through it all, what was acknowledged is kept, once."""

# ruff: noqa: RUF006 -- polling is what is tested here; and a virtual loop holds its tasks itself

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from tests.testing.test_virtual_loop import Log, _messy, _tick

from culm.batch import Gatherer
from culm.commit import Commit, Committed, Held
from culm.errors import StoreUnavailable
from culm.job import Delivery, Job
from culm.outcome import Succeeded
from culm.store import FullStore
from culm.stores.memory import MemoryStore
from culm.stores.tables import Tables
from culm.testing.faults import HOUR_MS, Crash, DriftingClock, Faulty, Plan, VirtualClock
from culm.testing.virtual_loop import START_S, VirtualLoop, gone, never, run

# -- stall -------------------------------------------------------------------------------------------------------------------


def test_a_stalled_node_stands_still_while_others_go_on_and_its_timers_fire_late() -> None:
    log: list[tuple[str, float]] = []

    async def main(loop: VirtualLoop) -> None:
        for name in ("w1", "w2"):
            with loop.node(name):
                asyncio.create_task(_tick(loop, log, name))
        await asyncio.sleep(2.5)
        loop.stall("w1", for_s=40.0)
        loop.stall("w1", for_s=3.0)  # the later end counts
        await asyncio.sleep(49.8)

    run(main, seed=5)
    assert [at for name, at in log if name == "w1"] == [1, 2, 42.5, 43.5, 44.5, 45.5, 46.5, 47.5, 48.5, 49.5, 50.5, 51.5]
    assert [at for name, at in log if name == "w2"] == list(range(1, 53))


# -- kill --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_s", [0.0, 0.5, 1.0, 3.0])
def test_a_killed_node_runs_nothing_more_not_even_finally(after_s: float) -> None:
    async def main(loop: VirtualLoop, log: Log) -> Log:
        with loop.node("w1"):
            asyncio.create_task(_messy(log))
        await asyncio.sleep(after_s)
        loop.kill("w1")
        await asyncio.sleep(10)
        return log[:]

    for seed in range(20):
        log: Log = []
        assert run(lambda loop, log=log: main(loop, log), seed=seed) == []  # type: ignore[misc]
    gc.collect()


def test_a_node_that_kills_itself_ends_at_its_next_await() -> None:
    log: Log = []

    async def dies(loop: VirtualLoop) -> None:
        loop.kill("w1")
        log.append("last words" if gone() else "alive")
        await asyncio.sleep(0)
        log.append("ghost")

    async def main(loop: VirtualLoop) -> None:
        with loop.node("w1"):
            asyncio.create_task(dies(loop))
        await asyncio.sleep(10)

    run(main, seed=1)
    assert log == ["last words"]


def test_a_stalled_node_can_be_killed_and_does_not_come_back() -> None:
    log: list[tuple[str, float]] = []

    async def main(loop: VirtualLoop) -> None:
        with loop.node("w1"):
            asyncio.create_task(_tick(loop, log, "w1"))
        loop.stall("w1", for_s=5)
        await asyncio.sleep(2)
        loop.kill("w1")
        loop.stall("w1", for_s=1)
        await asyncio.sleep(20)
        with pytest.raises(ValueError, match="killed"), loop.node("w1"):
            pass
        with pytest.raises(ValueError, match="no node"):
            loop.kill("")

    run(main, seed=1)
    assert log == []


def test_finally_blocks_that_run_at_close_know_that_they_are_gone() -> None:
    told: list[bool] = []

    async def worker() -> None:
        try:
            await never()
        finally:
            told.append(gone())
            await asyncio.sleep(1)
            told.append(gone())

    async def main(loop: VirtualLoop) -> None:
        with loop.node("w1"):
            asyncio.create_task(worker())
        await asyncio.sleep(1)
        loop.kill("w1")
        assert told == []

    run(main, seed=1)
    assert told == [True]  # the await in it was its end


# -- one fault at a time -------------------------------------------------------------------------------------------------------


def _send(job_id: str) -> list[Commit]:
    return [Commit(send=(Job(id=job_id, task="t"),))]


def _faulty(loop: VirtualLoop, plan: Plan, *, seed: int = 1) -> tuple[MemoryStore, Faulty]:
    store = MemoryStore(VirtualClock(loop))
    faulty: FullStore = Faulty(store, Random(seed), plan)  # all of the protocol: the type checker looks
    assert isinstance(faulty, Faulty)
    return store, faulty


@pytest.mark.parametrize(("plan", "happened"), [(Plan(before=1), False), (Plan(after=1), True)])
def test_a_call_fails_before_or_after_it_took_effect_until_calm(plan: Plan, happened: bool) -> None:
    async def main(loop: VirtualLoop) -> None:
        store, faulty = _faulty(loop, plan)
        with pytest.raises(StoreUnavailable, match="injected: commit"):
            await faulty.commit(_send("a"), batch=("c", 1))
        assert ("a" in store.tables.rows) is happened
        assert faulty.bitten == {"commit.after" if happened else "commit.before": 1}
        assert await faulty.counts() == await store.counts()  # not among the plan's calls
        faulty.calm()
        assert await faulty.commit(_send("a"), batch=("c", 1)) == ["applied"]

    run(main, seed=1)


def test_a_slow_call_takes_virtual_time() -> None:
    async def main(loop: VirtualLoop) -> float:
        _, faulty = _faulty(loop, Plan(slow=1, slow_ms=500))
        for n in range(20):
            await faulty.commit(_send("a"), batch=("c", n))
        assert faulty.bitten == {"commit.slow": 40}
        return loop.elapsed()

    assert 5 < run(main, seed=1) < 15  # 40 delays of 0.25 s on average


def test_the_dead_wait_for_ever_and_change_nothing() -> None:
    async def main(loop: VirtualLoop) -> None:
        store, faulty = _faulty(loop, Plan())
        faulty.dead = True
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1000):
                await faulty.commit(_send("a"), batch=("c", 1))
        assert store.tables.rows == {}
        assert faulty.bitten == {"commit.dead": 1}

    run(main, seed=1)


def test_a_finally_block_of_a_killed_node_does_not_reach_the_store_when_the_loop_is_closed() -> None:
    stores: list[MemoryStore] = []

    async def worker(store: Faulty, loop: VirtualLoop) -> None:
        try:
            await never()
        finally:
            loop.create_task(store.commit(_send("from a task"), batch=("t", 1)))
            await store.commit(_send("from the dead"), batch=("c", 1))

    async def main(loop: VirtualLoop) -> None:
        store, faulty = _faulty(loop, Plan())
        stores.append(store)
        with loop.node("w1"):
            loop.create_task(worker(faulty, loop))
        await asyncio.sleep(1)
        loop.kill("w1")

    for seed in range(20):
        run(main, seed=seed)
    assert [s.tables.rows for s in stores] == [{}] * 20


def test_a_stores_bell_rings_though_the_client_that_rang_it_died_at_once() -> None:
    async def main(loop: VirtualLoop) -> float:
        store, faulty = _faulty(loop, Plan(crash=Crash(1, "after")))
        with loop.node("w1"):
            loop.create_task(faulty.commit(_send("a"), batch=("c", 1)))
        with loop.node("w2"):
            await loop.create_task(store.wait(["default"], for_ms=60_000))
        return loop.elapsed()

    assert {run(main, seed=seed) for seed in range(20)} == {0.0}


def test_a_cancel_reaches_a_store_that_waits() -> None:
    async def main(loop: VirtualLoop) -> None:
        store, faulty = _faulty(loop, Plan())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(faulty.wait(["default"], for_ms=60_000), 1)
        assert loop.elapsed() == 1
        assert not store._bells

    run(main, seed=1)


def test_the_stores_clock_never_shows_a_timers_end_early() -> None:
    async def main(loop: VirtualLoop) -> None:
        clock = VirtualClock(loop)
        assert clock.now_ms() == START_S * 1000
        for ms in range(1, 2000, 7):
            before = clock.now_ms()
            await asyncio.sleep(ms / 1000)
            assert clock.now_ms() == before + ms

    run(main, seed=1)


def test_a_drifting_clock_jumps_by_hours_and_repeats_itself() -> None:
    def readings(seed: int) -> list[int]:
        async def main(loop: VirtualLoop) -> list[int]:
            true = VirtualClock(loop)
            clock = DriftingClock(true, Random(seed), every_ms=10_000)
            found = []
            for _ in range(100):
                await asyncio.sleep(1)
                found.append(clock.now_ms() - true.now_ms())
            assert clock.stepped > 2
            return found

        return run(main, seed=1)

    assert readings(1) == readings(1) != readings(2)
    assert all(off % HOUR_MS == 0 for off in readings(1))
    assert len(set(readings(1))) > 1


# -- the gatherer, through a storm -----------------------------------------------------------------------------------------------

STORM = Plan(before=0.12, after=0.12, slow=0.3, slow_ms=400)


class Storm:
    """Three clients send and finish jobs over one store; one of them is killed, one stalled. `check` holds the history to the promise."""

    def __init__(self, loop: VirtualLoop, *, plans: dict[str, Plan]) -> None:
        self.ledger: list[tuple[str, str]] = []
        self.store = MemoryStore(VirtualClock(loop), ledger=self.ledger, tables=Tables)
        self.loop, self.sent, self.ended = loop, set[str](), list[tuple[Delivery, Committed]]()
        self.unknown = 0
        self.applied: Counter[str] = Counter()
        self.clients = {name: Faulty(self.store, Random(f"{loop.seed}/{name}"), plan) for name, plan in plans.items()}
        self._apply = self.store.tables._apply
        self.store.tables._apply = self._count  # type: ignore[assignment, method-assign]

    def _count(self, commit: Commit, now: int) -> Committed:
        answer = self._apply(commit, now)
        if answer == "applied":
            name = commit.send[0].id if commit.send else f"{commit.fence} {commit.outcome}"
            self.applied[name] += 1
        return answer

    async def run(self, *, jobs: int = 8) -> None:
        rng, sending = Random(f"{self.loop.seed}/nemesis"), dict[str, asyncio.Task[None]]()
        for name, faulty in self.clients.items():
            with self.loop.node(name):
                gatherer = Gatherer(faulty, client=name, rng=Random(f"{self.loop.seed}/{name}/pauses"))
                sending[name] = asyncio.create_task(self._send_all(gatherer, name, jobs))
                asyncio.create_task(self._work(faulty, gatherer, name))
        await asyncio.sleep(rng.uniform(0, 1.5))
        self.loop.kill("c0")
        self.loop.stall("c1", for_s=rng.uniform(0, 8))
        await asyncio.wait([sending["c1"], sending["c2"]])
        while any(not row.finished for row in self.store.tables.rows.values()):
            await asyncio.sleep(1)

    async def _send_all(self, gatherer: Gatherer, name: str, jobs: int) -> None:
        async def send(job_id: str) -> None:
            await asyncio.sleep(0.02 * len(self.sent))
            if await self._submit(gatherer, *_send(job_id)) == "applied":
                self.sent.add(job_id)

        await asyncio.gather(*(send(f"{name}-{n}") for n in range(jobs)))

    async def _submit(self, gatherer: Gatherer, commit: Commit) -> Committed | None:
        try:
            return await gatherer.submit(commit)
        except StoreUnavailable:
            self.unknown += 1
            return None

    async def _work(self, store: Faulty, gatherer: Gatherer, name: str) -> None:
        number = 1
        while True:
            try:
                claimed = await store.claim(["default"], lease=f"{name}/{number}", limit=3, for_ms=5_000)
                number += 1
                await asyncio.gather(*(self._finish(gatherer, d) for d in claimed.deliveries))
                await store.wait(["default"], for_ms=1_000)
            except StoreUnavailable:
                await asyncio.sleep(0.05)

    async def _finish(self, gatherer: Gatherer, delivery: Delivery) -> None:
        await asyncio.sleep(0.1)
        answer = await self._submit(gatherer, Commit(fence=Held(delivery.job.id, delivery.lease), outcome=Succeeded()))
        if answer is not None:
            self.ended.append((delivery, answer))

    def check(self) -> None:
        rows, ledger = self.store.tables.rows, Counter(self.ledger)
        assert self.sent <= set(rows), "an acknowledged send was lost"
        assert {job_id for job_id, _ in self.ledger} == set(rows), "a job never ended"
        assert len(self.ledger) == len(rows), "a job ended twice"
        assert max(self.applied.values()) == 1, "a commit was applied twice"
        for delivery, answer in self.ended:
            assert ledger[delivery.job.id, delivery.lease] == (answer == "applied"), "an answer was not true"


def _storm(seed: int, *, spoil: Callable[[Storm], object] = lambda storm: None) -> Storm:
    async def main(loop: VirtualLoop) -> Storm:
        storm = Storm(loop, plans=dict.fromkeys(("c0", "c1", "c2"), STORM))
        spoil(storm)
        await storm.run()
        storm.check()
        return storm

    return run(main, seed=seed, limit_s=600)


@pytest.mark.slow
def test_nothing_that_a_gatherer_was_answered_is_lost_and_nothing_is_applied_twice() -> None:
    bitten: Counter[str] = Counter()
    lost = acknowledged = 0
    for seed in range(300):
        storm = _storm(seed)
        assert sum(n for f in storm.clients.values() for what, n in f.bitten.items() if what.endswith((".before", ".after"))) > 0
        bitten.update(sum((f.bitten for f in storm.clients.values()), Counter()))
        lost += sum(1 for _, answer in storm.ended if answer == "lease_lost")
        acknowledged += len(storm.ended)
    assert min(bitten[f"{call}.{fault}"] for call in ("commit", "claim", "wait") for fault in ("before", "after", "slow")) > 300
    assert acknowledged > 300 * 16
    assert lost > 50  # stale leases met the fence


def test_a_storm_repeats_itself() -> None:
    def told(storm: Storm) -> list[Any]:
        return [storm.ledger, sorted(storm.sent), storm.loop.steps, storm.loop.elapsed(), [f.bitten for f in storm.clients.values()]]

    assert all(told(_storm(seed)) == told(_storm(seed)) for seed in range(10))


def test_a_store_that_forgets_its_batches_is_caught() -> None:
    def forget(storm: Storm) -> None:
        class Forgetful(dict[str, Any]):
            def __setitem__(self, key: str, value: object) -> None:
                pass

        storm.store.tables._answered = Forgetful()

    caught = 0
    for seed in range(20):
        try:
            _storm(seed, spoil=forget)
        except AssertionError:
            caught += 1
    assert caught > 15


def test_a_client_may_crash_at_any_of_its_store_calls() -> None:
    async def main(loop: VirtualLoop, crash: Crash | None) -> Faulty:
        storm = Storm(loop, plans={"c0": Plan(crash=crash), "c1": Plan(), "c2": Plan()})
        await storm.run(jobs=2)
        storm.check()
        return storm.clients["c0"]

    calls = run(lambda loop: main(loop, None), seed=8).calls
    crashes = [Crash(at, when) for at in range(1, calls + 1) for when in ("before", "after")]
    bitten = sum(run(lambda loop, c=c: main(loop, c), seed=8).bitten[f"crash.{c.when}"] for c in crashes)  # type: ignore[misc]
    assert bitten >= len(crashes) - 1 > 8  # one call was still under way when the storm killed the client

"""Large arguments and results lie apart, nobody notices, and they go with their job; what is missing is a failure that says so."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from culm import App, ConfigError, Keys, Offload, PayloadMissing, Reject, Succeeded, TaskFailed, current, when
from culm.clock import SystemClock
from culm.commit import BatchId, Commit, Committed
from culm.envelope import Stored, unwrap
from culm.errors import StoreUnavailable
from culm.job import PLAIN, WRAPPED
from culm.payload import LOOK_MS, ORPHAN_MS
from culm.store import BlobKey
from culm.stores.memory import MemoryStore
from culm.stores.memory_blobs import MemoryBlobs
from culm.stores.sqlite.store import SqliteStore
from culm.testing.clock import ManualClock
from tests.tasks.harness import Bench, run, until

SMALL = Offload(beyond=1_000, largest=4 << 20)
BIG = bytes(range(256)) * 8_000  # two MiB: more than may travel with a job


def echoing(bench: Bench, **options: Any) -> Any:
    @bench.app.task(name="echo", **options)
    async def echo(data: bytes) -> bytes:
        return data

    return echo


def kept(bench: Bench) -> dict[BlobKey, tuple[int, bytes]]:
    return bench.store.blobs.kept


async def swept(bench: Bench) -> None:
    await bench.store.sweep()
    while await bench.app.payloads.sweep():
        pass


@pytest.mark.parametrize("how", ["one", "many", "now", "sync"])
def test_large_arguments_and_results_travel_and_arrive_as_if_they_were_small(how: str) -> None:
    bench = Bench(offload=SMALL)
    echo = echoing(bench)

    @bench.app.task
    async def sends() -> str:
        return (await echo.using(now=True).enqueue(BIG)).id  # type: ignore[no-any-return]

    async def scenario() -> None:
        async with bench.working():
            match how:
                case "one":
                    job = await echo.enqueue(BIG)
                case "many":
                    [job, _] = await bench.app.enqueue_many([echo.bind(BIG), echo.bind(b"small")])
                case "now":
                    job = bench.app.job(await (await sends.enqueue()).result(), echo)
                case _:
                    job = bench.app.job((await asyncio.to_thread(echo.sync.enqueue, BIG)).id, echo)
            assert await job.result() == BIG
            assert await job.outcome() == Succeeded(bench.app.kinds.encode(BIG))
            row = bench.store.tables.rows[job.id]
            assert row.job.v == WRAPPED
            assert len(row.job.args) < 100
            assert isinstance(row.last, Succeeded)
            assert len(row.last.value) < 100

    run(scenario())


def test_what_is_small_travels_as_ever() -> None:
    bench = Bench(offload=SMALL)
    echo = echoing(bench)

    async def scenario() -> None:
        async with bench.working():
            job = await echo.enqueue(b"x" * 900)
            assert await job.result() == b"x" * 900
            assert bench.job(job.id).v == PLAIN

    run(scenario())
    assert kept(bench) == {}


def test_what_a_task_sends_is_stored_apart_when_it_leaves_and_not_before() -> None:
    bench = Bench(offload=SMALL)
    echo = echoing(bench)
    seen: list[int] = []

    @bench.app.task
    async def parent(fail: bool) -> None:
        await echo.enqueue(BIG)
        when("never", run=join.bind(BIG), timeout=0)
        seen.append(len(kept(bench)))
        if fail:
            raise Reject("no")

    @bench.app.task(name="join")
    async def join(data: bytes) -> int:
        return len(data)

    async def scenario() -> None:
        async with bench.working():
            failing = await parent.enqueue(True)
            with pytest.raises(TaskFailed):
                await failing.result()
            assert (seen, kept(bench)) == ([0], {})
            await (await parent.enqueue(False)).result()
            jobs = {job.task: job.id for job in bench.jobs() if "~" in job.id}
            assert await bench.app.job(jobs["echo"], echo).result() == BIG
            assert await bench.app.job(jobs["join"], join).result() == len(BIG)

    run(scenario())
    assert seen == [0, 0]


@pytest.mark.parametrize("encrypt", [False, True])
def test_what_is_stored_apart_is_sealed_before(encrypt: bool) -> None:
    bench = Bench(keys=Keys({"a": b"k" * 32}, encrypt=encrypt), offload=SMALL)
    echo = echoing(bench)
    data = b"correct horse " * 1_000

    async def scenario() -> None:
        job = await echo.enqueue(data)
        [(_, stored)] = kept(bench).values()
        assert (b"correct horse" in stored) is not encrypt
        async with bench.working():
            assert await job.result() == data

    run(scenario())


def test_a_payload_that_was_put_under_another_job_does_not_open() -> None:
    bench = Bench(keys=Keys({"a": b"k" * 32}), offload=SMALL)
    echo = echoing(bench)

    async def scenario() -> None:
        one, two = await echo.enqueue(b"1" * 2_000), await echo.enqueue(b"2" * 2_000)
        rows = bench.store.tables.rows
        stolen = unwrap(rows[two.id].job.args)
        assert isinstance(stolen, Stored)
        from msgspec.structs import replace

        rows[one.id].job = replace(rows[one.id].job, args=rows[two.id].job.args)
        key = BlobKey(two.id, stolen.digest.hex())
        kept(bench)[BlobKey(one.id, key.digest)] = kept(bench)[key]
        async with bench.working():
            await until(lambda: rows[one.id].finished)
            assert "another message's" in repr(rows[one.id].last)
            assert await two.result() == b"2" * 2_000

    run(scenario())


# -- what goes, and when --------------------------------------------------------------------------------------------------------


def test_arguments_go_when_their_job_has_ended_well_and_its_result_when_keep_is_over() -> None:
    bench = Bench(offload=SMALL)
    echo = echoing(bench, keep=60)

    async def scenario() -> None:
        async with bench.working():
            job = await echo.enqueue(b"a" * 2_000)
            arguments = set(kept(bench))
            await job.result()
            await until(lambda: not arguments & set(kept(bench)))
            assert len(kept(bench)) == 1  # its result
            bench.clock.advance(ms=59_000)
            await swept(bench)
            assert await job.result() == b"a" * 2_000
        bench.clock.advance(ms=62_000)
        await swept(bench)
        assert kept(bench) == {}

    run(scenario())


def test_of_a_job_that_is_not_kept_nothing_stays() -> None:
    bench = Bench(offload=SMALL)
    echo = echoing(bench, keep=0)

    async def scenario() -> None:
        async with bench.working() as worker:
            await echo.enqueue(b"a" * 2_000)
            await until(lambda: worker.done == 1 and not bench.store.tables.rows)
        bench.clock.advance(ms=61_000)
        await swept(bench)
        assert kept(bench) == {}

    run(scenario())


def test_a_job_that_is_sent_anew_while_its_namesake_ends_keeps_its_own_arguments() -> None:
    bench = Bench(offload=SMALL)
    sizes: list[int] = []
    runs, go = asyncio.Event(), asyncio.Event()

    @bench.app.task(keep=0)
    async def work(data: bytes) -> None:
        runs.set()
        await go.wait()
        sizes.append(len(data))

    async def scenario() -> None:
        again = App(store=Held(bench.store, go), offload=SMALL)
        async with bench.working(concurrency=1):
            await work.using(id="mine").enqueue(b"x" * 2_000)
            await runs.wait()
            second = again.task(name=work.name, keep=0)(work.fn).using(id="mine")
            await second.enqueue(b"x" * 2_000)  # its payload is there before the first one ends, its commit comes after
            await until(lambda: len(sizes) == 2)

    run(scenario())
    assert sizes == [2_000, 2_000]


class Held:
    """A sender's store whose commits wait until the job that runs is gone."""

    def __init__(self, store: MemoryStore, go: asyncio.Event) -> None:
        self.blobs = store.blobs
        self._store, self._go = store, go

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        self._go.set()
        while "mine" in self._store.tables.rows or len(self.blobs.kept) > 1:
            await asyncio.sleep(0.001)
        return await self._store.commit(commits, batch=batch)


def test_a_dead_letter_keeps_its_arguments_for_a_replay_and_loses_them_when_it_is_discarded() -> None:
    bench = Bench(offload=SMALL)
    broken = {"on": True}

    @bench.app.task
    async def work(data: bytes) -> int:
        if broken["on"]:
            raise Reject("no")
        return len(data)

    async def scenario() -> None:
        replayed, discarded = await work.enqueue(b"r" * 2_000), await work.enqueue(b"d" * 2_000)
        async with bench.working():
            for job in (replayed, discarded):
                with pytest.raises(TaskFailed):
                    await job.result()
        bench.clock.advance(ms=10 * ORPHAN_MS)
        await swept(bench)
        assert len(kept(bench)) == 2
        assert await bench.store.discard([discarded.id]) == 1
        bench.clock.advance(ms=LOOK_MS)
        await swept(bench)
        assert {key.job_id for key in kept(bench)} == {replayed.id}
        broken["on"] = False
        await bench.store.replay([replayed.id])
        async with bench.working():
            assert await replayed.result() == 2_000

    run(scenario())


def test_a_retry_and_a_second_delivery_find_their_arguments() -> None:
    bench = Bench(offload=SMALL)

    @bench.app.task(retry=2)
    async def work(data: bytes) -> int:
        if current().attempt < 3:
            raise ValueError
        return len(data)

    async def scenario() -> None:
        async with bench.working():
            job = await work.enqueue(b"x" * 2_000)
            for n in (1, 2):
                await until(lambda n=n: bench.store.tables.rows[job.id].attempt == n and not bench.store.tables.rows[job.id].lease)  # type: ignore[misc]
                bench.clock.advance(ms=300_000)
            assert await job.result() == 2_000

    run(scenario())


def test_a_job_that_was_cancelled_while_queued_takes_its_arguments_with_it() -> None:
    bench = Bench(offload=SMALL)
    echo = echoing(bench)

    async def scenario() -> None:
        job = await echo.enqueue(b"a" * 2_000)
        await job.cancel()
        bench.clock.advance(ms=ORPHAN_MS)
        await swept(bench)
        assert kept(bench) == {}

    run(scenario())


class Refusing(MemoryStore):
    """Does not answer a commit: as if the sender had crashed between its payload and its commit."""

    away = True

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        if self.away:
            raise RuntimeError("crashed")
        return await super().commit(commits, batch=batch)


def test_what_a_crash_left_between_the_payload_and_the_commit_is_swept_a_day_later_and_not_before() -> None:
    bench = Bench()
    store = Refusing(bench.clock)
    app = App(store=store, offload=SMALL)

    @app.task
    async def work(data: bytes) -> int:
        return len(data)

    async def scenario() -> None:
        with pytest.raises(RuntimeError, match="crashed"):
            await work.using(id="mine").enqueue(b"o" * 2_000)
        bench.clock.advance(ms=ORPHAN_MS - 1_000)
        await app.payloads.sweep()
        assert len(store.blobs.kept) == 1
        store.away = False
        await work.using(id="mine", delay=3_600).enqueue(b"o" * 2_000)  # sent again: the same job
        assert len(store.blobs.kept) == 2
        store.away = True
        with pytest.raises(RuntimeError, match="crashed"):
            await work.using(id="other").enqueue(b"o" * 2_000)
        bench.clock.advance(ms=ORPHAN_MS)
        while await app.payloads.sweep():
            pass
        assert {key.job_id for key in store.blobs.kept} == {"mine"}  # delayed jobs keep theirs, however long

    run(scenario())


def test_the_payload_of_a_sender_that_was_killed_before_its_commit_is_swept(tmp_path: Path) -> None:
    program = (
        "import asyncio, os, signal\nfrom culm import App, Offload\n"
        f"app = App('sqlite:///{tmp_path}/jobs.db', offload=Offload(beyond=1000))\n"
        "@app.task(name='t')\nasync def work(data: bytes) -> None: ...\n"
        "async def send(n):\n"
        "    commit = app.store.commit\n"
        "    async def killed(*_, **__): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    await work.using(id='committed').enqueue(bytes(5000))\n"
        "    app.store.commit = killed\n"
        "    await work.using(id='orphan').enqueue(bytes(5000))\n"
        "asyncio.run(send(1))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, stderr=subprocess.PIPE)
    assert done.returncode == -signal.SIGKILL, done.stderr
    clock = ManualClock(SystemClock().now_ms())

    async def left() -> list[str]:
        store = SqliteStore(tmp_path / "jobs.db", clock=clock)
        app = App(store=store, offload=SMALL)
        while await app.payloads.sweep():
            pass
        found = await store._reads.do(lambda c: c.execute("SELECT job_id FROM blobs ORDER BY job_id").fetchall())
        await store.close()
        return [job_id for (job_id,) in found]

    assert run(left()) == ["committed", "orphan"]
    clock.advance(ms=ORPHAN_MS)
    assert run(left()) == ["committed"]


def test_a_worker_sweeps_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("culm.worker.chores.SWEEP_S", 0.01)
    bench = Bench(offload=SMALL)
    echoing(bench)

    async def scenario() -> None:
        await bench.store.blobs.put(BlobKey("nobody", "0" * 64), b"x", look_ms=0)
        async with bench.working():
            await until(lambda: not kept(bench))

    run(scenario())


# -- what is missing ------------------------------------------------------------------------------------------------------------


def forgotten(bench: Bench) -> None:
    kept(bench).clear()


def damaged(bench: Bench) -> None:
    for key, (look, data) in kept(bench).items():
        kept(bench)[key] = (look, data[:-1])


@pytest.mark.parametrize(("harm", "says"), [(forgotten, "are not there"), (damaged, "are damaged")])
def test_arguments_that_are_missing_or_damaged_fail_that_job_and_no_other(harm: Callable[[Bench], None], says: str) -> None:
    bench = Bench(offload=SMALL)
    echo = echoing(bench, retry=5)

    async def scenario() -> None:
        job = await echo.enqueue(b"x" * 2_000)
        harm(bench)
        other = await echo.enqueue(b"y" * 2_000)
        async with bench.working():
            with pytest.raises(TaskFailed, match=f"PayloadMissing: 2,0.. bytes that were stored apart from job {job.id} {says}"):
                await job.result()
            assert await other.result() == b"y" * 2_000

    run(scenario())


def test_a_result_that_is_missing_is_an_error_where_it_is_read() -> None:
    bench = Bench(offload=SMALL)
    echo = echoing(bench)

    async def scenario() -> None:
        async with bench.working():
            job = await echo.enqueue(b"x" * 2_000)
            await job.result()
            forgotten(bench)
            with pytest.raises(PayloadMissing, match="are not there"):
                await job.result()

    run(scenario())


class Sulking(MemoryBlobs):
    """Does not answer the first few questions."""

    refusals = 3

    async def get(self, key: BlobKey) -> bytes | None:
        self._refuse()
        return await super().get(key)

    async def put(self, key: BlobKey, data: bytes, *, look_ms: int) -> None:
        if key.job_id in self.sulks_at:
            self._refuse()
        await super().put(key, data, look_ms=look_ms)

    sulks_at: Sequence[str] = ()

    def _refuse(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise StoreUnavailable("away")


def test_a_place_that_does_not_answer_costs_no_attempt() -> None:
    bench = Bench(offload=SMALL)
    bench.store.blobs = blobs = Sulking(bench.clock.now_ms)
    echo = echoing(bench)

    async def scenario() -> None:
        job = await echo.enqueue(b"x" * 2_000)
        blobs.sulks_at = [job.id]
        async with bench.working():

            async def ended() -> bool:
                bench.clock.advance(ms=100)
                return bench.store.tables.rows[job.id].finished

            await until(ended)
            assert await job.result() == b"x" * 2_000
        assert bench.store.tables.rows[job.id].attempt == 1
        assert blobs.refusals == 0

    run(scenario())


# -- bounds ---------------------------------------------------------------------------------------------------------------------


def test_the_result_of_a_job_with_a_topic_stays_in_its_event() -> None:
    bench = Bench(offload=SMALL)
    read: list[int] = []

    @bench.app.task
    async def member(size: int) -> bytes:
        return bytes(size)

    @bench.app.task
    async def root() -> None:
        await member.using(topic="ended", keep=0).enqueue(5_000)
        await member.using(topic="ended").enqueue(2 << 20)
        when(("ended", 2), run=join.bind())

    @bench.app.task(name="join")
    async def join() -> None:
        outcomes = [event.outcome() for event in current().events["ended"]]
        read.extend(len(o.value) if isinstance(o, Succeeded) else -1 for o in outcomes)
        assert any("the result of a job with a topic stays in its event, and takes 2,097,157 bytes" in repr(o) for o in outcomes)

    async def scenario() -> None:
        async with bench.working():
            await (await root.enqueue()).result()
            await until(lambda: bool(read))

    run(scenario())
    assert sorted(read) == [-1, 5_003]


def test_beyond_the_largest_is_refused_where_it_is_sent_and_where_it_is_returned() -> None:
    bench = Bench(offload=Offload(beyond=10, largest=100_000))
    echo = echoing(bench)

    @bench.app.task(name="make")
    async def make(size: int) -> bytes:
        return bytes(size)

    with pytest.raises(ValueError, match=r"the arguments of echo take 100,00. bytes; 100,000 are allowed"):
        echo.bind(bytes(100_000))

    async def scenario() -> None:
        async with bench.working():
            with pytest.raises(TaskFailed, match=r"the result of make takes 100,00. bytes; 100,000 are allowed"):
                await (await make.enqueue(100_000)).result()

    run(scenario())


@pytest.mark.parametrize("given", [{"beyond": -1}, {"beyond": 2 << 20}, {"largest": 10}, {"largest": 1 << 40}])
def test_bounds_that_cannot_be_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="offload: beyond must be from 0 to"):
        Offload(**given)


def test_a_folder_serves_sender_and_worker_and_one_that_is_missing_is_found_at_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "payloads"
    bench = Bench(offload=Offload(beyond=1_000, folder=folder))
    echo = echoing(bench)

    async def scenario() -> None:
        with pytest.raises(ConfigError, match=f"cannot keep payloads in {folder}"):
            await bench.app.worker().start()
        folder.mkdir()
        async with bench.working():
            job = await echo.enqueue(b"x" * 2_000)
            assert await job.result() == b"x" * 2_000
        assert kept(bench) == {}
        stranger = App(store=bench.store)
        with pytest.raises(PayloadMissing, match="in a folder, which this app does not know"):
            await stranger.job(job.id, echo).result()

    run(scenario())


def test_an_app_that_stores_nothing_apart_still_reads_what_others_stored() -> None:
    bench = Bench()
    sender = App(store=bench.store, offload=SMALL)
    echo = echoing(bench)

    async def scenario() -> None:
        async with bench.working():
            job = await sender.task(name="echo")(echo.fn).enqueue(b"x" * 2_000)
            assert await job.result() == b"x" * 2_000

    run(scenario())

"""Several processes on one file, writers that stand in each other's way, and answers that outlive the process that asked."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from culm import App, StoreUnavailable
from culm.commit import Commit, Event, Held
from culm.job import Job
from culm.outcome import Succeeded
from culm.stores.sqlite.store import SqliteStore

ROOT = Path(__file__).parents[2]

WORKER = """
import asyncio, sys
from culm import App
app = App(sys.argv[1])

@app.task(name="double")
async def double(n: int) -> int:
    return 2 * n

async def main() -> None:
    async with app, app.worker(concurrency=4, poll=30):
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"""


@contextmanager
def worker_process(url: str) -> Iterator[subprocess.Popen[str]]:
    """A worker in a process of its own, which looks by itself every 30 s only."""
    command = [sys.executable, "-c", WORKER, url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            yield child
            assert child.stdin is not None
            child.stdin.close()
            assert child.wait(10) == 0
        finally:
            child.kill()


def url_of(path: Path) -> str:
    return f"sqlite:///{path / 'jobs.db'}"


def doubling(app: App) -> Any:
    @app.task(name="double")
    async def double(n: int) -> int:
        return 2 * n

    return double


def test_a_worker_of_another_process_is_woken_and_wakes_the_caller(tmp_path: Path) -> None:
    async def main() -> list[float]:
        took = []
        async with App(url_of(tmp_path)) as app:
            double = doubling(app)
            for n in range(10):
                began = time.monotonic()
                assert await (await double.enqueue(n)).result(timeout=10) == 2 * n
                took.append(time.monotonic() - began)
        return took

    with worker_process(url_of(tmp_path)):
        took = sorted(asyncio.run(main()))
    assert took[len(took) // 2] < 0.5, f"the poll is 30 s, the look behind a result 1 s; round trips took {took}"


ROUNDS = 12


@pytest.mark.slow
def test_processes_that_make_one_store_at_the_same_moment_all_use_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(4)
    children = [context.Process(target=send_some, args=(tmp_path, gate, n)) for n in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    assert [c.exitcode for c in children] == [0] * 4
    for n in range(ROUNDS):
        with closing(sqlite3.connect(tmp_path / f"{n}.db")) as connection:
            assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (20,)


def send_some(path: Path, gate: Any, n: int) -> None:
    async def main(url: str) -> None:
        async with App(url) as app:
            double = doubling(app)
            await asyncio.gather(*(double.using(id=f"{n}-{i}").enqueue(i) for i in range(5)))

    for each in range(ROUNDS):
        gate.wait(20)
        asyncio.run(main(f"sqlite:///{path / f'{each}.db'}"))


@pytest.mark.slow
def test_a_process_that_waits_burns_no_cpu(tmp_path: Path) -> None:
    with worker_process(url_of(tmp_path)) as child:
        before = cpu_s(child.pid)
        time.sleep(2)  # what is measured is the time in which nothing happens
        used = cpu_s(child.pid) - before
    assert used < 0.2, f"{used:.3f} s of CPU in 2 s"


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_writer_that_holds_the_file_for_a_while_only_delays(tmp_path: Path) -> None:
    async def main() -> None:
        async with App(url_of(tmp_path)) as app:
            double = doubling(app)
            await double.enqueue(0)
            blocker = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None, check_same_thread=False)
            blocker.execute("BEGIN IMMEDIATE")
            letting_go = threading.Timer(0.3, lambda: blocker.execute("ROLLBACK"))
            letting_go.start()
            began = time.monotonic()
            job = await double.enqueue(1)
            assert time.monotonic() - began >= 0.25
            async with app.worker(concurrency=2):
                assert await job.result(timeout=5) == 2
            letting_go.join()
            blocker.close()

    asyncio.run(main())


def test_a_file_that_stays_locked_is_unavailable_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("culm.stores.sqlite.desk.BUSY_GIVE_UP_S", 0.05)

    async def main() -> None:
        store = SqliteStore(tmp_path / "jobs.db")
        await send(store, "a", 1)
        blocker = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match=r"the database stayed locked by another process for 0.05 s"):
            await send(store, "b", 2)
        assert await store.job("a") is not None, "readers are not in the way of a writer"
        blocker.execute("ROLLBACK")
        blocker.close()
        assert await send(store, "b", 2) == ["applied"]
        await store.close()

    asyncio.run(main())


def test_calls_that_gathered_before_a_lock_wait_for_it_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("culm.stores.sqlite.desk.BUSY_GIVE_UP_S", 0.2)

    async def main() -> None:
        store = SqliteStore(tmp_path / "jobs.db")
        with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as blocker:
            blocker.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            answers = await asyncio.gather(*(send(store, f"j{n}", 1, f"c{n}") for n in range(20)), return_exceptions=True)
            assert time.monotonic() - began < 2, "each waited for itself"
            assert {type(a) for a in answers} == {StoreUnavailable}
        await store.close()

    asyncio.run(main())


def test_a_file_that_cannot_be_opened_again_is_unavailable_and_comes_back(tmp_path: Path) -> None:
    """The desk's connection is made at its first use: if that fails its callers hear of it, and the next one tries again."""

    async def main() -> None:
        folder = tmp_path / "folder"
        folder.mkdir()
        store = SqliteStore(folder / "jobs.db")
        folder.rename(tmp_path / "elsewhere")
        with pytest.raises(StoreUnavailable, match="the database cannot be used now: unable to open database file"):
            await send(store, "a", 1)
        (tmp_path / "elsewhere").rename(folder)
        assert await send(store, "a", 2) == ["applied"]
        await store.close()

    asyncio.run(main())


async def send(store: SqliteStore, job_id: str, number: int, client: str = "client") -> list[Any]:
    return list(await store.commit([Commit(send=(Job(id=job_id, task="t"),))], batch=(client, number)))


def test_a_batch_that_is_sent_again_after_a_restart_gets_the_same_answer(tmp_path: Path) -> None:
    async def first() -> list[Any]:
        store = SqliteStore(tmp_path / "jobs.db")
        await send(store, "a", 1)
        claimed = await store.claim(["default"], lease="w/1", limit=5, for_ms=10_000)
        batch = commits(claimed.deliveries[0].lease)
        answers = await store.commit(batch, batch=("client", 2))
        await store.close()
        return list(answers)

    async def again() -> list[Any]:
        store = SqliteStore(tmp_path / "jobs.db")
        answers = await store.commit(commits("w/1"), batch=("client", 2))
        assert await store.job("b") is not None
        assert [e.key for e in await store.events("s", "t")] == ["k"]
        await store.close()
        return list(answers)

    def commits(lease: str) -> list[Commit]:
        return [
            Commit(fence=Held("a", lease), outcome=Succeeded(), keep_ms=0, emit=(Event("s", "t", "k"),)),
            Commit(send=(Job(id="b", task="t"),)),
            Commit(fence=Held("nobody", lease), outcome=Succeeded()),
            Commit(send=(Job(id="b", task="another"),)),
        ]

    wanted = ["applied", "applied", "lease_lost", "conflict"]
    assert asyncio.run(first()) == wanted
    assert asyncio.run(again()) == wanted


def test_the_ledger_has_one_row_for_each_final_commit_and_none_for_others(tmp_path: Path) -> None:
    async def main() -> None:
        async with App(f"{url_of(tmp_path)}?ledger=on") as app:
            attempts: list[int] = []

            @app.task(name="flaky", retry=1, keep=0)
            async def flaky() -> None:
                attempts.append(1)
                if len(attempts) == 1:
                    raise ValueError("no")

            job = await flaky.using(retry=None).enqueue()
            double = doubling(app)
            async with app.worker(concurrency=4, poll=0.05):
                results = await double.map(range(50))
                assert [await r.result() for r in results] == [2 * n for n in range(50)]
                await job.outcome()
        with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
            rows = connection.execute("SELECT id, lease FROM ledger").fetchall()
        assert sorted(i for i, _ in rows) == sorted([job.id, *(r.id for r in results)])
        assert all(lease.startswith("worker-") for _, lease in rows)

    asyncio.run(main())


def test_the_ledger_row_comes_and_goes_with_its_commit(tmp_path: Path) -> None:
    """A commit that is rolled back leaves no row: both are of one transaction."""

    async def main() -> None:
        store = SqliteStore(tmp_path / "jobs.db", ledger=True)
        await send(store, "a", 1)
        await store.claim(["default"], lease="w/1", limit=5, for_ms=10_000)
        with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
            connection.execute(
                "CREATE TRIGGER fault BEFORE INSERT ON clients WHEN new.number = 2 BEGIN SELECT RAISE(ABORT, 'fault after the ledger'); END"
            )
            connection.execute("DELETE FROM clients")
            connection.commit()
        ending = [Commit(fence=Held("a", "w/1"), outcome=Succeeded())]
        with pytest.raises(Exception, match="fault after the ledger"):
            await store.commit(ending, batch=("client", 2))
        assert ledger(tmp_path) == []
        view = await store.job("a")
        assert view is not None
        assert view.state == "leased"
        assert await store.commit(ending, batch=("client", 3)) == ["applied"]
        assert ledger(tmp_path) == [("a", "w/1")]
        await store.close()

    asyncio.run(main())


def ledger(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path / "jobs.db")) as connection:
        return connection.execute("SELECT id, lease FROM ledger").fetchall()

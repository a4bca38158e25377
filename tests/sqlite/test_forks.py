"""A process that forks while it uses a SQLite store. Each scenario is a script in a process of its own: forking is the whole of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAD = """
import asyncio, os, signal, sqlite3, sys, threading, time
from culm import App, CulmError, StoreError
from culm.stores.open import open_store
from culm import forks
from culm.stores.sqlite.store import SqliteStore

db = sys.argv[1]
app = App(f"sqlite:///{db}")

@app.task(name="noop")
async def noop(n: int) -> None: ...

def child(work) -> int:
    pid = os.fork()
    if pid == 0:
        signal.alarm(15)
        try:
            work()
            os._exit(0)
        except BaseException as e:
            print("child:", repr(e), flush=True)
            os._exit(1)
    return pid

def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def count() -> int:
    c = sqlite3.connect(db)
    assert c.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    return c.execute("SELECT count(*) FROM jobs").fetchone()[0]
"""


def run(scenario: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", HEAD + scenario, str(folder / "jobs.db")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_what_a_child_sent_outlives_its_parents_close(tmp_path: Path) -> None:
    """I30: the parent's close must not take away the WAL that the child writes."""
    run(
        """
go, gone = os.pipe(), os.pipe()
noop.sync.enqueue(0)
def work():
    for n in range(10): noop.sync.enqueue(n)
    os.write(go[1], b"x"); os.read(gone[0], 1)
    for n in range(10): noop.sync.enqueue(n)
    assert count() == 21
pid = child(work)
os.read(go[0], 1)
app.portal.run(app.close())
os.write(gone[1], b"x")
assert ended(pid) == 0
assert count() == 21
""",
        tmp_path,
    )


@pytest.mark.slow
def test_children_of_a_busy_parent_can_all_write(tmp_path: Path) -> None:
    """A desk that holds the write lock at the fork must not leave it taken for ever in the child."""
    run(
        """
stop, sent = threading.Event(), []
def busy():
    while not stop.is_set(): sent.append(noop.sync.enqueue(1))
thread = threading.Thread(target=busy); thread.start()
pids = []
for _ in range(12):
    time.sleep(0.03)
    pids.append(child(lambda: [noop.sync.enqueue(n) for n in range(5)]))
assert [ended(pid) for pid in pids] == [0] * 12
stop.set(); thread.join()
assert count() == len(sent) + 60
""",
        tmp_path,
    )


@pytest.mark.slow
def test_a_worker_that_forks_from_its_tasks_keeps_working(tmp_path: Path) -> None:
    """From the loop's thread and from the thread of a `def` task, with claimer, heart and watch at work."""
    run(
        """
def work(n):
    try:
        noop.sync.enqueue(n)
        raise AssertionError("it would leave with a commit that is the parent's")
    except CulmError as e:
        assert "runs in the process that forked this one" in str(e), e
    noop.using(now=True).sync.enqueue(n)

@app.task(name="on_the_loop")
async def on_the_loop(n: int) -> int:
    return ended(child(lambda: work(n)))

@app.task(name="in_a_thread")
def in_a_thread(n: int) -> int:
    return ended(child(lambda: work(n)))

async def main():
    async with app, app.worker(concurrency=4, lease=2, heartbeat=0.1):
        jobs = await on_the_loop.map(range(5)) + await in_a_thread.map(range(5))
        found = [await j.result(timeout=20) for j in jobs]
        assert found == [0] * 10, found
asyncio.run(main())
assert count() == 20
""",
        tmp_path,
    )


def test_a_store_that_was_handed_in_works_on_both_sides(tmp_path: Path) -> None:
    run(
        """
given = App(store=SqliteStore(db))
@given.task(name="noop")
async def noop(n: int) -> None: ...
noop.sync.enqueue(0)
pid = child(lambda: [noop.sync.enqueue(n) for n in range(20)])
for n in range(20): noop.sync.enqueue(n)
assert ended(pid) == 0
assert count() == 41
""",
        tmp_path,
    )


def test_a_fork_waits_for_nobody_who_waits_for_the_lock_of_another_process(tmp_path: Path) -> None:
    run(
        """
noop.sync.enqueue(0)
blocker = sqlite3.connect(db, isolation_level=None, check_same_thread=False)
blocker.execute("BEGIN IMMEDIATE")
waiting = threading.Thread(target=lambda: noop.sync.enqueue(1)); waiting.start()
time.sleep(0.1)
began = time.monotonic()
assert ended(child(lambda: None)) == 0
assert time.monotonic() - began < 1
blocker.execute("ROLLBACK"); blocker.close()
waiting.join()
assert count() == 2
""",
        tmp_path,
    )


def test_a_child_refuses_the_file_that_its_parent_was_writing(tmp_path: Path) -> None:
    """A transaction longer than anybody waits: the fork happens, the child is told, and harms nobody."""
    run(
        """
forks.PARKING_WAIT_S = 0.1
store = open_store(app.url)
inside, out = threading.Event(), threading.Event()
def slow(connection):
    connection.execute("INSERT INTO tombstones VALUES ('a', 1)")
    inside.set(); out.wait()
async def write(): await store._writes.do(slow)
writing = threading.Thread(target=lambda: asyncio.run(write())); writing.start()
inside.wait()
def work():
    for use in (lambda: noop.sync.enqueue(1), lambda: SqliteStore(db), lambda: asyncio.run(store.sweep())):
        try:
            use()
            raise AssertionError("it was not refused")
        except StoreError as e:
            assert "was forked while its parent was writing" in str(e), e
pid = child(work)
assert ended(pid) == 0
out.set(); writing.join()
noop.sync.enqueue(1)
assert count() == 1
assert sqlite3.connect(db).execute("SELECT count(*) FROM tombstones").fetchone() == (1,)
""",
        tmp_path,
    )


def test_a_fork_waits_for_a_thread_that_imports_what_the_store_needs(tmp_path: Path) -> None:
    """The child would wait for ever for the lock of a module whose importer it does not have."""
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(0.5)\n", encoding="utf-8")
    run(
        """
import culm.app
sys.path.insert(0, os.path.dirname(db))
settled, importing = culm.app.settled, threading.Event()

def slowly(url):
    importing.set()
    import slow_to_import
    return settled(url)

culm.app.settled = slowly
opener = threading.Thread(target=lambda: app.store)
opener.start()
importing.wait()
time.sleep(0.1)
began = time.monotonic()
pid = child(lambda: asyncio.run(noop.enqueue(1)))
assert time.monotonic() - began > 0.2, "it did not wait"
assert ended(pid) == 0
opener.join()
asyncio.run(noop.enqueue(2))
assert ended(child(lambda: asyncio.run(noop.enqueue(3)))) == 0
assert count() == 3
""",
        tmp_path,
    )


def test_a_fork_in_the_middle_of_opening_goes_on_after_a_while(tmp_path: Path) -> None:
    """By the thread that opens it: as in the handler of a signal."""
    run(
        """
import culm.app
settled, pids = culm.app.settled, []

def forks(url):
    culm.app.settled = settled
    pids.append(child(lambda: asyncio.run(noop.enqueue(1))))
    return settled(url)

culm.app.settled = forks
asyncio.run(noop.enqueue(2))
assert ended(pids[0]) == 0
asyncio.run(noop.enqueue(3))
assert ended(child(lambda: asyncio.run(noop.enqueue(4)))) == 0
assert count() == 4
""",
        tmp_path,
    )


def test_the_child_of_a_fork_in_the_middle_of_opening_may_go_on_with_it(tmp_path: Path) -> None:
    run(
        """
import culm.app
settled, parent, pids = culm.app.settled, os.getpid(), []

def forks(url):
    culm.app.settled = settled
    pids.append(os.fork())
    return settled(url)

culm.app.settled = forks
_ = app.store  # in no loop: a child shares its parent's
asyncio.run(noop.enqueue(1))
asyncio.run(noop.enqueue(2))
if os.getpid() == parent:
    assert ended(pids[0]) == 0
    assert count() == 4
""",
        tmp_path,
    )

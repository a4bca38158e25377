"""What a supervisor does for processes that hang, leave things behind, or stop; and when it fails itself."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from culm.store import Ended
from culm.worker.place import Place
from tests.supervision import poison
from tests.supervision.running import Supervised
from tests.supervision.test_poison import in_loop, until_ended
from tests.worker.test_processes import gone, read, runs, until_gone

pytestmark = pytest.mark.slow
LONG = ("--lease", "300", "--heartbeat", "100")  # what comes back does not come back by its lease


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    it = Supervised(tmp_path)
    yield it
    it.close()


async def pid_in(path: Path) -> int:
    async with asyncio.timeout(30):
        while not (found := read(path)):
            await asyncio.sleep(0.01)
    return int(found)


@pytest.mark.parametrize("other_naps", [0.5, 6])
@in_loop
async def test_what_dies_while_all_stop_is_given_back_by_another(supervised: Supervised, tmp_path: Path, other_naps: float) -> None:
    """I34: whether the other still runs something, or waits for nothing but this."""
    app = supervised.app(poison.app)
    supervised.start("--processes", "2", "--concurrency", "1", *LONG)
    supervised.line("worker.started", nth=2)
    other = await poison.naps.enqueue(str(tmp_path / "other"), other_naps)
    await pid_in(tmp_path / "other")
    job = await poison.naps.enqueue(str(tmp_path / "job"), 50)
    victim = await pid_in(tmp_path / "job")
    supervised.ask_to_stop()
    supervised.line("worker.stopping", nth=2)
    await until_ended(app, [other.id] if other_naps < 1 else [], 30)
    os.kill(victim, signal.SIGKILL)
    assert await asyncio.to_thread(supervised.ended) == 1
    view = await job.view()
    assert view is not None
    assert (view.state, view.expiries) == ("open", 0)
    assert isinstance(await app.store.outcome(other.id), Ended)
    await app.close()


@in_loop
async def test_a_process_that_hangs_while_it_imports_shows_its_stack_and_is_replaced_ever_later(
    supervised: Supervised, tmp_path: Path
) -> None:
    (tmp_path / "hangs").touch()
    app = supervised.app(poison.app)
    supervised.start("--processes", "2", "--start-timeout", "2", module="hanging", HANGS=str(tmp_path / "hangs"))
    supervised.line("supervisor.hangs", "not ready after")
    supervised.line("in hang")
    supervised.line("supervisor.died", "killed by SIGKILL; replaced in 0.1 s")
    supervised.line("supervisor.died", "killed by SIGKILL; replaced in 0.2 s")
    (tmp_path / "hangs").unlink()
    assert await (await poison.good.enqueue(1)).result(timeout=30) == 1
    assert supervised.stop() == 0
    await app.close()


@in_loop
async def test_who_waits_for_a_process_apart_keeps_its_lease(supervised: Supervised, tmp_path: Path) -> None:
    (tmp_path / "hangs").touch()
    app = supervised.app(poison.app)
    options = ("--processes", "2", "--concurrency", "2", "--lease", "3", "--heartbeat", "1")
    supervised.start(*options, module="hanging", HANGS_APART=str(tmp_path / "hangs"))
    supervised.line("worker.started", nth=2)
    job = await poison.leaves.enqueue()
    supervised.line("supervisor.died")
    await asyncio.sleep(7)  # more than twice the lease
    view = await job.view()
    assert view is not None
    assert (view.state, view.expiries) == ("leased", 0)
    assert not [line for line in supervised.lines if "supervisor.died" in line][1:]
    (tmp_path / "hangs").unlink()
    await until_ended(app, [job.id], 30)
    supervised.line("job.lost", "died 3 times while it ran there alone: exit code 7")
    assert supervised.stop() == 0
    await app.close()


@in_loop
async def test_what_tasks_started_is_killed_with_their_process(supervised: Supervised, tmp_path: Path) -> None:
    app = supervised.app(poison.app)
    (tmp_path / "pids").mkdir()
    supervised.start("--processes", "2", "--stuck-after", "1")
    supervised.line("worker.started", nth=2)
    job = await poison.starts.enqueue(str(tmp_path / "pids"))
    await until_ended(app, [job.id], 60)
    pids = [int(path.read_text(encoding="ascii")) for path in (tmp_path / "pids").iterdir()]
    assert len(pids) == 8  # of four processes, in their group and in one of their own
    for pid in pids:
        await until_gone(pid)
    assert supervised.stop() == 0
    await app.close()


@in_loop
async def test_a_supervisor_that_adopts_orphans_reaps_them_and_its_own_processes_too(supervised: Supervised) -> None:
    app = supervised.app(poison.app)
    supervised.start("--processes", "2", program="tests.supervision.first")
    supervised.line("worker.started", nth=2)
    for _ in range(3):
        orphan = await (await poison.orphans.enqueue()).result(timeout=30)
        async with asyncio.timeout(10):
            while not gone(orphan):
                await asyncio.sleep(0.01)
    os.kill(supervised.pid_of(1), signal.SIGKILL)
    supervised.line("supervisor.died", "killed by SIGKILL")
    assert supervised.stop() == 0
    await app.close()


@in_loop
async def test_a_defect_of_the_supervisor_stops_its_processes_gracefully(supervised: Supervised, tmp_path: Path) -> None:
    app = supervised.app(poison.app)
    supervised.start("--processes", "2", *LONG, program="tests.supervision.failing")
    supervised.line("worker.started", nth=2)
    job = await poison.naps.enqueue(str(tmp_path / "job"), 4)
    supervised.line("supervisor.failed: a defect")
    supervised.line("RuntimeError: a seeded defect")
    assert supervised.ended() == 1
    assert await job.result(timeout=1) == str(tmp_path / "job")
    assert len([line for line in supervised.lines if "worker.stopped" in line]) == 2
    await app.close()


IGNORES = """
import os, signal, time
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
os.write(int(os.environ["CULM_READY_FD"]), b"r")
time.sleep(60)
"""


def test_a_process_that_shows_its_stacks_is_not_waited_for() -> None:
    place = Place("1", [sys.executable, "-c", IGNORES], concurrency=1)
    place.start()
    assert select.select([place.ready_fd], [], [], 30)[0]
    place.hear_ready()
    assert place.ready
    process = place.process
    assert process is not None
    place.show(time.monotonic())
    assert runs(process.pid)
    assert not place.is_able
    assert place.kill_at is not None
    place.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert place.reap() == -signal.SIGKILL
    place.board.close()


def test_a_process_that_is_larger_than_it_may_be_when_it_starts_is_not_replaced_for_ever() -> None:
    place = Place("1", [], concurrency=1)
    assert place.spare_bytes(100) == 100
    place._first_rss = 150
    assert place.spare_bytes(100) == 250


@pytest.mark.parametrize("what", ["subprocess.Popen", "culm.worker.place.BoardReader", "mmap.mmap"])
def test_a_process_that_cannot_be_started_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError("no more of it")

    monkeypatch.setattr(what, fails)
    place = Place("1", ["true"], concurrency=1)
    before = -1
    for _ in range(5):
        with pytest.raises(OSError, match="no more of it"):
            place.start()
        assert select.select([place.ready_fd], [], [], 0)[0]  # else nobody would ever close it
        place.hear_ready()
        assert not place.listening
        gc.collect()
        opened = len(os.listdir("/proc/self/fd"))
        before = opened if before < 0 else before
        assert opened == before

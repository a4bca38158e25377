"""Tasks in processes of their own: they are kept, killed when they are stopped, limited, and tell all that other tasks tell."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from culm import App, Handle, TaskCancelled, TaskFailed
from tests.worker import apart
from tests.worker.apart import app

pytestmark = pytest.mark.slow  # real processes


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def read(path: Path) -> str:
    return path.read_text(encoding="ascii") if path.exists() else ""


async def written(path: Path) -> int:
    while not (found := read(path)):
        await asyncio.sleep(0.01)
    return int(found)


async def fault_of(handle: Handle[Any]) -> str:
    with pytest.raises(TaskFailed) as failed:
        await handle.result(timeout=20)
    return f"{failed.value.fault.type}: {failed.value.fault.message}"


def test_a_process_is_not_the_workers_and_serves_the_next_job_too() -> None:
    async def main() -> None:
        async with app, app.worker(children=1):
            first = await (await apart.where.enqueue()).result(timeout=20)
            assert first != os.getpid()
            assert await (await apart.where_async.enqueue()).result(timeout=20) == first
        assert gone(first)

    asyncio.run(main())


def test_a_coroutine_in_a_process_that_ran_another_sees_its_own_attempt_and_sends_with_its_own_commit() -> None:
    async def main() -> None:
        async with app, app.worker(children=1):
            for _ in range(3):
                handle = await apart.who_async.enqueue()
                assert await handle.result(timeout=20) == handle.id

    asyncio.run(main())


def test_a_timeout_kills_the_process(tmp_path: Path) -> None:
    async def main() -> None:
        async with app, app.worker(children=1):
            handle = await apart.sleeps.using(timeout=5).enqueue(str(tmp_path / "pid"), 60)
            pid = await written(tmp_path / "pid")
            assert (await fault_of(handle)).startswith("TimeoutError: attempt 1 ran longer")
            assert gone(pid)
            assert await (await apart.where.enqueue()).result(timeout=20) != pid

    asyncio.run(main())


def test_a_cancel_kills_the_process(tmp_path: Path) -> None:
    async def main() -> None:
        async with app, app.worker(children=1, lease=2, heartbeat=0.2):
            handle = await apart.sleeps.enqueue(str(tmp_path / "pid"), 60)
            pid = await written(tmp_path / "pid")
            await handle.cancel()
            with pytest.raises(TaskCancelled):
                await handle.result(timeout=10)
            assert gone(pid)

    asyncio.run(main())


def test_a_worker_that_stops_leaves_no_process(tmp_path: Path) -> None:
    async def main() -> int:
        async with app:
            async with app.worker(children=2, grace=0):
                handle = await apart.sleeps.enqueue(str(tmp_path / "pid"), 60)
                pid = await written(tmp_path / "pid")
            view = await handle.view()
            assert view is not None
            assert (view.state, view.attempt) == ("open", 0)
        return pid

    assert gone(asyncio.run(main()))


@pytest.mark.parametrize(
    ("kind", "fault", "tries"),
    [
        ("key", "KeyError: 'lost'", 3),
        ("value", "ValueError: bad", 1),
        ("reject", "culm.errors.Reject: no", 1),
    ],
)
def test_what_a_task_raises_is_judged_as_if_it_ran_here(tmp_path: Path, kind: str, fault: str, tries: int) -> None:
    async def main() -> None:
        async with app, app.worker(children=1):
            path = tmp_path / "tries"
            found = await fault_of(await apart.raises.enqueue(kind, str(path)))
            assert found.endswith(fault.removeprefix("culm.errors."))
            assert len(path.read_text(encoding="ascii")) == tries

    asyncio.run(main())


def test_a_task_may_ask_to_run_later(tmp_path: Path) -> None:
    async def main() -> None:
        async with app, app.worker(children=1):
            assert await (await apart.raises.enqueue("later", str(tmp_path / "tries"))).result(timeout=20) == "done"

    asyncio.run(main())


@pytest.mark.parametrize(("kind", "said"), [("fault", "killed by SIGSEGV"), ("leave", "exit code 3")])
def test_a_process_that_dies_fails_its_job_only(tmp_path: Path, kind: str, said: str) -> None:
    async def main() -> None:
        async with app, app.worker(children=1):
            found = await fault_of(await apart.raises.enqueue(kind, str(tmp_path / "tries")))
            assert "ProcessDied" in found
            assert said in found
            assert await (await apart.where.enqueue()).result(timeout=20)

    asyncio.run(main())


def test_memory_is_limited_and_the_process_lives() -> None:
    async def main() -> None:
        async with app, app.worker(children=1):
            assert await (await apart.eats.enqueue(16)).result(timeout=20) == 16 << 20
            assert (await fault_of(await apart.eats.enqueue(1_000))).startswith("MemoryError")
            assert await (await apart.eats.enqueue(16)).result(timeout=20) == 16 << 20

    asyncio.run(main())


def test_current_and_progress_reach_through() -> None:
    async def main() -> None:
        async with app, app.worker(children=1):
            handle = await apart.tells.enqueue()
            notes = [p.note async for p in handle.progress()]
            assert notes == ["half"]
            assert await handle.result(timeout=20) == {"id": handle.id, "attempt": 1, "key": handle.id}

    asyncio.run(main())


def test_what_it_sends_and_emits_leaves_with_its_commit() -> None:
    async def main() -> None:
        async with app, app.worker(children=1):
            joined = await (await apart.forks.enqueue(3)).result(timeout=20)
            assert await app.job(joined, apart.report).result(timeout=20) == [0, 1, 2]

    asyncio.run(main())


@pytest.mark.parametrize(("what", "said"), [("object", "cannot be encoded"), ("large", "1,048,576 are allowed")])
def test_a_result_that_cannot_travel_fails_the_job(what: str, said: str) -> None:
    async def main() -> None:
        async with app, app.worker(children=1):
            assert said in await fault_of(await apart.gives.enqueue(what))

    asyncio.run(main())


def test_as_many_run_at_once_as_there_are_processes(tmp_path: Path) -> None:
    async def main() -> None:
        async with app, app.worker(children=2):
            handles = [await apart.sleeps.using(timeout=2).enqueue(str(tmp_path / str(n)), 60) for n in range(3)]
            first, second = await written(tmp_path / "0"), await written(tmp_path / "1")
            assert first != second
            assert not read(tmp_path / "2")
            await fault_of(handles[0])
            async with asyncio.timeout(10):  # its own time began when its turn came
                assert await written(tmp_path / "2") not in (first, second)

    asyncio.run(main())


def test_a_task_that_no_process_could_find_says_so() -> None:
    local = App("memory://")

    @local.task(runs_in="process", name="inner")
    def inner() -> None: ...

    async def main() -> None:
        async with local, local.worker(children=1):
            assert "must be at its top level" in await fault_of(await inner.enqueue())

    asyncio.run(main())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"runs_in": "thread"}, 'runs_in must be "process"'),
        ({"memory_mb": 64}, 'say runs_in="process", too'),
        ({"runs_in": "process", "memory_mb": 1}, "from 32 to"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        App("memory://").task(name="x", **options)(lambda: None)  # type: ignore[call-overload]  # that is what is tested


def test_the_number_of_processes_is_checked() -> None:
    with pytest.raises(ValueError, match="children must be"):
        app.worker(children=0)


def test_an_idle_process_that_died_does_no_harm_to_the_next_job() -> None:
    async def main() -> None:
        async with app, app.worker(children=1):
            first = await (await apart.where.enqueue()).result(timeout=20)
            os.kill(first, 9)
            await asyncio.to_thread(os.waitid, os.P_PID, first, os.WEXITED | os.WNOWAIT)  # dead, and still to be reaped by the worker
            assert await (await apart.where.enqueue()).result(timeout=20) != first

    asyncio.run(main())

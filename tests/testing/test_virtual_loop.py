"""The loop of virtual time: the seed decides all, the clock jumps, nodes stall and die, and nothing goes wrong in silence."""

# ruff: noqa: RUF006 -- polling is what is tested here; and a virtual loop holds its tasks itself

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from culm.testing import virtual_loop
from culm.testing.virtual_loop import START_S, Deadlock, Livelock, NoIO, VirtualLoop, never, run

Log = list[str]


async def _busy(log: Log, name: str, *, turns: int = 4) -> None:
    for n in range(turns):
        log.append(f"{name}{n}")
        await asyncio.sleep(0)


async def _rows(log: Log) -> AsyncIterator[int]:
    try:
        while True:
            yield 1
            await asyncio.sleep(1)
    finally:
        log.append("generator")


async def _messy(log: Log) -> None:
    """Everything that Python would complain of when it vanishes."""
    later = asyncio.sleep(1)
    asyncio.get_running_loop().call_later(5, asyncio.create_task, asyncio.sleep(2))
    asyncio.create_task(asyncio.sleep(1, "unstarted"))
    failed = asyncio.get_running_loop().create_future()
    failed.set_exception(LookupError("never retrieved"))
    try:
        async with asyncio.TaskGroup() as group, asyncio.timeout(100):
            group.create_task(never())
            async for _ in _rows(log):
                await asyncio.sleep(1)
    finally:
        log.append("finally")
        asyncio.create_task(_busy(log, "child"))
        asyncio.get_running_loop().call_soon(log.append, "callback")
        await asyncio.sleep(0)
        log.append("after the await")
        await later
        raise LookupError(failed)


async def _tick(loop: VirtualLoop, log: list[tuple[str, float]], name: str, *, every_s: float = 1.0) -> None:
    while True:
        await asyncio.sleep(every_s)
        log.append((name, loop.elapsed()))


def _interleaving(seed: int) -> Log:
    log: Log = []

    async def main(loop: VirtualLoop) -> None:
        async def waits(name: str) -> str:
            await asyncio.sleep(0.01)
            return name

        await asyncio.gather(*(_busy(log, name) for name in "abc"))
        done, _ = await asyncio.wait([asyncio.create_task(waits(str(n))) for n in range(12)])
        log.extend(task.result() for task in done)  # the order of a set
        log.append(next(iter(done)).get_name())
        log.append(str(loop.steps))

    run(main, seed=seed)
    return log


# -- the seed ----------------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_run() -> None:
    assert all(_interleaving(seed) == _interleaving(seed) for seed in range(50))


def test_other_seeds_give_other_orders() -> None:
    assert len({tuple(_interleaving(seed)) for seed in range(100)}) > 95


def test_the_run_depends_neither_on_string_hashes_nor_on_addresses() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_virtual_loop as t; print(t._interleaving(7), t._aborted(7))"
    told = {
        subprocess.run(
            [sys.executable, "-c", code, str(Path(__file__).parent)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("0", "1", "2", "random")
    }
    assert told == {f"{_interleaving(7)} {_aborted(7)}\n"}


def _aborted(seed: int) -> Log:
    log: Log = []

    async def member(name: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            log.append(name)

    async def main(loop: VirtualLoop) -> None:
        with pytest.raises(ExceptionGroup):  # noqa: PT012
            async with asyncio.TaskGroup() as group:
                for n in range(10):
                    group.create_task(member(str(n)))
                await asyncio.sleep(1)
                raise LookupError

    run(main, seed=seed)
    return log


def test_a_task_group_aborts_its_members_in_the_same_order_for_the_same_seed() -> None:
    assert all(_aborted(seed) == _aborted(seed) for seed in range(20))
    assert len({tuple(_aborted(seed)) for seed in range(20)}) > 15


def test_an_error_tells_the_seed() -> None:
    async def main(loop: VirtualLoop) -> None:
        await asyncio.sleep(5)
        raise LookupError("lost")

    with pytest.raises(LookupError) as caught:
        run(main, seed=4711)
    assert "seed 4711: after 5.000 s" in caught.value.__notes__[-1]


# -- time --------------------------------------------------------------------------------------------------------------------


def test_a_day_passes_in_no_time() -> None:
    async def main(loop: VirtualLoop) -> float:
        await asyncio.sleep(80_000)
        return loop.time()

    began = time.perf_counter()
    assert run(main, seed=1) == START_S + 80_000
    assert time.perf_counter() - began < 5


def test_timers_fire_in_the_order_of_their_times_and_never_early() -> None:
    log: list[tuple[float, float]] = []

    async def main(loop: VirtualLoop) -> None:
        async def one(s: float) -> None:
            await asyncio.sleep(s)
            log.append((s, loop.elapsed()))

        await asyncio.gather(*(one(s / 7) for s in (5, 3, 9, 1, 3)))

    run(main, seed=3)
    assert [s for s, _ in log] == sorted(s for s, _ in log)
    assert all(at == pytest.approx(s, abs=1e-9) for s, at in log)


def test_a_cancelled_timer_does_not_move_the_clock() -> None:
    async def main(loop: VirtualLoop) -> float:
        loop.call_later(1000, print).cancel()
        await asyncio.sleep(1)
        return loop.elapsed()

    assert run(main, seed=1) == 1.0


def test_what_asyncio_offers_works() -> None:
    async def main(loop: VirtualLoop) -> list[object]:
        queue: asyncio.Queue[int] = asyncio.Queue(2)
        event, lock = asyncio.Event(), asyncio.Lock()

        async def produce() -> None:
            for n in range(5):
                await queue.put(n)
            event.set()

        async def consume() -> int:
            async with lock:
                return sum([await queue.get() for _ in range(5)])

        async with asyncio.TaskGroup() as group:
            group.create_task(produce())
            total = group.create_task(consume())
        await event.wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await never()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(never(), 4)
        first = [await f for f in asyncio.as_completed([asyncio.create_task(asyncio.sleep(s, s)) for s in (2, 1)])]
        return [total.result(), first, await asyncio.to_thread(lambda: "ran"), loop.elapsed()]

    for seed in range(30):
        assert run(main, seed=seed) == [10, [1, 2], "ran", 9.0]


def test_a_function_in_an_executor_sees_no_running_loop() -> None:
    async def main(loop: VirtualLoop) -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            await loop.run_in_executor(None, asyncio.get_running_loop)

    run(main, seed=1)


def test_the_label_reaches_contexts_copied_from_the_nodes_own() -> None:
    log: list[tuple[str, float]] = []

    async def main(loop: VirtualLoop) -> None:
        with loop.node("w1"):
            base = contextvars.copy_context()
        asyncio.get_running_loop().create_task(_tick(loop, log, "w1"), context=base.copy())
        loop.call_later(3, log.append, ("callback", 0.0), context=base.copy())
        await asyncio.sleep(1.5)
        loop.kill("w1")
        await asyncio.sleep(10)

    run(main, seed=5)
    assert log == [("w1", 1)]


# -- stuck -------------------------------------------------------------------------------------------------------------------


def test_a_deadlock_names_who_waits_and_where() -> None:
    async def waits_for_ever() -> None:
        await asyncio.Event().wait()

    async def main(loop: VirtualLoop) -> None:
        with loop.node("w1"):
            task = asyncio.create_task(waits_for_ever(), name="forgotten")
        await task

    with pytest.raises(Deadlock, match=r"'forgotten' of w1 at test_virtual_loop.py:\d+ \(waits_for_ever\)") as caught:
        run(main, seed=1)
    assert len(caught.value.tasks) == 2


def test_a_busy_loop_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_loop, "MAX_STEPS_AT_ONCE", 1000)

    async def main(loop: VirtualLoop) -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Livelock, match="without the clock moving"):
        run(main, seed=1)


def test_a_run_that_polls_for_ever_is_found() -> None:
    async def main(loop: VirtualLoop) -> None:
        while True:
            await asyncio.sleep(1)

    with pytest.raises(Livelock, match="not finished after 600 s"):
        run(main, seed=1, limit_s=600)


# -- the end of a run ----------------------------------------------------------------------------------------------------------


def test_what_main_leaves_behind_is_cancelled_and_closed() -> None:
    log: Log = []

    async def left() -> None:
        try:
            await never()
        finally:
            await asyncio.sleep(1)
            log.append("closed")

    async def main(loop: VirtualLoop) -> None:
        rows = _rows(log)
        await anext(rows)
        asyncio.create_task(left())
        await asyncio.sleep(1)
        log.append("main")
        loop.call_later(0.5, lambda: rows)  # keeps the generator until the loop closes it

    run(main, seed=1)
    assert log[0] == "main"
    assert sorted(log[1:]) == ["closed", "generator"]


async def _fails() -> None:
    raise LookupError("nobody looks")


def _in_a_task(loop: VirtualLoop) -> None:
    asyncio.create_task(_fails())


def _in_a_callback(loop: VirtualLoop) -> None:
    loop.call_soon(lambda: dict[str, int]()["nobody"])


def _in_a_future(loop: VirtualLoop) -> None:
    loop.create_future().set_exception(LookupError("nobody looks"))


@pytest.mark.parametrize("start", [_in_a_task, _in_a_callback, _in_a_future])
def test_an_error_that_nobody_retrieves_fails_the_run(start: Callable[[VirtualLoop], None]) -> None:
    async def main(loop: VirtualLoop) -> None:
        start(loop)
        await asyncio.sleep(1)

    with pytest.raises(ExceptionGroup, match="nobody handled") as caught:
        run(main, seed=1)
    assert isinstance(caught.value.exceptions[0], LookupError)


def test_an_error_that_somebody_retrieves_does_not() -> None:
    async def main(loop: VirtualLoop) -> int:
        found = await asyncio.gather(*(asyncio.create_task(_fails()) for _ in range(100)), return_exceptions=True)
        return len(found)

    assert run(main, seed=1) == 100


def test_a_failing_run_leaves_no_loop_behind() -> None:
    loops: list[VirtualLoop] = []

    async def main(loop: VirtualLoop) -> None:
        loops.append(loop)
        asyncio.create_task(_messy([]))
        await asyncio.sleep(1)
        raise LookupError

    with pytest.raises(LookupError):
        run(main, seed=1)
    assert loops[0].is_closed()
    assert gc.isenabled()
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()
    gc.collect()


@pytest.mark.parametrize(
    "reach_out",
    [
        lambda: asyncio.open_connection("localhost", 1),
        lambda: asyncio.start_server(lambda r, w: None, "localhost", 0),
        lambda: asyncio.create_subprocess_exec("true"),
        lambda: asyncio.get_running_loop().getaddrinfo("localhost", 1),
    ],
)
def test_io_is_refused_clearly(reach_out: Callable[[], Coroutine[Any, Any, object]]) -> None:
    async def main(loop: VirtualLoop) -> None:
        with pytest.raises(NoIO, match="no I/O in virtual time"):
            await reach_out()

    run(main, seed=1)


def test_a_real_thread_is_refused_clearly() -> None:
    async def main(loop: VirtualLoop) -> None:
        import threading

        caught: list[BaseException] = []

        def outside() -> None:
            try:
                loop.call_soon_threadsafe(print)
            except NoIO as e:
                caught.append(e)

        thread = threading.Thread(target=outside)
        thread.start()
        thread.join()
        assert len(caught) == 1

    run(main, seed=1)


def test_a_schedule_of_five_hundred_steps_takes_milliseconds() -> None:
    async def main(loop: VirtualLoop) -> None:
        await asyncio.gather(*(_busy([], "x", turns=48) for _ in range(10)))

    began = time.perf_counter()
    for seed in range(100):
        run(main, seed=seed)
    assert (time.perf_counter() - began) / 100 < 0.2  # measured: 1 ms; the rest is for slow machines and debug mode

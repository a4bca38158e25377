"""Threads of `def` tasks: a limit that leaked ones count against, and jobs that wait for one keep their lease."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import Any

import pytest

from culm import TaskFailed
from tests.cli.shell import Shell
from tests.tasks.harness import Bench, run, until
from tests.telemetry.scrape import scrape

HANGS = """
import threading, time
from culm import App

app = App()

@app.task(timeout=0.3)
def hangs() -> None:
    time.sleep(600)

@app.task(timeout=5)
def quick() -> str:
    return "done"
"""


def test_no_more_than_so_many_run_and_the_others_wait_with_their_leases_held() -> None:
    async def main() -> None:
        bench, gate, lock, running = Bench(), threading.Event(), threading.Lock(), [0, 0]

        @bench.app.task
        def waits() -> None:
            with lock:
                running[0] += 1
                running[1] = max(running)
            gate.wait(10)
            with lock:
                running[0] -= 1

        async with bench.working(threads=2) as worker:
            jobs = [await waits.enqueue() for _ in range(6)]
            await until(lambda: running[0] == 2 and len(worker.held()) == 6)
            assert {held.job_id for held in worker.held()} == {job.id for job in jobs}
            bench.clock.advance(ms=29_000)
            beats = bench.store.tables.rows[jobs[-1].id].due
            assert beats is not None
            await until(lambda: (bench.store.tables.rows[jobs[-1].id].due or 0) > beats)  # the heart extends those that wait, too
            gate.set()
            for job in jobs:
                await job.result()
        assert running[1] == 2

    run(main())


def test_a_leaked_thread_takes_a_place_until_it_returns_and_waiting_is_no_running_time() -> None:
    async def main() -> None:
        bench, gate = Bench(), threading.Event()

        @bench.app.task(timeout=0.01)
        def hangs() -> None:
            gate.wait(10)

        @bench.app.task(timeout=0.2)
        def quick() -> str:
            return "done"

        async with bench.working(threads=1, metrics="127.0.0.1:0") as worker:
            with pytest.raises(TaskFailed, match="TimeoutError"):
                await (await hangs.enqueue()).result()
            job = await quick.enqueue()
            threads: Any = worker._threads
            await until(lambda: threads.waiting == 1)
            assert threads.exhausted
            shown = await asyncio.to_thread(scrape, str(worker.metrics))
            assert shown["culm_leaked_threads"] == shown["culm_threads"] == shown["culm_thread_waits"] == 1
            await asyncio.sleep(0.5)  # longer than its timeout: by that alone it must not end
            assert await job.status() == "leased"
            gate.set()
            assert await job.result() == "done"

    run(main())


def test_a_job_that_waits_for_a_thread_can_be_cancelled() -> None:
    async def main() -> None:
        bench, gate = Bench(), threading.Event()

        @bench.app.task
        def waits() -> None:
            gate.wait(10)

        async with bench.working(threads=1) as worker:
            first, second, third = [await waits.enqueue() for _ in range(3)]
            threads: Any = worker._threads
            await until(lambda: threads.waiting == 2)
            await second.cancel()
            await until(lambda: threads.waiting == 1)
            gate.set()
            await first.result()
            await third.result()
        assert await second.status() == "cancelled"

    run(main())


@pytest.mark.parametrize("bad", [0, -1, 1.5, True])
def test_a_limit_that_is_none_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="threads must be a whole number"):
        Bench().app.worker(threads=bad)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [(), ("--processes", "2")])
def test_a_worker_whose_threads_all_leaked_ends_and_gives_back_what_waits_for_one(tmp_path: Any, processes: tuple[str, ...]) -> None:
    shell = Shell(tmp_path)
    (tmp_path / "shop.py").write_text(HANGS)
    try:
        for _ in range(2 if not processes else 4):
            shell.run("enqueue", "shop:app", "shop.hangs", "--priority", "9")
        for n in range(3):
            shell.run("enqueue", "shop:app", "shop.quick", "--id", f"quick-{n}")
        worker = shell.start("worker", "shop:app", "--threads", "2", "--grace", "600", *processes)
        worker.line("threads.exhausted")
        worker.line("worker.recycles", "2 threads leaked")
        if not processes:  # whoever started it starts it again
            assert worker.end() == 0
            assert {shell.run("status", f"quick-{n}", "--json").json["attempt"] for n in range(3)} == {0}
            worker = shell.start("worker", "shop:app", "--threads", "2")
        for n in range(3):
            assert shell.run("result", f"quick-{n}", "--timeout", "20").out == '"done"\n'
            assert shell.run("status", f"quick-{n}", "--json").json["attempt"] == 1
        worker.signal(signal.SIGTERM)
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
    finally:
        shell.close()

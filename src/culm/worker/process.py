"""What makes a process a worker: its signals, its event loop, its log, its garbage collector. The worker itself knows none of them.

The first SIGTERM or SIGINT stops gracefully, the second gives back at once what still runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from culm.errors import CulmError
from culm.logs import JobFields, LogFormat, formatter
from culm.worker.notify import tell_systemd

if TYPE_CHECKING:
    from culm.app import App
    from culm.worker.worker import Worker

log = logging.getLogger("culm.worker")

MOST_LEAKED = 20  # threads, or all there are, that go on after their jobs timed out: then another process does better
SWITCH_S = 0.0005  # a thread that computes keeps the interpreter so long from the others, of which the loop and a store's desk are two
CLEANUP_S, STUBBORN_S = 5.0, 1.0  # at the very end, for whatever jobs have left on the loop
LOOK_S = 0.25  # how often to see whether the claimer still lives


def log_to_stderr(kind: LogFormat) -> None:
    """Lines that say which job they belong to, whichever logger they come from."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(JobFields())
    handler.setFormatter(formatter(kind))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def tune() -> None:
    """What was imported stays: the collector need not look at it again. Fewer, larger collections measured faster, and shorter turns:
    what a desk asks of SQLite runs beside the loop, if the desk gets to ask it."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    sys.setswitchinterval(SWITCH_S)


def run_worker(
    app: App,
    worker: Worker,
    *,
    title: str,
    grace: float,
    ready: Callable[[], None],
    max_jobs: int | None = None,
    look: Callable[[], None] = lambda: None,
) -> int:
    """Run until a signal says stop, or `max_jobs` attempts have ended. Returns the exit code: 0, or 1 when the worker ended by itself.

    Args:
        look: called a few times a second.

    Raises ConfigError and StoreError when the store cannot be opened.
    """
    tune()
    log.info("worker: %s, pid %d, tasks %s", title, os.getpid(), ", ".join(sorted(app.tasks)) or "(none)")
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        code = runner.run(_serve(app, worker, grace, ready, max_jobs or sys.maxsize, look))
        if stubborn := runner.run(_stubborn_tasks()):
            log.error("worker.stubborn: %d tasks go on although they were cancelled twice; the process ends without them", stubborn)
            logging.shutdown()
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            os._exit(code)  # closing the loop would await them
    return code


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(app: App, worker: Worker, grace: float, ready: Callable[[], None], max_jobs: int, look: Callable[[], None]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked(name: str) -> None:
        if stop.is_set():
            log.info("worker.hurries: %s again; what still runs is given back now", name)
            worker.hurry()
        else:
            log.info("worker.stopping: %s; no more is claimed, what runs may end within %g s", name, grace)
            stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked, number.name)
    await worker.start()
    ready()
    if worker.leash is None:  # else its supervisor tells
        tell_systemd("READY=1")
    await _until(stop, worker, max_jobs, look)
    if worker.leash is None:
        tell_systemd("STOPPING=1")
    failure = worker.failed
    try:
        await worker.stop()
    except Exception as e:  # noqa: BLE001  # whatever ended the claimer, the process must end with its reason
        failure = failure or e
    with contextlib.suppress(CulmError):
        await app.close()
    if failure is None:
        return 0
    log.error("worker.failed: %s: %s", type(failure).__name__, failure)
    return 1


async def _stubborn_tasks() -> int:
    """How many tasks of the loop do not end when they are cancelled, and cancelled again."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for within_s in (CLEANUP_S, STUBBORN_S):
        for task in tasks:
            task.cancel()
        if tasks:
            _, tasks = await asyncio.wait(tasks, timeout=within_s)
    return len(tasks)


async def _until(stop: asyncio.Event, worker: Worker, max_jobs: int, look: Callable[[], None]) -> None:
    asked = asyncio.ensure_future(stop.wait())
    while not asked.done() and worker.failed is None:
        look()
        if worker.leash is None:
            tell_systemd("WATCHDOG=1")  # from the loop: one that is blocked does not tell
        await asyncio.wait([asked], timeout=LOOK_S)
        if worker.done >= max_jobs or (worker.leaked >= min(MOST_LEAKED, worker.threads) and not _is_apart(worker)):
            log.info("worker.recycles: %d attempts done, %d threads leaked", worker.done, worker.leaked)
            break
    asked.cancel()


def _is_apart(worker: Worker) -> bool:
    """Its supervisor replaces it, when none of the suspects it was told to run is left there: by itself it would give them back to all."""
    return worker.leash is not None and worker.leash.apart

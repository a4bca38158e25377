"""One attempt: user code in, an outcome out. Nothing a task does or raises passes this file except as an outcome.

The worker decides nothing here by itself: `decide.py` does, purely.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import assert_never

from culm import decide
from culm.current import Attempt, ReadEvent
from culm.errors import StoreError
from culm.outcome import Failed, Outcome, Released, Succeeded
from culm.store import FullStore
from culm.task import AnyTask
from culm.worker.threads import Threads

log = logging.getLogger("culm.worker")

EVENTS_PAGE = 1_000


class Runner:
    """Runs attempts.

    Args:
        tasks: the registry; a delivery names an exact key of it.
        threads: where `def` tasks run.
        rng: spreads retry pauses.
    """

    def __init__(self, tasks: dict[str, AnyTask], store: FullStore, threads: Threads, rng: random.Random) -> None:
        self._tasks = tasks
        self._store = store
        self._threads = threads
        self._rng = rng

    async def run(self, attempt: Attempt) -> Outcome:
        """What the attempt came to. Never raises, except when its own coroutine is closed."""
        job = attempt.job
        task = self._tasks.get(job.task)
        decided = decide.before_start(attempt.delivery, knows_task=task is not None)
        if decided is not None or task is None:
            if decided is None:
                raise AssertionError("an unknown task is always decided")
            return decided
        started = asyncio.get_running_loop().time()
        try:
            args, kwargs = task.signature.decode_call(job.args)
            if job.reads:
                attempt.events = await self._events(attempt)
            value = await task.fn(*args, **kwargs) if task.is_async else await self._threads.run(attempt, task.fn, args, kwargs)
            if attempt.stopping == "timeout":  # it ended although it was told to stop: too late is too late
                return decide.on_timeout(attempt.delivery, task.retry, ran_ms=_since(started), draw=self._rng.random())
            return self._succeeded(task, value)
        except GeneratorExit:
            raise
        except asyncio.CancelledError as e:
            return self._stopped(attempt, task, e, started)
        except StoreError as e:
            if job.reads and not attempt.events:
                return Released(1_000)  # its events could not be read: nobody's fault, and not an attempt
            return decide.on_error(attempt.delivery, e, task.retry, ran_ms=_since(started), draw=self._rng.random())
        except BaseException as e:  # noqa: BLE001  # SystemExit, too: a task must not end its worker
            return decide.on_error(attempt.delivery, e, task.retry, ran_ms=_since(started), draw=self._rng.random())

    def _succeeded(self, task: AnyTask, value: object) -> Outcome:
        try:
            return Succeeded(task.signature.encode_result(value))
        except (TypeError, ValueError) as e:
            return Failed(decide.fault_of(e))  # trying again would make the same result

    def _stopped(self, attempt: Attempt, task: AnyTask, error: asyncio.CancelledError, started: float) -> Outcome:
        match attempt.stopping:
            case "timeout":
                return decide.on_timeout(attempt.delivery, task.retry, ran_ms=_since(started), draw=self._rng.random())
            case "cancel":
                return decide.on_cancel()
            case "shutdown" | "lost":
                return Released()
            case "":  # the task cancelled itself
                return decide.on_error(attempt.delivery, error, task.retry, ran_ms=_since(started), draw=self._rng.random())
            case _:
                assert_never(attempt.stopping)

    async def _events(self, attempt: Attempt) -> dict[str, list[ReadEvent]]:
        """The events that a join waited for."""
        found: dict[str, list[ReadEvent]] = {}
        for topic in attempt.job.reads:
            events = found[topic] = []
            after = ""
            while page := await self._store.events(attempt.job.scope, topic, after=after, limit=EVENTS_PAGE):
                events += [ReadEvent(e) for e in page]
                after = page[-1].key
        return found


def _since(started: float) -> int:
    return round((asyncio.get_running_loop().time() - started) * 1000)

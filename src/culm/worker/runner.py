"""One attempt: user code in, an outcome out. Nothing a task does or raises passes this file except as an outcome.

The worker decides nothing here by itself: `decide.py` does, purely.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import assert_never

from culm import decide
from culm.current import Attempt, ReadEvent, enter
from culm.errors import StoreError
from culm.outcome import Failed, Outcome, Released, Succeeded
from culm.store import FullStore, Transaction
from culm.task import AnyTask
from culm.worker.ending import end_in_transaction
from culm.worker.threads import Threads

log = logging.getLogger("culm.worker")

EVENTS_PAGE = 1_000
NOTHING = Succeeded()  # most tasks return None: one value serves them all


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
        self._now = asyncio.get_running_loop().time

    async def run(self, attempt: Attempt, ended: Callable[[Attempt, Outcome], None]) -> None:
        """Run it and tell what it came to. Never raises, except when its own coroutine is closed."""
        enter(attempt)
        job = attempt.job
        task = self._tasks.get(job.task)
        outcome = decide.before_start(attempt.delivery, knows_task=task is not None)
        if outcome is None and task is not None:
            started = self._now()
            try:
                args, kwargs = task.signature.decode_call(job.args)
                if job.reads:
                    attempt.events = await self._events(attempt)
                value = await task.fn(*args, **kwargs) if task.is_async else await self._threads.run(attempt, task.fn, args, kwargs)
                outcome = NOTHING if value is None and not attempt.stopping else self._returned(attempt, task, value, started)
            except asyncio.CancelledError as e:
                outcome = self._stopped(attempt, task, e, started)
            except KeyboardInterrupt:  # not the task's doing: somebody stops this process
                ended(attempt, Released())
                raise
            except BaseException as e:  # SystemExit, too: a task must not end its worker
                if asyncio._get_running_loop() is None:  # noqa: SLF001  # its loop is gone, and this coroutine is being closed
                    raise
                outcome = self._raised(attempt, task, e, started)
            if attempt.transaction_open is not None:
                outcome = await self._end_in_transaction(attempt, task, attempt.transaction_open, outcome, started)
        ended(attempt, outcome or Released())

    async def _end_in_transaction(
        self, attempt: Attempt, task: AnyTask, transaction: Transaction, outcome: Outcome, started: float
    ) -> Outcome:
        """A second cancellation must not tear it apart: whether it was committed has to be known."""
        work = asyncio.ensure_future(end_in_transaction(attempt, transaction, outcome, lambda e: self._raised(attempt, task, e, started)))
        while not work.done():
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                continue
        return work.result()

    def _returned(self, attempt: Attempt, task: AnyTask, value: object, started: float) -> Outcome:
        if attempt.stopping == "timeout":  # it ended although it was told to stop: too late is too late
            return decide.on_timeout(attempt.delivery, task.retry, ran_ms=self._since(started), draw=self._rng.random())
        try:
            return Succeeded(task.signature.encode_result(value))
        except (TypeError, ValueError) as e:
            return Failed(decide.fault_of(e))  # trying again would make the same result

    def _raised(self, attempt: Attempt, task: AnyTask, error: BaseException, started: float) -> Outcome:
        if isinstance(error, StoreError) and attempt.job.reads and not attempt.events:
            return Released(1_000)  # its events could not be read: nobody's fault, and not an attempt
        return decide.on_error(attempt.delivery, error, task.retry, ran_ms=self._since(started), draw=self._rng.random())

    def _stopped(self, attempt: Attempt, task: AnyTask, error: asyncio.CancelledError, started: float) -> Outcome:
        match attempt.stopping:
            case "timeout":
                return decide.on_timeout(attempt.delivery, task.retry, ran_ms=self._since(started), draw=self._rng.random())
            case "cancel":
                return decide.on_cancel()
            case "shutdown" | "lost":
                return Released()
            case "":  # the task cancelled itself
                return decide.on_error(attempt.delivery, error, task.retry, ran_ms=self._since(started), draw=self._rng.random())
            case _:
                assert_never(attempt.stopping)

    def _since(self, started: float) -> int:
        return round((self._now() - started) * 1000)

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

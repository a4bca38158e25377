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
from culm.commit import Event
from culm.current import Attempt, ReadEvent, enter
from culm.errors import NotAuthentic, PayloadMissing, StoreError
from culm.job import PLAIN, Job
from culm.outcome import Failed, Lost, Outcome, Released, Succeeded
from culm.payload import Payloads
from culm.store import FullStore, Transaction
from culm.task import AnyTask
from culm.worker.children import Children
from culm.worker.decision import end_in_transaction
from culm.worker.threads import Threads

log = logging.getLogger("culm.worker")

EVENTS_PAGE = 1_000
AGAIN_MS = 1_000  # until a job runs again whose payload could not be reached
NOTHING = Succeeded()  # most tasks return None: one value serves them all


class Refused(Exception):
    """What an attempt comes to because a payload cannot be had, or cannot be put away."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


class Runner:
    """Runs attempts.

    Args:
        tasks: the registry; a delivery names an exact key of it.
        threads: where `def` tasks run.
        children: where tasks run that are to have a process.
        rng: spreads retry pauses.
        now: seconds by a clock that only grows. A loop's own may stand still while a task computes: uvloop's does.
    """

    def __init__(
        self,
        tasks: dict[str, AnyTask],
        store: FullStore,
        payloads: Payloads,
        threads: Threads,
        children: Children,
        rng: random.Random,
        now: Callable[[], float],
    ) -> None:
        self.tasks = tasks
        self._store = store
        self._payloads, self._plain = payloads, payloads.plain
        self._threads = threads
        self._children = children
        self._rng = rng
        self.now = now

    async def run(self, attempt: Attempt, ended: Callable[[Attempt, Outcome], None]) -> None:
        """Run it and tell what it came to. Never raises, except when its own coroutine is closed."""
        enter(attempt)
        job, delivery, outcome = attempt.job, attempt.delivery, None
        task = self.tasks.get(job.task)
        if task is None or delivery.broken or job.v != PLAIN or job.expires_ms is not None or job.deadline_ms is not None:
            outcome = decide.before_start(delivery, knows_task=task is not None)  # else there is nothing to ask: a call for each job
        if outcome is None and task is not None:
            attempt.began = started = self.now()
            try:
                data = job.args if self._plain and job.v == PLAIN else await self._opened(job)
                if job.reads:
                    attempt.events = await self._events(attempt)
                if task.runs_in is None:
                    args, kwargs = task.signature.decode_call(data)
                    value = await task.fn(*args, **kwargs) if task.is_async else await self._threads.run(attempt, task.fn, args, kwargs)
                else:
                    value = await self._children.run(attempt, task, data)
                outcome = NOTHING if value is None and not attempt.stopping else self._returned(attempt, task, value, started)
                if not self._plain:
                    outcome = await self.put_away(attempt, outcome)
            except Refused as e:
                outcome = e.outcome
            except asyncio.CancelledError as e:
                outcome = self.stopped(attempt, task, e, started)
            except KeyboardInterrupt:  # not the task's doing: somebody stops this process
                ended(attempt, Released())
                raise
            except BaseException as e:  # SystemExit, too: a task must not end its worker
                if asyncio._get_running_loop() is None:  # noqa: SLF001  # its loop is gone, and this coroutine is being closed
                    raise
                outcome = self.raised(attempt, task, e, started)
            if attempt.transaction_open is not None:
                outcome = await self._end_in_transaction(attempt, task, attempt.transaction_open, outcome, started)
        ended(attempt, outcome or Released())

    async def _end_in_transaction(
        self, attempt: Attempt, task: AnyTask, transaction: Transaction, outcome: Outcome, started: float
    ) -> Outcome:
        """A second cancellation must not tear it apart: whether it was committed has to be known."""
        work = asyncio.ensure_future(end_in_transaction(attempt, transaction, outcome, lambda e: self.raised(attempt, task, e, started)))
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

    def raised(self, attempt: Attempt, task: AnyTask, error: BaseException, started: float) -> Outcome:
        """What an attempt comes to that raised."""
        if isinstance(error, StoreError) and attempt.job.reads and not attempt.events:
            return Released(AGAIN_MS)  # its events could not be read: nobody's fault, and not an attempt
        return decide.on_error(attempt.delivery, error, task.retry, ran_ms=self._since(started), draw=self._rng.random())

    def stopped(self, attempt: Attempt, task: AnyTask, error: asyncio.CancelledError, started: float) -> Outcome:
        """What an attempt comes to that was cancelled."""
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
        return round((self.now() - started) * 1000)

    async def _opened(self, job: Job) -> bytes:
        """The arguments as they were sent. Raises Refused: nothing of them was decoded."""
        try:
            return await self._payloads.open_arguments(job)
        except NotAuthentic as e:
            raise Refused(Lost(f"its message is refused: {e}")) from e
        except PayloadMissing as e:
            raise Refused(Failed(decide.fault_of(e))) from e
        except StoreError as e:
            log.warning("payload.failed: job %s: %s; it runs again", job.id, e)
            raise Refused(Released(AGAIN_MS)) from e

    async def put_away(self, attempt: Attempt, outcome: Outcome) -> Outcome:
        """The outcome as it travels, and with it what the attempt sends. Raises Refused."""
        try:
            if attempt.effects is not None and isinstance(outcome, Succeeded):
                send = attempt.effects.send
                stored = await self._payloads.stored_jobs(send[:])
                send[: len(stored)] = stored
            return await self._payloads.ended(attempt.job, outcome)
        except ValueError as e:
            raise Refused(Failed(decide.fault_of(e))) from e
        except StoreError as e:
            log.warning("payload.failed: job %s: %s; it runs again", attempt.id, e)
            raise Refused(Released(AGAIN_MS)) from e

    async def _events(self, attempt: Attempt) -> dict[str, list[ReadEvent]]:
        """The events that a join waited for."""
        found: dict[str, list[ReadEvent]] = {}
        for topic in attempt.job.reads:
            events = found[topic] = []
            after = ""
            while page := await self._store.events(attempt.job.scope, topic, after=after, limit=EVENTS_PAGE):
                events += [await self._read(e, attempt) for e in page]
                after = page[-1].key
        return found

    async def _read(self, event: Event, attempt: Attempt) -> ReadEvent:
        try:
            value = event.value if self._payloads.is_plain(event.value) else await self._payloads.open_event(event)
        except NotAuthentic as e:
            raise Refused(Lost(f"its event {event.key!r} under {event.topic!r} is refused: {e}")) from e
        except PayloadMissing as e:
            raise Refused(Failed(decide.fault_of(e))) from e
        return ReadEvent(event.key, value, attempt.app.kinds)

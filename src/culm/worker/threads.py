"""Where `def` tasks run: threads, each with the context of its job.

A thread cannot be stopped: one whose job timed out is counted as leaked, and takes the place of another until it returns. When no
place is left, jobs wait for one: they are held like all that run, and their time begins when their turn comes. When all places are
taken by leaked threads, the process does better to end: `process.py` sees to that, and what waits is given back at once.

Threads are daemons, so that a leaked one does not keep the process; one that is done takes the next job, or waits for it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from math import inf
from queue import SimpleQueue
from typing import Any, TypeAlias

from culm.current import Attempt

log = logging.getLogger("culm.worker")

Done: TypeAlias = "asyncio.Future[Any]"
Call: TypeAlias = tuple[Callable[[], Any], asyncio.AbstractEventLoop, Done]


class Threads:
    """A pool that grows to `most`.

    Attributes:
        leaked: threads that still run a job whose outcome is committed already.
        waiting: jobs that wait for a thread.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.leaked = self.waiting = 0
        self._places = asyncio.Semaphore(most)
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._idle = 0
        self._count = 0

    async def run(self, attempt: Attempt, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The function's result, or what it raised. On cancellation the thread goes on alone."""
        loop = asyncio.get_running_loop()
        if self._places.locked():
            await self._wait(attempt)
        else:
            await self._places.acquire()
        future: Done = loop.create_future()
        context = contextvars.copy_context()
        if not self._idle:
            try:
                threading.Thread(target=self._work, name=f"culm-task-{self._count + 1}", daemon=True).start()
            except RuntimeError:  # the system has no more: its place is for the next one
                self._places.release()
                raise
            self._count += 1
        else:
            self._idle -= 1
        self._calls.put((lambda: context.run(fn, *args, **kwargs), loop, future))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not future.done():
                self.leaked += 1
                future.add_done_callback(self._returned)
                log.warning("thread.leaked: job %s goes on in its thread after it was stopped; %d leaked", attempt.id, self.leaked)
                if self.exhausted:
                    log.error("threads.exhausted: all %d run jobs that were stopped; def tasks wait until one returns", self.most)
            raise

    @property
    def exhausted(self) -> bool:
        """No thread is left."""
        return self.leaked >= self.most

    async def _wait(self, attempt: Attempt) -> None:
        attempt.waits, attempt.ends_at = True, inf
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
            attempt.waits = False
        attempt.ends_at = 0.0  # its time begins now: the next scan says when it ends

    def _returned(self, future: Done) -> None:
        self.leaked -= 1
        if not future.cancelled():
            future.exception()  # nobody wants it any more

    def _freed(self) -> None:
        self._idle += 1
        self._places.release()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            fn, loop, future = call
            result: Any = None
            error: BaseException | None = None
            try:
                result = fn()
            except BaseException as e:  # noqa: BLE001  # it travels to the job, whatever it is
                error = e
            try:
                loop.call_soon_threadsafe(self._answer, future, result, error)
            except RuntimeError:
                return  # the worker's loop is closed
            del call, fn, result, error

    def _answer(self, future: Done, result: Any, error: BaseException | None) -> None:
        self._freed()
        if future.done():
            return
        if isinstance(error, StopIteration | KeyboardInterrupt):  # a future cannot carry the one; the other means this process
            error = RuntimeError(f"the task raised {error!r}")
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def close(self) -> None:
        for _ in range(self._count):
            self._calls.put(None)

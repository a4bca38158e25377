"""culm for code without async: the same calls, each blocking until it is done. An event loop in a thread of its own does the work.

One thread serves one app. Nothing here repeats the logic of its async sibling: every method runs that one and waits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from culm.current import running
from culm.duration import Seconds
from culm.errors import CulmError
from culm.handle import Handle
from culm.outcome import Final
from culm.store import State

if TYPE_CHECKING:
    from culm.task import Bound, Task

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Portal:
    """Runs coroutines on a loop in a daemon thread, for threads that have none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Raises CulmError when called from a coroutine, whose loop it would block."""
        if asyncio._get_running_loop() is not None:  # noqa: SLF001  # documented for libraries; the public call raises instead
            work.close()
            raise CulmError("this thread runs an event loop; use the async call with `await` instead of `.sync`")
        return asyncio.run_coroutine_threadsafe(work, self._started()).result()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="culm-sync", daemon=True).start()
            return self._loop


class SyncTask(Generic[P, R]):
    __slots__ = ("_task",)

    def __init__(self, task: Task[P, R]) -> None:
        self._task = task

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> SyncHandle[R]:
        """As `Task.enqueue`, blocking."""
        from culm.task import join_send

        attempt = running()
        if attempt is not None and not self._task.options.now:
            return SyncHandle(join_send(self._task.bind(*args, **kwargs), attempt))
        return SyncHandle(self._task.app.portal.run(self._task.enqueue(*args, **kwargs)))


class SyncHandle(Generic[R]):
    """As `Handle`, blocking."""

    __slots__ = ("_handle",)

    def __init__(self, handle: Handle[R]) -> None:
        self._handle = handle

    def __repr__(self) -> str:
        return repr(self._handle)

    @property
    def id(self) -> str:
        return self._handle.id

    def result(self, timeout: Seconds | None = None) -> R:
        return self._run(self._handle.result(timeout))

    def outcome(self) -> Final | None:
        return self._run(self._handle.outcome())

    def status(self) -> State:
        return self._run(self._handle.status())

    def cancel(self, *, tree: bool = False) -> None:
        self._run(self._handle.cancel(tree=tree))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._handle.app.portal.run(work)


def enqueue_many(bounds: Iterable[Bound[Any]]) -> list[SyncHandle[Any]]:
    """As `app.enqueue_many`, blocking."""
    some = list(bounds)
    if not some:
        return []
    app = some[0].task.app
    return [SyncHandle(h) for h in app.portal.run(app.enqueue_many(some))]

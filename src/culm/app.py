"""An App is the registry of tasks and the address of the store. It connects at first use, from whichever event loop uses it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import random
import sys
import weakref
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeVar, Unpack, cast, overload
from weakref import WeakKeyDictionary, WeakSet

from culm.clock import Clock, Ids, SystemClock
from culm.codec import Signature
from culm.current import running
from culm.dead import DeadLetters
from culm.errors import DuplicateTask, StoreError, UnknownTask
from culm.forks import Opening
from culm.handle import Handle
from culm.hooks import Hooks
from culm.keys import Keys
from culm.kinds import Kinds
from culm.lanes import Gathering, gathering
from culm.many import send_many
from culm.middleware import Middleware, check_middleware
from culm.options import Options, TaskOptions, changed, check_name, check_process
from culm.payload import Offload, Payloads
from culm.retry import as_retry
from culm.store import CANCELS, FullStore, Hint
from culm.stores.open import default_url, open_store, settled
from culm.sync import Portal
from culm.task import AnyTask, AsyncTask, Bound, Task
from culm.tracing import Tracing

if TYPE_CHECKING:
    from culm.worker.worker import Worker, WorkerOptions

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound=Middleware)

log = logging.getLogger("culm")

_apps: WeakSet[App] = WeakSet()  # what a fork must tell


class App:
    """Register tasks with it, enqueue through them, run workers from it.

    Args:
        url: where the truth lives: `memory://`, `sqlite:///jobs.db`, ... By default `$CULM_URL`, else `culm.db` beside the nearest
            `pyproject.toml` upwards, else in the working directory.
        store: an opened store instead of an address.
        clock: for ids.
        rng: spreads pauses; a test may own it.
        ids: makes the ids of jobs and the names of workers and clients, which must never come twice; a simulation may own it.
        keys: seal what is sent, and let nothing in that is not sealed by one of them.
        offload: stores large arguments and results apart.
        tracing: follows jobs from their sender to what they start; `culm.telemetry.otel.Tracing()`.

    Raises:
        ConfigError: the address cannot work. Found at first use.

    Example:
        >>> app = App("memory://")
        >>> @app.task(queue="mail", retry=5, timeout=30)
        ... async def send_email(to: str, *, subject: str) -> str: ...
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        store: FullStore | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        ids: Ids | None = None,
        keys: Keys | None = None,
        offload: Offload | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.url = url
        self.tasks: dict[str, AnyTask] = {}
        self.tracing = tracing
        self.kinds = Kinds()
        self.payloads = Payloads(lambda: self.store, keys, offload)
        self.wraps: list[Middleware] = []
        self.hooks: dict[str, Hooks] = {}  # by task
        self.portal = Portal()
        self.clock = clock or SystemClock()
        self.rng = rng or random.Random()
        self._ids = ids or Ids(self.clock)
        self.new_id = self._ids.new
        self._given = self._store = store
        self._opening = Opening()
        _apps.add(self)
        self._latest: tuple[weakref.ref[asyncio.AbstractEventLoop], Gathering] | None = None  # nearly every call comes from one loop
        self._gatherers: WeakKeyDictionary[asyncio.AbstractEventLoop, Gathering] = WeakKeyDictionary()

    # -- tasks --------------------------------------------------------------------------------------------------------------

    @overload
    def task(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def task(self, fn: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self,
        fn: None = None,
        /,
        *,
        name: str | None = None,
        runs_in: Literal["process"] | None = None,
        memory_mb: int | None = None,
        **options: Unpack[TaskOptions],
    ) -> _Decorator: ...

    def task(
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        runs_in: Literal["process"] | None = None,
        memory_mb: int | None = None,
        **options: Unpack[TaskOptions],
    ) -> Any:
        """Make a function a task; plain, or with a name and options.

        Args:
            name: what messages call it; by default `module.function`.
            runs_in: "process" lets it run in a process of its own, which is killed when its time is over or it is cancelled: for
                what computes for long, or may crash. It must be at the top level of a module that can be imported.
            memory_mb: how many MiB of data that process may have; beyond it, the task meets a MemoryError.
            options: see TaskOptions.

        Raises:
            DuplicateTask: the name is taken. ConfigError: an annotation is no type that travels.
            TypeError, ValueError: an option is unknown, of a wrong type, or out of range.
        """
        given = cast("dict[str, Any]", options)
        _check_options(given)
        check_process(runs_in, memory_mb)

        def register(function: Callable[..., Any]) -> AnyTask:
            task = self._register(function, name, given)
            task.runs_in, task.memory = runs_in, None if memory_mb is None else memory_mb << 20
            return task

        return register(fn) if fn is not None else register

    def _register(self, fn: Callable[..., Any], name: str | None, options: dict[str, Any]) -> AnyTask:
        name = check_name(name if name is not None else _default_name(fn), "task name")
        if name in self.tasks:
            raise DuplicateTask(f"task {name!r} is registered already, by {_where(self.tasks[name].fn)}; give one of them another name=")
        retry = as_retry(options.get("retry"))
        others = {n: value for n, value in options.items() if n != "retry"}
        kind = AsyncTask if inspect.iscoroutinefunction(fn) else Task
        task: AnyTask = kind(
            self,
            fn,
            name=name,
            signature=Signature(fn, task=name, kinds=self.kinds, max_bytes=self.payloads.max_bytes),
            options=changed(Options(), others, TaskOptions),
            retry=retry,
        )
        self.tasks[name] = task
        return task

    def find(self, name: str) -> AnyTask:
        """The task of that name. Raises UnknownTask, naming the nearest."""
        task = self.tasks.get(name)
        if task is None:
            import difflib

            near = difflib.get_close_matches(name, self.tasks, n=1)
            known = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(self.tasks)) or 'no tasks at all'}"
            raise UnknownTask(f"no task {name!r} in this app; {known}")
        return task

    def codec(self, kind: type[R], *, encode: Callable[[R], Any], decode: Callable[[Any], R], wire: Any = Any) -> None:
        """Let values of a type of your own travel, in arguments, results and events, also inside of other types.

        Args:
            kind: the class; values of its subclasses are written by it, too.
            encode: makes plain data of a value: builtins, dates, dataclasses, or other types that have a codec.
            decode: builds the value from that again. What it raises (TypeError, ValueError) is an error of that argument.
            wire: the type of the plain data, which is checked before `decode` sees it.

        Raises:
            ConfigError: the type travels by itself, or has a codec already.

        Example:
            >>> app.codec(Money, encode=lambda m: (m.cents, m.unit), decode=lambda d: Money(*d), wire=tuple[int, str])
        """
        self.kinds.add(kind, encode=encode, decode=decode, wire=wire)

    def middleware(self, wraps: M) -> M:
        """Let this wrap every attempt that the app's workers run, within what was registered before; see `culm.middleware`.

        Raises TypeError when it is no function.
        """
        check_middleware(wraps)
        self.wraps.append(wraps)
        return wraps

    # -- sending ------------------------------------------------------------------------------------------------------------

    async def enqueue_many(self, bounds: Iterable[Bound[Any]]) -> list[Handle[Any]]:
        """Send many jobs, of any tasks of this app, up to a thousand to a commit; each commit is applied wholly or not at all.

        Inside a task all of them leave with its commit, except those with now=True.

        Raises:
            NotInTask: a job has a topic, outside a task.
            PartlySent: the store failed, an id belongs to another task's job, or a later argument does not fit, after some
                were accepted; `sent` has their ids.
        """
        return await send_many(self, bounds)

    async def tell_cancelled(self, job_ids: Iterable[str]) -> None:
        """Let the workers that run them hear of it now; without this, their hearts learn of it."""
        with contextlib.suppress(StoreError):
            await self.store.publish([Hint(CANCELS, "cancel", job_id) for job_id in job_ids])

    def job(self, job_id: str, task: Task[P, R]) -> Handle[R]:
        """The handle of a job that was sent earlier, or elsewhere. Raises ValueError when that can be no job's id."""
        if not isinstance(job_id, str) or not job_id.isprintable() or not job_id:
            raise ValueError(f"a job id is a printable str, got {job_id!r}")
        return Handle(self, job_id, task)

    @property
    def dead(self) -> DeadLetters:
        """The jobs that failed or were lost, until somebody replays or discards them."""
        return DeadLetters(lambda: self.store, self.portal)

    # -- running ------------------------------------------------------------------------------------------------------------

    def worker(self, **options: Unpack[WorkerOptions]) -> Worker:
        """A worker in this process: `async with app.worker(concurrency=100): ...`. Raises ConfigError when its options cannot work."""
        from culm.worker.worker import Worker

        return Worker(self, **options)

    # -- the store ----------------------------------------------------------------------------------------------------------

    @property
    def store(self) -> FullStore:
        """Opened at first use. Raises ConfigError, StoreError, StoreUnavailable."""
        store = self._store
        if store is not None:
            return store
        with self._opening:  # two threads that come first must not open two
            if self._store is None:
                self.url = settled(self.url or default_url())
                self._store = open_store(self.url)
                log.info("store: %s", self._store)
            return self._store

    def gatherer(self) -> Gathering:
        """What turns the concurrent commits of this event loop into batches."""
        loop = asyncio.get_running_loop()
        latest = self._latest  # once: another thread may change it meanwhile
        if latest is not None and latest[0]() is loop:
            return latest[1]
        gatherer = self._gatherers.get(loop)
        if gatherer is None or gatherer.store is not self.store:
            gatherer = self._gatherers[loop] = gathering(self.store, client=f"app-{self.new_id()}", rng=self.rng, for_callers=True)
        self._latest = (weakref.ref(loop), gatherer)
        return gatherer

    def _forked(self) -> None:
        """In the child of a fork: its parent's threads are not here, and its parent's ids must not be made twice."""
        self._ids.renew()
        self.portal = Portal()
        self._latest = None
        self._gatherers.clear()
        self._store = self._given

    async def __aenter__(self) -> Self:
        _ = self.store
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Await what this event loop sent and let the store go; the next use opens it again. A `memory://` store forgets everything.

        A store that was handed in stays open: it belongs to whoever opened it.
        """
        gatherer = self._gatherers.pop(asyncio.get_running_loop(), None)
        if gatherer is not None:
            await gatherer.flush()
        self._latest = None
        store, self._store = self._store, self._given
        self._gatherers.clear()  # those of other loops write to the store that goes
        if store is not None and store is not self._given:
            await store.close()


def _all_forked() -> None:
    attempt = running()
    if attempt is not None:
        attempt.over = True  # the parent's: what would join it here would never leave
    for app in list(_apps):
        app._forked()  # noqa: SLF001  # its own module


os.register_at_fork(after_in_child=_all_forked)


class _Decorator:
    """What `@app.task(...)` returns: for the type checker only."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Task[P, R]: ...
    def __call__(self, fn: Callable[..., Any], /) -> Any: ...


def _check_options(options: dict[str, Any]) -> None:
    changed(Options(), options, TaskOptions)


def _default_name(fn: Callable[..., Any]) -> str:
    """`module.function`; a module that runs as a script has the name under which a worker would import it."""
    module = fn.__module__
    if module == "__main__":
        main = sys.modules["__main__"]
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        module = spec.name if spec is not None else Path(file).stem if file else "main"
    return f"{module}.{fn.__qualname__}".replace("<locals>.", "")


def _where(fn: Callable[..., Any]) -> str:
    return f"{fn.__module__}.{fn.__qualname__}"

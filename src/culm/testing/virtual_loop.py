"""An asyncio event loop in virtual time: one integer, the seed, decides every interleaving, and reproduces it.

Rule 1: nothing sleeps; when nothing is ready, the clock jumps to the next timer. Rule 2: of all ready handles, the seed picks the
next (asyncio promises call_soon in order; here that promise is broken on purpose). Rule 3: nothing depends on addresses or string
hashes: tasks and futures are numbered and hash by number, ties of timers go by number, gc rests while `run` runs.
A *node* stands for a process. `with loop.node("w1")` sets a context variable which tasks and callbacks inherit, so each handle tells
whose it is. A stalled node's handles wait aside (SIGSTOP); a killed node's are dropped (SIGKILL): no cancellation, no `finally`.
Python cannot free a suspended coroutine without running its `finally` blocks, so `close` runs those of all unfinished tasks, with
`closed_down` set, no callback of theirs ever run, and their errors and warnings dropped. What reaches outside the loop (a store, a
history) asks `gone()` first, as `faults.Faulty` does.
"""

# ruff: noqa: SLF001 -- an event loop is written against asyncio's protected names; they are the same in 3.11, 3.12 and 3.13

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import warnings
import weakref
from asyncio import events
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from functools import partialmethod
from heapq import heappop, heappush
from random import Random
from typing import Any, NoReturn, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

START_S = 1_000_000.0  # not 0: a clock that steps back an hour stays positive, and a float still tells nanoseconds
DAY_S = 86_400.0
MAX_STEPS_AT_ONCE = 200_000  # without the clock moving: by then it is a busy loop

NODE: ContextVar[str] = ContextVar("culm_node", default="")


class Stuck(RuntimeError):
    """The run cannot end. `tasks` names those that wait, and where."""

    def __init__(self, why: str, tasks: tuple[str, ...]) -> None:
        super().__init__(f"{why}; unfinished: {', '.join(tasks) or 'no task'}")
        self.tasks = tasks


class Deadlock(Stuck):
    """Nothing is ready, and no timer is left."""


class Livelock(Stuck):
    """Things happen, but the clock stands still, or the limit of virtual time is over."""


class NoIO(NotImplementedError):
    """There are no sockets, files, processes or threads in virtual time."""


class _Future(asyncio.Future[Any]):
    __slots__ = ("number",)
    number: int

    def __hash__(self) -> int:
        return self.number  # by address, the order of `done` from asyncio.wait would differ from run to run


class _Task(asyncio.Task[Any]):
    __slots__ = ("context", "number")
    number: int
    context: Context
    _log_destroy_pending: bool
    _log_traceback: bool

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], *, context: Context, **kwargs: Any) -> None:
        self.number, self.context = number, context  # first: asyncio asks for the hash while the task is being made
        super().__init__(coro, context=context, **kwargs)

    def __hash__(self) -> int:
        return self.number  # TaskGroup cancels its members in the order of a set

    @property
    def node(self) -> str:
        return self.context.get(NODE, "")


class VirtualLoop(asyncio.BaseEventLoop):
    """Use `run`, or close it yourself.

    Args:
        seed: decides which ready handle runs next.
        limit_s: virtual time after which the run is stuck.
    """

    _ready: list[asyncio.Handle]
    _stopping: bool
    _closed: bool
    _thread_id: int | None

    def __init__(self, seed: int, *, limit_s: float = DAY_S) -> None:
        super().__init__()
        self.seed = seed
        self.steps = 0  # handles that ran
        self.killed: set[str] = set()
        self.closed_down = False  # what runs now only runs because `close` clears the frames of the dead
        self._ready = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._now, self._limit = START_S, START_S + limit_s
        self._last_step = MAX_STEPS_AT_ONCE  # unless the clock moves before
        self._number = 0
        self._random = Random(seed).random
        self._tasks: list[_Task] = []  # strong: a task that vanishes with its last reference would do so at gc's whim
        self._prune_at = 64
        self._away: dict[str, list[asyncio.Handle]] = {}  # stalled or killed node -> its handles, put aside
        self._stalled: dict[str, float] = {}  # node -> when its stall ends
        self._failures: list[BaseException] = []
        self._agens: weakref.WeakValueDictionary[tuple[int, str], AsyncGenerator[Any, Any]] = weakref.WeakValueDictionary()
        self.set_exception_handler(_collect)

    # -- time and order ------------------------------------------------------------------------------------------------------

    def time(self) -> float:
        return self._now

    def elapsed(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now - START_S

    def call_soon(self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None) -> asyncio.Handle:
        if self._closed:
            raise RuntimeError("Event loop is closed")
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None) -> asyncio.Handle:
        if self._thread_id is not None and self._thread_id != threading.get_ident():
            raise NoIO("a thread called into virtual time; make what it does a task of this loop")
        return self.call_soon(callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None) -> asyncio.TimerHandle:
        if self._closed:
            raise RuntimeError("Event loop is closed")
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._number += 1
        heappush(self._timers, (when, self._number, timer))
        return timer

    def _run_once(self) -> None:
        """Run handles, one by one, until somebody stops the loop."""
        ready, timers, random, away = self._ready, self._timers, self._random, self._away
        while True:
            while timers and timers[0][0] <= self._now:
                ready.append(heappop(timers)[2])
            if not ready:
                if self._stopping:
                    return
                self._jump()
                continue
            i = int(random() * len(ready))
            ready[i], ready[-1] = ready[-1], ready[i]
            handle = ready.pop()  # in this order: the handle before it dies here, and what dies with it may call_soon
            if handle._cancelled:
                continue
            if away and (aside := away.get(handle._context.get(NODE, ""))) is not None:  # type: ignore[attr-defined]
                aside.append(handle)
                continue
            self.steps += 1
            if self.steps > self._last_step:
                raise Livelock(f"{MAX_STEPS_AT_ONCE:,} steps without the clock moving: somebody never sleeps", self._waiting())
            handle._run()
            if self._stopping:
                return

    def _jump(self) -> None:
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heappop(timers)
        if not timers:
            dead = f" (killed: {', '.join(sorted(self.killed))})" if self.killed else ""
            raise Deadlock(f"nothing is ready and no timer is left{dead}", self._waiting())
        if timers[0][0] > self._limit:
            raise Livelock(f"not finished after {self._limit - START_S:,.0f} s of virtual time", self._waiting())
        self._now = timers[0][0]
        self._last_step = self.steps + MAX_STEPS_AT_ONCE

    def _waiting(self) -> tuple[str, ...]:
        return tuple(f"{t.get_name()!r}{f' of {t.node}' if t.node else ''} at {_place(t)}" for t in self.pending())

    # -- nodes ---------------------------------------------------------------------------------------------------------------

    @contextmanager
    def node(self, name: str) -> Iterator[None]:
        """Whatever is started in here belongs to the node; so does the caller while it is in here."""
        if not name or name in self.killed:
            raise ValueError(f"node {name!r} was killed, or has no name; a process that starts again is a new node")
        token = NODE.set(name)
        try:
            yield
        finally:
            NODE.reset(token)

    def stall(self, node: str, *, for_s: float) -> None:
        """SIGSTOP, then SIGCONT: nothing of the node runs until then, its timers fire late. The step that runs now ends first."""
        if node not in self.killed:
            until = self._now + for_s
            self._stalled[node] = max(until, self._stalled.get(node, until))
            self._away.setdefault(node, [])
            self.call_at(until, self._resume, node, context=Context())

    def _resume(self, node: str) -> None:
        if node in self._stalled and self._stalled[node] <= self._now:
            del self._stalled[node]
            self._ready += self._away.pop(node)

    def kill(self, node: str) -> None:
        """SIGKILL: nothing of the node runs ever again. From inside the node, `await never()` next: a step cannot be cut short."""
        if not node:
            raise ValueError("what belongs to no node cannot be killed; start it in `with loop.node(...)`")
        self.killed.add(node)
        self._stalled.pop(node, None)
        self._away.setdefault(node, [])  # not dropped before `close`: they may hold coroutines that were never awaited

    # -- tasks ---------------------------------------------------------------------------------------------------------------

    def create_future(self) -> asyncio.Future[Any]:
        self._number += 1
        future = _Future(loop=self)
        future.number = self._number
        return future

    def create_task(self, coro: Any, *, name: object = None, context: Context | None = None, **kwargs: Any) -> asyncio.Task[Any]:
        if self._closed:
            raise RuntimeError("Event loop is closed")
        self._number += 1
        # asyncio counts names for the whole process: the same seed would tell another tale the second time
        name = f"Task-{self._number}" if name is None else name
        task = _Task(self._number, coro, loop=self, name=name, context=copy_context() if context is None else context, **kwargs)
        self._tasks.append(task)
        if len(self._tasks) > self._prune_at:
            self._tasks = [t for t in self._tasks if not t.done() or t._log_traceback]
            self._prune_at = 64 + 2 * len(self._tasks)
        return task

    def pending(self) -> list[_Task]:
        """Unfinished tasks of the living, the oldest first."""
        return [t for t in self._tasks if not t.done() and t.node not in self.killed]

    def run_in_executor(self, executor: Any, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:  # noqa: ARG002  # none is used
        """Run the function on the loop, at a moment that the seed picks; it must not block."""
        future = self.create_future()
        self.call_soon(_run_inline, self, future, func, args)
        return future

    def _asyncgen_firstiter_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        self._number += 1
        self._agens[self._number, NODE.get()] = agen

    def _asyncgen_finalizer_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        if not (self.closed_down or gone()):
            self.create_task(agen.aclose())

    async def shutdown_asyncgens(self) -> None:
        for agen in [a for (_, node), a in self._agens.items() if node not in self.killed]:
            await agen.aclose()

    # -- the end -------------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Cancel what is left of the living and let it end, as asyncio.run does."""
        while left := self.pending():  # an ending task may start others
            for task in left:
                task.cancel()
            self.run_until_complete(asyncio.wait(left))
        self.run_until_complete(self.shutdown_asyncgens())

    def failures(self) -> list[BaseException]:
        """Errors of callbacks and of living nodes' tasks that nobody has looked at; asking is looking."""
        done = [t for t in self._tasks if t.done() and not t.cancelled() and t._log_traceback and t.node not in self.killed]
        found, self._failures = self._failures, []
        return found + [e for t in done if (e := t.exception()) is not None]

    def close(self) -> None:
        """Let everything go, in silence. What `finally` blocks do from here on stays inside, if proxies ask `gone()`."""
        if self._closed or self.is_running():
            return super().close()  # which does nothing, or refuses
        self.closed_down = True
        if self._away or self._timers or self._ready or any(not t.done() for t in self._tasks):
            self._bury()
        self._tasks.clear()
        return super().close()

    def _bury(self) -> None:
        outer, hook = events._get_running_loop(), sys.unraisablehook
        events._set_running_loop(self)  # so that a `finally` which makes tasks or futures makes them here, where nothing runs
        sys.unraisablehook = lambda _: None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # coroutines that were never awaited: their awaiter is dead
                while self._tasks:
                    if not (task := self._tasks.pop()).done():
                        task._log_destroy_pending = False
                        task.context.run(_close, task.get_coro())
                    del task  # in here, so that what it complains of is not heard
                self._away.clear()
                self._ready.clear()
                self._timers.clear()
        finally:
            events._set_running_loop(outer)
            sys.unraisablehook = hook


def _close(coro: Any) -> None:
    for _ in range(100):  # a `finally` that awaits has to be closed again at each await
        with suppress(BaseException):  # the dead do not complain
            coro.close()
            return


def _collect(loop: Any, context: dict[str, Any]) -> None:
    if not loop.closed_down and not gone():
        loop._failures.append(context.get("exception") or RuntimeError(context["message"]))


def _run_inline(loop: VirtualLoop, future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
    if future.cancelled():
        return
    events._set_running_loop(None)  # as in a real thread, no loop runs here
    try:
        result = func(*args)
    except BaseException as e:  # noqa: BLE001  # whatever it is, it belongs to whoever awaits
        future.set_exception(e)
    else:
        future.set_result(result)
    finally:
        events._set_running_loop(loop)


def _place(task: asyncio.Task[Any]) -> str:
    """Where it waits: the innermost line that is not asyncio's own."""
    coro: Any = task.get_coro()
    place = "?"
    while (frame := getattr(coro, "cr_frame", None)) is not None:
        file = frame.f_code.co_filename
        if place == "?" or "/asyncio/" not in file:
            place = f"{file.rpartition('/')[2]}:{frame.f_lineno} ({frame.f_code.co_name})"
        coro = coro.cr_await
    return place


def gone() -> bool:
    """True in code that no longer counts: its node was killed, or `close` is clearing its frame. It must change nothing."""
    loop = events._get_running_loop()
    return isinstance(loop, VirtualLoop) and (loop.closed_down or NODE.get() in loop.killed)


async def never() -> NoReturn:
    """Wait for ever."""
    while True:
        await asyncio.get_running_loop().create_future()


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]], *, seed: int, limit_s: float = DAY_S) -> T:
    """Run `main(loop)` to its end on a loop of its own, cancel what it left behind, and close the loop.

    Raises what main raises; else an exception group of what nobody handled. A note on every error tells the seed.
    """
    loop, collecting = VirtualLoop(seed, limit_s=limit_s), gc.isenabled()
    gc.disable()
    try:
        result: T = loop.run_until_complete(loop.create_task(main(loop), name="main"))
        loop.settle()
        if failures := loop.failures():
            raise BaseExceptionGroup("nobody handled these", failures)
        return result
    except BaseException as e:
        for failure in loop.failures():
            e.add_note(f"also unhandled: {failure!r}")
        e.add_note(f"seed {seed}: after {loop.elapsed():,.3f} s of virtual time and {loop.steps:,} steps")
        raise
    finally:
        loop.close()
        if collecting:
            gc.enable()


def _refuse(_loop: VirtualLoop, name: str, *_: Any, **__: Any) -> NoReturn:
    raise NoIO(f"loop.{name}: there is no I/O in virtual time; pass something that lives in memory")


for _name in """create_connection create_server create_datagram_endpoint create_unix_connection create_unix_server start_tls sendfile
getaddrinfo getnameinfo add_reader remove_reader add_writer remove_writer sock_recv sock_recv_into sock_recvfrom sock_recvfrom_into
sock_sendall sock_sendto sock_connect sock_accept sock_sendfile connect_accepted_socket connect_read_pipe connect_write_pipe
subprocess_exec subprocess_shell add_signal_handler remove_signal_handler""".split():  # noqa: SIM905  # a list of so many quoted names is harder to read
    setattr(VirtualLoop, _name, partialmethod(_refuse, _name))

"""Busy polling: who sends one job after another gets each reply sooner than the kernel puts a process to sleep and wakes it.

Sleeping and waking take as long as a server nearby takes to answer, or twice that. So a send that is alone and follows another within a
moment waits awake, on a machine with a second processor, and without TLS. First its socket is read again and again, on the event loop,
which stands still for that. Then, if the server is on this machine, the loop turns until the reply is here instead of sleeping: nobody
waits for that, and it gives way (`give_way.py`). So it does where the end of a job is awaited that was sent so. What comes too late all
the same is tried again after a while, and the more often it is late, the later.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from culm.stores.redis.give_way import GiveWay

if TYPE_CHECKING:
    from culm.stores.redis.connection import Connection

MOMENT_S = 0.000_12
AWAKE_S = 0.000_8  # from the send
NEXT_S = 0.003  # from one send to the next
TURN_S = 0.000_5  # as often the loop has a turn, at least
LONGEST_PAUSE = 1_024


class Tries:
    """Whether to try what may fail: after a failure not for a while, and after the next for twice as long."""

    def __init__(self) -> None:
        self._skip, self._pause = 0, 1

    def may(self) -> bool:
        if self._skip:
            self._skip -= 1
            return False
        return True

    def failed(self) -> None:
        self._skip, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)

    def succeeded(self) -> None:
        self._pause = max(1, self._pause // 2)


class BusyPoll:
    """For the sends of one event loop.

    Args:
        loop: that one.
        give_way: gives others the processor.
        on: False: never.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, give_way: GiveWay, *, on: bool) -> None:
        self._loop = loop
        self._give_way = give_way
        self._on = on and _processors() > 1
        self._sends, self._ends = Tries(), Tries()
        self._is_here = False  # the last send was worth it, and its server is on this machine
        self._watch: _Watch | None = None
        self._caller = 0
        self._asked_at = self._turned_at = 0.0

    def asked(self, connection: Connection) -> None:
        """A send that is alone has gone out there; wait for its reply awake, if that is worth it."""
        last, self._asked_at = self._asked_at, (now := time.perf_counter())
        if not self._on or now - last >= NEXT_S or not connection.can_poll or not self._sends.may():
            self._is_here = False
            return
        self._is_here = connection.is_here
        caller = id(asyncio.current_task(self._loop))  # of another, more may come in this turn of the loop
        at_once = now - self._turned_at < TURN_S and caller == self._caller
        if not at_once:
            self._turned_at, self._caller = now, caller
        if connection.poll(MOMENT_S, at_once=at_once):
            self._sends.succeeded()
        elif self._is_here:
            self._stay_awake(connection.has_answered, self._sends)
        else:
            self._sends.failed()

    def awaits(self, end: asyncio.Future[Any]) -> None:
        """Somebody awaits the end of a job. Right after a send that was worth it, this may be, too."""
        if self._is_here and time.perf_counter() - self._asked_at < AWAKE_S and self._ends.may():
            self._stay_awake(end.done, self._ends)

    def _stay_awake(self, is_over: Callable[[], bool], tries: Tries) -> None:
        """The loop is not to sleep until then, unless it does so already for something else."""
        watch = self._watch
        if watch is None or watch.is_over() or time.perf_counter() >= watch.ends_at:
            self._watch = watch = _Watch(is_over, tries, self._asked_at + AWAKE_S)
            self._turn(watch)

    def _turn(self, watch: _Watch) -> None:
        if watch is not self._watch:
            return
        if watch.is_over():
            watch.tries.succeeded()
        elif time.perf_counter() >= watch.ends_at:
            watch.tries.failed()
        elif self._give_way.gave():
            self._loop.call_soon(self._turn, watch)
            return
        self._watch = None


class _Watch(NamedTuple):
    """Why the loop stays awake."""

    is_over: Callable[[], bool]
    tries: Tries
    ends_at: float


def _processors() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

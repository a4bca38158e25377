"""On the spot: a small write is done where it is asked for, on the event loop, while the file takes it as quickly as a thread takes over.

To hand a call to a thread and back costs 0.1 to 0.3 ms, most of it until the kernel has woken the other side. An fsync costs ten times
that on some disks, and no more than that on those with a cache of their own. So the thread is the rule, and the exception has to be
earned: by small writes in a row that were quick. One that was slow, or met a lock, ends it, until it is earned again, on the thread.

Whatever would stop the loop for long stays with the thread: large batches, waiting for another process' lock, checkpoints. So does
whatever takes more than a statement that commits itself: on the main thread a signal may raise between any two, and what it
interrupts must leave neither a transaction open nor the line taken.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from culm.stores.sqlite.file import CHECKPOINT_BYTES, SMALL_CHECKPOINT_BYTES, checkpoint_at
from culm.stores.sqlite.line import Line

T = TypeVar("T")

SMALL = 128  # jobs that are sent, ended or claimed together
SMALL_BYTES = 64 * 1024  # of them
QUICK_S, QUICK_EACH_S = 0.000_75, 0.000_01  # for the write, and for each job in it
IN_A_ROW = 4  # quick ones on the thread, before one is done on the spot
MOST_PAGES = 2_000  # written on the spot, by guess; then the thread writes one all the same, and checkpoints if it is time


class Small(NamedTuple):
    """A write that may be done on the spot."""

    write: Callable[[sqlite3.Connection], Any]  # in one statement at most that changes something; None: that cannot be
    jobs: int  # at most
    counts: bool  # it is sure to change something, so its time says how quick the disk is


class Spot:
    """Does small writes of a desk on the caller's thread.

    Args:
        line: the desk's; whoever has it may write.
        begun: called when something is about to be written; True: it will take longer for once.
        done: called with True when it is.
    """

    def __init__(self, line: Line, *, begun: Callable[[], bool], done: Callable[[bool], None]) -> None:
        self._line = line
        self._begun = begun
        self._done = done
        self._quick = 0  # in a row
        self._pages = 0  # since the thread wrote
        self._without_checkpoints: sqlite3.Connection | None = None
        self._checkpoints_soon: sqlite3.Connection | None = None

    def measured(self, seconds: float, small: Small) -> None:
        """So long it took."""
        if seconds > QUICK_S + small.jobs * QUICK_EACH_S:
            self.was_slow()
        elif small.counts:
            self._quick += 1

    def was_slow(self) -> None:
        self._quick = 0

    def left(self, connection: sqlite3.Connection) -> None:
        """The desk's thread is about to use the line: its commits may checkpoint, the first after what was small sooner than others."""
        self._pages = 0
        if connection is self._without_checkpoints:
            checkpoint_at(connection, SMALL_CHECKPOINT_BYTES)
            self._without_checkpoints, self._checkpoints_soon = None, connection
        elif connection is self._checkpoints_soon:
            checkpoint_at(connection, CHECKPOINT_BYTES)
            self._checkpoints_soon = None

    def do(self, small: Small) -> Any:
        """The write's result; None: it is for the thread, which may find it done already."""
        line, me = self._line, threading.get_ident()
        if self._quick < IN_A_ROW or self._pages > MOST_PAGES or line.lock.locked():
            return None
        with line.lock:  # signals are looked for after a call: between taking the lock and owning it, and between both ends, is none
            line.owner = me
            try:
                return None if line.connection is None else self._do(line.connection, small)
            except Exception:  # noqa: BLE001  # the thread meets the same, and knows what to answer
                self.was_slow()
                return None
            finally:
                line.owner = 0

    def _do(self, connection: sqlite3.Connection, small: Small) -> Any:
        started = time.perf_counter()
        self._pages += 4 + small.jobs
        if connection is not self._without_checkpoints:
            checkpoint_at(connection, 0)
            self._without_checkpoints = connection
        takes_longer = self._begun()
        result = small.write(connection)
        if result is not None:
            self._done(True)
            if not takes_longer:
                self.measured(time.perf_counter() - started, small)
        return result

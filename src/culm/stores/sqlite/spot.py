"""On the spot: a small write is done where it is asked for, on the event loop, while the file takes it as quickly as a thread takes over.

To hand a call to a thread and back costs 0.1 to 0.3 ms, most of it until the kernel has woken the other side. An fsync costs ten times
that on some disks, and no more than that on those with a cache of their own. So the thread is the rule, and the exception has to be
earned: by small writes in a row that were quick, on the thread. One that was slow, or met a lock, ends it, until it is earned again.

Whatever would stop the loop for long stays with the thread: large batches, waiting for another process' lock, checkpoints.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

from culm.stores.sqlite.file import checkpoint_after_commits
from culm.stores.sqlite.line import Line

T = TypeVar("T")

SMALL = 128  # jobs that are sent, ended or claimed together
SMALL_BYTES = 64 * 1024  # of them
QUICK_S, QUICK_EACH_S = 0.000_75, 0.000_01  # for the write, and for each job in it
IN_A_ROW = 4  # quick ones on the thread, before one is done on the spot
MOST_PAGES = 2_000  # written on the spot, by guess; then the thread writes one all the same, and checkpoints if it is time


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

    def measured(self, seconds: float, jobs: int) -> None:
        """So long a write of so many took."""
        self._quick = self._quick + 1 if seconds <= QUICK_S + jobs * QUICK_EACH_S else 0

    def left(self, connection: sqlite3.Connection) -> None:
        """The desk's thread is about to use the line: its commits may checkpoint."""
        self._pages = 0
        if connection is self._without_checkpoints:
            checkpoint_after_commits(connection, yes=True)
            self._without_checkpoints = None

    def do(self, write: Callable[[sqlite3.Connection], T | None], jobs: int) -> T | None:
        """The write's result; None: it is for the thread, which may find it done already."""
        if self._quick < IN_A_ROW or self._pages > MOST_PAGES or (connection := self._line.if_free()) is None:
            return None
        started = time.perf_counter()
        try:
            self._pages += 4 + jobs // 4
            if connection is not self._without_checkpoints:
                checkpoint_after_commits(connection, yes=False)
                self._without_checkpoints = connection
            takes_longer = self._begun()
            result = write(connection)
            if result is not None:
                self._done(True)
        except Exception:  # noqa: BLE001  # the thread meets the same, and knows what to answer
            self._quick = 0
            return None
        finally:
            self._line.give_back()
        if not takes_longer:
            self.measured(time.perf_counter() - started, jobs)
        return result

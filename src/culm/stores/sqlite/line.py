"""A line is a connection that lets the process fork: it is closed before, and opened anew on either side at its next use.

SQLite keeps what a process has of a file (its locks, the index of the WAL) in tables of that process. A fork copies the tables
but not the locks, so parent and child would each take them for theirs and write over each other. Therefore all lines are parked
while the process forks: a transaction that is under way ends first, and whoever comes next waits until the fork is over.

A transaction that does not end within `forks.PARKING_WAIT_S` does not stop the fork: the child then refuses to use that file.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from culm import forks
from culm.errors import StoreError


class Line:
    """`with line as connection:` one thread at a time uses it, for one transaction.

    Args:
        path: the file.
        connect: opens the connection, for use by any thread.

    Attributes:
        lock: whoever has it may use the connection.
        connection: None: not open now.
        owner: the thread that has the lock, if that never leaves a transaction open: it may fork in the middle, in the handler of a signal.
    """

    def __init__(self, path: Path, connect: Callable[[], sqlite3.Connection]) -> None:
        self._path = os.path.realpath(path)
        self._connect = connect
        self.connection: sqlite3.Connection | None = None
        self.lock = threading.Lock()
        self.owner = 0
        self._parked = self._is_own = False
        forks.park_while_forking(self)

    def __enter__(self) -> sqlite3.Connection:
        """Raises sqlite3.Error when it cannot be opened, StoreError when this process may not use the file."""
        self.lock.acquire()
        self.owner = 0
        try:
            if self.connection is None:
                if self._path in _lost:
                    raise StoreError(
                        f"this process was forked while its parent was writing {self._path} for more than {forks.PARKING_WAIT_S:g} s, "
                        "and cannot use that file; fork earlier, or start a new process instead (multiprocessing: 'spawn')"
                    )
                self.connection = self._connect()
        except BaseException:
            self.lock.release()
            raise
        return self.connection

    def __exit__(self, *_: object) -> None:
        self.lock.release()

    def close(self) -> None:
        with self.lock:
            self._hang_up()

    def _hang_up(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()

    # -- around a fork ------------------------------------------------------------------------------------------------------

    def park(self, patience_s: float) -> None:
        self._is_own = self.lock.locked() and self.owner == threading.get_ident()
        self._parked = self._is_own or self.lock.acquire(timeout=patience_s)
        if self._parked:
            self._hang_up()

    def go_on(self) -> None:
        if self._parked:
            self._parked = False
            if not self._is_own:
                self.lock.release()

    def begin_anew(self) -> None:
        if not self._parked:
            _lost.add(self._path)
            _never_closed.append(self.connection)  # to close it would undo the parent's transaction
            self.connection = None
        self._parked, self.owner, self.lock = False, 0, threading.Lock()


_lost: set[str] = set()  # files whose locks this process inherited in name only
_never_closed: list[sqlite3.Connection | None] = []

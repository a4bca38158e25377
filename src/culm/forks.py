"""What a fork waits for, and what its child is told. The hooks are here, for all, because those of a module that is imported while
a process forks would miss the first half of it.

In this order: stores that are being opened (their thread may be importing, and the child would wait for ever for a lock of Python's
whose holder it has not), then connections that must not be in use. In the child, whoever begins anew.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Protocol
from weakref import WeakSet

log = logging.getLogger("culm")

OPENING_WAIT_S = 1.0
PARKING_WAIT_S = 15.0  # longer than anybody waits for a lock of a file


class Parks(Protocol):
    """What must rest while the process forks."""

    def park(self, patience_s: float) -> None:
        """Let it rest; it may fail to, in time."""
        ...

    def go_on(self) -> None:
        """In the parent, afterwards."""
        ...

    def begin_anew(self) -> None:
        """In the child, instead: other threads are not here, nor what they held."""
        ...


class Forked(Protocol):
    """Something whose threads and locks the child of a fork does not have."""

    def forked(self) -> None:
        """Called in the child: begin anew, what was asked in the parent is the parent's."""
        ...


class Opening:
    """`with opening:` one thread at a time opens a store."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = self._parked_by = 0  # threads
        _openings.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()
        self._owner = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        if self._owner:  # else the handler of a signal has forked in here, and this is the child: it holds nothing
            self._owner = 0
            self._lock.release()

    def park(self, patience_s: float) -> None:
        if self._lock.acquire(timeout=patience_s):
            self._parked_by = threading.get_ident()

    def go_on(self) -> None:
        if self._parked_by == threading.get_ident():
            self._parked_by = 0
            self._lock.release()

    def begin_anew(self) -> None:
        self._lock, self._owner, self._parked_by = threading.Lock(), 0, 0


_openings: WeakSet[Opening] = WeakSet()
_connections: WeakSet[Parks] = WeakSet()
_connections_lock = threading.Lock()  # held while the process forks, so that none is missed
_told: WeakSet[Forked] = WeakSet()


def park_while_forking(connection: Parks) -> None:
    """As long as it lives."""
    with _connections_lock:
        _connections.add(connection)


def tell_of_forks(what: Forked) -> None:
    """Call its `forked` in the child of a fork, as long as it lives."""
    _told.add(what)


def _before() -> None:
    for opening in list(_openings):
        opening.park(OPENING_WAIT_S)
    _connections_lock.acquire()
    give_up_at = time.monotonic() + PARKING_WAIT_S
    for connection in _connections:
        connection.park(max(0.0, give_up_at - time.monotonic()))


def _after_in_parent() -> None:
    for connection in _connections:
        connection.go_on()
    _connections_lock.release()
    for opening in list(_openings):
        opening.go_on()


def _after_in_child() -> None:
    global _connections_lock
    _connections_lock = threading.Lock()
    for opening in list(_openings):
        opening.begin_anew()
    for connection in _connections:
        connection.begin_anew()
    for what in list(_told):
        try:
            what.forked()
        except Exception:  # the others must begin anew, too
            log.exception("fork: %r", what)


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)

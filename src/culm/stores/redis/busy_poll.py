"""Busy polling: who sends one job after another gets each reply sooner than the kernel puts a process to sleep and wakes it.

That takes as long as a server nearby takes to answer. So for a moment the socket is read again and again, on the event loop. It has to be
earned, as a write on the spot has with SQLite: by a send that is alone and follows the reply to another within a millisecond, to a server
that answered the last few within little more than that moment; on a machine with a second processor, and without TLS. A reply that does
not come in that moment comes as always, and the next few have to be quick again.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from culm.stores.redis.connection import Connection

MOMENT_S = 0.000_12
QUICK_S = 0.000_2  # with the sleep
NEXT_S = 0.001  # from a reply to the next send
IN_A_ROW = 4


class BusyPoll:
    """For the sends of one event loop.

    Args:
        on: False: never.
    """

    def __init__(self, *, on: bool) -> None:
        self._on = on and _processors() > 1
        self._quick = 0  # replies in a row
        self._asked_at = self._replied_at = 0.0

    def asked(self, connection: Connection) -> None:
        """A send that is alone has gone out there; wait for its reply awake, if that is worth it."""
        self._asked_at = now = time.perf_counter()
        if self._on and self._quick >= IN_A_ROW and now - self._replied_at < NEXT_S and not connection.poll(MOMENT_S):
            self._quick = 0

    def replied(self) -> None:
        """The reply to it is here."""
        self._replied_at = now = time.perf_counter()
        self._quick = self._quick + 1 if now - self._asked_at < QUICK_S else 0


def _processors() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""Giving way: a server that shares a processor with who asks it has that processor when it was asked, not when the asker's turn is over.

A worker in the middle of its jobs asks for more, and goes on. Where the server waits for the very processor on which that happens, all
workers wait with it, and another processor stands idle: a kernel does not hurry to move who ran a moment ago, and prefers who ran less.
So whoever asked a server on its own machine yields. Where nobody waits, that takes a microsecond. Where a stranger who computes does,
he keeps the processor for a whole turn, which is longer than a server takes to answer: then nobody gives way for a while, and
if that happens again soon, for a longer one.
"""

from __future__ import annotations

import ipaddress
import os
import time

STRANGER_S = 0.002  # an answer takes less
FIRST_PAUSE_S, LONGEST_PAUSE_S, LONGER = 0.05, 10.0, 4
IN_A_ROW = 64  # times without a stranger: the next pause is a first one again


class GiveWay:
    """For what one event loop asks."""

    def __init__(self) -> None:
        self._on = hasattr(os, "sched_yield")
        self._pause_s = FIRST_PAUSE_S
        self._ends_at = 0.0  # of the pause
        self._in_a_row = 0

    def asked(self) -> None:
        """Something has gone to a server on this machine."""
        began = time.perf_counter()
        if not self._on or began < self._ends_at:
            return
        os.sched_yield()
        ended = time.perf_counter()
        if ended - began < STRANGER_S:
            self._in_a_row += 1
            if self._in_a_row == IN_A_ROW:
                self._pause_s = FIRST_PAUSE_S
            return
        self._in_a_row = 0
        self._ends_at = ended + self._pause_s
        self._pause_s = min(self._pause_s * LONGER, LONGEST_PAUSE_S)


def is_here(peer: object) -> bool:
    """Whether a socket's other end, as asyncio names it, is on this machine: a path, or a loopback address."""
    if not isinstance(peer, tuple):
        return isinstance(peer, str | bytes)
    try:
        return ipaddress.ip_address(peer[0]).is_loopback
    except ValueError:
        return False

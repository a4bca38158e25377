"""Giving way: a server that shares a processor with who asks it has that processor when it was asked, not when the asker's turn is over.

A worker in the middle of its jobs asks for more, and goes on. Where the server waits for the very processor on which that happens, all
workers wait with it, and another processor stands idle: a kernel does not hurry to move who ran a moment ago, and prefers who ran less.
So whoever asked a server on its own machine yields. Where nobody waits, that takes a microsecond. Where a stranger who computes does,
he keeps the processor for a whole turn, which is longer than a server takes to answer: when that happens twice within a few yields that
somebody used, nobody gives way for a while, and for a longer one if it goes on. Once among many is no stranger, but a slow moment.
"""

from __future__ import annotations

import ipaddress
import os
import time

STRANGER_S = 0.002  # an answer takes less
USED_S = 0.000_05  # somebody had the processor meanwhile
STRIKE = 4  # quick yields that somebody used, which make up for one that was long
FIRST_PAUSE_S, LONGEST_PAUSE_S, LONGER = 0.05, 10.0, 4
IN_A_ROW = 64  # quick yields: the next pause is a first one again


class GiveWay:
    """For what one event loop asks."""

    def __init__(self) -> None:
        self._on = hasattr(os, "sched_yield")
        self._pause_s = FIRST_PAUSE_S
        self._ends_at = 0.0  # of the pause
        self._strikes = 0
        self._in_a_row = 0

    def gave(self) -> bool:
        """Yield. False: a stranger had the processor, or would have it."""
        began = time.perf_counter()
        if not self._on or began < self._ends_at:
            return False
        os.sched_yield()
        away_s = time.perf_counter() - began
        if away_s >= STRANGER_S:
            self._was_long(began + away_s)
            return False
        if away_s >= USED_S:
            self._strikes = max(0, self._strikes - 1)
        self._in_a_row += 1
        if self._in_a_row == IN_A_ROW:
            self._pause_s = FIRST_PAUSE_S
        return True

    def _was_long(self, now: float) -> None:
        self._in_a_row = 0
        self._strikes += STRIKE
        if self._strikes >= 2 * STRIKE:
            self._strikes = STRIKE  # after the pause one is enough
            self._ends_at = now + self._pause_s
            self._pause_s = min(self._pause_s * LONGER, LONGEST_PAUSE_S)


def is_here(peer: object) -> bool:
    """Whether a socket's other end, as asyncio names it, is on this machine: a path, or a loopback address."""
    if not isinstance(peer, tuple):
        return isinstance(peer, str | bytes)
    try:
        return ipaddress.ip_address(peer[0]).is_loopback
    except ValueError:
        return False

"""What a module in `queues/` gives: a client with one call to enqueue a no-op and one to await a result, and tasks that tick.

A tick is eight bytes at the end of one file, for each run of a no-op: their number is the number of runs (a loss or a second run
shows), the first and the last are the span. Nothing has to ask the queue how far it is. It costs about a microsecond a task.

Standard library only: this file is imported in the environment of every peer.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

CONCURRENCY = 100  # attempts at once, where a worker is asyncio
THREADS = 8  # where it runs threads
RESULT_S = 60  # how long results are kept
PATIENCE_S = 120  # how long a caller waits for one

URL = os.environ.get("PEER_URL", "redis://127.0.0.1:6379")
TICKS = os.environ.get("PEER_TICKS", os.devnull)
_file: int | None = None


def tick() -> None:
    """Note that a no-op ran."""
    global _file
    if _file is None:  # opened late: workers fork
        _file = os.open(TICKS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(_file, struct.pack("d", time.monotonic()))


@dataclass(frozen=True, kw_only=True)
class AsyncClient:
    """A peer with an asyncio interface. `call` gets how often to look, in seconds, where the peer polls for results."""

    start: Callable[[], Awaitable[object]]
    enqueue: Callable[[int], Awaitable[object]]
    call: Callable[[int, float], Awaitable[object]]
    fill: Callable[[int], Awaitable[object]] | None = None  # None: a hundred enqueues at once


@dataclass(frozen=True, kw_only=True)
class BlockingClient:
    """A peer with a blocking interface: concurrent callers are threads."""

    enqueue: Callable[[int], object]
    call: Callable[[int, float], object]
    fill: Callable[[int], object] | None = None  # None: one enqueue after another

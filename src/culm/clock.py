"""Time, randomness and ids come from outside, so that a test can own them.

`SystemClock` is the wall clock, in milliseconds. Only stores judge by it: durations travel, instants do not. Whoever
waits uses its event loop's own monotonic time.
"""

from __future__ import annotations

import random
import threading
import time
from typing import Protocol


class Clock(Protocol):
    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        ...


class SystemClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


class Ids:
    """Makes ids that grow with time, which keeps a store's index append-only, and never collide between processes.

    An id is 12 hexadecimal digits of milliseconds, 4 of a counter, and 10 that are random per process.
    """

    def __init__(self, clock: Clock, rng: random.Random | None = None) -> None:
        self._clock = clock
        self._rng = rng or random.SystemRandom()
        self._last = 0
        self._lock = threading.Lock()
        self.renew()

    def renew(self) -> None:
        """Become another maker: after a fork, two processes would make the same ids."""
        self._lock = threading.Lock()
        self._suffix = f"{self._rng.getrandbits(40):010x}"

    def new(self) -> str:
        """A new id of 26 characters; greater than every earlier one from here."""
        now = self._clock.now_ms() << 16
        with self._lock:  # `def` tasks and `.sync` send from threads
            self._last = last = now if now > self._last else self._last + 1
        return last.to_bytes(8, "big").hex() + self._suffix  # half the time of a format

"""When a client comes back to a server that it lost: each at a moment of its own within a cycle, so that many are no herd.

The cycle is as long as the server's clients need at `AT_ONCE` in a second: a few return at once, hundreds within seconds. The
moments of clients with consecutive numbers lie evenly in it (multiples of the golden ratio), where random ones would make heaps.
A client that comes too early tries again one cycle later, so it keeps its place.
"""

from __future__ import annotations

import random

AT_ONCE = 100  # connections in a second
SHORTEST_S = 0.25
RETURN_S = 6.0  # the longest cycle; also when it is not known how many they are
GOLDEN = 0.6180339887498949


class Pace:
    def __init__(self, rng: random.Random) -> None:
        self._place = rng.random()  # in the cycle, from 0 to 1
        self._clients: int | None = None

    def met(self, *, number: int | None, clients: int | None) -> None:
        """What the server said: this client's number, and how many there are; None: it does not tell."""
        if number is not None:
            self._place = number * GOLDEN % 1
        if clients is not None:
            self._clients = clients

    def pause_s(self, now: float) -> float:
        """Seconds from `now`, by any clock that only grows, until this client's moment."""
        cycle = RETURN_S if self._clients is None else min(RETURN_S, max(SHORTEST_S, self._clients / AT_ONCE))
        return (self._place * cycle - now) % cycle

"""Short turns: while a desk works, a thread that waits for the interpreter gets it sooner.

A statement lets go of the interpreter's lock, and then needs it again for a few microseconds of Python. A busy event loop gives it up at
the end of its turn only, which is half a millisecond or five: by then the file could have taken the next batch. How long a turn is
holds for the whole process, so it is short for as long as a desk has something to do, and what it was before at any other time.
"""

from __future__ import annotations

import sys
import threading

from culm.forks import tell_of_forks

TURN_S = 0.000_05
ROUNDING_S = 0.000_000_5  # a turn is cut to whole microseconds: what was read and set again would become shorter each time


class ShortTurns:
    """For the whole process, so many may have begun at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._usual = self._short = 0.0

    def begin(self) -> None:
        with self._lock:
            if not self._users:
                self._usual = sys.getswitchinterval() + ROUNDING_S
                sys.setswitchinterval(min(TURN_S, self._usual))
                self._short = sys.getswitchinterval()
            self._users += 1

    def end(self) -> None:
        with self._lock:
            if self._users == 1:
                self._usual_again()
            self._users -= 1

    def forked(self) -> None:
        """In the child of a fork: the threads that used them are the parent's."""
        self._lock, self._users = threading.Lock(), 0
        self._usual_again()

    def _usual_again(self) -> None:
        if sys.getswitchinterval() == self._short:  # else somebody has set it meanwhile
            sys.setswitchinterval(self._usual)


short_turns = ShortTurns()
tell_of_forks(short_turns)

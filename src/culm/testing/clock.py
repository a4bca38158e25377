"""A clock that a test moves by hand: nothing in a test waits for time to pass."""

from __future__ import annotations

START_MS = 1_700_000_000_000  # as far from zero as a real clock: a due that was computed from nothing shows


class ManualClock:
    def __init__(self, now_ms: int = START_MS) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms

    def advance(self, *, ms: int) -> None:
        """Let time pass. It never runs backwards: a store may rely on that."""
        if ms < 0:
            raise ValueError(f"time does not run backwards (ms={ms})")
        self._now_ms += ms

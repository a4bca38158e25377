"""Ends of which this process is told although nobody looked for them yet.

Where of late at least half of what was sent is awaited, the script that sends a job asks to be told of its end, too. Whoever awaits
it then need not look first, which saves a trip for each wave of callers. A wrong guess costs a message, and nothing else: what does
not come is looked for after a second, as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

WINDOW = 256  # sends, of which at least half are awaited
MOST = 4_096  # ends that are expected
MOST_BYTES = 1_024  # of an outcome that is kept until somebody awaits it
FRESH_S = 1.0  # later, it may have been replayed, discarded or forgotten: whoever awaits it looks
SUCCEEDED = b"F1 "  # how the outcome of a success begins

Taken: TypeAlias = bytes | Literal["look", "wait"]  # its outcome; or what whoever awaits it has to do


class Expected:
    """Args: now: seconds by a clock that only grows."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._sent = self._awaited = 0  # of late
        self._told: dict[bytes, tuple[bytes, float] | None] = {}  # whose end -> its outcome, and when that came

    def sends(self, job_ids: Sequence[str]) -> bool:
        """These are about to be sent. Are their ends to be told?"""
        self._sent += len(job_ids)
        if self._sent > WINDOW:
            self._sent, self._awaited = self._sent // 2, self._awaited // 2
        if 2 * self._awaited < self._sent:
            return False
        if len(self._told) + len(job_ids) > MOST:
            self._told.clear()  # whoever awaits them looks
        self._told.update(dict.fromkeys([job_id.encode() for job_id in job_ids]))
        return True

    def never_mind(self, job_ids: Sequence[str]) -> None:
        """It is not known whether the server was asked to tell."""
        for job_id in job_ids:
            self._told.pop(job_id.encode(), None)

    def take(self, name: bytes) -> Taken:
        """Somebody awaits that job."""
        self._awaited = min(self._awaited + 1, self._sent)
        if name not in self._told:
            return "look"
        told = self._told.pop(name)
        if told is None:
            return "wait"
        return told[0] if self._now() - told[1] < FRESH_S else "look"

    def keep(self, name: bytes, outcome: bytes) -> None:
        """That job ended; keep a success until somebody awaits it. A failure may be replayed, so whoever awaits that looks."""
        if name not in self._told:
            return
        if outcome.startswith(SUCCEEDED) and len(outcome) <= MOST_BYTES:
            self._told[name] = outcome, self._now()
        else:
            del self._told[name]

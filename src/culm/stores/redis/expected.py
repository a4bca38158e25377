"""Ends of which this process is told although nobody has looked for them.

Where of late at least half of what was sent is awaited, a job's record names the channel on which to tell of its end. Whoever then
awaits it need not look first, which saves a trip for each wave of callers. It is no more than that: a wait that began without a look
ends with one, and what ended before it was awaited is looked for.
"""

from __future__ import annotations

from collections.abc import Sequence

WINDOW = 256  # sends, of which at least half are awaited
MOST = 4_096  # ends that are expected


class Expected:
    def __init__(self) -> None:
        self._sent = self._awaited = 0  # of late
        self._jobs: dict[str, bool] = {}  # whose ends are to be told -> the server has said that it will

    def asks(self, n: int) -> bool:
        """So many are sent next. Are their ends to be told?"""
        return 2 * self._awaited >= self._sent + n

    def sends(self, job_ids: Sequence[str], *, asked: bool) -> None:
        """These are about to be sent, and asked to be told of."""
        self._sent += len(job_ids)
        if self._sent > WINDOW:
            self._sent, self._awaited = self._sent // 2, self._awaited // 2
        if asked:
            if len(self._jobs) + len(job_ids) > MOST:
                self._jobs.clear()  # whoever awaits them looks
            self._jobs.update(dict.fromkeys(job_ids, False))

    def sent(self, job_ids: Sequence[str], *, asked: bool) -> None:
        """The server has answered. False: it was not asked to tell of these, or nobody knows."""
        jobs = self._jobs
        for job_id in job_ids:
            if not asked:
                jobs.pop(job_id, None)
            elif job_id in jobs:
                jobs[job_id] = True

    def awaits(self, job_id: str) -> bool:
        """Somebody awaits that job. True: its end is yet to be told."""
        if self._awaited < self._sent:
            self._awaited += 1
        return self._jobs.pop(job_id, False)

    def ended(self, job_ids: Sequence[str]) -> None:
        """These were told. Whoever awaits one of them later looks."""
        if self._jobs:
            for job_id in job_ids:
                self._jobs.pop(job_id, None)

"""Ends of which this process is told although nobody has looked for them.

Where of late at least half of what was sent is awaited, the script that sends a job asks to be told of its end, too. Whoever then awaits
it need not look first, which saves a trip for each wave of callers. It is no more than that: a wait that began without a look ends
with one, and what ended before it was awaited is looked for.
"""

from __future__ import annotations

from collections.abc import Sequence

WINDOW = 256  # sends, of which at least half are awaited
MOST = 4_096  # ends that are expected


class Expected:
    def __init__(self) -> None:
        self._sent = self._awaited = 0  # of late
        self._jobs: dict[bytes, bool] = {}  # whose ends are to be told -> the server has said that it will

    def sends(self, job_ids: Sequence[str]) -> bool:
        """These are about to be sent. Are their ends to be told?"""
        self._sent += len(job_ids)
        if self._sent > WINDOW:
            self._sent, self._awaited = self._sent // 2, self._awaited // 2
        if 2 * self._awaited < self._sent:
            return False
        if len(self._jobs) + len(job_ids) > MOST:
            self._jobs.clear()  # whoever awaits them looks
        self._jobs.update(dict.fromkeys([job_id.encode() for job_id in job_ids], False))
        return True

    def sent(self, job_ids: Sequence[str], *, asked: bool) -> None:
        """The server has answered. False: it was not asked to tell of these, or nobody knows."""
        jobs = self._jobs
        for name in [job_id.encode() for job_id in job_ids]:
            if not asked:
                jobs.pop(name, None)
            elif name in jobs:
                jobs[name] = True

    def awaits(self, name: bytes) -> bool:
        """Somebody awaits that job. True: its end is yet to be told."""
        self._awaited = min(self._awaited + 1, self._sent)
        return self._jobs.pop(name, False)

    def ended(self, name: bytes) -> None:
        """That was told. Whoever awaits it later looks."""
        self._jobs.pop(name, None)

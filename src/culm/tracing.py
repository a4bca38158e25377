"""The seam for traces: what an app asks of whoever follows jobs from their sender to what they start. `telemetry/otel.py` is one.

A trace travels in `Job.headers`, as W3C writes it: `traceparent` and `tracestate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from culm.job import Delivery, Job
from culm.middleware import Next
from culm.outcome import Outcome


class Tracing(Protocol):
    def sending(self, jobs: Sequence[Job]) -> AbstractContextManager[list[Job]]:
        """While these jobs are sent. Gives them as they should be sent: with the trace in their headers."""
        ...

    def leaving(self, job: Job) -> Job:
        """A job that leaves with the commit of the attempt that runs here, with the trace in its headers."""
        ...

    def onward(self, job: Job) -> Job:
        """The job that runs here, for another process that is to run it: with this run in its headers."""
        ...

    def go_on(self, job: Job) -> None:
        """In that process: what follows in this context belongs to that run."""
        ...

    async def __call__(self, delivery: Delivery, next: Next, /) -> Outcome:  # noqa: A002  # the word of middleware
        """The outermost middleware of a worker: while an attempt runs."""
        ...

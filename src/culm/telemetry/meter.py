"""What a worker counts, as plain numbers: no library, no lock, next to no time. Only its event loop writes here.

A job costs two look-ups, two bisections and a few additions; that is why this is not a library's histogram, which takes a lock
for each. Whoever shows the numbers (`prometheus.py`) reads them from another thread, and may miss the job of this moment.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence

from culm.batch import Answer
from culm.commit import Commit
from culm.current import Attempt
from culm.errors import StoreUnavailable
from culm.job import Job
from culm.outcome import Outcome

SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0)
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
UNKNOWN = "(unknown)"  # a task that this app has not: a message must not be able to make up names without end


class Histogram:
    """How many observations lie at or below each bound (and above the last), and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class TaskTally:
    """Of one task: how long its attempts waited and ran, and what they came to."""

    __slots__ = ("outcomes", "run_s", "wait_s")

    def __init__(self) -> None:
        self.wait_s = Histogram(SECONDS)
        self.run_s = Histogram(SECONDS)
        self.outcomes: dict[type[Outcome], int] = {}


class Meter:
    """The numbers of one worker.

    Args:
        tasks: the names that may become labels.
        now: the runner's clock.

    Attributes:
        redelivered: attempts at jobs on which a lease had run out.
        fenced: commits that were refused because another worker had the job.
        unanswered: calls that the store did not answer.
        reconnects: how often it answered again after that.
        suspects: jobs that were running in a process that died; counted by whoever notices.
    """

    def __init__(self, tasks: Collection[str], now: Callable[[], float]) -> None:
        self._known = tasks
        self._now = now
        self.tasks: dict[str, TaskTally] = {}
        self.commits = Histogram(SIZES)
        self.claims = Histogram(SIZES)
        self.commit_s = Histogram(SECONDS)
        self.redelivered = self.fenced = self.unanswered = self.reconnects = self.suspects = 0
        self._away = False

    def ended(self, attempt: Attempt, outcome: Outcome) -> None:
        """An attempt has ended, or came to something without running."""
        job = attempt.job
        tally = self.tasks.get(job.task)
        if tally is None:
            tally = self._tally(job.task)
        outcomes, kind = tally.outcomes, type(outcome)
        outcomes[kind] = outcomes.get(kind, 0) + 1
        if attempt.began:
            ran_s = self._now() - attempt.began
            run = tally.run_s
            run.counts[bisect_left(SECONDS, ran_s)] += 1
            run.sum += ran_s
            delivery = attempt.delivery
            if delivery.fence > 1:
                self.redelivered += 1 if delivery.expiries else 0
            elif (waited_s := waited(job, delivery.age_ms)) is not None:
                wait = tally.wait_s
                wait.counts[bisect_left(SECONDS, waited_s)] += 1
                wait.sum += waited_s

    def answered(self, commits: Sequence[Commit], answers: Sequence[Answer], took_s: float) -> None:
        """A batch came back from the store."""
        self.commits.observe(len(commits))
        self.commit_s.observe(took_s)
        if "lease_lost" in answers:
            pairs = zip(commits, answers, strict=True)
            self.fenced += sum(1 for commit, answer in pairs if answer == "lease_lost" and commit.fence is not None)

    def called(self, failure: Exception | None = None) -> None:
        """The store answered a call, or failed to."""
        if isinstance(failure, StoreUnavailable):
            self.unanswered += 1
            self._away = True
        elif self._away:
            self.reconnects += 1
            self._away = False

    def _tally(self, name: str) -> TaskTally:
        name = name if name in self._known else UNKNOWN
        return self.tasks.setdefault(name, TaskTally())


def waited(job: Job, age_ms: int) -> float | None:
    """Seconds from when the job was due until its first claim; None: it was due by something else than its delay."""
    if job.after_ms is None or job.at_ms is not None:
        return None
    return max(0, age_ms - job.after_ms) / 1000

"""What a worker counts, as plain numbers: no library, no lock, next to no time. Only its event loop writes here.

A job costs one look-up and two appends. What was appended is folded into histograms once a batch of commits comes back, by sorting
it, which C does; a library's histogram takes a lock and walks its buckets for each value. Whoever shows the numbers
(`prometheus.py`) reads them from another thread, and may miss the batch of this moment.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias

from culm.commit import Commit
from culm.current import Attempt
from culm.errors import StoreUnavailable
from culm.outcome import Outcome, Succeeded
from culm.sender import Answer

SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0)
MILLISECONDS = tuple(round(bound * 1000) for bound in SECONDS)
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
FEW = 8  # values that are not worth sorting
UNKNOWN = "(unknown)"  # a task that this app has not: a message must not be able to make up names without end

End: TypeAlias = Callable[[Attempt, Outcome], None]


class Histogram:
    """How many observations lie at or below each bound (and above the last), and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum: float = 0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def fold(self, values: list[float]) -> None:
        """Take all of them, and empty the list."""
        if len(values) < FEW:
            for value in values:
                self.observe(value)
        else:
            values.sort()
            below = 0
            for n, bound in enumerate(self.bounds):
                upto = bisect_right(values, bound, below)
                self.counts[n] += upto - below
                below = upto
                if below == len(values):
                    break
            self.counts[-1] += len(values) - below
            self.sum += sum(values)
        values.clear()


class TaskTally:
    """Of one task: how long its attempts waited and ran, and what they came to."""

    __slots__ = ("others", "ran", "ran_s", "unlike", "waited", "waited_ms")

    def __init__(self) -> None:
        self.ran_s = Histogram(SECONDS)
        self.waited_ms = Histogram(MILLISECONDS)
        self.others: dict[type[Outcome], int] = {}  # of attempts that did not both run and succeed
        self.unlike = 0  # of these, those that ran
        self.ran: list[float] = []  # not folded yet
        self.waited: list[float] = []

    def fold(self) -> None:
        if self.ran:
            self.ran_s.fold(self.ran)
        if self.waited:
            self.waited_ms.fold(self.waited)

    def outcomes(self) -> dict[type[Outcome], int]:
        found = self.others.copy()
        if succeeded := sum(self.ran_s.counts) - self.unlike:
            found[Succeeded] = found.get(Succeeded, 0) + succeeded
        return found


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
        suspects: jobs that were running in a process that died; counted by the one that was told to go on for it.
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

    def around(self, end: End) -> End:
        """What counts that an attempt has ended, or came to something without running, and then calls `end`."""
        now, find = self._now, self.tasks.get  # bound once, not for each job

        def ended(attempt: Attempt, outcome: Outcome) -> None:
            job = attempt.job
            tally = find(job.task)
            if tally is None:
                tally = self._tally(job.task)
            began = attempt.began
            if began:
                tally.ran.append(now() - began)
                delivery = attempt.delivery
                if delivery.fence == 1:
                    if job.after_ms is not None and job.at_ms is None:  # else it was due by something else than its delay
                        tally.waited.append(delivery.age_ms - job.after_ms)
                elif delivery.expiries:
                    self.redelivered += 1
                if type(outcome) is not Succeeded:
                    tally.unlike += 1
                    tally.others[type(outcome)] = tally.others.get(type(outcome), 0) + 1
            else:
                tally.others[type(outcome)] = tally.others.get(type(outcome), 0) + 1
            end(attempt, outcome)

        return ended

    def answered(self, commits: Sequence[Commit], answers: Sequence[Answer], took_s: float) -> None:
        """A batch came back from the store."""
        self.commits.observe(len(commits))
        self.commit_s.observe(took_s)
        for tally in self.tasks.values():
            tally.fold()
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

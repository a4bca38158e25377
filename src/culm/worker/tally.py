"""What a worker says of its queues with every heartbeat: how many attempts ended within the last minute, how long they ran and waited.

Nothing is done for each job. A tick, twenty times a second, adds up the time that attempts have run (so many of them, so long since
the last tick); divided by how many ended that is the mean run time. How many ended follows from what was fed and what is still here.
How long jobs waited is known of a few of each claim: first attempts that were sent without a delay, from their send to the claim.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import islice

from culm.current import Attempt
from culm.job import Delivery
from culm.store import Load

OVER_S = 60.0
EVERY_S = 1.0  # between two looks that are kept
SAMPLES = 8  # of one claim
MOST_SHOWN = 50  # attempts that a heartbeat names


class Tally:
    """Counts for the slots of one worker; `fed`, `given_back` and `tick` on its loop, the rest from the heart's thread, too."""

    def __init__(self, queues: Sequence[str]) -> None:
        self._queues = tuple(queues)
        self._only = queues[0] if len(queues) == 1 else ""
        self._fed: Counter[str] = Counter()  # less what was given back
        self._ended: Counter[str] = Counter()
        self._running: Counter[str] = Counter()
        self._ran_s = dict.fromkeys(self._queues, 0.0)
        self._waited: Counter[str] = Counter()
        self._waited_ms: Counter[str] = Counter()
        self._ticked = 0.0
        self._looks: deque[tuple[float, dict[str, tuple[int, float, int, int]]]] = deque()

    def fed(self, deliveries: Sequence[Delivery]) -> None:
        """These were claimed."""
        if self._only:
            self._fed[self._only] += len(deliveries)
        else:
            self._fed.update([delivery.job.queue for delivery in deliveries])
        for delivery in deliveries[:: max(1, len(deliveries) // SAMPLES)]:
            job = delivery.job
            if delivery.fence == 1 and job.after_ms == 0 and job.at_ms is None:
                self._waited[job.queue] += 1
                self._waited_ms[job.queue] += delivery.age_ms

    def given_back(self, delivery: Delivery) -> None:
        """It did not start here."""
        self._fed[delivery.job.queue] -= 1

    def tick(self, now: float, running: Iterable[Attempt], buffer: Sequence[Delivery]) -> None:
        """So many run now."""
        self._running = self._count([attempt.delivery for attempt in running])
        waiting = self._count(buffer)
        passed = now - self._ticked if self._ticked else 0.0
        self._ticked = now
        for queue in self._queues:
            self._ended[queue] = self._fed[queue] - waiting[queue] - self._running[queue]
            self._ran_s[queue] += self._running[queue] * passed
        if not self._looks or now - self._looks[-1][0] >= EVERY_S:
            self._looks.append((now, {q: self._look(q) for q in self._queues}))
            while now - self._looks[0][0] > OVER_S:
                self._looks.popleft()

    def loads(self) -> tuple[Load, ...]:
        """Of each queue, over the last minute at most."""
        if not self._looks:
            return ()
        since, then = self._looks[0]
        return tuple(self._load(q, self._ticked - since, then[q]) for q in self._queues)

    def _load(self, queue: str, over_s: float, then: tuple[int, float, int, int]) -> Load:
        ended, ran_s, waited, waited_ms = self._look(queue)
        return Load(
            queue=queue,
            running=self._running[queue],
            over_ms=round(over_s * 1000),
            ended=ended - then[0],
            ran_ms=round((ran_s - then[1]) * 1000),
            waited=waited - then[2],
            waited_ms=waited_ms - then[3],
        )

    def _look(self, queue: str) -> tuple[int, float, int, int]:
        return self._ended[queue], self._ran_s[queue], self._waited[queue], self._waited_ms[queue]

    def _count(self, deliveries: Sequence[Delivery]) -> Counter[str]:
        if self._only:
            return Counter({self._only: len(deliveries)})
        return Counter([delivery.job.queue for delivery in deliveries])


def longest(running: Sequence[Attempt], now: float) -> tuple[tuple[str, int], ...]:
    """Of attempts in the order in which they began, those that have run longest: job and ms."""
    return tuple((a.job.id, max(0, round((now - a.began) * 1000))) for a in islice(running, MOST_SHOWN) if a.began)

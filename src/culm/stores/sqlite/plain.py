"""Plain commits go in steps, and all their steps in one statement: plain.sql says what each kind of step writes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from sqlite3 import Connection, IntegrityError
from typing import Any, TypeAlias

from msgspec import Struct

from culm.commit import BatchId, Commit
from culm.job import Job, encode_job
from culm.outcome import DEAD, FINAL, Final, Outcome, encode_outcome
from culm.stores.sqlite.columns import as_json, joined, pieces
from culm.stores.sqlite.lanes import Lanes
from culm.stores.sqlite.rows import ENDED

MOST_AT_ONCE = 32  # steps of one statement: one that has another number of them has to be prepared and remembered, too

_WRITE = "INSERT INTO writes VALUES "
_ROW = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

Step: TypeAlias = tuple[Any, ...]  # a row of `writes`
Way: TypeAlias = tuple[str, type[Final] | None, int]  # to end: under that lease, so, and kept so long; None and 0: it goes


class Ended(Struct):
    """Jobs that end the same way."""

    rids: list[int]
    outcomes: list[Outcome]


class Steps:
    """The steps of some plain commits.

    Attributes:
        rung: the queues and jobs that somebody may wait for.
    """

    def __init__(self, connection: Connection, lanes: Lanes, now: int, *, ledger: bool) -> None:
        self.rung: set[str] = set()
        self._connection = connection
        self._lanes = lanes
        self._now = now
        self._ledger = ledger
        self._steps: list[Step] = []

    def remember(self, batch: BatchId) -> None:
        self._add("batch", name=batch[0], number=batch[1], at=self._now)

    def apply(self, run: Sequence[Commit], rids: Sequence[int]) -> None:
        """What the commits do, each of which ends the row beside it, if it ends one."""
        for way, ended in self._ways(run, rids).items():
            self._end(way, ended)
        self._send([job for commit in run if commit.send for job in commit.send])

    def write(self) -> bool:
        """All of it, or say that a check refused it: then nothing was written."""
        execute, steps = self._connection.execute, self._steps
        parts = [steps[n : n + MOST_AT_ONCE] for n in range(0, len(steps), MOST_AT_ONCE)]
        if len(parts) > 1:
            execute("SAVEPOINT steps")
        try:
            for part in parts:
                execute(_WRITE + ", ".join([_ROW] * len(part)), [value for step in part for value in step])
        except IntegrityError:
            if len(parts) > 1:
                execute("ROLLBACK TO steps")
            return False
        finally:
            if len(parts) > 1 and self._connection.in_transaction:
                execute("RELEASE steps")
        return True

    def _ways(self, run: Sequence[Commit], rids: Sequence[int]) -> dict[Way, Ended]:
        found: dict[Way, Ended] = {}
        for commit, rid in zip(run, rids, strict=True):
            fence, outcome = commit.fence, commit.outcome
            if fence is None or not isinstance(outcome, FINAL):
                continue
            kind = type(outcome)
            way: Way = (fence.lease, kind, commit.keep_ms) if commit.keep_ms or kind in DEAD else (fence.lease, None, 0)
            ended = found.get(way)
            if ended is None:
                ended = found[way] = Ended([], [])
            ended.rids.append(rid)
            ended.outcomes.append(outcome)
            self.rung.add(fence.job_id)
        return found

    def _end(self, way: Way, ended: Ended) -> None:
        (lease, kind, keep_ms), rids = way, ended.rids
        if self._ledger:
            self._add("ledger", name=lease, at=self._now, ids=as_json(rids))
        if kind is not None:
            sweep_at, died = (None, self._now) if kind in DEAD else (self._now + keep_ms, None)
            outcomes = [encode_outcome(outcome) for outcome in ended.outcomes]
            for piece in pieces(outcomes):
                some, n, bodies = as_json(rids[piece]), piece.stop - piece.start, joined(outcomes[piece])
                self._add("kept", name=lease, number=n, ids=some, due=died, ended=ENDED[kind], sweep_at=sweep_at, bodies=bodies)
            return
        first, n = min(rids), len(rids)
        if max(rids) - first + 1 == n:  # quick jobs end in the order in which they were sent
            self._add("gone from", name=lease, number=n, first=first)
        else:
            self._add("gone", name=lease, number=n, ids=as_json(rids))

    def _send(self, jobs: Sequence[Job]) -> None:
        """Those that share a lane and a due share a step."""
        for (queue, priority, after_ms, at_ms), some in groupby(jobs, key=_when):
            alike = list(some)
            lane, due = self._lanes.lane(self._connection.execute, queue, priority), due_of(after_ms, at_ms, self._now)
            if due is not None:
                self.rung.add(queue)
            bodies = [encode_job(job) for job in alike]
            ids = [job.id for job in alike]
            for piece in pieces(bodies):
                some_ids, n = as_json(ids[piece]), piece.stop - piece.start
                self._add("sent", number=n, at=self._now, ids=some_ids, lane=lane, due=due, bodies=joined(bodies[piece]))

    def _add(
        self,
        step: str,
        *,
        name: str | None = None,
        number: int | None = None,
        at: int | None = None,
        ids: str | None = None,
        lane: int | None = None,
        due: int | None = None,
        first: int | None = None,
        ended: int | None = None,
        sweep_at: int | None = None,
        bodies: tuple[bytes | None, bytes | None] = (None, None),
    ) -> None:
        self._steps.append((step, name, number, at, ids, lane, due, first, ended, sweep_at, *bodies))


def due_of(after_ms: int | None, at_ms: int | None, now: int) -> int | None:
    return None if after_ms is None else max(now + after_ms, at_ms or 0)


def _when(job: Job) -> tuple[str, int, int | None, int | None]:
    return (job.queue, job.priority, job.after_ms, job.at_ms)

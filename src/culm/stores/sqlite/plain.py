"""Plain commits go in steps, and all their steps in one statement: plain.sql says what each kind of step writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from sqlite3 import Connection, IntegrityError
from typing import Any, TypeAlias

from msgspec import Struct

from culm.commit import BatchId, Commit
from culm.job import Job, encode_job
from culm.outcome import DEAD, FINAL, Final, encode_outcome
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

    ids: list[str]
    outcomes: list[Final]  # one for each


class Plain(Struct):
    """Plain commits, sorted by what they do."""

    ends: dict[Way, Ended]
    sends: list[list[Job]]  # those that follow one another and have the same queue, priority and delay

    @classmethod
    def of(cls, commits: Sequence[Commit]) -> Plain | None:
        """None: they are not all plain, or the order between them matters, since one sends again what another ends."""
        ends: dict[Way, Ended] = {}
        sends: list[list[Job]] = []
        alike: tuple[str, object, int] | None = None  # as the last that ended: in a worker, nearly all do
        ids: list[str] = []
        outcomes: list[Final] = []
        for commit in commits:
            fence, outcome = commit.fence, commit.outcome
            if commit.emit or commit.triggers or commit.records or commit.cancel or (fence is None) is not (outcome is None):
                return None
            if fence is not None:
                if not isinstance(outcome, FINAL):
                    return None
                kind = type(outcome)
                if (fence.lease, kind, commit.keep_ms) != alike:
                    alike = (fence.lease, kind, commit.keep_ms)
                    way: Way = alike if commit.keep_ms or kind in DEAD else (fence.lease, None, 0)
                    if way not in ends:
                        ends[way] = Ended([], [])
                    ids, outcomes = ends[way].ids, ends[way].outcomes
                ids.append(fence.job_id)
                outcomes.append(outcome)
            if commit.send and not _sorted(commit.send, sends):
                return None
        if ends and sends:
            sent = {job.id for jobs in sends for job in jobs}
            if not all(sent.isdisjoint(ended.ids) for ended in ends.values()):
                return None
        return cls(ends, sends)


def is_plain_root(job: Job) -> bool:
    """A root whose end no join hears of; its id must survive being JSON, which SQLite cuts at a NUL."""
    return not job.topic and "~" not in job.id and "\0" not in job.id


def _sorted(jobs: Sequence[Job], sends: list[list[Job]]) -> bool:
    """Whether all are plain."""
    last = sends[-1][-1] if sends else None
    for job in jobs:
        if not is_plain_root(job):
            return False
        if (
            last is None
            or job.queue != last.queue
            or job.priority != last.priority
            or job.after_ms != last.after_ms
            or job.at_ms != last.at_ms
        ):
            sends.append([])
        sends[-1].append(job)
        last = job
    return True


@contextmanager
def _together(connection: Connection) -> Iterator[None]:
    """Several statements, all or nothing: in the transaction that there is, or in one of their own."""
    within = connection.in_transaction
    connection.execute("SAVEPOINT steps" if within else "BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("RELEASE steps" if within else "COMMIT")
    except BaseException:
        if connection.in_transaction:  # else SQLite has undone all of it
            connection.execute("ROLLBACK TO steps" if within else "ROLLBACK")
            if within:
                connection.execute("RELEASE steps")
        raise


class Steps:
    """The steps of some plain commits.

    Attributes:
        rung: the queues and jobs that somebody may wait for.
    """

    def __init__(self, connection: Connection, lanes: Lanes, now: int, *, ledger: bool) -> None:
        self.rung: list[str] = []
        self._connection = connection
        self._lanes = lanes
        self._now = now
        self._ledger = ledger
        self._steps: list[Step] = []

    def remember(self, batch: BatchId) -> None:
        self._add("batch", name=batch[0], number=batch[1], at=self._now)

    def end(self, way: Way, ended: Ended, rids: list[int]) -> None:
        """Jobs end; theirs are these rows."""
        lease, kind, keep_ms = way
        self.rung += ended.ids
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

    def send(self, jobs: list[Job]) -> None:
        """Jobs of one queue, priority and delay."""
        one = jobs[0]
        lane, due = self._lanes.lane(self._connection.execute, one.queue, one.priority), due_of(one.after_ms, one.at_ms, self._now)
        if due is not None:
            self.rung.append(one.queue)
        ids, bodies = [job.id for job in jobs], [encode_job(job) for job in jobs]
        for piece in pieces(bodies):
            some, n = bodies[piece], piece.stop - piece.start
            size = len(some[0]) if len(set(map(len, some))) == 1 else None
            columns = joined(some) if size is None else (b"".join(some), None)
            self._add("sent", number=n, at=self._now, ids=as_json(ids[piece]), lane=lane, due=due, first=size, bodies=columns)

    @property
    def are_many(self) -> bool:
        """One statement does not hold them."""
        return len(self._steps) > MOST_AT_ONCE

    def write(self) -> bool:
        """All of it, together; or say that a check refused it: then nothing was written."""
        steps, execute = self._steps, self._connection.execute
        try:
            with nullcontext() if not self.are_many else _together(self._connection):
                for n in range(0, len(steps), MOST_AT_ONCE):
                    part = steps[n : n + MOST_AT_ONCE]
                    execute(_WRITE + ", ".join([_ROW] * len(part)), [value for step in part for value in step])
        except IntegrityError:
            return False
        return True

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

"""One job at a time, as the specification reads: ending an attempt, sending, events, triggers, cancelling. Statement by statement.

Whatever is not plain takes this path. It runs on the writing desk's thread, inside its transaction; every check is done before.
"""

from __future__ import annotations

from sqlite3 import Connection

from msgspec import Struct

from culm.commit import Event, Record, Trigger
from culm.job import DEFAULT_KEEP_MS, Job, as_delivered, encode_job, scope_of
from culm.outcome import (
    DEAD,
    ENDINGS,
    Cancelled,
    Final,
    Outcome,
    Released,
    Retried,
    Snoozed,
    Suspended,
    encode_outcome,
)
from culm.stores.sqlite.flags import AGAIN, CANCELLED, SCOPED, TOPIC, WATCHED
from culm.stores.sqlite.lanes import Lanes
from culm.stores.sqlite.sql import SQL

TOMBSTONE_MS = 3_600_000
ENDED = {kind: n for n, kind in enumerate(ENDINGS, start=1)}


class Row(Struct):
    """A job's row, as far as its life needs it."""

    id: str
    rid: int
    flags: int
    lane: int
    due: int | None
    ended: int | None
    lid: int | None
    job: bytes


class Rows:
    """The effects of one transaction. `now` is the same throughout; `rung` collects the queues and jobs that somebody may wait for."""

    def __init__(self, connection: Connection, lanes: Lanes, now: int, rung: set[str], *, ledger: bool) -> None:
        self._sql = connection.execute
        self._lanes = lanes
        self._now = now
        self._rung = rung
        self._ledger = ledger

    def find(self, job_id: str) -> Row | None:
        found = self._sql(SQL["row"], (job_id,)).fetchone()
        return None if found is None else Row(job_id, *found)

    # -- an attempt ends ----------------------------------------------------------------------------------------------------

    def end_attempt(self, row: Row, outcome: Outcome, keep_ms: int) -> None:
        match outcome:
            case Retried(after_ms=ms):
                due: int | None = self._now + ms
            case Snoozed(after_ms=ms):
                due = self._now + ms
            case Suspended(after_ms=ms_or_none):
                due = self._now if row.flags & AGAIN else None if ms_or_none is None else self._now + ms_or_none
            case Released(after_ms=ms):
                due = max(row.due or 0, self._now + ms if ms else 0)
            case _:
                self.finish(row, outcome, keep_ms)
                return
        attempts = 1 if isinstance(outcome, Retried) else 0  # the others give it back
        if row.flags & CANCELLED:
            self.finish(row, Cancelled(), self.keep_of(row), attempts=attempts)
            return
        grants = self._grants(row)
        self._let_go(row)
        last = encode_outcome(outcome)
        self._sql(SQL["settle"], (attempts, last, due, grants, grants, row.rid))
        self.make_ready(row.lane, due, row.rid)

    def finish(self, row: Row, final: Final, keep_ms: int, *, attempts: int = 1) -> None:
        """End the job; whoever waits for it hears of it."""
        if self._ledger:
            lease = self._sql(SQL["lease_of"], (row.lid,)).fetchone() if row.lid is not None else None
            self._sql(SQL["to_ledger"], (row.id, lease[0] if lease else "", self._now))
        if row.lid is not None:
            grants = self._grants(row)
            self._sql(SQL["count_grants"], (attempts, grants, grants, row.rid))
            self._let_go(row)
        dead = type(final) in DEAD
        if dead or keep_ms:
            sweep_at, died = (None, self._now) if dead else (self._now + keep_ms, None)
            self._sql(SQL["finish"], (ENDED[type(final)], encode_outcome(final), sweep_at, died, row.rid))
        else:
            self._sql(SQL["forget"], (row.rid,))
        self._rung.add(row.id)
        root = scope_of(row.id)
        if row.flags & TOPIC and (topic := self._job_of(row).topic):
            self.emit(Event(root, topic, row.id, encode_outcome(final)))
        if row.flags & SCOPED and self._sql(SQL["scope_lives"], (-1, root)).fetchone()[0] == 0:
            self._sql(SQL["scope_sweep"], (self._now + keep_ms, root))
        if row.flags & WATCHED:
            self._reached(root, f"done/{row.id}", 1)

    def make_ready(self, lane: int, due: int | None, rid: int) -> None:
        if due is not None:
            self._sql(SQL["make_ready"], (lane, due, rid))
            self._rung.add(self._lanes.queue_of(self._sql, lane))

    def unready(self, row: Row) -> None:
        if row.due is not None:
            self._sql(SQL["unready"], (row.lane, row.due, row.rid))

    def _let_go(self, row: Row) -> None:
        self._sql(SQL["let_go"], (row.rid,))
        self._sql(SQL["lease_shrinks"], (1, row.lid))
        self._sql(SQL["lease_ends"], (row.lid,))

    def _grants(self, row: Row) -> int:
        grants: int = self._sql(SQL["grants"], (row.rid,)).fetchone()[0]
        return grants

    def _job_of(self, row: Row) -> Job:
        return as_delivered(row.job, job_id=row.id, queue="")[0]  # hostile bytes are a job without a topic

    def keep_of(self, row: Row) -> int:
        return self._job_of(row).keep_ms

    # -- what a commit carries ----------------------------------------------------------------------------------------------

    def send(self, job: Job) -> None:
        """The same id is the same job: one that is there already stays as it is."""
        if self._sql(SQL["task_of"], (job.id,)).fetchone() is not None:
            return
        flags = self.enter(job.id, TOPIC if job.topic else 0)
        due = None if job.after_ms is None else max(self._now + job.after_ms, job.at_ms or 0)
        buried = self._sql(SQL["tombstone"], (job.id,)).fetchone() is not None
        lane, blob = self._lanes.lane(self._sql, job.queue, job.priority), encode_job(job)
        rid = self._sql(SQL["insert_job"], (job.id, lane, self._now, None if buried else due, flags, blob)).lastrowid
        assert rid is not None
        row = Row(job.id, rid, flags, lane, due, None, None, blob)
        if buried:
            self.finish(row, Cancelled("before it was sent"), job.keep_ms)
        else:
            self.make_ready(row.lane, due, row.rid)

    def enter(self, job_id: str, topic: int) -> int:
        """Count it among the live jobs of its scope, if there is anything to count for. Returns its flags."""
        root = scope_of(job_id)
        if job_id == root and not topic and self._sql(SQL["scope"], (root,)).fetchone() is None:
            return 0
        self._scope(root, but=job_id)
        self._sql(SQL["scope_lives"], (1, root)).fetchone()
        return SCOPED | topic

    def _scope(self, root: str, but: str = "") -> None:
        """Make the scope's counter when it is first needed, counting the root if that is unfinished."""
        known = self._sql(SQL["scope"], (root,)).fetchone()
        live = known[0] if known else 0
        if known is None:
            row = self.find(root) if root != but else None
            live = 1 if row is not None and row.ended is None else 0
            self._sql(SQL["new_scope"], (root, live))
            if row is not None and live:
                self._sql(SQL["set_flags"], (SCOPED, row.rid))
        if not live:
            self._sql(SQL["scope_sweep"], (self._now + DEFAULT_KEEP_MS, root))

    def emit(self, event: Event) -> None:
        self._scope(event.scope)
        if self._sql(SQL["emit"], (event.scope, event.topic, event.key, event.value)).rowcount:
            count = self._sql(SQL["count_event"], (event.scope, event.topic)).fetchone()[0]
            self._reached(event.scope, event.topic, count)

    def wait_for(self, trigger: Trigger) -> None:
        self._scope(trigger.scope)
        tid, reached = self._sql(SQL["new_trigger"], (trigger.scope, trigger.job_id, trigger.need)).lastrowid, 0
        for topic, count in trigger.topics:
            if self._count(trigger.scope, topic) >= count:
                reached += 1
            else:
                self._sql(SQL["await"], (trigger.scope, topic, tid, count))
        assert tid is not None
        self._reach(tid, reached)

    def _count(self, root: str, topic: str) -> int:
        if topic.startswith("done/"):
            row = self.find(topic[5:])
            if row is None or row.ended is not None:
                return 1
            self._sql(SQL["set_flags"], (WATCHED, row.rid))
            return 0
        found = self._sql(SQL["count_of"], (root, topic)).fetchone()
        return found[0] if found else 0

    def _reached(self, root: str, topic: str, count: int) -> None:
        for (tid,) in self._sql(SQL["reached"], (root, topic, count)).fetchall():
            self._sql(SQL["stop_awaiting"], (root, topic, tid))
            self._reach(tid, 1)

    def _reach(self, tid: int, by: int) -> None:
        found = self._sql(SQL["reach"], (by, tid)).fetchone()
        if found is not None and found[0] >= found[1]:
            self._sql(SQL["drop_trigger"], (tid,))
            self._sql(SQL["drop_awaits"], (tid,))
            self._release(found[2])

    def _release(self, job_id: str) -> None:
        row = self.find(job_id)
        if row is None or row.ended is not None:
            return
        if row.lid is not None:
            self._sql(SQL["set_flags"], (AGAIN, row.rid))
        elif row.due is None or row.due > self._now:
            self.unready(row)
            self._sql(SQL["set_due"], (self._now, row.rid))
            self.make_ready(row.lane, self._now, row.rid)

    def record(self, record: Record) -> None:
        root = scope_of(record.flow)
        self._scope(root)
        self._sql(SQL["new_record"], (root, record.flow, record.seq, record.value))

    def cancel(self, job_id: str) -> None:
        row = self.find(job_id)
        if row is None:
            self._sql(SQL["bury"], (job_id, self._now + TOMBSTONE_MS))
        elif row.lid is not None:
            self._sql(SQL["set_flags"], (CANCELLED, row.rid))
        elif row.ended is None:
            self.unready(row)
            self.finish(row, Cancelled(), self.keep_of(row))

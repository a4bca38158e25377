"""What readers ask. Each function is one work for the reading desk."""

from __future__ import annotations

from sqlite3 import Connection
from typing import Any

from culm.commit import GLOBAL_SCOPE, Event, Record
from culm.job import Job, as_delivered, maybe_job, scope_of
from culm.outcome import ENDINGS, FINAL, decode_outcome
from culm.store import Absent, Awaited, Ended, JobView, Pending, QueueCounts, Shown, State, Waits
from culm.stores.sqlite.flags import REPLAYED
from culm.stores.sqlite.sql import SQL

_STATES: dict[int, State] = dict(enumerate(ENDINGS.values(), start=1))
_ENDED = {state: n for n, state in _STATES.items()}


def job(connection: Connection, job_id: str, now: int) -> JobView | None:
    found = connection.execute(SQL["view_columns"] + " WHERE j.id = ?", (job_id,)).fetchone()
    return None if found is None else _view(found, now)


def sent(connection: Connection, job_id: str) -> Job | None:
    found = connection.execute(SQL["task_of"], (job_id,)).fetchone()
    return None if found is None else maybe_job(found[0], job_id=job_id)


def waits(connection: Connection, job_id: str, now: int) -> Waits:
    found = connection.execute(SQL["row"], (job_id,)).fetchone()
    if found is None or found[4] is not None:
        return Waits()
    rid, _, lane, due, _, lid, _ = found
    triggers = connection.execute(SQL["triggers_of"], (job_id, scope_of(job_id), GLOBAL_SCOPE)).fetchall()
    awaits = [
        Awaited(scope=root, need=need, reached=reached, topics=tuple(connection.execute(SQL["awaits_of"], (tid,)).fetchall()))
        for tid, root, need, reached in triggers
    ]
    awaits.sort(key=lambda a: (a.scope, a.need, a.reached, a.topics))
    ahead = None
    if lid is None and due is not None:
        ahead = connection.execute(SQL["ahead_in_lane"], (lane, due, rid)).fetchone()[0]
        ahead += connection.execute(SQL["ahead_above"], (lane - lane % 10, lane, max(now, due))).fetchone()[0]
    return Waits(ahead=ahead, awaits=tuple(awaits))


def jobs(
    connection: Connection,
    now: int,
    *,
    state: Shown | None,
    queue: str | None,
    task: str | None,
    scope: str | None,
    after: str,
    limit: int,
) -> list[JobView]:
    where, values = ["j.id > ?"], [after]
    if scope is not None:  # its ids lie together: the root's, and those that begin with root~
        where.append("(j.id = ? OR j.id >= ? AND j.id < ?) AND instr(?, '~') = 0")
        values += [scope, f"{scope}~", f"{scope}\x7f", scope]
    if state == "open":
        where.append("j.ended IS NULL AND h.rid IS NULL")
    elif state == "leased":
        where.append("j.rid IN (SELECT rid FROM held)")
    elif state == "dead":
        where.append("j.ended IN (2, 5)")
    elif state is not None:
        where.append(f"j.ended = {_ENDED[state]}")
    if queue is not None:
        where.append("q.name = ?")
        values.append(queue)
    rows = connection.execute(f"{SQL['view_columns']} WHERE {' AND '.join(where)} ORDER BY j.id", values)  # constants
    found: list[JobView] = []
    for row in rows:
        view = _view(row, now)
        if task is None or view.task == task:
            found.append(view)
        if len(found) == limit:
            break
    return found


def _view(row: tuple[Any, ...], now: int) -> JobView:
    job_id, queue, priority, ended, leased, attempt, expiries, grants, due, sent, last, lease, blob, fence, flags, died = row
    its_job, _ = as_delivered(blob, job_id=job_id, queue=queue)
    return JobView(
        id=job_id,
        task=its_job.task,
        queue=queue,
        priority=priority,
        state=_STATES[ended] if ended is not None else "leased" if leased else "open",
        attempt=attempt + (1 if leased else 0),
        expiries=expiries + max(0, grants - 1),
        due_in_ms=None if due is None else max(0, due - now),
        age_ms=now - sent,
        last=None if last is None else decode_outcome(last),
        lease=lease or "",
        topic=its_job.topic,
        claims=fence + grants,
        replays=flags >> REPLAYED,
        dead_ms=None if died is None else now - died,
    )


def outcome(connection: Connection, job_id: str) -> Ended | Pending | Absent:
    found = connection.execute(SQL["ended"], (job_id,)).fetchone()
    if found is None:
        return Absent()
    if found[0] is None:
        return Pending()
    final = decode_outcome(found[1])
    assert isinstance(final, FINAL)
    return Ended(final)


def events(connection: Connection, scope: str, topic: str, after: str, limit: int) -> list[Event]:
    rows = connection.execute(SQL["events_after"], (scope, topic, after, limit)).fetchall()
    return [Event(scope, topic, key, value) for key, value in rows]


def records(connection: Connection, flow: str, after: int, limit: int) -> list[Record]:
    rows = connection.execute(SQL["records_after"], (scope_of(flow), flow, after, limit)).fetchall()
    return [Record(flow, seq, value) for seq, value in rows]


def counts(connection: Connection, now: int) -> list[QueueCounts]:
    return [
        QueueCounts(
            queue=queue, paused=bool(paused), ready=ready, delayed=delayed, waiting=waiting, leased=leased,
            oldest_ms=None if oldest is None else now - oldest,
        )
        for queue, paused, ready, delayed, waiting, leased, oldest in connection.execute(SQL["counts"], (now,)).fetchall()
    ]  # fmt: skip

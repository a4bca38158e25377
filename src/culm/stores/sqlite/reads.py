"""What readers ask. Each function is one work for the reading desk."""

from __future__ import annotations

from sqlite3 import Connection
from typing import Any

from culm.commit import Event, Record
from culm.job import as_delivered, scope_of
from culm.outcome import ENDINGS, FINAL, decode_outcome
from culm.store import Absent, Ended, JobView, Pending, QueueCounts, State
from culm.stores.sqlite.sql import SQL

_STATES: dict[int, State] = dict(enumerate(ENDINGS.values(), start=1))
_ENDED = {state: n for n, state in _STATES.items()}


def job(connection: Connection, job_id: str, now: int) -> JobView | None:
    found = connection.execute(SQL["view_columns"] + " WHERE j.id = ?", (job_id,)).fetchone()
    return None if found is None else _view(found, now)


def jobs(
    connection: Connection, now: int, *, state: State | None, queue: str | None, task: str | None, after: str, limit: int
) -> list[JobView]:
    where, values = ["j.id > ?"], [after]
    if state == "open":
        where.append("j.ended IS NULL AND h.rid IS NULL")
    elif state == "leased":
        where.append("h.rid IS NOT NULL")
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
    job_id, queue, priority, ended, leased, attempt, expiries, grants, due, sent, last, lease, blob = row
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
        for queue, paused, ready, delayed, waiting, leased, oldest in connection.execute(SQL["counts"], (now, now, now)).fetchall()
    ]  # fmt: skip

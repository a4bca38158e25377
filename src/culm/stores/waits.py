"""What a job waits for, as the specification's tables have it: the jobs ahead of it, and the triggers that would release it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from culm.commit import GLOBAL_SCOPE
from culm.job import scope_of
from culm.store import Awaited, Waits
from culm.stores.rows import Row, Scope, Waiting
from culm.stores.tables import NEVER, Tables


def waits(tables: Tables, job_id: str) -> Waits:
    row = tables.rows.get(job_id)
    if row is None or row.finished:
        return Waits()
    found: list[Awaited] = []
    for root in {scope_of(job_id), GLOBAL_SCOPE}:
        if (scope := tables.scopes.get(root)) is not None:
            triggers = {id(w): w for some in scope.waiting.values() for w in some if w.trigger.job_id == job_id}
            found += [_awaited(scope, w) for w in triggers.values()]
    found.sort(key=lambda a: (a.scope, a.need, a.reached, a.topics))
    return Waits(ahead=_ahead(tables, row), awaits=tuple(found))


def _awaited(scope: Scope, waiting: Waiting) -> Awaited:
    there = {topic: len(scope.topics.get(topic, ())) for topic in waiting.on}
    topics = sorted((topic, count, there[topic]) for topic, count in waiting.on.items())
    return Awaited(scope=waiting.trigger.scope, need=waiting.trigger.need, reached=waiting.reached, topics=tuple(topics))


def _ahead(tables: Tables, row: Row) -> int | None:
    if row.lease or row.due is None:
        return None
    moment, job = max(tables.now(), row.due), row.job
    own = bisect_left(tables.ready[job.queue, job.priority], (row.due, row.n))  # n is unique: rows are never compared
    higher = (tables.ready.get((job.queue, p), []) for p in range(job.priority + 1, 10))
    return own + sum(bisect_right(lane, (moment, NEVER)) for lane in higher)

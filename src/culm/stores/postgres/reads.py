"""What readers ask, as the values of the seam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from culm.commit import GLOBAL_SCOPE, Held
from culm.job import Delivery, Job, as_delivered, maybe_job, scope_of
from culm.outcome import ENDINGS, FINAL, decode_outcome
from culm.store import Absent, Awaited, Ended, JobView, Pending, QueueCounts, Shown, State, Waits
from culm.stores.postgres.link import Link
from culm.stores.postgres.outcomes import Found

_STATES: dict[int, State] = dict(enumerate(ENDINGS.values(), start=1))
_ENDED = {state: n for n, state in _STATES.items()}


async def views(link: Link, ids: list[str], now: int | None) -> list[JobView]:
    """Of those of them that exist, by id."""
    return [_view(row, now) for row in await link.rows("view", ids)] if ids else []


async def sent(link: Link, job_id: str) -> Job | None:
    rows = await link.rows("view", [job_id])
    return maybe_job(rows[0]["job"], job_id=job_id) if rows else None


def _view(row: Any, now: int | None) -> JobView:
    job, _ = as_delivered(row["job"], job_id=row["id"], queue=row["queue"])
    moment = row["now"] if now is None else now
    ended, due = row["ended"], row["due"]
    return JobView(
        id=row["id"],
        task=job.task,
        queue=row["queue"],
        priority=row["priority"],
        state=_STATES[ended] if ended is not None else "leased" if row["lease"] is not None else "open",
        attempt=row["attempt"],
        expiries=row["expiries"],
        due_in_ms=None if due is None else max(0, due - moment),
        age_ms=moment - row["sent"],
        last=None if row["last"] is None else decode_outcome(row["last"]),
        lease=row["lease"] or "",
        topic=job.topic,
        claims=row["fence"],
        replays=row["replays"],
        dead_ms=None if row["died"] is None else moment - row["died"],
    )


async def deliveries(link: Link, held: Sequence[Held], now: int | None) -> list[Delivery]:
    """What these leases still hold."""
    wanted = dict.fromkeys(held)
    if not wanted:
        return []
    found: dict[Held, Delivery] = {}
    for row in await link.rows("view", list(dict.fromkeys(h.job_id for h in wanted))):
        if (h := Held(row["id"], row["lease"] or "")) in wanted:
            job, broken = as_delivered(row["job"], job_id=h.job_id, queue=row["queue"])
            age = (row["now"] if now is None else now) - row["sent"]
            found[h] = Delivery(job, h.lease, row["attempt"], row["expiries"], row["fence"], age, broken)
    return [found[h] for h in wanted if h in found]


async def waits(link: Link, job_id: str, now: int | None) -> Waits:
    awaits = [
        Awaited(scope=root, need=need, reached=reached, topics=tuple((row[0], row[1], row[2]) for row in await link.rows("awaits_of", tid)))
        for tid, root, need, reached in await link.rows("triggers_of", job_id, [scope_of(job_id), GLOBAL_SCOPE])
    ]
    awaits.sort(key=lambda a: (a.scope, a.need, a.reached, a.topics))
    return Waits(ahead=await link.run("ahead", now, job_id), awaits=tuple(awaits))


async def jobs(
    link: Link,
    now: int | None,
    *,
    state: Shown | None,
    queue: str | None,
    task: str | None,
    scope: str | None,
    after: str,
    limit: int,
) -> list[JobView]:
    found: list[JobView] = []
    while len(found) < limit:
        page = min(max(limit, 100), 1_000)
        asked = [after, page, queue, task, scope]
        if state == "dead":
            rows = await link.rows("ids_dead_after", *asked)
        elif state in _ENDED:
            rows = await link.rows("ids_finished_after", *asked, _ENDED[state])
        else:
            rows = await link.rows("ids_after" if state is None else "ids_unfinished_after", *asked)
        some = await views(link, [row[0] for row in rows], now)
        found += [view for view in some if state in (None, view.state, "dead" if view.dead_ms is not None else None)]
        if len(rows) < page:
            break
        after = rows[-1][0]
    return found[:limit]


def outcome(found: Found) -> Ended | Pending | Absent:
    if found == "pending":
        return Pending()
    if found == "absent":
        return Absent()
    assert isinstance(found, bytes)
    final = decode_outcome(found)
    assert isinstance(final, FINAL)
    return Ended(final)


def counts(rows: Any) -> list[QueueCounts]:
    return [
        QueueCounts(queue=queue, paused=paused, ready=ready, delayed=delayed, waiting=waiting, leased=max(0, leased), oldest_ms=oldest)
        for queue, paused, ready, delayed, waiting, leased, oldest in rows
    ]

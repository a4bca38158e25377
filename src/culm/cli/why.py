"""`culm why ID`: one screen that says why a job is where it is, and when it will start as far as that can be known."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from culm.app import App
from culm.cli import jobs
from culm.cli.arguments import JobId, Json, Url, subject
from culm.cli.output import Exit, Quit, say, say_json
from culm.cli.queues import Sight, see
from culm.cli.table import clipped, number, span, times
from culm.dead import letter
from culm.job import scope_of
from culm.outcome import Released, Retried, Snoozed, Succeeded, Suspended
from culm.store import Awaited, FullStore, JobView, Waits, WorkerInfo

MOST_NAMED = 10  # events or jobs of a topic
MOST_MEMBERS = 1_000  # jobs of a scope that are looked at


class Reason(Struct, frozen=True):
    code: str  # for machines: it stays
    text: str


class Topic(Struct, frozen=True):
    """What is known of a topic that a job waits for."""

    topic: str
    need: int
    there: tuple[str, ...]  # keys of its events: of a topic of jobs the ids that have ended
    count: int  # how many are there
    missing: tuple[str, ...]  # unfinished jobs of the scope whose end would be one, and their state


class Wait(Struct, frozen=True):
    awaited: Awaited
    topics: tuple[Topic, ...]


class Seen(Struct, frozen=True, kw_only=True):
    """All that was asked of the store."""

    view: JobView
    waits: Waits
    queue: Sight
    workers: Sequence[WorkerInfo]
    missing: tuple[Wait, ...] = ()


def why(job: JobId, url: Url = None, json: Json = False) -> int:
    """Say why a job is where it is.

    When it is due; who holds it since when, and whether that worker is alive; which events of which jobs it waits for; whether its
    queue is paused, and a live worker listens to it and knows its task; how many jobs are ahead of it, and when it will start.

    \b
    Examples:
      culm why shop.tasks:app order-42
      culm why order-42 --json
    """
    return asyncio.run(_why(*subject(job, url, what="ID"), as_json=json))


async def _why(app: App, job_id: str, *, as_json: bool) -> int:
    async with app:
        seen = await look(app.store, job_id)
    if seen is None:
        raise Quit(f"job {job_id} is not known; it was never sent, or it ended longer than its `keep` ago")
    found, start_ms = reasons(seen), starts_in_ms(seen)
    view = seen.view
    if as_json:
        say_json({**jobs.shown(view), **_for_machines(seen, found), "starts_in_ms": start_ms})
        return Exit.OK
    again = f", replayed {times(view.replays)}" if view.replays else ""
    say(f"job {view.id} of task {view.task} in queue {view.queue}, priority {view.priority}, sent {span(view.age_ms)} ago{again}")
    say(f"is {view.state}, attempt {view.attempt}, {f'claimed {times(view.claims)}' if view.claims else 'never claimed'}")
    for reason in found:
        say(f"- {reason.text}")
    return Exit.OK


def _for_machines(seen: Seen, found: Sequence[Reason]) -> dict[str, Any]:
    waits = [
        {
            "scope": w.awaited.scope,
            "need": w.awaited.need,
            "reached": w.awaited.reached,
            "topics": [msgspec.structs.asdict(t) for t in w.topics],
        }
        for w in seen.missing
    ]
    return {"reasons": [msgspec.structs.asdict(r) for r in found], "ahead": seen.waits.ahead, "waits": waits}


async def look(store: FullStore, job_id: str) -> Seen | None:
    """None: there is no such job."""
    view = await store.job(job_id)
    if view is None:
        return None
    waits, counts, workers = await asyncio.gather(store.waits(job_id), store.counts(), store.workers())
    queue = next(s for s in see([c for c in counts if c.queue == view.queue], [*workers, _listener(view.queue)]) if s.queue == view.queue)
    queue = msgspec.structs.replace(queue, workers=queue.workers - 1)
    members = [] if not waits.awaits else await store.jobs(scope=scope_of(job_id), limit=MOST_MEMBERS)
    missing = [Wait(a, tuple([await _topic(store, a.scope, t, members) for t in a.topics])) for a in waits.awaits]
    return Seen(view=view, waits=waits, queue=queue, workers=workers, missing=tuple(missing))


def _listener(queue: str) -> WorkerInfo:
    """Makes `see` show a queue that holds nothing, too."""
    return WorkerInfo("", "", 0, (queue,), (), 0)


async def _topic(store: FullStore, scope: str, awaited: tuple[str, int, int], members: Sequence[JobView]) -> Topic:
    topic, need, count = awaited
    if topic.startswith("done/"):
        job = await store.job(topic[5:])
        return Topic(topic, need, (), 0, () if job is None else (_named(job),))
    there = tuple([event.key for event in await store.events(scope, topic, limit=MOST_NAMED)]) if count else ()
    missing = [_named(m) for m in members if m.topic == topic and m.state in ("open", "leased") and scope_of(m.id) == scope]
    return Topic(topic, need, there, count, tuple(missing))


def _named(view: JobView) -> str:
    return f"{view.id} ({view.state})"


# -- the reasons, pure --------------------------------------------------------------------------------------------------------


def reasons(seen: Seen) -> list[Reason]:
    match seen.view.state:
        case "open":
            return _open(seen)
        case "leased":
            return _held(seen)
        case _:
            return [_ended(seen.view)]


def starts_in_ms(seen: Seen) -> int | None:
    """By the rate of its queue over the last minute; None: it cannot be told."""
    view, ahead, rate = seen.view, seen.waits.ahead, seen.queue.rate
    if view.state != "open" or view.due_in_ms is None or ahead is None or seen.queue.paused or not _able(seen):
        return None
    if ahead == 0 and seen.queue.busy < seen.queue.slots:
        return view.due_in_ms
    return max(view.due_in_ms, round((ahead + 1) / rate * 1000)) if rate else None


def _ended(view: JobView) -> Reason:
    dead = letter(view)
    if dead is not None:
        ago = f" {span(view.dead_ms)} ago" if view.dead_ms is not None else ""
        return Reason("dead", f"it {dead.state}{ago}: {clipped(dead.error, 500)}; it runs again with: culm dead replay {view.id}")
    if isinstance(view.last, Succeeded):
        return Reason("ended", f"it succeeded; its result: culm result {view.id}")
    why_ended = getattr(view.last, "reason", "")
    return Reason("ended", f"it ended: {view.state}{f', {why_ended}' if why_ended else ''}")


def _open(seen: Seen) -> list[Reason]:
    view = seen.view
    found = [*_last(view), *_awaits(seen)]
    if view.due_in_ms is None:
        if not seen.missing:
            found.append(Reason("orphan", "it waits for a release, and no trigger is left that would release it; cancel it, or send anew"))
    elif view.due_in_ms:
        found.append(Reason("delayed", f"it is due in {span(view.due_in_ms)}, not before"))
    else:
        found.append(Reason("due", "it is due: a worker may claim it now"))
    return [*found, *_obstacles(seen), *_place(seen)]


def _last(view: JobView) -> list[Reason]:
    match view.last:
        case Retried(fault=fault):
            return [Reason("retried", f"attempt {view.attempt} failed and will be retried: {fault.type}: {clipped(fault.message, 300)}")]
        case Snoozed():
            return [Reason("snoozed", "its task put it off")]
        case Suspended():
            return [Reason("suspended", "it is suspended: it goes on when it is released, or due")]
        case Released():
            return [Reason("released", "a worker gave it back before it ran to its end")]
        case _:
            return [Reason("replayed", "it was a dead letter and was replayed")] if view.replays and view.last is not None else []


def _awaits(seen: Seen) -> list[Reason]:
    return [Reason("waits", _waits(wait)) for wait in seen.missing]


def _waits(wait: Wait) -> str:
    awaited = wait.awaited
    scope = f"scope {awaited.scope}" if awaited.scope else "the global scope"
    return f"it waits for {awaited.need - awaited.reached} more of these topics of {scope}: {'; '.join(map(_said, wait.topics))}"


def _said(topic: Topic) -> str:
    if topic.topic.startswith("done/"):
        return f"the end of {topic.missing[0] if topic.missing else topic.topic[5:]}"
    there = f", there: {_some(topic.there, topic.count)}" if topic.count else ""
    missing = f", to come: {_some(topic.missing, len(topic.missing))}" if topic.missing else ", and no job is left whose end would be one"
    return f"{topic.topic} ({topic.count} of {topic.need} events{there}{missing})"


def _some(names: Sequence[str], count: int) -> str:
    rest = count - len(names[:MOST_NAMED])
    return ", ".join(names[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _able(seen: Seen) -> list[WorkerInfo]:
    """Live workers that would take it."""
    return [w for w in seen.workers if seen.view.queue in w.queues and seen.view.task in w.tasks]


def _obstacles(seen: Seen) -> list[Reason]:
    """What keeps everybody from taking it, were it due."""
    queue, found = seen.queue, list[Reason]()
    if queue.paused:
        found.append(Reason("paused", f"queue {queue.queue} is paused; go on with: culm resume {queue.queue}"))
    if not queue.workers:
        others = sorted({q for w in seen.workers for q in w.queues})
        there = f"the {len(seen.workers)} live ones listen to {_some(others, len(others))}" if seen.workers else "no worker is alive at all"
        found.append(Reason("no worker", f"no live worker listens to queue {queue.queue}: {there}"))
    elif not _able(seen):
        known = f"none of the {queue.workers} live workers of its queue knows task {seen.view.task!r}"
        found.append(Reason("unknown task", f"{known}; ten minutes after its send it is given up"))
    elif queue.busy >= queue.slots:
        found.append(Reason("busy", f"all {queue.slots} slots of the {queue.workers} live workers of its queue are busy"))
    return found


def _place(seen: Seen) -> list[Reason]:
    ahead = seen.waits.ahead
    if ahead is None:
        return []
    then = " by then" if seen.view.due_in_ms else ""
    found = [
        Reason(
            "place", f"so many jobs of its queue are claimed before it{then}: {ahead}" if ahead else f"it is the next of its queue{then}"
        )
    ]
    start_ms, rate = starts_in_ms(seen), seen.queue.rate
    if start_ms is not None:
        by = f", by the last minute's {number(rate)} attempts per second" if ahead and rate else ""
        found.append(Reason("start", f"it should start in about {span(start_ms)}{by}" if start_ms else "it should start at once"))
    elif _able(seen) and not seen.queue.paused:
        found.append(Reason("start", "when it starts cannot be told: no attempt of its queue ended within the last minute"))
    return found


def _held(seen: Seen) -> list[Reason]:
    view = seen.view
    name = view.lease.rpartition("/")[0]
    worker = next((w for w in seen.workers if w.id == name), None)
    if worker is None:
        when = f"its lease ends in {span(view.due_in_ms)}" if view.due_in_ms else "its lease has run out"
        found = [
            Reason("holder gone", f"worker {name} has it, and has not shown itself for three heartbeats; {when}, then another takes over")
        ]
    else:
        ran_ms = dict(worker.longest).get(view.id)
        where = f"worker {name} (pid {worker.pid} on {worker.host}), which is alive"
        beat = span(worker.beat_ms or None)
        doing = f"has run it for {span(ran_ms)} or a heartbeat ({beat}) longer" if ran_ms is not None else _not_named(worker, beat)
        found = [Reason("held", f"{where}, {doing}; its lease ends in {span(view.due_in_ms)} unless it is extended")]
    if view.expiries:
        found.append(Reason("expiries", f"its lease ran out {times(view.expiries)} before: workers died or stalled while they had it"))
    return [*found, *(_obstacles(seen) if worker is None else []), *_awaits(seen)]


def _not_named(worker: WorkerInfo, beat: str) -> str:
    if len(worker.longest) >= worker.running:
        return f"claimed it since its last heartbeat, within {beat}, or keeps it for its next free slot"
    return f"runs it, not among its {len(worker.longest)} longest, or keeps it for its next free slot"

"""Many jobs at once: a commit for each chunk, several of them under way; inside a task, all with its commit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any

from culm.chunks import chunks
from culm.commit import Commit, weigh
from culm.current import running
from culm.errors import CulmError, IdConflict, PartlySent
from culm.handle import Handle
from culm.job import Job
from culm.sender import Answer
from culm.task import Bound, join_send, make_job, refuse_topic, send, send_within

if TYPE_CHECKING:
    from culm.app import App
    from culm.current import Attempt

CHUNKS_AHEAD = 4  # commits under way: the next is encoded while these are written


async def send_many(app: App, bounds: Iterable[Bound[Any]]) -> list[Handle[Any]]:
    """What `app.enqueue_many` does."""
    attempt = running()
    bounds = iter(bounds)
    first = next(bounds, None)
    bounds = chain(() if first is None else (first,), bounds)
    if first is not None and first.options.within is not None:
        return await _within(app, list(bounds), first.options.within)
    if attempt is not None:
        return await _inside(app, list(bounds), attempt)
    posted: list[tuple[list[Job], asyncio.Future[Answer]]] = []
    handles: list[Handle[Any]] = []
    gatherer, loop = app.gatherer(), asyncio.get_running_loop()
    try:
        for chunk in chunks(bounds):
            jobs = await _jobs_of(app, chunk)
            handles += [Handle(app, job.id, b.task) for job, b in zip(jobs, chunk, strict=True)]
            answered: asyncio.Future[Answer] = loop.create_future()
            commit = Commit(send=tuple(jobs))
            fresh = not any(bound.options.id for bound in chunk)
            gatherer.post(commit, answered.set_result, weight=weigh(commit), fresh=fresh)
            posted.append((jobs, answered))
            await asyncio.sleep(0)  # let the gatherer send this while the next is encoded
            if len(posted) > CHUNKS_AHEAD:
                await asyncio.shield(posted[-CHUNKS_AHEAD][1])  # cancelling the caller does not cancel the answer
    except Exception as e:
        if not posted:
            raise
        await _all_accepted(app, posted)
        raise PartlySent([job.id for jobs, _ in posted for job in jobs], e) from e
    await _all_accepted(app, posted)
    return handles


async def _within(app: App, bounds: list[Bound[Any]], within: object) -> list[Handle[Any]]:
    """A commit for each chunk, in a transaction of the caller's, who undoes all of it when this raises."""
    handles: list[Handle[Any]] = []
    for chunk in chunks(bounds):
        jobs = await _jobs_of(app, chunk, within)
        if await send_within(app, Commit(send=tuple(jobs)), within) == "conflict":
            raise IdConflict(await _conflicting(app, jobs))
        handles += [Handle(app, job.id, b.task) for job, b in zip(jobs, chunk, strict=True)]
    return handles


async def _all_accepted(app: App, posted: list[tuple[list[Job], asyncio.Future[Answer]]]) -> None:
    sent: list[str] = []
    failure: Exception | None = None
    for jobs, answered in posted:
        answer = await asyncio.shield(answered)
        if answer == "applied":
            sent += [job.id for job in jobs]
        elif failure is None:
            failure = answer if isinstance(answer, Exception) else IdConflict(await _conflicting(app, jobs))
    if failure is not None:
        raise PartlySent(sent, failure) from failure


async def _conflicting(app: App, jobs: list[Job]) -> str:
    """Which of them has an id that another task's job has."""
    tasks: dict[str, str] = {}
    for job in jobs:
        known = await app.store.job(job.id)
        if (known.task if known is not None else tasks.setdefault(job.id, job.task)) != job.task:
            return job.id
    return jobs[0].id


async def _inside(app: App, bounds: list[Bound[Any]], attempt: Attempt) -> list[Handle[Any]]:
    joined = {n: join_send(b, attempt) for n, b in enumerate(bounds) if _own(app, b) and not b.options.now}
    sent = await asyncio.gather(*(send(b, attempt) for b in bounds if b.options.now))
    rest = iter(sent)
    return [joined[n] if n in joined else next(rest) for n in range(len(bounds))]


def _outside(app: App, bound: Bound[Any], within: object) -> bool:
    if bound.options.topic:
        refuse_topic(bound.options.topic)
    return _own(app, bound, within)


def _own(app: App, bound: Bound[Any], within: object = None) -> bool:
    if bound.task.app is not app:
        raise CulmError(f"task {bound.task.name!r} belongs to another app; enqueue it there")
    if bound.options.within is not within:
        raise ValueError("jobs of one enqueue_many leave within one transaction: give all of them the same within=, or none")
    return True


async def _jobs_of(app: App, chunk: list[Bound[Any]], within: object = None) -> list[Job]:
    """As they travel."""
    jobs = [make_job(b, b.options.id or app.new_id()) for b in chunk if _outside(app, b, within)]
    if app.tracing is not None:
        with app.tracing.sending(jobs) as jobs:
            pass  # it ends here: whether they were accepted is known much later
    return jobs if app.payloads.plain else await app.payloads.stored_jobs(jobs)

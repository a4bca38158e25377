"""`culm queues`: what each queue holds, by the store, and how fast it moves, by what its workers said with their last heartbeats."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from culm.app import App
from culm.cli.arguments import Json, MaybeApp, Url
from culm.cli.output import Exit, say, say_json
from culm.cli.table import lines, number, span
from culm.cli.target import store_app
from culm.store import FullStore, Load, QueueCounts, WorkerInfo

LEAST_MS = 1_000  # a rate over less says nothing
COLUMNS = ("queue", "ready", "delayed", "waiting", "leased", "running", "oldest", "rate/s", "wait", "run", "workers", "")


class Sight(Struct, frozen=True, kw_only=True):
    """A queue as an operator sees it. The first eight are the store's, now; the others its live workers', as of their last heartbeats."""

    queue: str
    paused: bool
    ready: int
    delayed: int
    waiting: int
    leased: int  # by workers: they run, or are next
    oldest_ms: int | None
    workers: int  # live ones that listen to it
    slots: int  # attempts that these can run at once, of all their queues
    busy: int  # how many of these slots are taken, by attempts of any queue
    running: int  # attempts of this queue
    rate: float | None  # attempts that ended per second, over the last minute at most; None: no worker has counted for a second yet
    wait_ms: float | None  # mean time of a sample of first attempts from their send to the claim
    run_ms: float | None  # mean time of an attempt


def queues(app: MaybeApp = None, url: Url = None, json: Json = False) -> int:
    """Print what each queue holds, and how fast it moves.

    ready, delayed, waiting (for a release), leased (by workers) and oldest (how long the oldest ready job has been due) are the
    store's, now. running, rate, wait and run are what live workers said with their last heartbeats, over a minute.

    \b
    Examples:
      culm queues shop.tasks:app
      culm queues --url redis://localhost --json
    """
    return asyncio.run(_queues(store_app(app, url), as_json=json))


async def _queues(app: App, *, as_json: bool) -> int:
    async with app:
        found = await sights(app.store)
    if as_json:
        say_json([msgspec.structs.asdict(s) for s in found])
    elif not found:
        say("no queue has unfinished jobs, and no worker is there")
    else:
        for line in lines(COLUMNS, [row(s) for s in found]):
            say(line)
    return Exit.OK


async def sights(store: FullStore) -> list[Sight]:
    """Two questions to the store, whatever it holds."""
    counts, workers = await asyncio.gather(store.counts(), store.workers())
    return see(counts, workers)


def see(counts: Sequence[QueueCounts], workers: Sequence[WorkerInfo]) -> list[Sight]:
    """By name: each queue that holds something, is paused, or has a worker."""
    known = {c.queue: c for c in counts}
    names = sorted(known.keys() | {queue for w in workers for queue in w.queues})
    return [_see(known.get(name) or _nothing(name), [w for w in workers if name in w.queues]) for name in names]


def _nothing(queue: str) -> QueueCounts:
    return QueueCounts(queue=queue, paused=False, ready=0, delayed=0, waiting=0, leased=0, oldest_ms=None)


def _see(counts: QueueCounts, workers: Sequence[WorkerInfo]) -> Sight:
    loads = [load for w in workers for load in w.loads if load.queue == counts.queue]
    ended, waited = sum(load.ended for load in loads), sum(load.waited for load in loads)
    return Sight(
        **msgspec.structs.asdict(counts),
        workers=len(workers),
        slots=sum(w.concurrency for w in workers),
        busy=sum(w.running for w in workers),
        running=sum(load.running for load in loads),
        rate=rate(loads),
        wait_ms=sum(load.waited_ms for load in loads) / waited if waited else None,
        run_ms=sum(load.ran_ms for load in loads) / ended if ended else None,
    )


def rate(loads: Sequence[Load]) -> float | None:
    counted = [load.ended / load.over_ms * 1000 for load in loads if load.over_ms >= LEAST_MS]
    return sum(counted) if counted else None


def row(s: Sight) -> tuple[str, ...]:
    notes = [note for note, is_so in (("paused", s.paused), ("no worker", not s.workers and s.ready + s.delayed > 0)) if is_so]
    held = tuple(str(n) for n in (s.ready, s.delayed, s.waiting, s.leased, s.running))
    return (s.queue, *held, span(s.oldest_ms), number(s.rate), span(s.wait_ms), span(s.run_ms), str(s.workers), ", ".join(notes))

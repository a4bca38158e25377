"""`culm pause`, `resume`, `drain` and `purge`: what an operator does to a queue."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

import typer

from culm.app import App
from culm.cli.arguments import Json, QueueName, Seconds, Url, subject
from culm.cli.output import Exit, Quit, say, say_json
from culm.cli.queues import Sight, sights
from culm.options import check_name
from culm.store import FullStore

LOOK_S = 0.5  # between two looks of a drain


def pause(queue: QueueName, url: Url = None, json: Json = False) -> int:
    """Let nobody claim from a queue until `culm resume`. What runs goes on; what is sent waits.

    \b
    Example:
      culm pause shop.tasks:app mail
    """
    return asyncio.run(_pause(*_subject(queue, url), as_json=json))


def resume(queue: QueueName, url: Url = None, json: Json = False) -> int:
    """Let workers claim from a paused queue again.

    \b
    Example:
      culm resume shop.tasks:app mail
    """
    return asyncio.run(_resume(*_subject(queue, url), as_json=json))


def drain(
    queue: QueueName,
    timeout: Annotated[Seconds | None, typer.Option(help="seconds to wait at most [as long as it takes]")] = None,
    url: Url = None,
    json: Json = False,
) -> int:
    """Pause a queue and wait until none of its jobs runs any more. It stays paused until `culm resume`.

    Before a migration, say. What waits in the queue stays there. Jobs held by workers that have died run again after the resume, and
    are not waited for. To stop one worker instead, send it SIGTERM: it claims no more and lets what runs end.

    \b
    Examples:
      culm drain shop.tasks:app mail --timeout 300
      culm resume shop.tasks:app mail
    """
    if timeout is not None and not 0 <= timeout < float("inf"):
        raise Quit(f"--timeout must be 0 or more seconds, got {timeout}", Exit.USAGE)
    return asyncio.run(_drain(*_subject(queue, url), timeout=timeout, as_json=json))


def purge(
    queue: QueueName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="really; without it nothing is cancelled")] = False,
    url: Url = None,
    json: Json = False,
) -> int:
    """Cancel every open job of a queue: due, delayed and waiting ones. What runs goes on; joins hear of the cancelled.

    \b
    Examples:
      culm purge shop.tasks:app mail
      culm purge shop.tasks:app mail --yes
    """
    return asyncio.run(_purge(*_subject(queue, url), yes=yes, as_json=json))


def _subject(words: list[str], url: str | None) -> tuple[App, str]:
    app, queue = subject(words, url, what="QUEUE")
    try:
        return app, check_name(queue, "queue")
    except ValueError as e:
        raise Quit(str(e), Exit.USAGE) from e


async def _pause(app: App, queue: str, *, as_json: bool) -> int:
    async with app:
        await app.store.pause(queue)
        found = await _sight(app.store, queue)
    unknown = not found.workers and not _open(found) + found.leased
    note = "; no worker and no job is there yet, is the name right?" if unknown else f"; {found.leased} of its jobs are with workers still"
    return _said({"queue": queue, "paused": True, "leased": found.leased}, f"paused {queue}{note}", as_json)


async def _resume(app: App, queue: str, *, as_json: bool) -> int:
    async with app:
        before = (await _sight(app.store, queue)).paused
        await app.store.resume(queue)
    text = f"resumed {queue}" if before else f"{queue} was not paused"
    return _said({"queue": queue, "paused": False, "was_paused": before}, text, as_json)


async def _drain(app: App, queue: str, *, timeout: float | None, as_json: bool) -> int:
    give_up_at = float("inf") if timeout is None else time.monotonic() + timeout
    async with app:
        await app.store.pause(queue)
        said = -1
        while True:
            alive, lapsed = await _held(app.store, queue)
            if not alive or time.monotonic() >= give_up_at:
                break
            if alive != said and not as_json:
                say(f"{queue} is paused; {alive} of its jobs are with workers still")
                said = alive
            await asyncio.sleep(min(LOOK_S, max(0.0, give_up_at - time.monotonic())))
    result = {"queue": queue, "drained": not alive, "leased": alive, "lapsed": lapsed}
    if alive:
        if as_json:
            say_json(result)
        raise Quit(
            f"queue {queue} is paused, but {alive} of its jobs did not end within {timeout:g} s; see: culm jobs -s leased -q {queue}"
        )
    left = f"; {lapsed} held by workers that died run again after it" if lapsed else ""
    return _said(result, f"drained {queue}: nothing of it runs; it is paused until: culm resume {queue}{left}", as_json)


async def _held(store: FullStore, queue: str) -> tuple[int, int]:
    """How many of its jobs are with workers, and how many under leases that ran out."""
    alive, lapsed, after = 0, 0, ""
    while views := await store.jobs(state="leased", queue=queue, after=after, limit=500):
        gone = sum(1 for view in views if not view.due_in_ms)
        alive, lapsed, after = alive + len(views) - gone, lapsed + gone, views[-1].id
    return alive, lapsed


async def _purge(app: App, queue: str, *, yes: bool, as_json: bool) -> int:
    async with app:
        if not yes:
            count = _open(await _sight(app.store, queue))
            raise Quit(f"purge would cancel the {count} open jobs of queue {queue}; nothing was done, say --yes to do it", Exit.USAGE)
        purged = await app.store.purge(queue)
    return _said({"queue": queue, "cancelled": purged}, f"cancelled {purged} open jobs of {queue}", as_json)


def _open(found: Sight) -> int:
    return found.ready + found.delayed + found.waiting


async def _sight(store: FullStore, queue: str) -> Sight:
    nothing = Sight(
        queue=queue, paused=False, ready=0, delayed=0, waiting=0, leased=0, oldest_ms=None, workers=0, slots=0, busy=0, running=0,
        rate=None, wait_ms=None, run_ms=None,
    )  # fmt: skip
    return next((s for s in await sights(store) if s.queue == queue), nothing)


def _said(result: dict[str, Any], text: str, as_json: bool) -> int:
    say_json(result) if as_json else say(text)
    return Exit.OK

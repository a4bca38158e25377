"""`culm workers`: who is there, as they say of themselves with their heartbeats."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec

from culm.app import App
from culm.cli.arguments import Json, MaybeApp, Url
from culm.cli.output import Exit, say, say_json
from culm.cli.table import clipped, lines, span
from culm.cli.target import store_app
from culm.store import WorkerInfo

COLUMNS = ("worker", "host", "pid", "running", "of", "done", "up", "longest", "queues")


def workers(app: MaybeApp = None, url: Url = None, json: Json = False) -> int:
    """Print the live workers: those whose last heartbeat is not older than three of them.

    \b
    Examples:
      culm workers shop.tasks:app
      culm workers --json
    """
    return asyncio.run(_workers(store_app(app, url), as_json=json))


async def _workers(app: App, *, as_json: bool) -> int:
    async with app:
        found = await app.store.workers()
    if as_json:
        say_json([shown(w) for w in found])
    elif not found:
        say("no worker is there; start one with: culm worker MODULE:APP")
    else:
        for line in lines(COLUMNS, [row(w, time.time() * 1000) for w in found]):
            say(line)
    return Exit.OK


def shown(w: WorkerInfo) -> dict[str, Any]:
    """For machines."""
    fields = msgspec.structs.asdict(w)
    fields["loads"] = [msgspec.structs.asdict(load) for load in w.loads]
    fields["longest"] = [{"id": job_id, "ms": ms} for job_id, ms in w.longest]
    return fields


def row(w: WorkerInfo, now_ms: float) -> tuple[str, ...]:
    """`up` compares two machines' clocks: it is about right."""
    longest = span(w.longest[0][1]) if w.longest else "-"
    up = span(max(0.0, now_ms - w.started_ms))
    return (w.id, w.host, str(w.pid), str(w.running), str(w.concurrency), str(w.done), up, longest, clipped(", ".join(w.queues), 40))

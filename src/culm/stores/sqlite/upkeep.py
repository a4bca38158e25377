"""What an operator does, and retention. Each function is one work for the writing desk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from sqlite3 import Connection

from culm.stores.sqlite.flags import REPLAYED, TOPIC, WATCHED
from culm.stores.sqlite.lanes import Lanes
from culm.stores.sqlite.rows import Rows
from culm.stores.sqlite.sql import SQL

FORGET_MS = 86_400_000  # a client or claimer that is silent for longer cannot ask for its last answer again
HINT_MS = 60_000


def replay(connection: Connection, job_ids: Sequence[str], now: int, rows: Rows) -> int:
    dead = _dead(connection, job_ids)
    for job_id, (rid, lane, flags) in dead.items():
        entered = (flags & WATCHED) | rows.enter(job_id, flags & TOPIC) | ((flags >> REPLAYED) + 1) << REPLAYED
        connection.execute(SQL["revive"], (now, now, entered, rid))
        rows.make_ready(lane, now, rid)
    return len(dead)


def discard(connection: Connection, job_ids: Sequence[str]) -> int:
    dead = _dead(connection, job_ids)
    connection.execute(SQL["forget_many"], (json.dumps([rid for rid, *_ in dead.values()]),))
    return len(dead)


def _dead(connection: Connection, job_ids: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Of the dead letters among them: rid, lane, flags."""
    found = {job_id: connection.execute(SQL["dead"], (job_id,)).fetchone() for job_id in job_ids}
    return {job_id: row for job_id, row in found.items() if row is not None}


def purge(connection: Connection, queue: str, rows: Rows) -> int:
    ids = connection.execute(SQL["open_ids"], (queue,)).fetchall()
    for (job_id,) in ids:
        rows.cancel(job_id)
    return len(ids)


def set_paused(connection: Connection, queue: str, lanes: Lanes, *, paused: bool) -> None:
    lanes.lane(connection.execute, queue, 0)
    connection.execute(SQL["set_paused"], (paused, queue))


def sweep(connection: Connection, limit: int, now: int) -> int:
    for name, before in (("sweep_clients", now - FORGET_MS), ("sweep_claimers", now - FORGET_MS), ("sweep_hints", now - HINT_MS)):
        connection.execute(SQL[name], (before,))
    connection.execute(SQL["sweep_workers"], (now,))
    swept = connection.execute(SQL["sweep_jobs"], (now, limit)).rowcount
    swept += connection.execute(SQL["sweep_tombstones"], (now, limit - swept)).rowcount
    roots = connection.execute(SQL["scopes_to_sweep"], (now, limit - swept)).fetchall()
    for (root,) in roots:
        for what in ("awaits", "triggers", "events", "topics", "records"):
            connection.execute(SQL[f"drop_scope_{what}"], (root,))
        connection.execute(SQL["drop_scope"], (root,))
    return swept + len(roots)

"""Hears of what other processes wrote: a thread that asks, while somebody waits, whether the file has changed.

`PRAGMA data_version` costs microseconds. It is asked every 5 ms, and every 20 ms once nothing has happened for a while that
anybody waits for; when nobody waits, not at all.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections.abc import Callable

from culm.errors import StoreError
from culm.stores.bells import Bells
from culm.stores.sqlite.line import Line
from culm.stores.sqlite.sql import SQL

log = logging.getLogger("culm.sqlite")

QUICK_S, SLOW_S = 0.005, 0.020
QUICK_ROUNDS = 100  # looks without news for whoever waits, before it looks less often


class Watch:
    """Rings the bells `queue/...`, `job/...` and `hints/...` of whatever changed.

    Args:
        line: a connection of the watch's own.
        seen: of each subscription, its channel and the last hint that it has read.
    """

    def __init__(self, line: Line, bells: Bells, now: Callable[[], int], seen: dict[object, tuple[str, int]]) -> None:
        self._line = line
        self._bells = bells
        self._now = now
        self._seen = seen
        self._poke = threading.Event()
        self._heads: dict[str, int] = {}  # queue -> the earliest due that was seen there
        self._look = False  # somebody began to wait: what happened before must be found, too
        self._closed = False
        self._thread: threading.Thread | None = None

    def wanted(self) -> None:
        """Somebody began to wait: look at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="culm-sqlite-watch", daemon=True)
            self._thread.start()
        self._look = True
        self._poke.set()

    def close(self) -> None:
        self._closed = True
        self._poke.set()

    def forked(self) -> None:
        """In the child of a fork: begin anew, without the parent's thread."""
        self._thread = None
        self._poke = threading.Event()

    def _run(self) -> None:
        seen: tuple[sqlite3.Connection | None, int] = (None, 0)  # versions of two connections cannot be compared
        quiet = 0
        while not self._closed:
            if asked := self._look:
                self._look = False
            try:
                with self._line as connection:
                    newest = (connection, connection.execute("PRAGMA data_version").fetchone()[0])
                    if newest != seen or asked:
                        seen = newest
                        if self._ring(connection) or asked:
                            quiet = 0
            except (sqlite3.Error, StoreError) as e:  # the slow look behind every wait finds the truth meanwhile
                log.warning("sqlite.watch: %s", e)
                self._look = True
            quiet += 1
            self._poke.wait(None if not self._bells else QUICK_S if quiet < QUICK_ROUNDS else SLOW_S)
            self._poke.clear()
        self._line.close()

    def _ring(self, connection: sqlite3.Connection) -> bool:
        """Whether there was news for anybody."""
        names, rung = self._bells.names(), False
        queues = [n[6:] for n in names if n.startswith("queue/")]
        jobs = [n[4:] for n in names if n.startswith("job/")]
        if queues:
            now = self._now()
            for name, due in connection.execute(SQL["queue_heads"], (json.dumps(queues),)).fetchall():
                if due <= now or due < self._heads.get(name, due + 1):  # whoever waits for a later one must hear of an earlier one
                    self._bells.ring(f"queue/{name}")
                    rung = True
                self._heads[name] = due
        if jobs:
            for (job_id,) in connection.execute(SQL["not_pending"], (json.dumps(jobs),)).fetchall():
                self._bells.ring(f"job/{job_id}")
                rung = True
        if self._seen:
            news = connection.execute(SQL["channels_with_news"], (json.dumps(list(self._seen.values())),)).fetchall()
            for (channel,) in news:
                self._bells.ring(f"hints/{channel}")
                rung = True
        return rung

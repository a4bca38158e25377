"""The blobs of a SQLite file: a table of it, made at its first use, so that a file without blobs is as it always was."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from culm.store import BlobKey
from culm.stores.sqlite.desk import Desk
from culm.stores.sqlite.sql import SQL


class SqliteBlobs:
    def __init__(self, writes: Desk, reads: Desk, now: Callable[[], int]) -> None:
        self._writes, self._reads = writes, reads
        self._now = now

    async def put(self, key: BlobKey, data: bytes, *, look_ms: int) -> None:
        def work(connection: sqlite3.Connection) -> None:
            _prepare(connection)
            connection.execute(SQL["put_blob"], (key.job_id, key.digest, self._now() + look_ms, data))

        await self._writes.do(work)

    async def get(self, key: BlobKey) -> bytes | None:
        def work(connection: sqlite3.Connection) -> bytes | None:
            if not connection.execute(SQL["has_blobs"]).fetchone():
                return None
            found = connection.execute(SQL["blob"], (key.job_id, key.digest)).fetchone()
            return None if found is None else found[0]

        return await self._reads.do(work)

    async def drop(self, keys: Sequence[BlobKey]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            _prepare(connection)
            connection.executemany(SQL["drop_blob"], [(key.job_id, key.digest) for key in keys])

        await self._writes.do(work)

    async def overdue(self, *, limit: int, again_ms: int) -> list[BlobKey]:
        def work(connection: sqlite3.Connection) -> list[BlobKey]:
            _prepare(connection)
            now = self._now()
            keys = [BlobKey(*row) for row in connection.execute(SQL["overdue_blobs"], (now, limit)).fetchall()]
            connection.executemany(SQL["look_again"], [(now + again_ms, key.job_id, key.digest) for key in keys])
            return keys

        return await self._writes.do(work)


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute(SQL["make_blobs"])
    connection.execute(SQL["make_blobs_by_look"])

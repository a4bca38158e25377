"""The blobs of a PostgreSQL schema: a table of it, since version 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from culm.store import BlobKey
from culm.stores.postgres.link import Link


class PostgresBlobs:
    """Args: link: that of the running event loop; now: a fixed clock's instant, None for the server's."""

    def __init__(self, link: Callable[[], Link], now: Callable[[], int | None]) -> None:
        self._link = link
        self._now = now

    async def put(self, key: BlobKey, data: bytes, *, look_ms: int) -> None:
        await self._link().rows("put_blob", key.job_id, key.digest, self._now(), look_ms, data)

    async def get(self, key: BlobKey) -> bytes | None:
        found: bytes | None = await self._link().run("blob", key.job_id, key.digest)
        return found

    async def drop(self, keys: Sequence[BlobKey]) -> None:
        if keys:
            ordered = sorted(set(keys), key=lambda k: (k.job_id, k.digest))
            await self._link().rows("drop_blobs", [key.job_id for key in ordered], [key.digest for key in ordered])

    async def overdue(self, *, limit: int, again_ms: int) -> list[BlobKey]:
        return [BlobKey(*row) for row in await self._link().rows("overdue_blobs", self._now(), limit, again_ms)]

"""The blobs of a Redis namespace: a string each, and one sorted set of when to look.

The set is written first: a string that it does not know would stay for ever, a member without a string is dropped when it is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from culm.store import BlobKey
from culm.stores.redis.way import Way
from culm.stores.redis.wire import Word


class RedisBlobs:
    """Args: link: that of the running event loop; now: a fixed clock's instant, "" for the server's."""

    def __init__(self, link: Callable[[], Way], prefix: str, now: Callable[[], Word]) -> None:
        self._link = link
        self._prefix = prefix
        self._looks = f"{prefix}looks"
        self._now = now

    async def put(self, key: BlobKey, data: bytes, *, look_ms: int) -> None:
        look = await self._moment() + look_ms
        await self._link().ask_all([("ZADD", self._looks, look, _member(key)), ("SET", self._name(key), data)])

    async def get(self, key: BlobKey) -> bytes | None:
        found: bytes | None = await self._link().ask("GET", self._name(key))
        return found

    async def drop(self, keys: Sequence[BlobKey]) -> None:
        if keys:
            names, members = [self._name(key) for key in keys], [_member(key) for key in keys]
            await self._link().ask_all([("UNLINK", *names), ("ZREM", self._looks, *members)])

    async def overdue(self, *, limit: int, again_ms: int) -> list[BlobKey]:
        now = await self._moment()
        members = await self._link().ask("ZRANGEBYSCORE", self._looks, "-inf", now, "LIMIT", 0, limit)
        if members:
            again = [word for member in members for word in (now + again_ms, member)]
            await self._link().ask("ZADD", self._looks, "XX", *again)
        return [BlobKey(member[64:].decode(), member[:64].decode()) for member in members]

    def _name(self, key: BlobKey) -> str:
        return f"{self._prefix}y:{_member(key)}"

    async def _moment(self) -> int:
        if now := self._now():
            return int(now)
        seconds, micros = await self._link().ask("TIME")
        return int(seconds) * 1000 + int(micros) // 1000


def _member(key: BlobKey) -> str:
    return key.digest + key.job_id

"""Hints: one message per channel and call, heard by whoever is subscribed then."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

import msgspec

from culm.store import Hint
from culm.stores.redis.news import News
from culm.stores.redis.way import Way

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Hint]).decode


async def publish(link: Way, prefix: str, hints: Sequence[Hint]) -> None:
    channels: dict[str, list[Hint]] = {}
    for hint in hints:
        channels.setdefault(hint.channel, []).append(hint)
    await link.ask_all([("PUBLISH", f"{prefix}h:{channel}", _encode(some)) for channel, some in channels.items()])


class Subscription:
    def __init__(self, news: News, channel: str) -> None:
        self._news = news
        self._channel = channel
        self._arrived: deque[Hint] = deque(maxlen=10_000)
        self._rung = asyncio.Event()
        self._bound = self._hear  # the same object when it is taken back

    async def begin(self) -> None:
        await self._news.subscribe(self._channel, self._bound)

    def _hear(self, message: bytes) -> None:
        self._arrived.extend(_decode(message))
        self._rung.set()

    async def next(self, *, for_ms: int) -> Sequence[Hint]:
        if not self._arrived:
            self._rung.clear()
            try:
                async with asyncio.timeout(for_ms / 1000):
                    await self._rung.wait()
            except TimeoutError:
                return ()
        hints = tuple(self._arrived)
        self._arrived.clear()
        return hints

    async def close(self) -> None:
        self._news.unsubscribe(self._channel, self._bound)

"""Hints: a notification for each channel and call, heard by whoever is subscribed then. What is too large for one lies in a table."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from base64 import b85decode, b85encode
from collections import deque
from collections.abc import Sequence

import msgspec

from culm.store import Hint
from culm.stores.postgres.link import Link
from culm.stores.postgres.news import News

MOST_CHARS = 7_900  # of a notification; the server refuses 8,000
MOST_HINTS = 10_000

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Hint]).decode
_numbers = itertools.count()  # two equal notifications of one transaction would be one


def channel_of(schema: str, channel: str) -> str:
    """The server's names are short."""
    return "culm/h/" + hashlib.blake2b(f"{schema}/{channel}".encode(), digest_size=20).hexdigest()


async def publish(link: Link, hints: Sequence[Hint]) -> None:
    by_channel: dict[str, list[Hint]] = {}
    for hint in hints:
        by_channel.setdefault(channel_of(link.address.schema, hint.channel), []).append(hint)
    channels, payloads = [], []
    for channel, some in by_channel.items():
        payload = f"{next(_numbers)} {b85encode(_encode(some)).decode()}"
        if len(payload) > MOST_CHARS:
            await link.rows("notify_large", channel, _encode(some))
        else:
            channels.append(channel)
            payloads.append(payload)
    if channels:
        await link.rows("notify", channels, payloads)


class Subscription:
    def __init__(self, link: Link, news: News, channel: str) -> None:
        self._link = link
        self._news = news
        self._channel = channel_of(link.address.schema, channel)
        self._arrived: deque[str] = deque(maxlen=MOST_HINTS)
        self._rung = asyncio.Event()
        self._bound = self._hear  # the same object when it is taken back

    async def begin(self) -> None:
        await self._news.subscribe(self._channel, self._bound)

    def _hear(self, payload: str) -> None:
        self._arrived.append(payload)
        self._rung.set()

    async def next(self, *, for_ms: int) -> Sequence[Hint]:
        if not self._arrived:
            self._rung.clear()
            try:
                async with asyncio.timeout(for_ms / 1000):
                    await self._rung.wait()
            except TimeoutError:
                return ()
        hints: list[Hint] = []
        while self._arrived:
            hints += await self._read(self._arrived.popleft())
        return tuple(hints)

    async def _read(self, payload: str) -> list[Hint]:
        if not payload.startswith("#"):
            return _decode(b85decode(payload.partition(" ")[2]))
        kept = await self._link.run("large_hints", int(payload[1:]))
        return _decode(kept) if kept is not None else []  # swept meanwhile: a hint may be missing

    async def close(self) -> None:
        self._news.unsubscribe(self._channel, self._bound)

"""How jobs ended, for many who ask at once: look-ups travel in batches, and whoever waits is told by the commit that ends the job.

Looking and asking to be told is one script, so no end falls between the two. A message may be lost: each waiter looks again
after a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

from culm.errors import StoreUnavailable
from culm.stores.redis.link import Link
from culm.stores.redis.news import News
from culm.stores.redis.wire import Word

LOOK_S = 1.0
MOST_AT_ONCE = 1_000
PENDING = 1

Found: TypeAlias = bytes | int  # what `o:` holds; 1: it has not ended; 0: there is no such job; b"": it ended, and is gone


class Looks:
    """Gathers look-ups: while one batch is in flight the next collects."""

    def __init__(self, link: Link, now: Callable[[], Word], channel: str) -> None:
        self._link = link
        self._now = now
        self._channel = channel
        self._asked: list[tuple[bytes, asyncio.Future[Found]]] = []
        self._asking: asyncio.Task[None] | None = None

    def look(self, job_id: bytes) -> asyncio.Future[Found]:
        future: asyncio.Future[Found] = self._link.loop.create_future()
        self._asked.append((job_id, future))
        if self._asking is None:
            self._asking = self._link.loop.create_task(self._ask())
        return future

    async def _ask(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked[:MOST_AT_ONCE], self._asked[MOST_AT_ONCE:]
                try:
                    found = await self._link.run("look", self._now(), self._channel, *[job_id for job_id, _ in asked])
                except Exception as e:  # noqa: BLE001  # whoever asked must hear of it
                    for _, future in asked:
                        if not future.done():
                            future.set_exception(e)
                    continue
                for (_, future), one in zip(asked, found, strict=True):
                    if not future.done():
                        future.set_result(one)
        finally:
            self._asking = None


class Outcomes:
    def __init__(self, link: Link, news: News, now: Callable[[], Word], channel: str) -> None:
        self._link = link
        self._news = news
        self._channel = channel
        self._waiting: dict[bytes, list[asyncio.Future[Found]]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._plain = Looks(link, now, "")
        self._telling = Looks(link, now, channel)

    async def find(self, job_id: str, *, for_ms: int) -> Found:
        """How it ended, or PENDING when the time is over."""
        if not for_ms:
            return await self._plain.look(job_id.encode())
        loop = self._link.loop
        ends_at = loop.time() + for_ms / 1000
        if self._listening is None or not self._listening.done() or self._listening.exception() is not None:
            await self._listen(for_ms / 1000)
        while True:
            found = await self._look_and_wait(job_id.encode(), ends_at)
            if found != PENDING or loop.time() >= ends_at:
                return found

    async def _look_and_wait(self, name: bytes, ends_at: float) -> Found:
        """Look, and wait to be told; at most a second, then the next look is due."""
        loop = self._link.loop
        told: asyncio.Future[Found] = loop.create_future()
        self._waiting.setdefault(name, []).append(told)
        timer: asyncio.TimerHandle | None = None
        try:
            found = await self._telling.look(name)
            if found != PENDING:
                return found
            if not told.done():
                timer = loop.call_later(max(0.0, min(LOOK_S, ends_at - loop.time())), _give_up, told)
            return await told
        finally:
            if timer is not None:
                timer.cancel()
            waiting = self._waiting.get(name)
            if waiting is not None and told in waiting:
                waiting.remove(told)
                if not waiting:
                    del self._waiting[name]

    async def _listen(self, within_s: float) -> None:
        """Subscribe, once. Without a subscription there is still the look."""
        if self._listening is None or self._listening.done():
            self._listening = self._link.loop.create_task(self._news.subscribe(self._channel, self._told))
        with suppress(TimeoutError, StoreUnavailable):
            async with asyncio.timeout(min(LOOK_S, within_s)):
                await asyncio.shield(self._listening)

    def _told(self, message: bytes) -> None:
        at = 0
        while at < len(message):
            job_id, at = _netstring(message, at)
            outcome, at = _netstring(message, at)
            for future in self._waiting.pop(job_id, ()):
                if not future.done():
                    future.set_result(outcome)


def _give_up(told: asyncio.Future[Found]) -> None:
    if not told.done():
        told.set_result(PENDING)


def _netstring(text: bytes, at: int) -> tuple[bytes, int]:
    colon = text.index(b":", at)
    end = colon + 1 + int(text[at:colon])
    return text[colon + 1 : end], end

"""One subscription connection per event loop, made when somebody first listens. Channels are subscribed once, whoever else joins.

After an outage it subscribes again by itself. What was said meanwhile is lost: behind every listener is a slow poll.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from culm.errors import CulmError, StoreUnavailable
from culm.stores.redis.connection import Connection
from culm.stores.redis.way import Opens

log = logging.getLogger("culm.redis")

PING_S, SILENT_S, CONFIRM_S = 4.0, 9.0, 5.0
Hear: TypeAlias = Callable[[bytes], None]


class News:
    def __init__(self, link: Opens) -> None:
        self._link = link
        self._hearers: dict[bytes, list[Hear]] = {}
        self._confirming: dict[bytes, asyncio.Future[None]] = {}
        self._connection: Connection | None = None
        self._heard_at = 0.0
        self._away = False  # so much was said
        self._keeper: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        """As far as this process knows, what is said now is heard."""
        return self._connection is not None and self._connection.is_open

    async def subscribe(self, channel: str, hear: Hear) -> None:
        """Call `hear` with each message from now on. Raises StoreUnavailable."""
        name = channel.encode()
        first = name not in self._hearers
        self._hearers.setdefault(name, []).append(hear)
        try:
            if self._keeper is None or self._keeper.done():
                self._keeper = self._link.loop.create_task(self._keep())
            elif first and self._connection is not None:
                self._ask(self._connection, name)
            async with asyncio.timeout(CONFIRM_S):
                await self._confirmed(name)
        except TimeoutError:
            self.unsubscribe(channel, hear)
            raise StoreUnavailable("the subscription was not confirmed in time") from None
        except BaseException:
            self.unsubscribe(channel, hear)
            raise

    def unsubscribe(self, channel: str, hear: Hear) -> None:
        name = channel.encode()
        hearers = self._hearers.get(name, [])
        if hear in hearers:
            hearers.remove(hear)
        if not hearers and self._hearers.pop(name, None) is not None:
            self._confirming.pop(name, None)
            if self._connection is not None:
                self._connection.say("UNSUBSCRIBE", name)

    def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()

    # -- inside -------------------------------------------------------------------------------------------------------------

    def _confirmed(self, name: bytes) -> asyncio.Future[None]:
        future = self._confirming.get(name)
        if future is None:
            future = self._confirming[name] = self._link.loop.create_future()
        return future if future.done() else asyncio.shield(future)

    def _ask(self, connection: Connection, *names: bytes) -> None:
        for name in names:
            known = self._confirming.get(name)
            if known is None or known.done():
                self._confirming[name] = self._link.loop.create_future()
        if names:
            connection.say("SUBSCRIBE", *names)

    async def _connect(self) -> Connection | None:
        """None: it cannot be, and whoever waits for a confirmation was told."""
        try:
            connection = await self._link.open(self._heard)
        except CulmError as e:
            if not self._away:
                log.warning("redis.subscription: %s; it is made again as soon as that works", e)
            self._away = True
            for future in self._confirming.values():
                if not future.done():
                    future.set_exception(e)
                    future.exception()  # whoever waited may have gone
            self._confirming.clear()
            return None
        if self._away:
            log.info("redis.subscription: it is back")
        self._away, self._heard_at = False, self._link.loop.time()
        self._ask(connection, *self._hearers)
        return connection

    def _heard(self, reply: list[Any]) -> None:
        self._heard_at = self._link.loop.time()
        if reply[0] == b"message":
            for hear in self._hearers.get(reply[1], ())[:]:
                hear(reply[2])
        elif reply[0] == b"subscribe" and (future := self._confirming.get(reply[1])) is not None and not future.done():
            future.set_result(None)

    async def _keep(self) -> None:
        """Until the store is closed: notice that the connection died, and make it anew."""
        self._connection = await self._connect()
        while True:
            connection = self._connection
            if connection is None or not connection.is_open:
                self._connection = None
                await self._link.spread()
                self._connection = await self._connect()
                continue
            connection.say("PING")
            try:
                async with asyncio.timeout(PING_S):
                    await connection.closed.wait()
            except TimeoutError:
                if self._link.loop.time() - self._heard_at > SILENT_S:
                    connection.close("has been silent")

"""One listening connection per event loop, made when somebody first listens: who is told of queues and outcomes, and hints.

After an outage it listens again by itself. What was said meanwhile is lost: everybody who waits is woken and looks, and behind
every wait is a slow poll.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

import asyncpg

from culm.errors import CulmError, StoreUnavailable
from culm.stores.postgres.link import Link

log = logging.getLogger("culm.postgres")

PING_S, CONFIRM_S = 5.0, 5.0
Hear: TypeAlias = Callable[[str], None]


class News:
    """Args:
    returned: called when the connection is back, or is there for the first time.
    """

    def __init__(self, link: Link, returned: Callable[[], None]) -> None:
        self._link = link
        self._returned = returned
        self._hearers: dict[str, list[Hear]] = {}
        self._connection: Any = None
        self._lost = asyncio.Event()
        self._line = asyncio.Lock()  # a connection does one thing at a time
        self._ready: asyncio.Future[None] | None = None
        self._away = False  # so much was said
        self._keeper: asyncio.Task[None] | None = None

    def is_listening(self) -> bool:
        return self._connection is not None and not self._connection.is_closed()

    async def subscribe(self, channel: str, hear: Hear) -> None:
        """Call `hear` with each message from now on. Raises StoreUnavailable, ConfigError."""
        hearers = self._hearers.setdefault(channel, [])
        hearers.append(hear)
        try:
            if self._keeper is None or self._keeper.done():
                self._ready = self._link.loop.create_future()
                self._keeper = self._link.loop.create_task(self._keep())
            async with asyncio.timeout(CONFIRM_S):
                if self._connection is None and self._ready is not None:
                    await asyncio.shield(self._ready)
                elif len(hearers) == 1 and self._connection is not None:
                    await self._listen(self._connection, channel)
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self.unsubscribe(channel, hear)
            raise StoreUnavailable(f"{self._link.address} did not confirm the subscription in time") from None
        except BaseException:
            self.unsubscribe(channel, hear)
            raise

    def unsubscribe(self, channel: str, hear: Hear) -> None:
        hearers = self._hearers.get(channel, [])
        if hear in hearers:
            hearers.remove(hear)
        if not hearers:
            self._hearers.pop(channel, None)  # the server goes on telling us, and nobody hears it

    def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
        if self._connection is not None:
            self._connection.terminate()

    # -- inside -------------------------------------------------------------------------------------------------------------

    async def _listen(self, connection: Any, channel: str) -> None:
        async with self._line:
            await connection.remove_listener(channel, self._heard)  # nobody may have heard it for a while, and it was never taken back
            await connection.add_listener(channel, self._heard)

    def _heard(self, _connection: Any, _pid: int, channel: str, payload: str) -> None:
        for hear in self._hearers.get(channel, ())[:]:
            hear(payload)

    async def _keep(self) -> None:
        """Until the store is closed: notice that the connection died, and make it anew."""
        while True:
            try:
                await self._make()
            except (CulmError, OSError, TimeoutError) as e:
                self._say_away(e)
                await asyncio.sleep(0.1)
                continue
            except Exception as e:  # noqa: BLE001  # the driver's own: whatever it was, the connection is made anew
                self._say_away(e)
                await asyncio.sleep(0.1)
                continue
            await self._watch()
            self._connection = None

    async def _make(self) -> None:
        connection = await self._link.open()
        try:
            async with asyncio.timeout(CONFIRM_S):
                listened: set[str] = set()
                while missing := self._hearers.keys() - listened:  # more may come while these are confirmed
                    for channel in missing:
                        await connection.add_listener(channel, self._heard)
                    listened |= missing
        except BaseException:
            connection.terminate()
            raise
        self._lost.clear()
        connection.add_termination_listener(lambda _: self._lost.set())
        self._connection = connection
        if self._away:
            log.info("postgres.listening: it is back")
        self._away = False
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)
        self._returned()

    def _say_away(self, error: Exception) -> None:
        if not self._away:
            log.warning("postgres.listening: %s; until it is back, waits end by polling", error)
        self._away = True
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(error if isinstance(error, CulmError) else StoreUnavailable(str(error)))
            self._ready.exception()  # whoever waited may have gone
        self._ready = self._link.loop.create_future()

    async def _watch(self) -> None:
        """Return when the connection is dead."""
        connection = self._connection
        while not connection.is_closed():
            with suppress(TimeoutError):
                async with asyncio.timeout(PING_S):
                    await self._lost.wait()
                return
            try:
                async with asyncio.timeout(PING_S), self._line:
                    await connection.execute("SELECT 1")
            except Exception:  # noqa: BLE001  # silent, or gone
                connection.terminate()
                return

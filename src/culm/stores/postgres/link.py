"""The connections of one store on one event loop: a few, made when they are needed, each asked one thing at a time.

Whatever is asked is one statement and its own transaction. A connection on which something went wrong with the line itself is
thrown away: what was asked may have happened, and whoever asked repeats it. Two transactions in each other's way are repeated here.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg

from culm.errors import StoreError, StoreUnavailable
from culm.stores.postgres.address import Address
from culm.stores.postgres.faults import AGAIN, NOT_PLAIN, state_of, translated
from culm.stores.postgres.migrate import quoted
from culm.stores.postgres.server import Server, inspect
from culm.stores.postgres.sql import SQL

CONNECT_S = 5.0
REPLY_S = 15.0  # without a reply: the connection is taken for dead
MOST_REPEATS = 8
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0  # between two tries to connect


class Link:
    """Asks the server, on the loop on which it was made.

    Args:
        connected: told what the server is, when the first connection is made.
    """

    def __init__(self, address: Address, rng: random.Random, connected: Callable[[Server], None]) -> None:
        self.address = address
        self.loop = asyncio.get_running_loop()
        self._rng = rng
        self._connected = connected
        self.sql = {name: text.replace("{schema}", quoted(address.schema)) for name, text in SQL.items()}
        self._idle: list[Any] = []
        self._open: set[Any] = set()
        self._room = address.connections
        self._queue: deque[asyncio.Future[None]] = deque()  # who waits for a connection
        self._inspected = False
        self._not_before = 0.0  # when the next connection may be tried
        self._pause_s = 0.0
        self.closed = False

    # -- asking -------------------------------------------------------------------------------------------------------------

    async def run(self, name: str, *args: Any) -> Any:
        """The first column of the first row. Raises StoreUnavailable, StoreError, ConfigError; asyncpg.PostgresError with NOT_PLAIN."""
        rows = await self.rows(name, *args)
        return rows[0][0] if rows else None

    async def rows(self, name: str, *args: Any) -> Sequence[Any]:
        for n in range(MOST_REPEATS):
            try:
                return await self._ask(self.sql[name], args)
            except asyncpg.PostgresError as e:
                if state_of(e) not in AGAIN:
                    raise
            await asyncio.sleep(0.005 * n * self._rng.random())  # they met once; not again at the same moment
        raise StoreUnavailable(f"{self.address}: others were in the way {MOST_REPEATS} times; nothing was written")

    async def _ask(self, query: str, args: Sequence[Any]) -> Sequence[Any]:
        connection = await self.take()
        try:
            async with asyncio.timeout(REPLY_S):
                if self.address.listen:
                    found: Sequence[Any] = await connection.fetch(query, *args)
                else:  # a pooler in transaction mode keeps one server for one transaction only
                    async with connection.transaction():
                        found = await connection.fetch(query, *args)
        except asyncpg.PostgresError as e:
            if connection.is_closed() or state_of(e)[:2] in ("08", "25", "57"):
                self.drop(connection)
            else:
                self.give_back(connection)
            if state_of(e) in (*AGAIN, NOT_PLAIN):
                raise
            raise translated(e, str(self.address)) from None
        except asyncpg.DataError as e:  # it never left this process
            self.give_back(connection)
            raise translated(e, str(self.address)) from None
        except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError) as e:
            self.drop(connection)
            raise self._lost(e) from None
        except BaseException:  # its caller went away in the middle: what comes on this line would be another's
            self.drop(connection)
            raise
        self.give_back(connection)
        return found

    def _lost(self, error: Exception) -> Exception:
        if self.closed:
            return StoreError("this store was closed; open it anew")
        if isinstance(error, OSError) and not isinstance(error, TimeoutError):
            return StoreUnavailable(f"the connection to {self.address} broke: {error.strerror or type(error).__name__}")
        return translated(error, str(self.address))

    # -- connections ----------------------------------------------------------------------------------------------------------

    async def take(self) -> Any:
        """A connection for oneself, until it is given back or dropped."""
        while True:
            if self.closed:
                raise StoreError("this store was closed; open it anew")
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_closed():
                    return connection
                self.drop(connection)
            if self._room > 0:
                break
            turn: asyncio.Future[None] = self.loop.create_future()
            self._queue.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._next()
                raise
        self._room -= 1
        try:
            connection = await self.open()
        except BaseException:
            self._room += 1
            self._next()
            raise
        self._open.add(connection)
        return connection

    def give_back(self, connection: Any) -> None:
        if self.closed or connection.is_closed():
            self.drop(connection)
        else:
            self._idle.append(connection)
            self._next()

    def drop(self, connection: Any) -> None:
        connection.terminate()
        if connection in self._open:
            self._open.discard(connection)
            self._room += 1
        self._next()

    def _next(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    async def open(self) -> Any:
        """A new connection to a server that was inspected. After a failure the next try waits: clients must not return as a herd."""
        pause = self._not_before - self.loop.time()
        if pause > 0:
            await asyncio.sleep(pause)
        try:
            connection = await self._connect()
            try:
                async with asyncio.timeout(CONNECT_S):
                    if not self._inspected:
                        async with connection.transaction(readonly=True):  # behind a pooler: of one and the same server
                            found = await inspect(connection, self.address)
                        self._connected(found)
                        self._inspected = True
            except BaseException:
                connection.terminate()
                raise
        except Exception as e:  # noqa: BLE001  # whatever the driver says, in the store's words
            self._pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, self._pause_s * 2))
            self._not_before = self.loop.time() + self._pause_s * (0.5 + self._rng.random() / 2)
            raise translated(e, str(self.address)) from None
        self._pause_s = 0.0
        return connection

    async def _connect(self) -> Any:
        cached = {} if self.address.listen else {"statement_cache_size": 0}
        return await asyncpg.connect(self.address.dsn, timeout=CONNECT_S, server_settings={"application_name": "culm"}, **cached)

    def close(self) -> None:
        self.closed = True
        for connection in self._open:
            connection.terminate()
        while self._queue:
            self._next()

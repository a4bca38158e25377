"""The connections of one store on one event loop: a main one that everything is pipelined through, and spare ones to wait on.

A connection that broke is made anew by whoever asks next, after a random pause, so that many clients do not return as a herd.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import hiredis

from culm.errors import StoreError, StoreUnavailable
from culm.stores.redis.address import Address
from culm.stores.redis.connection import Connection, Reply, value
from culm.stores.redis.faults import wants_another_server
from culm.stores.redis.scripts import SCRIPTS
from culm.stores.redis.server import Server, inspect
from culm.stores.redis.wire import Word

CONNECT_S = 5.0
REPLY_S = 5.0  # without any reply: the connection is taken for dead
RETURN_S = 3.0  # over so long the clients of a server that was away spread their return
GRACE_S = 2.0  # how much later than asked for a wait may end
MOST_SPARE = 4


class Link:
    """Asks the server, on the loop on which it was made.

    Args:
        connected: told what the server is, each time that the main connection is made.
    """

    def __init__(self, address: Address, rng: random.Random, connected: Callable[[Server], None]) -> None:
        self._address = address
        self._rng = rng
        self._connected = connected
        self.loop = asyncio.get_running_loop()
        self._main: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._met = False  # a connection was tried before: the next one may be part of a herd
        self._spare: list[Connection] = []
        self._open: set[Connection] = set()
        self._guard: asyncio.TimerHandle | None = None
        self.closed = False

    # -- asking -------------------------------------------------------------------------------------------------------------

    async def run(self, name: str, *words: Word) -> Reply:
        """What the script returns. Raises StoreUnavailable, StoreError, ConfigError."""
        script, connection = SCRIPTS[name], self._main
        if connection is None or not connection.is_open:
            connection = await self.connection()
        reply = await connection.ask("EVALSHA", script.sha, 1, self._address.prefix, *words)
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith("NOSCRIPT"):  # flushed, or another server: it did not run
                reply = await connection.ask("EVAL", script.text, 1, self._address.prefix, *words)
            self._judge(connection, reply)
        return value(reply)

    async def ask(self, *command: Word) -> Reply:
        (reply,) = await self.ask_all([command])
        return reply

    async def ask_all(self, commands: Sequence[Sequence[Word]]) -> list[Reply]:
        """Replies to commands that go out at once."""
        connection = await self.connection()
        replies = [await future for future in [connection.ask(*command) for command in commands]]
        for reply in replies:
            self._judge(connection, reply)
        return [value(reply) for reply in replies]

    def _judge(self, connection: Connection, reply: Reply) -> None:
        if isinstance(reply, hiredis.ReplyError) and wants_another_server(str(reply)):
            connection.close("leads to a server that takes no writes")

    async def wait(self, markers: Sequence[str], queues: Sequence[str], now: Word, *, for_ms: int) -> None:
        """Until a marker is set, at most so long."""
        ends_at = self.loop.time() + for_ms / 1000
        connection = await self._spare_one(for_ms / 1000)
        if connection is None:
            return
        script = SCRIPTS["arm"]
        try:
            armed = connection.ask("EVALSHA", script.sha, 1, self._address.prefix, now, *queues)
            left_s = max(0.001, ends_at - self.loop.time())
            popped = connection.ask("BZPOPMIN", *markers, f"{left_s:.3f}")
            async with asyncio.timeout(left_s + GRACE_S):
                reply = await armed
                if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
                    await self.run("arm", now, *queues)
                else:
                    value(reply)
                value(await popped)
        except TimeoutError:
            connection.close("did not answer")
            raise StoreUnavailable(f"{self._address} did not answer a wait in time") from None
        except BaseException:
            connection.close("was given up")  # else its wait would take a marker that another needs
            raise
        if len(self._spare) < MOST_SPARE and connection.is_open and not self.closed:
            self._spare.append(connection)
        else:
            connection.close()

    # -- connecting -----------------------------------------------------------------------------------------------------------

    async def connection(self) -> Connection:
        """The main one, made if it has to be."""
        if self.closed:
            raise StoreError("this store was closed; open it anew")
        main = self._main
        if main is not None and main.is_open:
            return main
        if self._connecting is None:
            self._connecting = self.loop.create_task(self._reconnect())
        return await asyncio.shield(self._connecting)

    async def _reconnect(self) -> Connection:
        try:
            await self.spread()
            connection = await self.open()
            try:
                server = await inspect(connection, str(self._address))
            except BaseException:
                connection.close()
                raise
            self._main = connection
            self._connected(server)
            return connection
        finally:
            self._connecting = None

    async def spread(self) -> None:
        """The random pause before a return."""
        if self._met:
            await asyncio.sleep(self._rng.uniform(0, RETURN_S))
        self._met = True

    async def _spare_one(self, within_s: float) -> Connection | None:
        """A connection to wait on; None: there is none in time."""
        while self._spare:
            connection = self._spare.pop()
            if connection.is_open:
                return connection
        await self.connection()
        try:
            async with asyncio.timeout(max(within_s, 0.1)):
                return await self.open()
        except TimeoutError:
            return None

    async def open(self, news: Callable[[list[Any]], None] | None = None) -> Connection:
        """A new connection, logged in."""
        address, where = self._address, str(self._address)

        def made() -> Connection:
            return Connection(where, news)

        connection: Connection | None = None
        try:
            async with asyncio.timeout(CONNECT_S):
                if address.path:
                    _, connection = await self.loop.create_unix_connection(made, address.path)
                else:
                    _, connection = await self.loop.create_connection(made, address.host, address.port, ssl=address.tls_context())
                await self._log_in(connection)
        except TimeoutError:
            _drop(connection)
            raise StoreUnavailable(f"cannot connect to {where}: no answer within {CONNECT_S:g} s") from None
        except OSError as e:
            _drop(connection)
            raise StoreUnavailable(f"cannot connect to {where}: {e.strerror or type(e).__name__}") from None
        except BaseException:
            _drop(connection)
            raise
        self._watch(connection)
        return connection

    async def _log_in(self, connection: Connection) -> None:
        address, asked = self._address, []
        if address.password:
            asked.append(connection.ask("AUTH", *([address.user] if address.user else []), address.password))
        if address.database:
            asked.append(connection.ask("SELECT", address.database))
        asked.append(connection.ask("CLIENT", "SETNAME", "culm"))
        replies = [await reply for reply in asked]
        for reply in replies[:-1]:  # the name is a courtesy: a user may be forbidden to give one
            value(reply)

    # -- dead connections, and the end ------------------------------------------------------------------------------------------

    def _watch(self, connection: Connection) -> None:
        if self.closed:
            connection.close()
            raise StoreError("this store was closed; open it anew")
        self._open.add(connection)
        if self._guard is None:
            self._guard = self.loop.call_later(1.0, self._look)

    def _look(self) -> None:
        """A connection may die without a word."""
        now = self.loop.time()
        self._open = {c for c in self._open if c.is_open}
        if self._main is not None and self._main.stuck_for(now) > REPLY_S:
            self._main.close(f"has been silent for {REPLY_S:g} s")
        self._guard = self.loop.call_later(1.0, self._look) if self._open else None

    def close(self) -> None:
        self.closed = True
        if self._guard is not None:
            self._guard.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        for connection in self._open:
            connection.close()


def _drop(connection: Connection | None) -> None:
    if connection is not None:
        connection.close()

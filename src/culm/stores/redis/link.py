"""The connections of one store on one event loop: a main one that everything is pipelined through, and spare ones to wait on.

A connection that broke is made anew by whoever asks next, when this client's moment has come (`pace.py`). With sentinels,
each connection begins with the question who is the master.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import hiredis

from culm.errors import ConfigError, StoreError, StoreUnavailable
from culm.stores.redis.address import Address, Place
from culm.stores.redis.busy_poll import BusyPoll
from culm.stores.redis.connection import Connection, Reply, value
from culm.stores.redis.faults import wants_another_server
from culm.stores.redis.give_way import GiveWay
from culm.stores.redis.pace import Pace
from culm.stores.redis.scripts import Scripts
from culm.stores.redis.sentinel import Sentinels
from culm.stores.redis.server import Server, clients_in, inspect
from culm.stores.redis.wire import Word, packed_words

CONNECT_S = 5.0
REPLY_S = 5.0  # without any reply: the connection is taken for dead
COUNT_S = 10.0  # how often it is asked how many clients the server has; the first time a second after it was met
GRACE_S = 2.0  # how much later than asked for a wait may end
SHORTEST_S = 0.002  # a server before 7.0 takes a shorter wait for one without an end
BRIEF_MS = 50  # a wait of no more needs no look before it: the script behind it comes soon enough
MOST_SPARE = 4
ONE_WORDS = 13  # of a command that runs send_one.lua
PIPELINED = ("send", "send_one")  # scripts of which one may be asked before the former has answered


class Link:
    """Asks the server, on the loop on which it was made.

    Args:
        connected: told what the server is, each time that the main connection is made.
    """

    def __init__(self, address: Address, rng: random.Random, connected: Callable[[Server], None]) -> None:
        self._address = address
        self._prefix = address.prefix
        self._pace = Pace(rng)
        self._sentinels = Sentinels(address, self._reach) if address.sentinels else None
        self._connected = connected
        self.loop = asyncio.get_running_loop()
        self._main: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._scripts = Scripts(self._prefix)
        self._give_way = GiveWay()
        self._busy_poll = BusyPoll(self.loop, self._give_way, on=address.busy_poll)
        self._opening = (
            "",
            b"",
        )  # of the last send that was alone: its client, and what precedes its number; one, so that no signal parts them
        self._met = False  # a connection was tried before: the next one may be part of a herd
        self._counted_at = 0.0
        self.server: Server | None = None
        self._spare: list[Connection] = []
        self._open: set[Connection] = set()
        self._guard: asyncio.TimerHandle | None = None
        self.closed = False

    # -- asking -------------------------------------------------------------------------------------------------------------

    async def run(self, name: str, *words: Word) -> Reply:
        """What the script returns. Raises StoreUnavailable, StoreError, ConfigError."""
        script, connection = self._scripts[name], self._main
        if connection is None or not connection.is_open:
            connection = await self.connection()
        asked = connection.ask("EVALSHA", script.sha, 1, self._prefix, *words)
        if connection.is_here:
            self._give_way.gave()
        reply = await asked
        if isinstance(reply, hiredis.ReplyError):
            if _is_unknown(reply):
                reply = await connection.ask("EVAL", script.text, 1, self._prefix, *words)
            self._judge(connection, reply)
        return value(reply)

    def start(self, name: str, *words: Word, then: Callable[[Reply], None]) -> bool:
        """Call `then` with what the script returns, whatever that is; None: it is not known. False: there is no connection now."""
        script, connection = self._scripts[name], self._main
        if connection is None or not connection.is_open:
            return False
        connection.tell(then, "EVALSHA", script.sha, 1, self._prefix, *words)
        if connection.is_here:
            self._give_way.gave()
        return True

    def start_one(self, client: str, number: int, words: bytes, *, then: Callable[[Reply], None]) -> bool:
        """The same of send_one.lua, by the server's clock, for a send that is alone, whose reply may be worth busy polling.

        Args:
            words: those behind the batch's number, as they travel.
        """
        connection = self._main
        if connection is None or not connection.is_open:
            return False
        latest, opening = self._opening
        if client != latest:
            opening = b"*%d\r\n%b" % (ONE_WORDS, packed_words("EVALSHA", self._scripts["send_one"].sha, 1, self._prefix, "", client))
            self._opening = client, opening
        digits = b"%d" % number
        connection.tell_packed(then, b"%b$%d\r\n%b\r\n%b" % (opening, len(digits), digits, words))
        self._busy_poll.asked(connection)
        return True

    def awaits(self, end: asyncio.Future[Any]) -> None:
        self._busy_poll.awaits(end)

    @property
    def is_open(self) -> bool:
        """There is a connection to ask through, now."""
        return self._main is not None and self._main.is_open

    async def ask(self, *command: Word) -> Reply:
        (reply,) = await self.ask_all([command])
        return reply

    async def ask_all(self, commands: Sequence[Sequence[Word]]) -> list[Reply]:
        """Replies to commands that go out at once."""
        connection = await self.connection()
        replies = [await future for future in connection.ask_all(commands)]
        for reply in replies:
            self._judge(connection, reply)
        return [value(reply) for reply in replies]

    def _judge(self, connection: Connection, reply: Reply) -> None:
        if isinstance(reply, hiredis.ReplyError) and wants_another_server(str(reply)):
            connection.close("leads to a server that takes no writes")

    async def wait(
        self, markers: Sequence[str], queues: Sequence[str], now: Word, *, for_ms: int, then: tuple[str, Sequence[Word]] | None = None
    ) -> Reply:
        """Until a marker is set, at most so long.

        `then` is a script and its words, which the server runs in the moment in which it wakes up; what that returns is returned.
        """
        ends_at = self.loop.time() + for_ms / 1000
        connection = await self._spare_one(for_ms / 1000)
        if connection is None:
            return None if then is None else await self.run(then[0], now, *then[1])
        try:
            left_s = max(SHORTEST_S, ends_at - self.loop.time())
            arm = [self._script("arm", now, *queues)] if then is None or for_ms > BRIEF_MS else []
            behind = [] if then is None else [self._script(then[0], now, *then[1])]
            replies = connection.ask_all([*arm, ("BZPOPMIN", *markers, f"{left_s:.3f}"), *behind])
            armed, popped, ran = replies[0] if arm else None, replies[len(arm)], replies[-1] if behind else None
            async with asyncio.timeout(left_s + GRACE_S):
                if armed is not None:
                    reply = await armed
                    if _is_unknown(reply):
                        await self.run("arm", now, *queues)
                    else:
                        value(reply)
                value(await popped)
                reply = None if ran is None else await ran
        except TimeoutError:
            if ran is not None and ran.done() and not ran.cancelled() and ran.exception() is None:
                return value(ran.result())  # it was this process that stood still
            connection.close("did not answer")
            raise StoreUnavailable(f"{self._address} did not answer a wait in time") from None
        except BaseException:
            connection.close("was given up")  # else its wait would take a marker that another needs
            raise
        if len(self._spare) < MOST_SPARE and connection.is_open and not self.closed:
            self._spare.append(connection)
        else:
            connection.close()
        if then is not None and _is_unknown(reply):
            return await self.run(then[0], now, *then[1])
        return value(reply)

    def _script(self, name: str, *words: Word) -> Sequence[Word]:
        """The command that runs it."""
        return "EVALSHA", self._scripts[name].sha, 1, self._prefix, *words

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
        try:
            return await asyncio.shield(self._connecting)
        except asyncio.CancelledError:
            if self._closed_under_a_caller():
                raise StoreError("this store was closed; open it anew") from None
            raise

    def _closed_under_a_caller(self) -> bool:
        task = asyncio.current_task()
        return self.closed and not (task is not None and task.cancelling())

    async def _reconnect(self) -> Connection:
        try:
            await self.spread()
            connection = await self.open()
            try:
                async with asyncio.timeout(CONNECT_S):
                    server = await inspect(connection, self._address)
            except TimeoutError:
                connection.close()
                raise StoreUnavailable(f"{self._address} fell silent within {CONNECT_S:g} s after it was connected") from None
            except BaseException:
                connection.close()
                raise
            for name in PIPELINED:  # best known before: one that is not takes a second trip, and what follows would overtake it
                connection.ask("SCRIPT", "LOAD", self._scripts[name].text)
            self._main, self._counted_at, self.server = connection, 0.0, server
            self._pace.met(number=server.client, clients=server.clients)
            self._connected(server)
            return connection
        finally:
            self._connecting = None

    async def spread(self) -> None:
        """The pause before a return."""
        if self._met:
            await asyncio.sleep(self._pace.pause_s(self.loop.time()))
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
        where = str(self._address)
        connection: Connection | None = None
        try:
            async with asyncio.timeout(CONNECT_S):
                place = (self._address.host, self._address.port) if self._sentinels is None else await self._sentinels.master()
                connection = await self._reach(place, news)
                await self._log_in(connection)
        except TimeoutError:
            _drop(connection)
            raise StoreUnavailable(f"cannot connect to {where}: no answer within {CONNECT_S:g} s") from None
        except ssl.SSLCertVerificationError as e:
            raise ConfigError(
                f"{where}: its certificate is not trusted ({e.verify_message}); name its authority's file with ?ca="
            ) from None
        except OSError as e:
            _drop(connection)
            raise StoreUnavailable(f"cannot connect to {where}: {e.strerror or type(e).__name__}") from None
        except BaseException:
            _drop(connection)
            raise
        self._watch(connection)
        return connection

    async def _reach(self, place: Place, news: Callable[[list[Any]], None] | None = None) -> Connection:
        address = self._address

        def made() -> Connection:
            return Connection(str(address), news)

        if address.path:
            return (await self.loop.create_unix_connection(made, address.path))[1]
        return (await self.loop.create_connection(made, *place, ssl=address.tls_context()))[1]

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
        now, main = self.loop.time(), self._main
        self._open = {c for c in self._open if c.is_open}
        if main is not None and main.stuck_for(now) > REPLY_S:
            main.close(f"has been silent for {REPLY_S:g} s")
        if main is not None and main.is_open and now - self._counted_at > COUNT_S:
            self._counted_at = now
            main.ask("INFO", "clients").add_done_callback(self._counted)
        self._guard = self.loop.call_later(1.0, self._look) if self._open else None

    def _counted(self, answered: asyncio.Future[Reply]) -> None:
        if answered.cancelled() or answered.exception() is not None:
            return
        self._pace.met(number=None, clients=clients_in(answered.result()))

    def close(self) -> None:
        self.closed = True
        if self._guard is not None:
            self._guard.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        for connection in self._open:
            connection.close()


def _is_unknown(reply: Reply) -> bool:
    """The server does not know the script: flushed, or another server. It did not run."""
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")


def _drop(connection: Connection | None) -> None:
    if connection is not None:
        connection.close()

"""One pipelined connection: what is asked goes out at once, replies come in the same order. Nothing is ever asked again here.

A connection that breaks fails all that waits on it; whoever asks again does so on a new one (`link.py`).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import hiredis

from culm.errors import StoreUnavailable
from culm.stores.redis.faults import translated
from culm.stores.redis.give_way import is_here
from culm.stores.redis.wire import Word, pack

Reply: TypeAlias = Any  # bytes, int, None, a list of these, or hiredis.ReplyError
_NOTHING = object()
READ_BYTES = 65_536


class Call:
    """Receives one reply as a future does, and calls with it at once: no turn of the loop lies between. None: the connection is lost.

    Attributes:
        soon: calls in the next turn after all.
    """

    __slots__ = ("_call", "soon")

    def __init__(self, call: Callable[[Reply], None]) -> None:
        self._call = call
        self.soon: asyncio.AbstractEventLoop | None = None

    def done(self) -> bool:
        return False

    def set_result(self, reply: Reply) -> None:
        if self.soon is None:
            self._call(reply)
        else:
            self.soon.call_soon(self._call, reply)

    def set_exception(self, _: Exception) -> None:
        self._call(None)

    def exception(self) -> None: ...


class Connection(asyncio.Protocol):
    """Speaks RESP2.

    Args:
        where: names the server in errors.
        news: receives what comes without being asked: a subscriber's messages.
    """

    def __init__(self, where: str, news: Callable[[list[Any]], None] | None = None) -> None:
        self._where = where
        self._news = news
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._waiting: deque[asyncio.Future[Reply] | Call] = deque()
        self._transport: asyncio.Transport | None = None
        self._fd = -1  # of the socket, where it may be read beside the transport
        self.is_here = False  # the server is on this machine
        self._waits_since = 0.0
        self.closed = asyncio.Event()
        self.is_open = False

    # -- asking -------------------------------------------------------------------------------------------------------------

    def ask(self, *command: Word) -> asyncio.Future[Reply]:
        """The reply's future. An error reply is its result, not raised: see `value`."""
        return self.ask_all([command])[0]

    def ask_all(self, commands: Sequence[Sequence[Word]]) -> list[asyncio.Future[Reply]]:
        """The futures of the replies to commands that go out together."""
        futures: list[asyncio.Future[Reply]] = [self._loop.create_future() for _ in commands]
        if not self.is_open or self._transport is None:
            for future in futures:
                future.set_exception(StoreUnavailable(f"the connection to {self._where} is lost"))
                future.exception()  # who asked for several may await the first only
            return futures
        data = b"".join([pack(tuple(command)) for command in commands])
        if not self._waiting:
            self._waits_since = self._loop.time()
        self._waiting.extend(futures)
        self._transport.write(data)
        return futures

    def tell(self, call: Callable[[Reply], None], *command: Word) -> None:
        """Ask, on a connection that is open; `call` is called with the reply, and must not raise; with None when the connection is lost."""
        self.tell_packed(call, pack(command))

    def tell_packed(self, call: Callable[[Reply], None], data: bytes) -> None:
        """The same of a command that is packed already."""
        assert self._transport is not None
        if not self._waiting:
            self._waits_since = self._loop.time()
        self._waiting.append(Call(call))
        self._transport.write(data)

    def poll(self, for_s: float, *, at_once: bool = False) -> bool:
        """Read until there is a reply, for so long at most, if only one is awaited, by `tell`.

        Args:
            at_once: its call comes before this returns, not in the next turn of the loop.

        False: nothing came.
        """
        if not self.can_poll or len(self._waiting) != 1 or not isinstance(call := self._waiting[0], Call):
            return False
        if not at_once:
            call.soon = self._loop
        until = time.perf_counter() + for_s
        try:
            while time.perf_counter() < until:
                try:
                    data = os.read(self._fd, READ_BYTES)
                except BlockingIOError:
                    continue
                except OSError as e:
                    if e.errno is None:
                        raise  # not from the socket: a signal's handler raised it
                    return False  # the transport meets it, too
                if data:
                    self.data_received(data)
                break
        except BaseException:  # a signal raised: what was read may be lost, and the next reply would be taken for this one
            self.close("was interrupted")
            raise
        return not self._waiting

    @property
    def can_poll(self) -> bool:
        """What arrives on its socket may be read beside the transport."""
        return self._fd >= 0

    def has_answered(self) -> bool:
        """Nothing that was asked is unanswered."""
        return not self._waiting

    def say(self, *command: Word) -> None:
        """Ask for what is answered as news only."""
        if self._transport is not None and self.is_open:
            self._transport.write(pack(command))

    def stuck_for(self, now: float) -> float:
        """For how long the oldest question has waited, or the newest reply been away: seconds."""
        return now - self._waits_since if self._waiting else 0.0

    def close(self, why: str = "was closed") -> None:
        self._fail(why)
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol -----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's do not derive from it
        self.is_open = True
        self.is_here = is_here(transport.get_extra_info("peername"))
        if transport.get_extra_info("ssl_object") is None and (plain := transport.get_extra_info("socket")) is not None:
            self._fd = plain.fileno()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        self._waits_since = self._loop.time()
        waiting = self._waiting
        while True:
            try:
                reply = self._reader.gets()
            except hiredis.ProtocolError:
                self.close("sent what is not Redis' protocol")
                return
            if reply is _NOTHING:
                return
            if self._news is not None and isinstance(reply, list):
                self._news(reply)
            elif waiting:
                future = waiting.popleft()
                if not future.done():
                    future.set_result(reply)
            elif isinstance(reply, hiredis.ReplyError):
                self.close(f"said: {reply}")
                return

    def connection_lost(self, _: Exception | None) -> None:
        self._fail("is lost")

    def _fail(self, why: str) -> None:
        self.is_open = False
        self.closed.set()
        waiting, self._waiting = self._waiting, deque()
        for future in waiting:
            if isinstance(future, Call) and self._loop.is_closed():
                continue  # whoever asked has gone with it
            if not future.done():
                future.set_exception(StoreUnavailable(f"the connection to {self._where} {why}; it may have happened"))
                future.exception()  # some are given up by whoever asked: that is no warning


def value(reply: Reply) -> Reply:
    """The reply. Raises what it means if it is an error."""
    if isinstance(reply, hiredis.ReplyError):
        raise translated(str(reply))
    return reply

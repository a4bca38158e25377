"""A TCP proxy on a loopback port of its own that fails on command, or by a seed. `with Proxy(port) as proxy:` connect to `proxy.port`.

On command: `cut()` ends what is open, `cut_in_reply(after_bytes=n)` ends one connection within a reply, `refuse()` takes the listener away
until `accept()`, `stall()` holds every byte back until `resume()`. By a seed: each connection has a fate, a pure function of the seed and
its number, so that a run that failed can be had again (as far as the client connects in the same order).

What a cut leaves: the bytes before it have arrived, the server has done what it was asked, the rest of its answer is gone.
The proxy runs in a thread with an event loop of its own, so a test may block. When a method returns it has taken effect; for what comes
later, `wait_for` a count.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine
from random import Random
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, assert_never

from msgspec import Struct

T = TypeVar("T")

HOST = "127.0.0.1"
CHUNK_BYTES = 1 << 16
ANSWER_S = 10  # for the proxy's own thread

# "closed": the other side reads an end of file, as when a server's process dies. "reset": it gets ECONNRESET, as when its host forgot it.
Ending = Literal["closed", "reset"]


class Pass(Struct, frozen=True):
    """Nothing happens to this connection."""


class Cut(Struct, frozen=True):
    """So many bytes of replies pass, then the connection ends. 0: at the first byte of the first reply, of which none passes."""

    after_bytes: int
    ending: Ending = "closed"
    refuse_ms: int = 0  # no new connection for so long


class Stall(Struct, frozen=True):
    """So many bytes of replies pass, then the replies stand still, once."""

    after_bytes: int
    for_ms: int


Fate = Pass | Cut | Stall


class Luck(Struct, frozen=True, kw_only=True):
    """What a seed may do to connections; the defaults cut half of them, refuse a while after some, and stall a quarter."""

    seed: int
    cuts: float = 0.5  # share of connections
    stalls: float = 0.25  # share of connections
    refusals: float = 0.25  # share of cuts
    max_bytes: int = 4_096  # of replies that pass before; small numbers are as likely as large ones
    max_ms: int = 200  # of a stall or a refusal


def fate(luck: Luck, connection: int) -> Fate:
    """What happens to the connection of that number (from 0)."""
    random = Random(f"{luck.seed}/{connection}")
    what, after = random.random(), int(luck.max_bytes ** random.random()) - 1
    for_ms = random.randint(1, luck.max_ms)
    if what < luck.cuts:
        ending: Ending = "reset" if random.random() < 0.5 else "closed"
        return Cut(after, ending, for_ms if random.random() < luck.refusals else 0)
    if what < luck.cuts + luck.stalls:
        return Stall(after, for_ms)
    return Pass()


class _Connection:
    def __init__(self, client: socket.socket, server: socket.socket, fate: Fate) -> None:
        self.client, self.server, self.fate = client, server, fate
        self.passed_bytes = 0  # of replies
        self.tasks: list[asyncio.Task[None]] = []


class Proxy:
    """Forwards `port` on the loopback address to `to` on the same. Counts what it did; leave its block to close everything.

    Raises TimeoutError from `wait_for`, and from any command if the proxy's thread is stuck.
    """

    def __init__(self, to: int, *, luck: Luck | None = None) -> None:
        self.to, self.luck = to, luck
        self.accepted = 0  # connections, ever
        self.accepted_at: list[float] = []  # when, by time.monotonic()
        self.cuts = 0  # connections that it ended, ever
        self.passed_bytes = 0  # of replies, ever
        self._changed = threading.Condition()
        self._open: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._trap: tuple[int, Ending] | None = None  # bytes of replies until the next cut on command
        self._listener: socket.socket | None = None  # None: refusing
        self._told: Literal["accept", "refuse"] = "accept"  # a fate's refusal ends by itself, one on command does not

    # -- on command ----------------------------------------------------------------------------------------------------------

    def cut(self, ending: Ending = "closed") -> int:
        """End all open connections. Returns how many."""
        return self._do(lambda: self._cut_all(ending))

    def cut_in_reply(self, *, after_bytes: int, ending: Ending = "closed") -> None:
        """From now on let so many bytes of replies pass, on all connections together, then end the one that would carry the next.

        When the last of these bytes passes, its connection ends at once. 0: when the next reply begins. Once; then all is as before.
        """
        self._do(lambda: setattr(self, "_trap", (after_bytes, ending)))

    def refuse(self) -> None:
        """Refuse new connections; those that are open stay."""
        self._do(lambda: self._told_to("refuse"))

    def accept(self) -> None:
        """Accept new connections again."""
        self._do(lambda: self._told_to("accept"))

    def stall(self) -> None:
        """Accept connections, but let no byte pass, in either direction."""
        self._do(self._flowing.clear)

    def resume(self) -> None:
        """Let what was held back pass."""
        self._do(self._flowing.set)

    @property
    def open(self) -> int:
        """How many connections are open now."""
        return self._do(lambda: len(self._open))

    def wait_for(self, condition: Callable[[Proxy], bool], *, within_s: float = 5) -> None:
        """Block until a count is reached, such as `lambda p: p.cuts == 1`. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self), timeout=within_s):
                raise TimeoutError(f"accepted {self.accepted}, cut {self.cuts}, passed {self.passed_bytes} bytes: not what was waited for")

    # -- its thread ----------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        # Bound but never listening: keeps the port ours while connections are refused.
        self._holder = _bound(0)
        self.port = int(self._holder.getsockname()[1])
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main(ready)), name="proxy", daemon=True)
        self._thread.start()
        if not ready.wait(ANSWER_S):
            raise TimeoutError("the proxy did not start")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._do(self._ended.set)
        self._thread.join(ANSWER_S)

    async def _main(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended, self._flowing = asyncio.Event(), asyncio.Event()
        self._flowing.set()
        self._accept()
        ready.set()
        await self._ended.wait()
        self._refuse()
        for connection in list(self._open):
            self._end(connection, "closed")
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._holder.close()

    def _do(self, command: Callable[[], T]) -> T:
        async def inside() -> T:
            return command()

        return asyncio.run_coroutine_threadsafe(inside(), self._loop).result(ANSWER_S)

    def _spawn(self, connection: _Connection, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        connection.tasks.append(task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _count(self, *, accepted: int = 0, cuts: int = 0, passed_bytes: int = 0) -> None:
        with self._changed:
            self.accepted += accepted
            self.cuts += cuts
            self.passed_bytes += passed_bytes
            self._changed.notify_all()

    # -- connections come ----------------------------------------------------------------------------------------------------

    def _told_to(self, do: Literal["accept", "refuse"]) -> None:
        self._told = do
        (self._accept if do == "accept" else self._refuse)()

    def _accept(self) -> None:
        if self._listener is None:
            self._listener = _bound(self.port)
            self._listener.listen(1_024)
            self._loop.add_reader(self._listener, self._arrived, self._listener)

    def _refuse(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _arrived(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:  # it went away while it waited
            return
        sides = client, socket.socket()
        for side in sides:
            side.setblocking(False)
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(*sides, Pass() if self.luck is None else fate(self.luck, self.accepted))
        self._open.add(connection)
        self.accepted_at.append(time.monotonic())
        self._count(accepted=1)
        self._spawn(connection, self._connected(connection))

    async def _connected(self, connection: _Connection) -> None:
        try:
            await self._loop.sock_connect(connection.server, (HOST, self.to))
        except OSError:  # no server there
            self._end(connection, "closed")
            return
        self._spawn(connection, self._requests(connection))
        self._spawn(connection, self._replies(connection))

    # -- bytes pass ----------------------------------------------------------------------------------------------------------

    async def _requests(self, connection: _Connection) -> None:
        with contextlib.suppress(OSError):
            while chunk := await self._loop.sock_recv(connection.client, CHUNK_BYTES):
                await self._flowing.wait()
                await self._loop.sock_sendall(connection.server, chunk)
        self._end(connection, "closed")

    async def _replies(self, connection: _Connection) -> None:
        with contextlib.suppress(OSError):
            while chunk := await self._loop.sock_recv(connection.server, CHUNK_BYTES):
                await self._flowing.wait()
                await self._reply(connection, chunk)
        self._end(connection, "closed")

    async def _reply(self, connection: _Connection, chunk: bytes) -> None:
        if self._trap is not None:
            left, ending = self._trap
            self._trap = (left - len(chunk), ending) if len(chunk) < left else None
            if self._trap is None:
                await self._cut_within(connection, chunk[:left], ending)
                return
        fate = connection.fate
        left = 0 if isinstance(fate, Pass) else fate.after_bytes - connection.passed_bytes
        if isinstance(fate, Pass) or len(chunk) < left:
            await self._pass(connection, chunk)
            return
        match fate:
            case Cut(ending=ending, refuse_ms=refuse_ms):
                if refuse_ms:  # before the cut: whoever sees it must not get in once more
                    self._refuse()
                    self._loop.call_later(refuse_ms / 1_000, self._accept_unless_told)
                await self._cut_within(connection, chunk[:left], ending)
            case Stall(for_ms=for_ms):
                connection.fate = Pass()
                await self._pass(connection, chunk[:left])
                await asyncio.sleep(for_ms / 1_000)
                await self._pass(connection, chunk[left:])
            case _:
                assert_never(fate)

    async def _pass(self, connection: _Connection, chunk: bytes) -> None:
        await self._loop.sock_sendall(connection.client, chunk)
        connection.passed_bytes += len(chunk)
        self._count(passed_bytes=len(chunk))

    # -- connections end -----------------------------------------------------------------------------------------------------

    async def _cut_within(self, connection: _Connection, last: bytes, ending: Ending) -> None:
        if last:
            await self._pass(connection, last)
        if self._end(connection, ending):
            self._count(cuts=1)

    def _cut_all(self, ending: Ending) -> int:
        cut = sum(self._end(connection, ending) for connection in list(self._open))
        self._count(cuts=cut)
        return cut

    def _end(self, connection: _Connection, ending: Ending) -> bool:
        """Whether it was open. What was passed before is in the kernel's hands, and arrives."""
        if connection not in self._open:
            return False
        self._open.remove(connection)
        for task in connection.tasks:
            if task is not asyncio.current_task(self._loop):
                task.cancel()
        for side in (connection.client, connection.server):
            self._loop.remove_reader(side)
            self._loop.remove_writer(side)
            _close(side, ending)
        return True

    def _accept_unless_told(self) -> None:
        if self._told == "accept" and not self._ended.is_set():
            self._accept()


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setblocking(False)
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        bound.setsockopt(socket.SOL_SOCKET, option, 1)
    bound.bind((HOST, port))
    return bound


def _close(side: socket.socket, ending: Ending) -> None:
    with contextlib.suppress(OSError):
        match ending:
            case "reset":
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            case "closed":
                side.shutdown(socket.SHUT_WR)
                while side.recv(CHUNK_BYTES):  # what is closed with unread bytes would be reset
                    pass
            case _:
                assert_never(ending)
    side.close()

"""A TCP proxy between a store and its server that cuts connections: at once, or in the middle of the next reply."""

from __future__ import annotations

import asyncio
import random
import time
from types import TracebackType
from typing import Self

from tests.servers import HOST


class Proxy:
    """Listens on a port of its own, on the loop that enters it.

    Args:
        rng: where in a reply it cuts.
    """

    def __init__(self, port: int, rng: random.Random) -> None:
        self._to = port
        self._rng = rng
        self._pairs: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._cut_in = -1
        self.port = 0
        self.cuts = 0
        self.at: list[float] = []  # when each connection came

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut_in_reply(self) -> None:
        """Let the next reply through for a few bytes only: what was asked has happened, its answer is lost."""
        self._cut_in = self._rng.randrange(0, 8)

    def cut(self) -> None:
        for writer in list(self._pairs):
            writer.transport.abort()
        self._pairs.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.at.append(time.monotonic())
        there, back = await asyncio.open_connection(HOST, self._to)
        self._pairs |= {writer, back}
        for work in (self._copy(reader, back, replies=False), self._copy(there, writer, replies=True)):
            task = asyncio.get_running_loop().create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool) -> None:
        try:
            while data := await reader.read(65536):
                if replies and self._cut_in >= 0:
                    writer.write(data[: self._cut_in])
                    await writer.drain()
                    self._cut_in = -1
                    self.cuts += 1
                    self.cut()
                    return
                writer.write(data)
                await writer.drain()
        except OSError:
            return
        finally:
            writer.transport.abort()

"""How the rest of the store asks: over the link to one server, or over those to the masters of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from culm.stores.redis.connection import Connection, Reply
from culm.stores.redis.server import Server
from culm.stores.redis.wire import Word


class Way(Protocol):
    """All of it raises StoreUnavailable, StoreError, ConfigError."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    @property
    def server(self) -> Server | None:
        """What is known of the server that was asked last."""
        ...

    async def run(self, name: str, *words: Word) -> Reply:
        """What the script returns."""
        ...

    async def ask(self, *command: Word) -> Reply: ...

    async def ask_all(self, commands: Sequence[Sequence[Word]]) -> list[Reply]:
        """Replies to commands that go out at once."""
        ...

    async def wait(
        self, markers: Sequence[str], queues: Sequence[str], now: Word, *, for_ms: int, then: tuple[str, Sequence[Word]] | None = None
    ) -> Reply:
        """Until a marker is set, at most so long; `then` a script is run, and what it returns is returned."""
        ...

    def awaits(self, end: asyncio.Future[Any]) -> None:
        """Somebody awaits the end of a job from now on."""
        ...

    def close(self) -> None: ...


class Opens(Protocol):
    """What a subscription needs."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    async def open(self, news: Callable[[list[Any]], None] | None = None) -> Connection:
        """A new connection, logged in."""
        ...

    async def spread(self) -> None:
        """The pause before a return."""
        ...

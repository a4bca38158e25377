"""`redis+cluster://`: many partitions, each a `RedisStore` in a hash tag of its own, over shared links to the masters.

In a cluster a wake-up is a message, not a marker: nobody could block on keys of 64 slots. What one node is told, all nodes pass on, so one
subscription hears of every partition; and all who wait are woken.
"""

from __future__ import annotations

import asyncio
import binascii
import logging
import random
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import hiredis
from msgspec.structs import replace

from culm.stores.redis.address import Address
from culm.stores.redis.connection import Reply, value
from culm.stores.redis.masters import SLOTS, Masters
from culm.stores.redis.news import News
from culm.stores.redis.scripts import Scripts
from culm.stores.redis.server import Server
from culm.stores.redis.wire import Word

log = logging.getLogger("culm.redis")


def slot_of(prefix: str) -> int:
    """Of the keys with that prefix: the CRC16 of what is between its braces."""
    return binascii.crc_hqx(prefix[prefix.index("{") + 1 : prefix.index("}")].encode(), 0) % SLOTS


def partition_of(address: Address, place: int) -> Address:
    """Where one partition lies: in a namespace, and so a hash tag, of its own."""
    return replace(address, namespace=f"{address.namespace}:{place}", partitions=0)


class Here:
    """What a cluster has on one event loop."""

    def __init__(self, address: Address, rng: random.Random, connected: Callable[[Server], None]) -> None:
        self.masters = Masters(address, rng, connected)
        self.news = News(self.masters)
        self.users: set[SlotLink] = set()
        self._prefixes = [partition_of(address, place).prefix for place in range(address.partitions)]
        self._heard: set[str] = set()  # queues
        self._rung: dict[str, set[int]] = {}  # queue -> partitions that said something, and nobody waited
        self._waiting: list[tuple[Sequence[str], asyncio.Future[set[int]]]] = []

    async def wait(self, queues: Sequence[str], *, for_ms: int) -> set[int]:
        """The partitions that may have something. Returns at once when it begins to listen: what was said before is not known."""
        new = [queue for queue in queues if queue not in self._heard]
        if new:
            asked = [self.news.subscribe(f"{prefix}m:{queue}", partial(self._ring, place, queue))
                     for queue in new for place, prefix in enumerate(self._prefixes)]  # fmt: skip
            await asyncio.gather(*asked)
            self._heard.update(new)
            return set()
        rung = {place for queue in queues for place in self._rung.pop(queue, ())}
        if rung:
            return rung
        future: asyncio.Future[set[int]] = self.masters.loop.create_future()
        entry = (queues, future)
        self._waiting.append(entry)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(for_ms / 1000):
                    return await future
            return set()
        finally:
            self._waiting.remove(entry)

    def _ring(self, place: int, queue: str, _: bytes) -> None:
        waiting = [future for queues, future in self._waiting if queue in queues]
        if not waiting:
            self._rung.setdefault(queue, set()).add(place)
        for future in waiting:
            if not future.done():
                future.set_result({place})

    def close(self) -> None:
        self.news.close()
        self.masters.close()


class Cluster:
    """What the partitions of one address share.

    Args:
        address: its nodes, and how many partitions.
        rng: spreads the return of many clients.
    """

    def __init__(self, address: Address, *, rng: random.Random | None = None) -> None:
        self._address = address
        self._rng = rng or random.Random()
        self._lock = threading.Lock()
        self._loops: dict[asyncio.AbstractEventLoop, Here] = {}
        self._said = False

    def here(self) -> Here:
        loop = asyncio.get_running_loop()
        with self._lock:
            here = self._loops.get(loop)
            if here is None or here.masters.closed:
                self._loops = {known: other for known, other in self._loops.items() if not known.is_closed()}
                here = self._loops[loop] = Here(self._address, self._rng, self._connected)
        return here

    def _connected(self, server: Server) -> None:
        if not self._said:
            log.info("store: %s namespace %s (%s)", self._address, self._address.namespace, server.durability)
        self._said = True

    async def wait(self, queues: Sequence[str], *, for_ms: int) -> set[int]:
        return await self.here().wait(queues, for_ms=for_ms)


class SlotLink:
    """How one partition asks: the master that has its slot."""

    def __init__(self, here: Here, address: Address) -> None:
        self._here = here
        self._prefix = address.prefix
        self._slot = slot_of(address.prefix)
        self._scripts = Scripts(address.prefix, messages=True)
        self.loop = here.masters.loop
        self.server: Server | None = None
        here.users.add(self)

    async def run(self, name: str, *words: Word) -> Reply:
        script = self._scripts[name]
        (reply,) = await self._here.masters.ask(self._slot, [("EVALSHA", script.sha, 1, self._prefix, *words)])
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
            (reply,) = await self._here.masters.ask(self._slot, [("EVAL", script.text, 1, self._prefix, *words)])
        return value(reply)

    async def ask(self, *command: Word) -> Reply:
        (reply,) = await self.ask_all([command])
        return reply

    async def ask_all(self, commands: Sequence[Sequence[Word]]) -> list[Reply]:
        replies = await self._here.masters.ask(self._slot, commands)
        self.server = (await self._here.masters.link_of(self._slot)).server
        return [value(reply) for reply in replies]

    async def wait(
        self,
        markers: Sequence[str],  # noqa: ARG002  # a message, not a marker
        queues: Sequence[str],
        now: Word,
        *,
        for_ms: int,
        then: tuple[str, Sequence[Word]] | None = None,
    ) -> Reply:
        await self._here.wait(queues, for_ms=for_ms)
        return None if then is None else await self.run(then[0], now, *then[1])

    def awaits(self, end: asyncio.Future[Any]) -> None: ...

    def close(self) -> None:
        self._here.users.discard(self)
        if not self._here.users:
            self._here.close()

"""The masters of a Redis Cluster, as one event loop sees them: which of them has which slot, and one link to each.

Many partitions share a link: what they ask at once goes out as one pipeline per master. The map is asked for anew when a server says
MOVED, or does not answer; whoever asks then gets StoreUnavailable, and asks again.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import hiredis
from msgspec.structs import replace

from culm.errors import ConfigError, StoreError, StoreUnavailable
from culm.stores.redis.address import Address, Place
from culm.stores.redis.connection import Connection, Reply, value
from culm.stores.redis.faults import wants_another_server
from culm.stores.redis.link import Link
from culm.stores.redis.server import Server, no_cluster
from culm.stores.redis.wire import Word

SLOTS = 16_384
ANSWER_S = 1.0  # of one node that is asked for the map; then the next
LEAST_AGE_S = 0.1  # of a map that is asked for anew
REDIRECTS = 5
_REDIRECT = re.compile(r"\b(MOVED|ASK) \d+ (\S*):(\d+)")


class Masters:
    """Args: connected: told what the server is, each time that a master is connected."""

    def __init__(self, address: Address, rng: random.Random, connected: Callable[[Server], None]) -> None:
        self._address = address
        self._rng = rng
        self._connected = connected
        self.loop = asyncio.get_running_loop()
        self._links: dict[Place, Link] = {}
        self._owners: list[Place | None] = [None] * SLOTS
        self._suspects: set[Place] = set()  # they did not answer, or are masters no more
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self.closed = False

    # -- asking -------------------------------------------------------------------------------------------------------------

    async def ask(self, slot: int, commands: Sequence[Sequence[Word]]) -> list[Reply]:
        """The replies of the slot's master, errors among them. Raises StoreUnavailable, ConfigError."""
        replies: list[Reply] = [None] * len(commands)
        left = list(range(len(commands)))
        for _ in range(REDIRECTS):
            link = await self.link_of(slot)
            try:
                connection = await link.connection()
                found = [await future for future in [connection.ask(*commands[n]) for n in left]]
            except StoreUnavailable:
                self._suspect(slot)
                raise
            moved = []
            for n, reply in zip(left, found, strict=True):
                replies[n] = reply
                if isinstance(reply, hiredis.ReplyError) and await self._is_redirected(slot, commands[n], reply, replies, n, connection):
                    moved.append(n)
            if not moved:
                return replies
            left = moved
        raise StoreUnavailable(f"{self._address}: slot {slot} is on the move")

    async def _is_redirected(
        self, slot: int, command: Sequence[Word], error: hiredis.ReplyError, replies: list[Reply], n: int, asked: Connection
    ) -> bool:
        """Whether it must be asked again. What is on the move has one answer elsewhere, at once."""
        found = _REDIRECT.search(str(error))
        if found is None:
            if wants_another_server(str(error)):
                asked.close("leads to a server that takes no writes")
                self._suspect(slot)
            return False
        place = (found[2] or self._address.host, int(found[3]))
        if found[1] == "MOVED":
            self._suspect(slot)
            self._owners[slot] = place
            return True
        connection = await self._link(place).connection()
        connection.ask("ASKING")
        replies[n] = await connection.ask(*command)
        return False

    async def link_of(self, slot: int) -> Link:
        place = self._owners[slot]
        if place is None or place in self._suspects:
            await self._refresh()
            place = self._owners[slot]
        if place is None:
            raise StoreUnavailable(f"{self._address}: no master has slot {slot} now")
        return self._link(place)

    def _suspect(self, slot: int) -> None:
        """Its master is not what it was: the map is asked for before it is asked again. Others go on."""
        place = self._owners[slot]
        if place is not None:
            self._suspects.add(place)

    def _link(self, place: Place) -> Link:
        link = self._links.get(place)
        if link is None:
            if self.closed:
                raise StoreError("this store was closed; open it anew")
            host, port = place
            link = self._links[place] = Link(replace(self._address, host=host, port=port, nodes=()), self._rng, self._connected)
        return link

    # -- the map --------------------------------------------------------------------------------------------------------------

    async def _refresh(self) -> None:
        if self._asking is None:
            self._asking = self.loop.create_task(self._read_map())
        await asyncio.shield(self._asking)

    async def _read_map(self) -> None:
        try:
            await asyncio.sleep(max(0.0, self._asked_at + LEAST_AGE_S - self.loop.time()))
            self._asked_at = self.loop.time()
            rows, asked = await self._ask_for_map()
            owners: list[Place | None] = [None] * SLOTS
            for first, last, master, *_ in rows:
                place = (master[0].decode() or asked[0], int(master[1]))
                owners[int(first) : int(last) + 1] = [place] * (int(last) + 1 - int(first))
            self._owners = owners
            self._suspects.clear()
            for gone in self._links.keys() - set(owners):
                self._links.pop(gone).close()
        finally:
            self._asking = None

    async def _ask_for_map(self) -> tuple[list[Any], Place]:
        """From the first node that answers, the known ones before those of the address."""
        last: StoreError | None = None
        for place in self._nodes():
            host, port = place
            asked = Link(replace(self._address, host=host, port=port, nodes=()), self._rng, _nobody)
            try:
                async with asyncio.timeout(ANSWER_S):
                    connection = await asked.open()
                    reply = await connection.ask("CLUSTER", "SLOTS")
                if isinstance(reply, hiredis.ReplyError) and "cluster support disabled" in str(reply):
                    raise no_cluster(str(replace(self._address, host=host, port=port, nodes=())))
                return value(reply), place
            except StoreUnavailable as e:
                last = e
            except TimeoutError:
                last = StoreUnavailable(f"{host}:{port} did not answer within {ANSWER_S:g} s")
            finally:
                asked.close()
        raise last or ConfigError("this address names no node")

    def _nodes(self) -> Iterable[Place]:
        known = list(self._links)
        self._rng.shuffle(known)
        return dict.fromkeys((*known, *self._address.nodes))

    # -- subscriptions: what one node hears, all of them do ---------------------------------------------------------------------

    async def open(self, news: Callable[[list[Any]], None] | None = None) -> Connection:
        places = {place for place in self._owners if place is not None} - self._suspects
        if not places:
            await self._refresh()
            places = {place for place in self._owners if place is not None}
        if not places:
            raise StoreUnavailable(f"{self._address} has no master now")
        place = self._rng.choice(sorted(places))
        try:
            return await self._link(place).open(news)
        except StoreUnavailable:
            self._suspects.add(place)
            raise

    async def spread(self) -> None:
        await asyncio.sleep(self._rng.uniform(0.05, 0.5))

    def close(self) -> None:
        self.closed = True
        if self._asking is not None:
            self._asking.cancel()
        for link in self._links.values():
            link.close()


def _nobody(_: Server) -> None:
    """Who is only asked for the map."""

"""Which server is the master now: the sentinels are asked, one after another, before each connection. They answer from memory.

Their answer may be late, so whoever connects asks the server for its role as well (`server.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import hiredis

from culm.errors import ConfigError, CulmError, StoreUnavailable
from culm.stores.redis.address import Address, Place
from culm.stores.redis.connection import Connection, value

ANSWER_S = 0.5  # of one sentinel; then the next is asked


class Sentinels:
    """Args: connect: makes a connection to a place, and nothing more."""

    def __init__(self, address: Address, connect: Callable[[Place], Awaitable[Connection]]) -> None:
        self._address = address
        self._connect = connect
        self._order = list(address.sentinels)

    async def master(self) -> Place:
        """Raises StoreUnavailable (no sentinel answered), ConfigError (those that did know no such master, or refuse the user)."""
        last: CulmError | None = None
        for place in list(self._order):
            try:
                async with asyncio.timeout(ANSWER_S):
                    found = await self._ask(place)
            except (OSError, TimeoutError, StoreUnavailable):
                continue
            except ConfigError as e:
                last = e
                continue
            self._order.remove(place)
            self._order.insert(0, place)  # it is asked first from now on
            return found
        raise last or StoreUnavailable(f"no sentinel of {self._address} answered within {ANSWER_S:g} s")

    async def _ask(self, place: Place) -> Place:
        address, connection = self._address, await self._connect(place)
        try:
            if address.sentinel_password:
                user = [address.sentinel_user] if address.sentinel_user else []
                value(await connection.ask("AUTH", *user, address.sentinel_password))
            reply = await connection.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.master)
        finally:
            connection.close()
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("IDONTKNOW"):
            raise StoreUnavailable(f"{address}: {reply}")
        found = value(reply)
        if found is None:
            raise ConfigError(f"the sentinels of {address} watch no master of that name")
        host, port = found
        return host.decode(), int(port)

"""Many clients and many reconnects: no herd, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from culm.errors import StoreUnavailable
from culm.stores.redis.address import parse
from culm.stores.redis.store import RedisStore
from tests.on_redis.conftest import Opened
from tests.on_redis.test_faults import again, through
from tests.proxy import Proxy
from tests.servers import RedisServer

Opener = Callable[[str], Opened]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_two_hundred_clients_do_not_return_as_a_herd(server: RedisServer) -> None:
    with Proxy(server.port) as proxy:
        stores = [RedisStore(parse(through(server, proxy)), rng=random.Random(n)) for n in range(200)]
        for store in stores:
            await store.counts()
        proxy.cut()
        returning, seen = asyncio.gather(*(again(store.counts) for store in stores)), [(time.monotonic(), proxy.accepted)]
        while not returning.done():
            await asyncio.sleep(0.005)
            seen.append((time.monotonic(), proxy.accepted))
        await returning
        assert proxy.accepted == 400
        assert max(n - m for at, m in seen for then, n in seen if 0 <= then - at < 0.1) <= 20
        for store in stores:
            await store.close()


async def test_five_hundred_reconnects_leave_no_descriptor(server: RedisServer, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("culm.stores.redis.pace.RETURN_S", 0.01)
    with Proxy(server.port) as proxy:
        async with opened(through(server, proxy)) as store:
            await store.subscribe("me")
            await store.counts()
            await asyncio.sleep(0)
            before = descriptors()
            for _ in range(500):
                proxy.cut()
                with suppress(StoreUnavailable):
                    await store.wait(["default"], for_ms=1)
                await again(store.counts)
            assert descriptors() <= before + 6

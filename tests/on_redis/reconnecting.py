"""A client process: `python -m tests.on_redis.reconnecting PORT TIMES`. Loses its connections again and again, and prints what it grew to.

A process of its own: in that of the tests, what others left behind would be measured too.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from pathlib import Path

from culm.stores.redis import pace
from culm.stores.redis.address import parse
from culm.stores.redis.store import RedisStore
from tests.on_redis.asking import again, until, working
from tests.proxy import Proxy
from tests.servers import HOST


async def main(port: int, times: int) -> None:
    pace.RETURN_S = 0.01  # it does not wait for its moment
    with Proxy(port) as proxy:
        store = RedisStore(parse(f"redis://{HOST}:{proxy.port}/0?namespace=reconnecting"), rng=random.Random(7))
        async with working(store):
            await store.subscribe("me")
            for _ in range(times):
                await again(store.counts)  # the main connection is made by whoever asks next
                await until(lambda: proxy.open == 3, "the main connection, the subscription and the blocked wait")
                sys.stdout.write(json.dumps([len(os.listdir("/proc/self/fd")), resident_kib()]) + "\n")
                proxy.cut()
        await store.close()


def resident_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))

"""How the tests of this folder ask: as the gatherer and the claimer do, until there is an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import ParamSpec, TypeVar

from culm.commit import Commit, Committed, Held
from culm.errors import StoreUnavailable
from culm.job import Job
from culm.outcome import Succeeded
from culm.stores.redis.store import RedisStore
from tests.proxy import Proxy
from tests.servers import RedisServer

P = ParamSpec("P")
T = TypeVar("T")

WITHIN_S = 10.0  # of the server's return everything goes on


async def again(ask: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """The same question until it is answered, for ten seconds."""
    ends_at = time.monotonic() + WITHIN_S
    while True:
        try:
            return await ask(*args, **kwargs)
        except StoreUnavailable:
            if time.monotonic() > ends_at:
                raise
            await asyncio.sleep(0.02)


async def always(ask: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """The same question until it is answered, as a worker asks."""
    while True:
        with suppress(StoreUnavailable):
            return await ask(*args, **kwargs)
        await asyncio.sleep(0.02)


async def until(done: Callable[[], bool], what: str, *, for_s: float = WITHIN_S) -> None:
    """Poll what has no signal for us."""
    ends_at = time.monotonic() + for_s
    while not done():
        assert time.monotonic() < ends_at, f"waited {for_s:g} s for {what}"
        await asyncio.sleep(0.01)


def through(server: RedisServer, proxy: Proxy) -> str:
    return server.url.replace(f":{server.port}/", f":{proxy.port}/")


async def send(store: RedisStore, *ids: str, number: int = 1, client: str = "app") -> list[Committed]:
    return await store.commit([Commit(send=(Job(id=i, task="t"),)) for i in ids], batch=(client, number))


@asynccontextmanager
async def working(store: RedisStore, *, name: str = "w", poll_ms: int = 60_000) -> AsyncIterator[None]:
    """A worker without a heart. It waits for a minute: what it does sooner, it was woken for."""

    async def work() -> None:
        number = 0
        while True:
            number += 1
            claimed = await always(store.claim, ["default"], lease=f"{name}/{number}", limit=10, for_ms=60_000)
            ends = [Commit(fence=Held(d.job.id, d.lease), outcome=Succeeded(b"\x05")) for d in claimed.deliveries]
            if ends:
                assert set(await always(store.commit, ends, batch=(name, number))) == {"applied"}
            else:
                for_ms = poll_ms if claimed.next_ms is None else min(poll_ms, claimed.next_ms)
                await always(store.wait, ["default"], for_ms=for_ms)

    task = asyncio.create_task(work())
    try:
        yield
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

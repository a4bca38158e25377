"""How the tests of this folder ask."""

from __future__ import annotations

from culm.commit import Commit, Committed
from culm.job import Job
from culm.store import FullStore
from tests.proxy import Proxy
from tests.servers import PostgresServer


async def send(store: FullStore, *ids: str, number: int = 1, client: str = "app") -> list[Committed]:
    return await store.commit([Commit(send=(Job(id=i, task="t"),)) for i in ids], batch=(client, number))


def through(server: PostgresServer, proxy: Proxy) -> str:
    return server.url().replace(f":{server.port}/", f":{proxy.port}/")

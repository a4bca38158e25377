"""Two servers as partitions of one store: while one of them is away the other's part goes on, and nothing is lost or done twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from culm import App
from culm.errors import CulmError
from culm.store import Ended
from culm.stores.partitioned.place import is_own, place_of
from culm.stores.postgres.address import parse
from tests.conformance.stores import migrate_in_thread
from tests.on_redis.asking import again
from tests.servers import PostgresServer

CLIENTS = 4
AWAY_S = 2.0


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[PostgresServer]]:
    with ExitStack() as stack:
        found = []
        for n in range(2):
            found.append(PostgresServer(tmp_path / f"server-{n}"))
            stack.callback(found[-1].close)
            migrate_in_thread(parse(found[-1].url()))
        yield found


def ledger(server: PostgresServer) -> list[str]:
    return [i for i, _, _ in server.ask("SELECT * FROM culm.ledger") if not is_own(i)]


async def test_a_server_that_is_killed_and_comes_back_under_load_stops_only_its_own_part(
    servers: list[PostgresServer],
) -> None:  # I1, I3, I15, I30, I31
    app = App("|".join(server.url(ledger="on") for server in servers))
    acked: list[str] = []
    over = asyncio.Event()

    @app.task(name="land")
    async def land() -> int:
        return 1

    @app.task(name="hop")
    async def hop(name: str) -> int:
        await land.using(id=f"{name}-landed").enqueue()  # a root of its own: half of them lie on the other server
        return 2

    async def client(who: int) -> None:
        n = 0
        while not over.is_set():
            n += 1
            try:
                async with asyncio.timeout(3):  # a send to the server that is away: unknown, and given up
                    acked.append((await hop.using(id=f"c{who}-{n}").enqueue(f"c{who}-{n}")).id)
            except (CulmError, TimeoutError):
                pass
            await asyncio.sleep(0.002)

    async with app, app.worker(lease=30):
        clients = asyncio.gather(*(client(who) for who in range(CLIENTS)))
        while len(acked) < 200:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(servers[1].kill)
        before = len(await asyncio.to_thread(ledger, servers[0]))
        await app.enqueue_many(hop.using(id=i).bind(i) for i in ids_at(0, 50))
        await asyncio.sleep(AWAY_S)  # the fault itself: nothing is awaited
        there = await asyncio.to_thread(ledger, servers[0])
        assert len(there) >= before + 50, "the other part goes on"
        await asyncio.to_thread(servers[1].start)
        mark = len(acked)
        while len([i for i in acked[mark:] if place_of(i, 2) == 1]) < 50:
            await asyncio.sleep(0.01)
        over.set()
        await asyncio.wait_for(clients, 60)
        sent = [*acked, *ids_at(0, 50)]
        for job_id in sent:
            async with asyncio.timeout(30):
                while not all([isinstance(await again(app.store.outcome, i), Ended) for i in (job_id, f"{job_id}-landed")]):
                    await asyncio.sleep(0.05)  # what crosses arrives after the commit that sent it
    done = [ledger(server) for server in servers]
    for place, rows in enumerate(done):
        assert len(rows) == len(set(rows)), "one final commit for each"
        assert {place_of(i, 2) for i in rows} == {place}, "each where its root belongs"
    crossed = [i for i in sent if place_of(i, 2) != place_of(f"{i}-landed", 2)]
    assert len(crossed) > 100
    assert {*sent, *(f"{i}-landed" for i in sent)} <= {*done[0], *done[1]}


def ids_at(place: int, count: int) -> list[str]:
    return [i for i in (f"extra-{n}" for n in range(10 * count)) if place_of(i, 2) == place][:count]

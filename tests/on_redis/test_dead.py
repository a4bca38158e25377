"""Dead letters by the thousand: one batch of ends, pages that cost a page, and bulk that touches nothing else."""

from __future__ import annotations

from collections.abc import Callable

from culm import App
from culm.commit import Commit, Held
from culm.job import Job
from culm.outcome import Failed, Fault
from culm.stores.redis.store import RedisStore
from tests.on_redis.conftest import Opened
from tests.servers import RedisServer

MANY = 5_000  # more than one call of a script's command takes


async def die(store: RedisStore, ids: list[str], *, task: str = "t") -> None:
    assert set(await store.commit([Commit(send=(Job(id=i, task=task),)) for i in ids], batch=(f"send-{task}", 1))) == {"applied"}
    claimed = (await store.claim(["default"], lease=f"w-{task}/1", limit=MANY, for_ms=60_000)).deliveries
    ends = [Commit(fence=Held(d.job.id, d.lease), outcome=Failed(Fault("E", "no"))) for d in claimed]
    assert set(await store.commit(ends, batch=(f"end-{task}", 1))) == {"applied"}


def calls(server: RedisServer) -> dict[str, int]:
    """How often each command was called since the last reset."""
    stats = [line for line in server.read("INFO", "commandstats").decode().splitlines() if line.startswith("cmdstat_")]
    return {line[8:].partition(":")[0]: int(line.partition("calls=")[2].partition(",")[0]) for line in stats}


async def test_thousands_die_in_one_batch_and_are_walked_replayed_and_discarded(
    server: RedisServer, opened: Callable[[str], Opened]
) -> None:
    ids = [f"{n:05}" for n in range(MANY)]
    async with opened(server.url) as store:
        app = App(store=store)
        await die(store, ids)
        await die(store, ["x", "y"], task="u")
        assert [letter.id async for letter in app.dead.list(task="t")] == ids
        assert {letter.dead_for < 60 async for letter in app.dead.list()} == {True}
        assert await app.dead.replay_all(task="t", error="no") == MANY
        assert (await app.dead.count(), await app.dead.discard_all(), await app.dead.count()) == (2, 2, 0)
        assert [c.ready for c in await store.counts()] == [MANY]


async def test_a_page_of_dead_letters_costs_a_page_however_many_there_are(server: RedisServer, opened: Callable[[str], Opened]) -> None:
    async with opened(server.url) as store:
        await die(store, [f"{n:05}" for n in range(MANY)])
        server.ask("CONFIG", "RESETSTAT")
        page = await store.jobs(state="dead", after="02500", limit=100)
        assert [page[0].id, page[-1].id] == ["02501", "02600"]
        asked = calls(server)
        assert asked["zrangebylex"] == 1
        assert asked["hget"] <= 1_000
        assert asked.keys().isdisjoint({"zscan", "sscan", "hscan", "zrange", "smembers"})


async def test_queues_are_counted_without_a_walk_over_their_jobs(server: RedisServer, opened: Callable[[str], Opened]) -> None:
    async with opened(server.url) as store:
        await store.commit([Commit(send=(Job(id=f"{n}", task="t"),)) for n in range(MANY)], batch=("send", 1))
        server.ask("CONFIG", "RESETSTAT")
        assert [c.ready for c in await store.counts()] == [MANY]
        assert sum(calls(server).values()) < 20

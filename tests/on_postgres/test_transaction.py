"""The rows that a task writes in `current().transaction()` and the job's end are committed together, once, or not at all."""

from __future__ import annotations

import asyncio
import uuid

import asyncpg

from culm import App, current
from culm.errors import ConfigError
from culm.outcome import Succeeded
from culm.store import Ended
from tests import servers


class Shop:
    """A table of the user's, and tasks that write to it."""

    def __init__(self, url: str) -> None:
        self.app = App(url)
        self.table = f"t{uuid.uuid4().hex}"
        servers.postgres().ask(f"CREATE TABLE {self.table} (id text PRIMARY KEY, runs int)")
        self.runs = 0
        self.app.task(name="add")(self.add)
        self.app.task(name="fail")(self.fail)
        self.app.task(name="forget")(self.forget)
        self.app.task(name="after")(self.after)

    async def add(self) -> int:
        async with current().transaction() as tx:
            await tx.execute(f"INSERT INTO {self.table} VALUES ($1, 1)", current().id)
        async with current().transaction() as tx:
            await tx.execute(f"UPDATE {self.table} SET runs = runs + 1 WHERE id = $1", current().id)
        await self.app.find("after").enqueue()
        return 7

    async def fail(self) -> None:
        async with current().transaction() as tx:
            await tx.execute(f"INSERT INTO {self.table} VALUES ($1, 1)", current().id)
        raise ZeroDivisionError

    async def forget(self) -> None:
        """Undoes its first block by an error of its own, and keeps the second."""
        try:
            async with current().transaction() as tx:
                await tx.execute(f"INSERT INTO {self.table} VALUES ('first', 1)")
                await tx.execute(f"INSERT INTO {self.table} VALUES ('first', 1)")
        except asyncpg.UniqueViolationError:
            async with current().transaction() as tx:
                await tx.execute(f"INSERT INTO {self.table} VALUES ('second', 1)")

    async def after(self) -> None:
        self.runs += 1

    def rows(self) -> list[list[str]]:
        return servers.postgres().ask(f"SELECT id, runs FROM {self.table}")


async def test_of_a_success_rows_end_and_what_it_sent_are_there(url: str) -> None:
    shop = Shop(url)
    async with shop.app, shop.app.worker() as worker:
        job = await shop.app.find("add").enqueue()
        assert await job.result(timeout=10) == 7
        assert shop.rows() == [[job.id, "2"]]
        while shop.runs < 1:
            await asyncio.sleep(0.01)
        assert (worker.fenced, shop.runs) == (0, 1)


async def test_of_a_failure_there_are_no_rows(url: str) -> None:
    shop = Shop(url)
    async with shop.app, shop.app.worker():
        job = await shop.app.find("fail").enqueue()
        while await job.status() != "failed":
            await asyncio.sleep(0.01)
        assert shop.rows() == []


async def test_an_error_within_a_block_undoes_that_block_only(url: str) -> None:
    shop = Shop(url)
    async with shop.app, shop.app.worker():
        await (await shop.app.find("forget").enqueue()).result(timeout=10)
        assert shop.rows() == [["second", "1"]]


async def test_a_worker_that_lost_its_lease_leaves_no_rows(url: str) -> None:  # I3, I6
    shop = Shop(url)
    entered, go = asyncio.Event(), asyncio.Event()

    @shop.app.task(name="slow")
    async def slow() -> None:
        async with current().transaction() as tx:
            await tx.execute(f"INSERT INTO {shop.table} VALUES ('slow', 1)")
            entered.set()
            await go.wait()

    async with shop.app, shop.app.worker() as worker:
        job = await slow.enqueue()
        await entered.wait()
        # Another worker takes it over, as if this one had been silent for longer than its lease.
        schema = url.partition("schema=")[2].partition("&")[0]
        servers.postgres().ask(f"UPDATE {schema}.jobs SET fence = fence + 1, expiries = expiries + 1 WHERE id = '{job.id}'")
        go.set()
        while not worker.fenced:
            await asyncio.sleep(0.01)
        assert shop.rows() == []


async def test_a_commit_whose_constraint_fails_is_an_error_of_the_task(url: str) -> None:
    shop = Shop(url)
    servers.postgres().ask(f"CREATE TABLE {shop.table}_of (id text REFERENCES {shop.table} DEFERRABLE INITIALLY DEFERRED)")

    @shop.app.task(name="orphan")
    async def orphan() -> None:
        async with current().transaction() as tx:
            await tx.execute(f"INSERT INTO {shop.table}_of VALUES ('nobody')")

    async with shop.app, shop.app.worker():
        job = await orphan.enqueue()
        while await job.status() != "failed":
            await asyncio.sleep(0.01)
        assert "violates foreign key constraint" in str(await job.outcome())
        assert servers.postgres().ask(f"SELECT count(*) FROM {shop.table}_of") == [["0"]]


async def test_a_store_in_no_database_says_so() -> None:
    app = App("memory://")
    said: list[str] = []

    @app.task
    async def add() -> None:
        try:
            async with current().transaction():
                pass
        except ConfigError as e:
            said.append(str(e))

    async with app, app.worker():
        await (await add.enqueue()).result(timeout=10)
    assert said == ["transaction() needs a store that is in a database, postgresql://; this one is memory (D0: survives nothing)"]


async def test_the_ledger_has_one_row_for_each_end(url: str) -> None:
    shop = Shop(url + "&ledger=on")
    async with shop.app, shop.app.worker():
        jobs = [await shop.app.find("add").enqueue() for _ in range(20)]
        for job in jobs:
            assert await shop.app.store.outcome(job.id, for_ms=10_000) == Ended(Succeeded(b"\x07"))
    schema = url.partition("schema=")[2].partition("&")[0]
    rows = servers.postgres().ask(f"SELECT id FROM {schema}.ledger WHERE id NOT LIKE '%~%'")
    assert sorted(r[0] for r in rows) == sorted(job.id for job in jobs)

"""PgBouncer itself in transaction mode, each transaction on another connection: with `listen=off` all holds, without it says so."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from culm import App, current
from culm.errors import ConfigError
from culm.stores.postgres.address import parse
from culm.stores.postgres.migrate import migrate, version_of
from culm.stores.postgres.store import PostgresStore
from culm.testing.clock import ManualClock
from culm.testing.conformance import Bench, Case, cases
from tests import servers
from tests.conformance.stores import migrate_in_thread
from tests.on_postgres.asking import send
from tests.on_postgres.conftest import Opened
from tests.pooler import PgBouncer

Opener = Callable[[str], Opened]
JOBS = 300
EACH = 10  # of the suite's exercises one of so many: the rest is the same functions


@pytest.fixture(scope="module")
def pooler() -> Iterator[PgBouncer]:
    found = PgBouncer(servers.postgres())
    yield found
    found.close()


def through(pooler: PgBouncer, **options: str) -> str:
    """New tables, made through the pooler."""
    url = pooler.url(servers.postgres().url(f"s{uuid.uuid4().hex}", durability="relaxed", **options))
    migrate_in_thread(parse(url))
    return url


@pytest.mark.parametrize("exercise", [pytest.param(c, id=c.name) for c in cases(())[::EACH]])
async def test_a_store_behind_it_conforms(exercise: Case, pooler: PgBouncer) -> None:
    clock = ManualClock()
    store = PostgresStore(parse(through(pooler, listen="off")), clock=clock)
    try:
        await exercise.exercise(Bench(store, clock))
    finally:
        await store.close()


async def test_workers_drain_behind_it_and_whoever_waits_gets_results(pooler: PgBouncer) -> None:  # I1, I3
    url = through(pooler, listen="off", ledger="on")
    app = App(url)

    @app.task(name="add")
    async def add(a: int) -> int:
        return a + 1

    async with app, app.worker(poll=0.1), app.worker(poll=0.1):
        jobs = await app.enqueue_many(add.bind(n) for n in range(JOBS))
        assert await asyncio.wait_for(asyncio.gather(*(job.result() for job in jobs)), 60) == list(range(1, JOBS + 1))
        for n in range(5):
            assert await (await add.enqueue(n)).result(timeout=10) == n + 1
        prepared = servers.postgres().ask("SELECT count(*) FROM pg_prepared_statements")
    rows = servers.postgres().ask(f"SELECT id FROM {parse(url).schema}.ledger")
    assert len(rows) == len({i for (i,) in rows}) == JOBS + 5
    assert prepared == [["0"]]
    assert pooler.backends() <= 4, "two workers and their hearts share what the pooler has"


async def test_a_transaction_of_a_task_stays_on_one_connection_of_it(pooler: PgBouncer) -> None:
    url = through(pooler, listen="off")
    app, schema = App(url), parse(url).schema
    servers.postgres().ask(f"CREATE TABLE {schema}.sums (id text, a int)")

    @app.task(name="add")
    async def add(a: int) -> int:
        async with current().transaction() as tx:
            await tx.execute(f"INSERT INTO {schema}.sums VALUES ($1, $2)", current().id, a)
            await tx.execute(f"UPDATE {schema}.sums SET a = a + 1 WHERE id = $1", current().id)
        return a

    async with app, app.worker(poll=0.1, concurrency=8):
        jobs = await app.enqueue_many(add.bind(n) for n in range(40))
        assert await asyncio.wait_for(asyncio.gather(*(job.result() for job in jobs)), 30) == list(range(40))
    found = servers.postgres().ask(f"SELECT a FROM {schema}.sums ORDER BY a")
    assert [int(a) for (a,) in found] == list(range(1, 41))


async def test_doctor_and_migrate_work_through_it_and_say_that_it_is_there(pooler: PgBouncer, opened: Opener, tmp_path: Path) -> None:
    url = through(pooler, listen="off")
    assert await version_of(parse(url)) == (await migrate(parse(url)))[1]
    command = [sys.executable, "-m", "culm", "doctor", "--json", "--url", url]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(done.stdout)["wakes"] == "by polling, every 100 ms (listen=off), behind a pooler"
    async with opened(servers.postgres().url(parse(url).schema, durability="relaxed")) as direct:
        assert (await direct.condition()).more["wakes"] == "LISTEN"


async def sends(store: PostgresStore) -> None:
    for n in range(1, 50):
        await send(store, f"j{n}", number=n)


async def test_without_listen_off_it_says_what_to_add(pooler: PgBouncer, opened: Opener, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "culm.postgres")
    url = through(pooler)
    async with opened(url) as store, opened(url) as other:
        await asyncio.to_thread(pooler.spread)  # else all may go over one connection, or each store's over the same of two
        with pytest.raises(ConfigError, match=r"a pooler that does not keep what a session prepared; add \?listen=off to the address"):
            await asyncio.gather(sends(store), sends(other))
    assert "is a pooler; unless it keeps sessions, add ?listen=off" in caplog.text


async def test_in_session_mode_it_is_a_server_like_any_other(opened: Opener) -> None:
    pooler = PgBouncer(servers.postgres(), mode="session", size=10)
    try:
        async with opened(through(pooler)) as store:
            woken = asyncio.create_task(store.wait(["default"], for_ms=20_000))
            while not servers.postgres().ask(f"SELECT 1 FROM {store.address.schema}.waiters"):
                await asyncio.sleep(0.02)
            await send(store, "a")
            await asyncio.wait_for(woken, 10)
            assert (await store.condition()).more["wakes"] == "LISTEN, behind a pooler"
    finally:
        pooler.close()

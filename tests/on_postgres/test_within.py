"""A job that leaves within a transaction of the caller's: rolled back, there is no job; committed, there is exactly one."""

from __future__ import annotations

import asyncpg
import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from culm import App, IdConflict
from culm.errors import ConfigError
from culm.store import Absent, Pending


def app_of(url: str) -> App:
    app = App(url)

    @app.task(name="add")
    async def add(a: int) -> int:
        return a + 1

    @app.task(name="other")
    async def other(a: int) -> int:
        return a

    return app


def plain(url: str, scheme: str = "postgresql") -> str:
    return scheme + url.partition("?")[0].removeprefix("postgresql")


async def test_of_asyncpg(url: str) -> None:
    async with app_of(url) as app:
        connection = await asyncpg.connect(plain(url))
        add = app.find("add")
        begun = connection.transaction()
        await begun.start()
        gone = await add.using(within=connection).enqueue(1)
        assert isinstance(await app.store.outcome(gone.id), Absent)
        await begun.rollback()
        assert isinstance(await app.store.outcome(gone.id), Absent)
        async with connection.transaction():
            kept = await add.using(within=connection).enqueue(1)
        assert isinstance(await app.store.outcome(kept.id), Pending)
        assert [c.ready for c in await app.store.counts()] == [1]
        async with app.worker():
            assert await kept.result(timeout=10) == 2
        await connection.close()


async def test_of_psycopg(url: str) -> None:
    async with app_of(url) as app, await psycopg.AsyncConnection.connect(plain(url)) as connection:
        add = app.find("add")
        await add.using(within=connection).enqueue(1)
        await connection.rollback()
        kept = await add.using(within=connection).enqueue(2)
        await connection.commit()
        assert [v.id for v in await app.store.jobs()] == [kept.id]
        with psycopg.connect(plain(url)) as other:
            second = await add.using(within=other, id="mine").enqueue(3)
        assert sorted(v.id for v in await app.store.jobs()) == sorted([kept.id, second.id])


def test_of_code_without_async(url: str) -> None:
    app = app_of(url)
    add = app.find("add")
    with psycopg.connect(plain(url)) as connection:
        gone = add.using(within=connection).sync.enqueue(1)
        connection.rollback()
        kept = add.using(within=connection).sync.enqueue(1)
    assert (kept.status(), app.portal.run(app.store.job(gone.id))) == ("open", None)
    app.portal.run(app.close())


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_of_sqlalchemy(driver: str, url: str) -> None:
    async with app_of(url) as app:
        add = app.find("add")
        engine = create_async_engine(plain(url, f"postgresql+{driver}"))
        async with AsyncSession(engine) as session:
            await add.using(within=session).enqueue(1)
            await session.rollback()
            kept = await add.using(within=session).enqueue(2)
            await session.commit()
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
            await add.using(within=connection).enqueue(1)
            await connection.rollback()
        await engine.dispose()
        assert [v.id for v in await app.store.jobs()] == [kept.id]


async def test_of_sqlalchemy_without_async(url: str) -> None:
    async with app_of(url) as app:
        add = app.find("add")
        engine = create_engine(plain(url, "postgresql+psycopg"))
        with Session(engine) as session:
            await add.using(within=session).enqueue(1)
            session.rollback()
            kept = await add.using(within=session).enqueue(2)
            session.commit()
        engine.dispose()
        assert [v.id for v in await app.store.jobs()] == [kept.id]


async def test_of_many_jobs_together(url: str) -> None:
    async with app_of(url) as app:
        connection = await asyncpg.connect(plain(url))
        add = app.find("add")
        begun = connection.transaction()
        await begun.start()
        assert len(await app.enqueue_many(add.using(within=connection).bind(n) for n in range(1_500))) == 1_500
        await begun.rollback()
        assert await app.store.jobs() == []
        async with connection.transaction():
            await app.enqueue_many(add.using(within=connection).bind(n) for n in range(1_500))
            with pytest.raises(ValueError, match="the same within="):
                await app.enqueue_many([add.using(within=connection).bind(1), add.bind(2)])
        assert (await app.store.counts())[0].ready == 1_500
        await connection.close()


async def test_whoever_waits_for_work_hears_of_the_commit(url: str) -> None:
    async with app_of(url) as app, app.worker(poll=30):
        connection = await asyncpg.connect(plain(url))
        for _ in range(3):
            async with connection.transaction():
                job = await app.find("add").using(within=connection).enqueue(1)
            assert await job.result(timeout=10) == 2
        await connection.close()


async def test_the_same_id_is_one_job_and_another_tasks_is_a_conflict(url: str) -> None:
    async with app_of(url) as app:
        connection = await asyncpg.connect(plain(url))
        async with connection.transaction():
            await app.find("add").using(within=connection, id="a").enqueue(1)
            await app.find("add").using(within=connection, id="a").enqueue(1)
            with pytest.raises(IdConflict):
                await app.find("other").using(within=connection, id="a").enqueue(1)
        assert [v.task for v in await app.store.jobs()] == ["add"]
        await connection.close()


async def test_what_is_no_open_transaction_is_refused(url: str) -> None:
    async with app_of(url) as app:
        add = app.find("add")
        connection = await asyncpg.connect(plain(url))
        with pytest.raises(ValueError, match="open transaction; begin one"):
            await add.using(within=connection).enqueue(1)
        await connection.close()
        with psycopg.connect(plain(url), autocommit=True) as other, pytest.raises(ValueError, match="open transaction; begin one"):
            await add.using(within=other).enqueue(1)
        with pytest.raises(TypeError, match="within= takes a connection of asyncpg or psycopg"):
            await add.using(within=object()).enqueue(1)
    async with app_of("memory://") as app:
        with pytest.raises(ConfigError, match="within= needs a store in the database of that transaction"):
            await app.find("add").using(within=object()).enqueue(1)

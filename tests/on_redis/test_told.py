"""Whoever awaits a result for as long as it takes is told of it without a coroutine of the store's: `TellsEnds`."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest

from culm import App, ResultExpired, TaskCancelled, TaskFailed, handle
from culm.errors import ResultPending, StoreError, StoreUnavailable
from culm.store import Absent, Ended, Pending
from culm.stores.redis.store import RedisStore
from culm.stores.redis.wire import MOST_TOLD
from culm.task import AnyTask
from tests.on_redis.asking import until
from tests.servers import RedisServer


def tasks(url: str) -> tuple[App, AnyTask, AnyTask]:
    app = App(url)

    @app.task
    async def double(n: int) -> int:
        return 2 * n

    @app.task(name="text")
    async def text(size: int, after: float = 0) -> str:
        await asyncio.sleep(after)
        if size < 0:
            raise ValueError("no such size")
        return "x" * size

    return app, double, text


async def talk(double: AnyTask) -> None:
    """Until nothing is looked for any more."""
    for n in range(8):
        assert await (await double.enqueue(n)).result() == 2 * n


async def test_a_result_takes_no_coroutine_of_the_store(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    app, double, text = tasks(server.url)
    async with app, app.worker():
        assert await (await double.enqueue(1)).result() == 2, "the first has to subscribe"
        monkeypatch.delattr(RedisStore, "outcome")
        await talk(double)
        assert len(await (await text.enqueue(MOST_TOLD + 100)).result()) == MOST_TOLD + 100
        with pytest.raises(ResultExpired):
            await (await double.using(keep=0).enqueue(4)).result()
        with pytest.raises(TaskFailed, match="no such size"):
            await (await text.enqueue(-1)).result()
        with pytest.raises(ResultExpired):
            await app.job("never", double).result()
        running = await text.enqueue(1, 30)
        waiting = [asyncio.create_task(running.result()) for _ in range(3)]
        await asyncio.sleep(0.1)
        await running.cancel()
        for one in waiting:
            with pytest.raises(TaskCancelled):
                await one


async def test_what_takes_longer_than_a_second_is_asked_again(server: RedisServer) -> None:
    app, double, text = tasks(server.url)
    async with app, app.worker():
        await talk(double)
        slow = [await text.enqueue(n, 1.4) for n in range(3)]
        assert await asyncio.gather(*(job.result() for job in slow)) == ["", "x", "xx"]


async def test_what_the_store_said_first_counts(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not asked again for nothing, nor at once."""
    app, double, _ = tasks(server.url)
    asked = list[float]()
    answers: list[Any] = []
    outcome = RedisStore.outcome

    async def noted(store: RedisStore, job_id: str, *, for_ms: int = 0) -> Any:
        asked.append(time.monotonic())
        return await outcome(store, job_id, for_ms=for_ms)

    def told(store: RedisStore, _: str) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        answer = answers.pop()
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
        asked.append(time.monotonic())
        return future

    async with app, app.worker():
        await talk(double)
        monkeypatch.setattr(RedisStore, "outcome", noted)
        monkeypatch.setattr(RedisStore, "told", told)
        handle._told_by.cache_clear()
        try:
            answers.append(Absent())
            with pytest.raises(ResultExpired):
                await (await double.enqueue(1)).result()
            assert len(asked) == 1
            answers.append(StoreUnavailable("away"))
            assert await (await double.enqueue(2)).result() == 4
            assert asked[2] - asked[1] >= handle.FIRST_PAUSE_S, "a herd would return at once"
            answers.append(Pending())
            assert await (await double.enqueue(3)).result() == 6
            assert len(asked) == 5
        finally:
            handle._told_by.cache_clear()


async def test_who_is_never_answered_is_patient_and_then_is_not(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    app, double, _ = tasks(server.url)
    async with app:
        async with app.worker():
            await talk(double)
        lost = await double.enqueue(1)
        monkeypatch.setattr(handle, "PATIENCE_S", 0.5)
        server.kill()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await lost.result()
        assert 0.3 < time.monotonic() - began < 8


async def test_the_first_wait_of_a_process_subscribes(server: RedisServer) -> None:
    app, double, _ = tasks(server.url)
    async with app, app.worker():
        assert isinstance(app.store, RedisStore)
        assert app.store.told("anything") is None
        assert await (await double.enqueue(1)).result() == 2
        assert app.store._here().outcomes.is_listening


async def test_a_job_that_has_not_left_is_not_awaited(server: RedisServer) -> None:
    app, double, _ = tasks(server.url)

    @app.task
    async def parent() -> None:
        await (await double.enqueue(1)).result()

    async with app, app.worker():
        await talk(double)
        with pytest.raises(TaskFailed, match=ResultPending.__name__):
            await (await parent.using(retry=0).enqueue()).result()


async def test_hostile_bytes_are_an_error_for_who_asked_for_them_alone(server: RedisServer) -> None:
    app, double, text = tasks(server.url)
    async with app, app.worker():
        await talk(double)
        store = app.store
        assert isinstance(store, RedisStore)
        outcomes = store._here().outcomes
        found = await double.enqueue(1)
        await found.result()
        for bad in (b"F1 1 0 1 0\n\xff\xff", b"F no line", b"F1 1 0 1 0\n\xc1"):
            server.ask("HSET", store.address.prefix + "outcomes", found.id, bad)
            with pytest.raises(msgspec.MsgspecError):
                await found.result()
            with pytest.raises(msgspec.MsgspecError):
                await found.outcome()
        jobs = [await text.enqueue(n, 0.3) for n in range(3)]
        waiting = [asyncio.create_task(job.result()) for job in jobs]
        await asyncio.sleep(0.05)
        waiting[1].cancel()
        await asyncio.sleep(0)
        outcomes._told(msgspec.msgpack.encode([jobs[1].id, b"F1 1 0 1 0\n\x92\x01\xc0", jobs[0].id, b"F1 1 0 1 0\n\xc1"]))
        with pytest.raises(msgspec.MsgspecError):
            await waiting[0]
        assert await waiting[2] == "xx"
        assert waiting[1].cancelled()


async def test_of_two_who_wait_one_may_go(server: RedisServer) -> None:
    app, double, text = tasks(server.url)
    async with app, app.worker():
        await talk(double)
        job = await text.enqueue(2, 0.3)
        gone, stays = (asyncio.create_task(job.result()) for _ in range(2))
        await asyncio.sleep(0.05)
        gone.cancel()
        assert await stays == "xx"
        assert isinstance(app.store, RedisStore)
        outcomes = app.store._here().outcomes
        await until(lambda: not (outcomes._waiting or outcomes._unlooked or outcomes._late), "nobody waits any more")
        assert not outcomes._expected._jobs


async def test_a_wait_ends_with_the_store_that_it_began_with(server: RedisServer) -> None:
    app, double, text = tasks(server.url)
    async with app:
        async with app.worker():
            await talk(double)
        job = await text.enqueue(1)
        waiting = [asyncio.create_task(job.result()) for _ in range(2)]
        await asyncio.sleep(0.3)
    for one in waiting:
        with pytest.raises(StoreError, match="closed"):
            await asyncio.wait_for(one, 10)
    assert app._store is None


async def test_ended_is_what_told_says_of_a_job_that_ended(server: RedisServer) -> None:
    app, double, _ = tasks(server.url)
    async with app, app.worker():
        await talk(double)
        job = await double.enqueue(3)
        await job.result()
        assert isinstance(app.store, RedisStore)
        told = app.store.told(job.id)
        assert told is not None
        assert isinstance(await told, Ended)

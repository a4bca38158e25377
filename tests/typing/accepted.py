"""What the type checker must accept, and what it must make of it. Never run: mypy reads it."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from culm import App, AsyncTask, Bound, DeadLetter, Delivery, Failed, Handle, Keys, Lost, Next, Offload, Outcome, Retry, Snoozed, Task, when
from culm.sync import SyncHandle, enqueue_many
from culm.telemetry.otel import Tracing


class Money:
    def __init__(self, cents: int, unit: str = "") -> None:
        self.cents = cents


@dataclass
class Receipt:
    number: int


app = App("memory://")


@app.task
async def plain_async(to: str, *, subject: str = "hi") -> Receipt:
    return Receipt(len(to + subject))


@plain_async.on_failure
async def hook_of_failure(ended: Failed | Lost) -> None:
    assert_type(ended, Failed | Lost)


@plain_async.on_rescue
async def hook_of_rescue(delivery: Delivery) -> None: ...


@app.task(queue="mail", retry=Retry(5), timeout=30, keep=timedelta(hours=1))
async def async_with_options(to: str) -> list[int]:
    return [len(to)]


@app.task
def plain_def(a: int, b: int = 0) -> dict[str, int]:
    return {"sum": a + b}


@app.task(name="two", priority=9, retry=5)
def def_with_options(a: int) -> str:
    return str(a)


@app.task
async def nothing() -> None: ...


@app.task
async def of_any(*numbers: int, **names: str) -> int:
    return len(numbers) + len(names)


async def tasks() -> None:
    assert_type(await plain_async.enqueue("ada", subject="x"), Handle[Receipt])
    assert_type(await async_with_options.enqueue("ada"), Handle[list[int]])
    assert_type(await plain_def.enqueue(1, b=2), Handle[dict[str, int]])
    assert_type(await def_with_options.enqueue(1), Handle[str])
    assert_type(await nothing.enqueue(), Handle[None])
    assert_type(await of_any.enqueue(1, 2, three="3"), Handle[int])
    assert_type(await (await plain_async.enqueue("ada")).result(timeout=1), Receipt)
    as_base: Task[[int], str] = def_with_options
    assert as_base is not None


async def plain_calls() -> None:
    later: Coroutine[Any, Any, Receipt] = plain_async("ada")
    assert_type(await later, Receipt)
    assert_type(await async_with_options.using(delay=1)("ada"), list[int])
    assert_type(plain_def(1), dict[str, int])
    assert_type(def_with_options.using(priority=1)(1), str)


async def options() -> None:
    later = plain_async.using(
        delay=60, priority=9, id="order-42", expires=300, timeout=timedelta(seconds=3), deadline=9.5, retry=None, keep=0,
        queue="mail", headers={"a": "b"}, topic="done", now=True,
    )  # fmt: skip
    assert_type(await later.enqueue("ada"), Handle[Receipt])
    assert_type(await plain_def.using(at=datetime.now(UTC)).enqueue(1), Handle[dict[str, int]])


async def bound() -> None:
    assert_type(plain_async.bind("ada", subject="x"), Bound[Receipt])
    assert_type(plain_def.using(delay=1).bind(1), Bound[dict[str, int]])
    assert_type(await app.enqueue_many([plain_async.bind("ada"), plain_def.bind(1)]), list[Handle[Any]])
    assert_type(when("paid", ("packed", 3), run=plain_def.bind(1), need=1, timeout=5), Handle[dict[str, int]])


async def mapped() -> None:
    assert_type(await def_with_options.map([1, 2, 3]), list[Handle[str]])
    assert_type(await async_with_options.map(name for name in ("a", "b")), list[Handle[list[int]]])
    assert_type(await plain_def.map(range(3)), list[Handle[dict[str, int]]])


def blocking() -> None:
    assert_type(plain_async.sync.enqueue("ada", subject="x"), SyncHandle[Receipt])
    assert_type(plain_def.sync.enqueue(1).result(timeout=1), dict[str, int])
    assert_type(enqueue_many([plain_async.bind("ada")]), list[SyncHandle[Any]])


async def found() -> None:
    assert_type(app.job("some-id", plain_async), Handle[Receipt])
    assert_type(await app.job("some-id", plain_def).result(), dict[str, int])
    by_name: Task[Any, Any] = app.find("two")
    assert by_name is not None


@app.middleware
async def timed(delivery: Delivery, next: Next) -> Outcome:  # noqa: A002  # the word of the documentation
    return Snoozed(delivery.age_ms) if delivery.attempt == 3 else await next(delivery)


def custom_types() -> None:
    app.codec(Money, encode=lambda m: (m.cents, "unit"), decode=lambda d: Money(*d), wire=tuple[int, str])
    app.codec(Money, encode=lambda m: m.cents, decode=Money)
    assert_type(App(keys=Keys({"a": b""}, use="a", encrypt=True), offload=Offload(beyond=10, folder="x"), tracing=Tracing()), App)


async def dead_letters() -> None:
    async for letter in app.dead.list(task="two", queue="mail", error="Timeout", older_than=timedelta(days=1), newer_than=7, after="a"):
        assert_type(letter, DeadLetter)
    assert_type(await app.dead.get("some-id"), DeadLetter | None)
    assert_type(await app.dead.replay("a", "b"), int)
    assert_type(await app.dead.discard_all(task="two") + await app.dead.count(), int)
    assert_type([letter.id for letter in app.dead.sync.list(error="x")], list[str])


def kinds() -> None:
    sends: AsyncTask[[str], list[int]] | None = None
    assert sends is None

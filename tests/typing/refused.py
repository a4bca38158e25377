"""What the type checker must refuse: a line whose ignore is not needed makes the check fail. Never run: mypy reads it."""

from __future__ import annotations

from typing import assert_type

from culm import App, Delivery, Handle, Next, Outcome, Retry, Snoozed, Succeeded, when

app = App("memory://")


@app.task
async def send(to: str, *, subject: str = "hi") -> int:
    return len(to + subject)


@app.task(queue="sums")
def add(a: int, b: int) -> int:
    return a + b


@app.task
def double(a: int) -> int:
    return a * 2


async def arguments() -> None:
    await send.enqueue(1)  # type: ignore[arg-type]
    await send.enqueue()  # type: ignore[call-arg]
    await send.enqueue("ada", "hi")  # type: ignore[call-arg]
    await send.enqueue("ada", topic="hi")  # type: ignore[call-arg]
    await send.enqueue("ada", subject=None)  # type: ignore[arg-type]
    await add.enqueue(1, "2")  # type: ignore[arg-type]
    await add.enqueue(1, 2, 3)  # type: ignore[call-arg]
    await add.enqueue(1, delay=3)  # type: ignore[call-arg]
    send.bind(1)  # type: ignore[arg-type]
    add.bind(1)  # type: ignore[call-arg]
    add.using(delay=1).bind("1", 2)  # type: ignore[arg-type]


async def results() -> None:
    wrong: str = await (await send.enqueue("ada")).result()  # type: ignore[assignment]
    other: Handle[str] = await send.enqueue("ada")  # type: ignore[assignment]
    found: Handle[str] = app.job("some-id", send)  # type: ignore[arg-type]
    assert_type(await (await send.enqueue("ada")).result(), str)  # type: ignore[assert-type]
    print(wrong, other, found)


async def plain_calls() -> None:
    send("ada") + 1  # type: ignore[operator]
    await add(1, 2)  # type: ignore[misc]
    add("1", 2)  # type: ignore[arg-type]
    await send(to=3)  # type: ignore[arg-type]


async def mapped() -> None:
    await double.map(["1"])  # type: ignore[list-item]
    await add.map([1])  # type: ignore[misc]
    await send.map([1])  # type: ignore[list-item]
    double.map([1]).result()  # type: ignore[attr-defined]


def options() -> None:
    send.using(dealy=3)  # type: ignore[call-arg]
    send.using(priority="high")  # type: ignore[arg-type]
    send.using(at=3)  # type: ignore[arg-type]
    send.using(now=False)  # type: ignore[arg-type]
    send.using(headers={"a": 1})  # type: ignore[dict-item]
    send.using(3)  # type: ignore[arg-type, call-arg]
    app.task(quue="x")  # type: ignore[call-overload]
    app.task(id="x")  # type: ignore[call-overload]
    app.task(retry="often")  # type: ignore[call-overload]
    Retry("5")  # type: ignore[arg-type]
    Retry(on=("IOError",))  # type: ignore[arg-type]


def blocking() -> None:
    send.sync.enqueue(1)  # type: ignore[arg-type]
    number: str = add.sync.enqueue(1, 2).result()  # type: ignore[assignment]
    assert number


class Money:
    cents = 3


@add.on_success  # type: ignore[type-var]
def no_coroutine(ended: Succeeded) -> None: ...


@add.on_failure  # type: ignore[type-var]
async def of_another_end(ended: Succeeded) -> None: ...


@app.middleware  # type: ignore[type-var]
async def no_next(delivery: Delivery) -> Outcome:
    return Snoozed(1)


@app.middleware  # type: ignore[type-var]
async def no_outcome(delivery: Delivery, next: Next) -> int:  # noqa: A002
    return 3


def custom_types() -> None:
    app.codec(Money, encode=lambda m: m.dollars, decode=lambda _: Money())  # type: ignore[attr-defined]
    app.codec(Money, encode=lambda m: m.cents, decode=lambda _: 3)  # type: ignore[arg-type, return-value]
    App(keys="secret")  # type: ignore[arg-type]


async def joins() -> None:
    when("paid", run=add)  # type: ignore[arg-type]
    when(3, run=add.bind(1, 2))  # type: ignore[arg-type]
    when("paid", add.bind(1, 2))  # type: ignore[arg-type, call-arg]
    await app.enqueue_many([add, 3])  # type: ignore[list-item]


async def dead_letters() -> None:
    await app.dead.replay_all(tsak="send")  # type: ignore[call-arg]
    await app.dead.count(older_than="1h")  # type: ignore[arg-type]
    await app.dead.discard(3)  # type: ignore[arg-type]

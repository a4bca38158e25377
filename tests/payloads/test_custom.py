"""Types of your own travel by `app.codec`, wherever they are; what does not fit says so where it is sent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from culm import App, ConfigError, TaskFailed
from tests.tasks.harness import Bench, run


class Money:
    def __init__(self, cents: int, unit: str) -> None:
        if cents < 0:
            raise ValueError(f"no one has {cents}")
        self.cents, self.unit = cents, unit

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and (self.cents, self.unit) == (other.cents, other.unit)

    def __hash__(self) -> int:
        return hash((self.cents, self.unit))

    def __repr__(self) -> str:
        return f"Money({self.cents}, {self.unit!r})"


class Coins(Money):
    pass


class Wallet:
    def __init__(self, money: list[Money]) -> None:
        self.money = money


@dataclass
class Bill:
    total: Money
    parts: list[Money]


def bench_with_money() -> Bench:
    bench = Bench()
    bench.app.codec(Money, encode=lambda m: (m.cents, m.unit), decode=lambda d: Money(*d), wire=tuple[int, str])
    return bench


def test_a_type_of_ones_own_travels_alone_and_inside_of_others() -> None:
    bench = bench_with_money()

    @bench.app.task
    async def add(bill: Bill, more: Money, *, tip: Money | None = None) -> dict[str, Money]:
        return {"sum": Money(bill.total.cents + sum(m.cents for m in bill.parts) + more.cents + (tip.cents if tip else 0), more.unit)}

    async def scenario() -> None:
        async with bench.working():
            job = await add.enqueue(Bill(Money(1, "€"), [Money(2, "€"), Coins(3, "€")]), Money(4, "€"), tip=Money(5, "€"))
            assert await job.result() == {"sum": Money(15, "€")}

    run(scenario())


def test_a_codec_may_be_made_of_others_and_may_come_after_the_task() -> None:
    bench = Bench()

    @bench.app.task
    async def rich(wallet: Wallet) -> int:
        return sum(m.cents for m in wallet.money)

    bench.app.codec(Wallet, encode=lambda w: w.money, decode=Wallet, wire=list[Money])
    bench.app.codec(Money, encode=lambda m: [m.cents, m.unit], decode=lambda d: Money(*d))

    async def scenario() -> None:
        async with bench.working():
            assert await (await rich.enqueue(Wallet([Money(1, "a"), Money(2, "b")]))).result() == 3

    run(scenario())


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("7 €", "Expected `array`, got `str`"),
        (("7", "€"), r"Expected `int`, got `str` - at `\$\[0\]`"),
        ((-7, "€"), "no one has -7"),
        (Path("/"), r"Encoding objects of type PosixPath is unsupported; say how with app\.codec\(PosixPath"),
    ],
)
def test_what_does_not_fit_names_task_parameter_expected_and_got(value: Any, says: str) -> None:
    @bench_with_money().app.task(name="shop.pay")
    async def pay(money: Money) -> None: ...

    with pytest.raises(TypeError, match=f"shop\\.pay: argument 'money': {says}.*, got "):
        pay.bind(value)


def test_a_type_without_a_codec_is_refused_where_it_is_sent_and_fails_the_job_that_returns_it() -> None:
    bench = Bench()

    @bench.app.task(name="t")
    async def work() -> Money:
        return Money(1, "€")

    async def scenario() -> None:
        async with bench.working():
            with pytest.raises(
                TaskFailed, match=r"the result of t cannot be encoded: Encoding objects of type Money is unsupported; say how"
            ):
                await (await work.enqueue()).result()

    run(scenario())


@pytest.mark.parametrize("kind", [int, Bill, str, dict])
def test_a_codec_for_what_travels_by_itself_would_never_be_asked_and_is_refused(kind: Any) -> None:
    with pytest.raises(ConfigError, match=f"app.codec: {kind.__name__} travels by itself"):
        App("memory://").codec(kind, encode=str, decode=kind)


def test_a_second_codec_of_a_type_and_what_is_no_type_are_refused() -> None:
    app = bench_with_money().app
    with pytest.raises(ConfigError, match=r"app\.codec: Money has a codec already"):
        app.codec(Money, encode=str, decode=lambda _: Money(0, ""))
    with pytest.raises(TypeError, match=r"app\.codec takes a class, got 3"):
        app.codec(3, encode=str, decode=int)  # type: ignore[arg-type]


def test_apps_do_not_share_codecs() -> None:
    bench_with_money()
    with pytest.raises(TypeError, match="Money is unsupported"):
        Bench().app.task(name="t")(_pay).bind(Money(1, "€"))


async def _pay(money: Money) -> None: ...

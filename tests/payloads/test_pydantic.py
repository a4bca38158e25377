"""pydantic's models travel as arguments, results and events, alone and inside of other types; culm does not import pydantic for it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec
import pytest
from pydantic import AliasPath, AnyUrl, BaseModel, ConfigDict, Field, RootModel, SecretStr, computed_field, field_validator

from culm import Succeeded, TaskFailed, current, emit, when
from tests.tasks.harness import Bench, run

T = TypeVar("T")


class Colour(Enum):
    RED = "red"


class Line(BaseModel):
    name: str
    price: Decimal = Field(gt=0)


class Order(BaseModel):
    number: int
    lines: list[Line]
    at: datetime
    colour: Colour = Colour.RED
    took: timedelta | None = None
    key: UUID | None = None
    raw: bytes = b""
    tags: set[str] = set()

    @computed_field  # type: ignore[prop-decorator]  # as pydantic's documentation has it
    @property
    def total(self) -> Decimal:
        return sum((line.price for line in self.lines), Decimal(0))


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    key: UUID
    pair: tuple[int, int]


class Aliased(BaseModel):
    name: str = Field(validation_alias=AliasPath("names", 0), serialization_alias="theName")
    age: int = Field(alias="theAge")


class Page(BaseModel, Generic[T]):
    items: list[T]


class Numbers(RootModel[list[int]]):
    pass


class Kinds(BaseModel):
    url: AnyUrl
    path: Path
    ip: IPv4Address


class Node(BaseModel):
    value: int
    next: Node | None = None


@dataclass
class Basket:
    orders: list[Order]
    best: Order | None
    by_name: dict[str, Line]


class Shelf(msgspec.Struct):
    page: Page[Line]


ORDER = Order(
    number=7, lines=[Line(name="a", price=Decimal("1.10"))], at=datetime(2024, 2, 29, tzinfo=UTC), took=timedelta(seconds=3),
    key=UUID(int=5), raw=b"\x00\xff", tags={"x"},
)  # fmt: skip

TRAVELLERS: list[tuple[Any, Any]] = [
    (Order, ORDER),
    (Strict, Strict(key=UUID(int=1), pair=(1, 2))),
    (Aliased, Aliased.model_validate({"names": ["ada"], "theAge": 3})),
    (Page[Line], Page[Line](items=ORDER.lines)),
    (Numbers, Numbers([1, 2])),
    (Kinds, Kinds(url=AnyUrl("https://example.com/a"), path=Path("/a/b"), ip=IPv4Address("192.0.2.1"))),
    (Node, Node(value=1, next=Node(value=2))),
    (list[Order], [ORDER, ORDER]),
    (Order | None, ORDER),
    (Order | None, None),
    (dict[str, Line], {"a": ORDER.lines[0]}),
    (tuple[Line, int], (ORDER.lines[0], 3)),
    (Basket, Basket([ORDER], None, {"a": ORDER.lines[0]})),
    (Shelf, Shelf(Page[Line](items=ORDER.lines))),
]


@pytest.mark.parametrize(("kind", "value"), TRAVELLERS)
def test_a_model_arrives_and_returns_as_it_was_sent(kind: Any, value: Any) -> None:
    bench = Bench()

    async def echo(value: Any) -> Any:
        assert isinstance(value, type(value))
        return value

    echo.__annotations__.update(value=kind, **{"return": kind})
    task = bench.app.task(echo)

    async def scenario() -> None:
        async with bench.working():
            job = await task.enqueue(value)
            assert await job.result() == value

    run(scenario())


def test_a_model_that_does_not_hold_what_it_says_is_refused_where_it_is_sent() -> None:
    @Bench().app.task(name="shop.buy")
    async def buy(n: int, *, line: Line) -> None: ...

    wrong = Line.model_construct(name=3, price=Decimal(-1))  # not validated
    says = r"shop\.buy: argument 'line': Expected `Line`: name: Input should be a valid string; price: Input should be greater than 0"
    with pytest.raises(TypeError, match=says + r".*, got Line\(name=3, price=Decimal\('-1'\)\)$") as caught:
        buy.bind(1, line=wrong)
    assert "\n" not in str(caught.value)


def test_a_model_deep_inside_says_where() -> None:
    @Bench().app.task(name="shop.buy")
    async def buy(basket: Basket) -> None: ...

    wrong = Line.model_construct(name="a", price="free")
    with pytest.raises(
        TypeError, match=r"argument 'basket': Expected `Line`: price: Input should be a valid decimal.* - at `\$\.by_name\[...\]`"
    ):
        buy.bind(Basket([], None, {"a": wrong}))


def test_arguments_that_no_longer_fit_the_model_fail_the_job_and_say_so() -> None:
    bench = Bench()

    @bench.app.task(name="t")
    async def old(line: dict[str, str]) -> None: ...

    args = old.bind({"name": "a", "price": "secret-value"}).args
    del bench.app.tasks["t"]

    @bench.app.task(name="t")
    async def new(line: Line) -> None: ...

    async def scenario() -> str:
        from culm.task import Bound, send

        async with bench.working():
            job = await send(Bound[None](new, args), None)
            with pytest.raises(TaskFailed) as caught:
                await job.result()
            return caught.value.fault.message

    message = run(scenario())
    assert message.startswith(
        "the arguments stored for t do not fit its signature: Expected `Line`: price: Input should be a valid decimal"
    )
    assert message.endswith("at `line`")
    assert "secret-value" not in message


class Account(BaseModel):
    user: str
    password: SecretStr


def test_a_secret_does_not_travel_unless_it_is_told_how() -> None:
    bench = Bench()

    async def log_in(account: Account) -> str:
        return account.password.get_secret_value()

    task = bench.app.task(log_in)
    ada = Account(user="ada", password=SecretStr("hunter2"))
    with pytest.raises(
        TypeError, match=r"argument 'account': a SecretStr does not travel by itself; if it should, .* app\.codec"
    ) as caught:
        task.bind(ada)
    assert "hunter2" not in str(caught.value)
    bench.app.codec(SecretStr, encode=lambda s: s.get_secret_value(), decode=SecretStr)

    async def scenario() -> None:
        async with bench.working():
            assert await (await task.enqueue(ada)).result() == "hunter2"

    run(scenario())


class Even(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def _even(cls, n: int) -> int:
        if n % 2:
            raise ValueError("odd")
        return n


def test_a_validator_of_the_model_runs_where_it_arrives() -> None:
    @Bench().app.task(name="t")
    async def work(even: Even) -> None: ...

    with pytest.raises(TypeError, match="t: argument 'even': Expected `Even`: n: Value error, odd, got Even"):
        work.bind(Even.model_construct(n=3))


def test_models_are_read_from_events_and_from_the_results_of_members() -> None:
    bench = Bench()

    @bench.app.task
    async def member() -> Line:
        return Line(name="m", price=Decimal(2))

    @bench.app.task
    async def root() -> None:
        emit("said", Line(name="e", price=Decimal(1)))
        await member.using(topic="ended").enqueue()
        when("said", "ended", run=join.bind())

    @bench.app.task(name="join")
    async def join() -> list[Line]:
        [said], [ended] = current().events["said"], current().events["ended"]
        outcome = ended.outcome()
        assert isinstance(outcome, Succeeded)
        return [said.read(Line), member.signature.decode_result(outcome.value)]

    async def scenario() -> list[Line]:
        async with bench.working():
            await (await root.enqueue()).result()
            job_id = next(job.id for job in bench.jobs() if job.task == "join")
            return await bench.app.job(job_id, join).result()

    assert [line.name for line in run(scenario())] == ["e", "m"]


def test_the_command_line_builds_models_of_json() -> None:
    @Bench().app.task(name="t")
    async def work(line: Line, n: int = 0) -> None: ...

    args, kwargs = work.signature.from_json(['{"name": "a", "price": "1.5"}', "n=3"])
    assert (args, kwargs) == ((Line(name="a", price=Decimal("1.5")), 3), {})
    with pytest.raises(TypeError, match=r"t: argument 'line': Expected `Line`: price: Field required, got \{'name': 'a'\}"):
        work.signature.from_json(['{"name": "a"}'])


def test_pydantic_is_not_imported_for_those_who_do_not_use_it() -> None:
    program = (
        "import sys, culm\nfrom pathlib import Path\napp = culm.App('memory://')\n"
        "@app.task\nasync def f(a: int) -> int: ...\nf.bind(1)\n"
        "try: f.bind(Path('x'))\nexcept TypeError: pass\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('pydantic', 'prometheus_client', 'opentelemetry', 'cryptography')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

"""Arguments of every kind travel and arrive as what the annotations say; what does not fit is refused where it is sent."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, Optional, TypedDict, TypeVar
from uuid import UUID

import msgspec
import pytest

from culm import ConfigError
from tests.tasks.harness import Bench, run, until

T = TypeVar("T")
UserId = NewType("UserId", int)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Word(StrEnum):
    YES = "yes"


@dataclass
class Address:
    street: str
    zip_code: int = 0


@dataclass(frozen=True)
class Person:
    name: str
    address: Address
    tags: list[str] = field(default_factory=list)
    friend: Optional[Person] = None  # noqa: UP045  # a string to get_type_hints, and recursive


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Circle(msgspec.Struct, tag="circle"):
    radius: float


class Square(msgspec.Struct, tag="square"):
    side: float


class Box(msgspec.Struct, Generic[T]):
    inside: T


class Pair(NamedTuple):
    left: int
    right: str


class Movie(TypedDict):
    name: str
    year: int


ADA = Person("Ada", Address("Main", 12345), ["a"], Person("Bob", Address("Side")))
NOON = datetime(2024, 2, 29, 12, 0, 1, 500, tzinfo=UTC)

TRAVELLERS: list[tuple[Any, Any]] = [
    (None, None),
    (bool, True),
    (int, -5),
    (int, 2**63 - 1),
    (float, 1.5),
    (float, float("inf")),
    (str, "grüße 🎋 \x00"),
    (bytes, b"\x00\xff"),
    (bytearray, bytearray(b"ab")),
    (list[int], [1, 2]),
    (list[Address], [Address("a", 1)]),
    (dict[str, list[int]], {"a": [1]}),
    (dict[int, Point], {1: Point(1, 2)}),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a"})),
    (Address, Address("Main", 1)),
    (Person, ADA),
    (Point, Point(1, 2)),
    (Circle | Square, Square(2.0)),
    (list[Circle | Square], [Circle(1.0), Square(2.0)]),
    (Box[int], Box(3)),
    (Box[list[Point]], Box([Point(1)])),
    (Pair, Pair(1, "b")),
    (Movie, {"name": "Ran", "year": 1985}),
    (Colour, Colour.BLUE),
    (Level, Level.HIGH),
    (Word, Word.YES),
    (Literal["a", "b"], "b"),
    (datetime, NOON),
    (datetime, datetime(2024, 1, 1, 1)),  # noqa: DTZ001  # a naive one stays naive
    (date, date(2024, 2, 29)),
    (time, time(1, 2, 3)),
    (timedelta, timedelta(days=1, microseconds=5)),
    (UUID, UUID(int=7)),
    (Decimal, Decimal("0.10")),
    (int | str | None, "a"),
    (int | str | None, None),
    (Optional[Point], Point(1)),  # noqa: UP045
    (UserId, UserId(5)),
    (Annotated[int, msgspec.Meta(ge=0)], 3),
    (Any, {"a": [1, None, 2.5, "b"]}),
    (dict[str, Any], {"a": {"b": [True]}}),
    (list, [1, "a"]),
    (object, [1]),
]

MISFITS: list[tuple[Any, Any, str]] = [
    (int, "1", "Expected `int`, got `str`"),
    (int, 1.5, "Expected `int`, got `float`"),
    (int, None, "Expected `int`, got `None`"),
    (int, 2**70, "serialize ints"),
    (bool, 1, "Expected `bool`, got `int`"),
    (str, b"a", "Expected `str`, got `bytes`"),
    (str, "\udc80", "surrogates"),
    (bytes, 3, "Expected `bytes`, got `int`"),
    (list[int], [1, "2"], r"Expected `int`, got `str` - at `\$\[1\]`"),
    (dict[str, int], {"a": "b"}, "Expected `int`, got `str`"),
    (Address, {"street": 5}, "Expected `str`, got `int`"),
    (Address, Address(5), "Expected `str`, got `int`"),  # type: ignore[arg-type]
    (Point, "origin", "Expected `object`, got `str`"),
    (Colour, "green", "Invalid enum value 'green'"),
    (Literal["a"], "c", "Invalid enum value 'c'"),
    (datetime, "yesterday", "Invalid RFC3339"),
    (datetime, 5.0, "Expected `datetime`"),
    (UUID, "xyz", "Invalid UUID"),
    (int | None, "x", r"Expected `int \| null`, got `str`"),
    (Circle | Square, Point(1), "missing required field `type`|`type`"),
    (Annotated[int, msgspec.Meta(ge=0)], -1, "Expected `int` >= 0"),
    (Any, object(), "object"),
    (Any, lambda: 1, "function"),
]


def named(cases: Sequence[tuple[Any, ...]]) -> list[str]:
    """Ids that are the same in every process, which an address in a repr is not."""
    return [f"{n} {re.sub('[^a-zA-Z]+', ' ', str(getattr(kind, '__name__', kind)))}" for n, (kind, *_) in enumerate(cases)]


def echo_of(kind: Any) -> Callable[[Any], Awaitable[Any]]:
    async def echo(value):  # type: ignore[no-untyped-def]  # its annotations are set below
        return value

    echo.__annotations__ = {"value": kind, "return": kind}
    return echo


@pytest.mark.parametrize(("kind", "value"), TRAVELLERS, ids=named(TRAVELLERS))
def test_a_value_of_this_kind_arrives_and_returns_as_it_was_sent(kind: Any, value: Any) -> None:
    async def main() -> None:
        bench, arrived = Bench(), []

        async def keep(value: Any) -> Any:
            arrived.append(value)
            return value

        keep.__annotations__ = {"value": kind, "return": kind}
        task = bench.app.task(keep)
        async with bench.working():
            result = await (await task.enqueue(value)).result()
        assert arrived == [value]
        assert result == value
        assert type(arrived[0]) is type(result) is type(value)

    run(main())


@pytest.mark.parametrize(("kind", "value", "says"), MISFITS, ids=named(MISFITS))
def test_an_argument_that_does_not_fit_is_a_type_error_where_it_is_sent(kind: Any, value: Any, says: str) -> None:
    async def main() -> None:
        bench = Bench()
        task = bench.app.task(name="mail.send")(echo_of(kind))
        with pytest.raises(TypeError, match=says) as caught:
            await task.enqueue(value)
        line = str(caught.value)
        assert line.startswith("mail.send: argument 'value': ")
        assert ", got " in line
        assert "\n" not in line
        assert bench.jobs() == []

    run(main())


def test_a_long_value_is_shortened_in_the_error() -> None:
    task = Bench().app.task(echo_of(int))
    with pytest.raises(TypeError) as caught:
        task.bind("x" * 5_000)
    assert len(str(caught.value)) < 200


async def every_kind(a: int, /, b: int, c: int = 3, *rest: int, d: int, e: str = "e", **more: float) -> list[Any]:
    return [a, b, c, rest, d, e, more]


async def optional(a: int = None, b: Address | None = None, c: Any = None) -> list[Any]:  # type: ignore[assignment]  # noqa: RUF013
    return [a, b, c]


async def names(self: int, cls: int, id: int, args: int, kwargs: int, _private: int) -> list[int]:  # noqa: A002
    return [self, cls, id, args, kwargs, _private]


async def keywords(*, first: int, second: int = 2) -> list[int]:
    return [first, second]


async def mutable(items: list[int] = [1], more: dict[str, int] = {}) -> list[Any]:  # noqa: B006
    items.append(2)
    more["a"] = 1
    return [items, more]


CALLS: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], list[Any]]] = [
    (every_kind, (1, 2), {"d": 4}, [1, 2, 3, (), 4, "e", {}]),
    (every_kind, (1,), {"b": 2, "d": 4}, [1, 2, 3, (), 4, "e", {}]),
    (every_kind, (1, 2, 5, 6, 7), {"d": 4, "e": "x", "z": 1.5}, [1, 2, 5, (6, 7), 4, "x", {"z": 1.5}]),
    (every_kind, (1, 2), {"d": 4, "a": 9.0}, [1, 2, 3, (), 4, "e", {"a": 9.0}]),
    (optional, (), {}, [None, None, None]),
    (optional, (1,), {"b": Address("x")}, [1, Address("x"), None]),
    (names, (1, 2, 3), {"args": 4, "kwargs": 5, "_private": 6}, [1, 2, 3, 4, 5, 6]),
    (keywords, (), {"first": 1}, [1, 2]),
    (keywords, (), {"second": 3, "first": 1}, [1, 3]),
    (mutable, (), {}, [[1, 2], {"a": 1}]),
]


@pytest.mark.parametrize(("fn", "args", "kwargs", "wanted"), CALLS, ids=lambda v: getattr(v, "__name__", None))
def test_parameters_of_every_kind_arrive(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], wanted: list[Any]) -> None:
    async def main() -> None:
        bench, arrived = Bench(), []
        task = bench.app.task(fn)

        async def spy(*a: Any, **k: Any) -> None:
            arrived.append(await fn(*a, **k))

        task.fn = spy
        async with bench.working():
            for _ in range(2):  # a default that the first call changed is as new for the second
                await (await task.enqueue(*args, **kwargs)).outcome()
                await until(lambda: bool(arrived))
                assert arrived.pop() == wanted

    run(main())


WRONG_CALLS: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    ((), {"d": 4}, "missing a required argument: 'a'"),
    ((1, 2), {}, "missing a required (keyword-only )?argument: 'd'"),
    ((1, 2), {"d": 4, "b": 2}, "multiple values for argument 'b'"),
    ((1, 2), {"d": "4"}, "argument 'd': Expected `int`, got `str`"),
    ((1, 2, 3, "4"), {"d": 4}, "argument 'rest': Expected `int`, got `str`"),
    ((1, 2), {"d": 4, "z": "1"}, "argument 'more': Expected `float`, got `str`"),
]


@pytest.mark.parametrize(("args", "kwargs", "says"), WRONG_CALLS)
def test_a_call_that_python_would_refuse_is_refused_where_it_is_sent(args: tuple[Any, ...], kwargs: dict[str, Any], says: str) -> None:
    async def main() -> None:
        bench = Bench()
        task: Any = bench.app.task(name="many")(every_kind)
        with pytest.raises(TypeError, match=f"^many: .*{says}"):
            await task.enqueue(*args, **kwargs)
        assert bench.jobs() == []

    run(main())


async def three(a: int, b: int, /, c: int = 0, *, d: int = 0) -> int:
    return a + b + c + d


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((1,), {}, "missing a required argument: 'b'"),
        ((1, 2, 3, 4), {}, "too many positional arguments"),
        ((1, 2), {"e": 4}, "unexpected keyword argument 'e'"),
        ((1,), {"b": 2}, "'b'"),
        ((1, 2), {"delay": 4}, "unexpected keyword argument 'delay'"),
        ((), {"a": 1, "b": 2}, "'a'"),
    ],
)
def test_missing_unknown_and_misplaced_arguments_name_the_signature(args: tuple[Any, ...], kwargs: dict[str, Any], says: str) -> None:
    task: Any = Bench().app.task(name="three")(three)
    with pytest.raises(TypeError, match=f"^three: .*{says}.*; it takes \\(a: 'int', b: 'int', /, c: 'int' = 0") as caught:
        task.bind(*args, **kwargs)
    assert "\n" not in str(caught.value)


def test_a_mebibyte_of_arguments_travels_and_more_does_not() -> None:
    async def main() -> None:
        bench = Bench()

        @bench.app.task(name="store")
        async def store(data: bytes) -> int:
            return len(data)

        async with bench.working():
            assert await (await store.enqueue(bytes(1_048_000))).result() == 1_048_000
        with pytest.raises(ValueError, match=r"^the arguments of store take 1,048,58\d bytes; 1,048,576 are allowed: pass a reference"):
            await store.enqueue(bytes(1_048_576))
        assert len(bench.jobs()) == 1

    run(main())


def test_an_argument_without_annotation_takes_whatever_travels() -> None:
    async def main() -> None:
        bench = Bench()
        task = bench.app.task(echo_without_hints)
        async with bench.working():
            assert await (await task.enqueue([1, {"a": None}])).result() == [1, {"a": None}]

    run(main())


async def echo_without_hints(value):  # type: ignore[no-untyped-def]
    return value


@pytest.mark.parametrize("kind", [int | Point | Address, list["Nowhere"], dict[Point, set[list[int]] | list[str] | set[str]]])  # type: ignore[name-defined]  # noqa: F821
def test_an_annotation_that_cannot_travel_is_refused_at_the_decorator(kind: Any) -> None:
    bench = Bench()
    with pytest.raises(ConfigError, match=r"^task 'mail\.send': its ") as caught:
        bench.app.task(name="mail.send")(echo_of(kind))
    assert "\n" not in str(caught.value)
    assert bench.app.tasks == {}


def test_values_deeper_than_python_can_follow_are_refused() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    task = Bench().app.task(echo_of(Any))
    with pytest.raises(TypeError, match="argument 'value'"):
        task.bind(nested)
    while nested:  # taken apart by hand: its destructor would be as deep
        nested = nested.pop()

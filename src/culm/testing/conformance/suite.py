"""The list of exercises that every store must pass. An exercise is a plain async function whose name is what it proves.

Whoever writes a store opens it on a ManualClock, puts it into a Bench and runs each of `cases(features)` on a new one:

    for case in cases():
        clock = ManualClock()
        await case.exercise(Bench(MyStore(url, clock=clock), clock))

A store that lacks a feature names those it has, and is not asked for the others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Literal, TypeAlias, TypeVar

from msgspec import Struct

from culm.testing.conformance.bench import Bench

Feature: TypeAlias = Literal["hints", "wakes", "order"]
# wakes: `wait` and `outcome` notice at once what this process commits.
# order: jobs and batches of different roots are in one order. Without it (a store made of partitions) only those of one root are.
Exercise: TypeAlias = Callable[[Bench], Awaitable[None]]
F = TypeVar("F", bound=Exercise)

EVERY_FEATURE: tuple[Feature, ...] = ("hints", "wakes", "order")


class Case(Struct, frozen=True):
    name: str
    exercise: Exercise
    needs: tuple[Feature, ...] = ()


_cases: dict[str, Case] = {}


def add(name: str, exercise: Exercise, *, needs: tuple[Feature, ...] = ()) -> None:
    if name in _cases:
        raise ValueError(f"two exercises are called {name!r}; the second would hide the first")
    _cases[name] = Case(name, exercise, needs)


def case(exercise: F) -> F:
    """Put the function into the suite, under its own name."""
    add(exercise.__name__, exercise)
    return exercise


def case_needing(*needs: Feature) -> Callable[[F], F]:
    """As `case`, for stores that have these features."""

    def decorate(exercise: F) -> F:
        add(exercise.__name__, exercise, needs=needs)
        return exercise

    return decorate


def cases(features: Iterable[Feature] = EVERY_FEATURE) -> list[Case]:
    """The exercises for a store with these features."""
    has = set(features)
    return [c for c in _cases.values() if has.issuperset(c.needs)]

"""Middleware wraps every attempt that runs, the first one registered outermost. It sees the delivery, and what the attempt came to.

    @app.middleware
    async def timed(delivery: Delivery, next: Next) -> Outcome:
        started = time.perf_counter()
        outcome = await next(delivery)
        log.info("%s took %.3f s", delivery.job.task, time.perf_counter() - started)
        return outcome

`next` never raises what the task raised: that is an Outcome already. Middleware may return another outcome, or not call `next`
at all; what it raises itself fails the attempt, by the task's retry policy, and not the worker. What the task sent leaves only
if the outcome that comes out is a success.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, cast, get_args

from culm.errors import CulmError
from culm.job import Delivery
from culm.outcome import Final, NotFinal, Outcome

Next: TypeAlias = Callable[[Delivery], Awaitable[Outcome]]
Middleware: TypeAlias = Callable[[Delivery, Next], Awaitable[Outcome]]

OUTCOMES = (*get_args(Final), *get_args(NotFinal))


def check_middleware(value: Any) -> Middleware:
    """Raises TypeError when it can be no middleware."""
    if not callable(value):
        raise TypeError(f"middleware must be `async def name(delivery, next)`, got {value!r}")
    return value  # type: ignore[no-any-return]  # what it returns is seen when it runs


def compose(middleware: Sequence[Middleware], run: Next) -> Next:
    """`run` within all of them, the first outermost."""
    for one in reversed(middleware):
        run = _within(one, run)
    return run


def _within(one: Middleware, inner: Next) -> Next:
    async def wrapped(delivery: Delivery) -> Outcome:
        called = False

        def next_once(given: Delivery) -> Awaitable[Outcome]:
            nonlocal called
            if called:
                raise CulmError(f"{_name(one)} called next() twice; an attempt runs once, return Retried(...) to run it again")
            if given is not delivery:
                raise CulmError(f"{_name(one)} handed on another delivery; call next() with the one it was given")
            called = True
            return inner(delivery)

        outcome: object = await one(delivery, next_once)
        if isinstance(outcome, OUTCOMES):
            return cast("Outcome", outcome)
        good = ", ".join(kind.__name__ for kind in OUTCOMES)
        raise CulmError(f"{_name(one)} returned {outcome!r}; return what next() returned, or one of {good}")

    return wrapped


def _name(one: Middleware) -> str:
    return f"middleware {getattr(one, '__qualname__', None) or type(one).__qualname__!r}"

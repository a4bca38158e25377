"""Retry policies: how often a failed attempt is tried again, how long to pause before it, and after which errors."""

from __future__ import annotations

from dataclasses import dataclass

from culm.duration import Seconds, to_ms
from culm.job import RetrySpec


@dataclass(frozen=True)
class Retry:
    """Try a failed attempt again.

    The pause before the n-th retry grows as `first * 2 ** (n - 1)` up to `cap`, and is drawn between half of that and all
    of it, so that jobs that failed together do not return together.

    Args:
        times: retries after the first attempt; 0 means none.
        first: pause before the first retry, in seconds (or a timedelta).
        cap: the longest pause, in seconds (or a timedelta).
        on: the errors that are worth a retry; others fail at once.

    Raises:
        ValueError: a number is negative, NaN or absurd. TypeError: `on` holds something else than exception types.

    Example:
        >>> Retry(5, first=2, on=(ConnectionError,)).pause_ms(3, draw=1.0)
        8000
    """

    times: int = 3
    first: Seconds = 1.0
    cap: Seconds = 300.0
    on: tuple[type[BaseException], ...] = (Exception,)

    def __post_init__(self) -> None:
        if isinstance(self.times, bool) or not isinstance(self.times, int) or not 0 <= self.times <= 10_000:
            raise ValueError(f"retry times must be a whole number from 0 to 10,000, got {self.times!r}")
        to_ms(self.first, "retry first")
        to_ms(self.cap, "retry cap")
        if not isinstance(self.on, tuple) or not all(isinstance(e, type) and issubclass(e, BaseException) for e in self.on):
            raise TypeError(f"retry on must be a tuple of exception types, got {self.on!r}; say on=(OSError,)")

    def pause_ms(self, retry: int, *, draw: float) -> int:
        """The pause before the `retry`-th retry (from 1), in ms. `draw` is random, from 0 to 1."""
        return pause_ms(self.spec(), retry, draw=draw)

    def spec(self) -> RetrySpec:
        """The part of the policy that travels with a job."""
        return RetrySpec(self.times, to_ms(self.first, "retry first"), to_ms(self.cap, "retry cap"))


def pause_ms(spec: RetrySpec, retry: int, *, draw: float) -> int:
    full = min(spec.cap_ms, spec.first_ms * 2 ** min(retry - 1, 40))
    return int(full * (0.5 + draw / 2))


def as_retry(value: Retry | int | None) -> Retry:
    """`retry=5` is `Retry(5)`; `retry=None` is no retry."""
    if value is None:
        return Retry(0)
    return value if isinstance(value, Retry) else Retry(value)

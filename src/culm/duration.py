"""Durations at the public edge: seconds as a number or a timedelta outside, whole milliseconds inside, converted once."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TypeAlias

Seconds: TypeAlias = float | timedelta

LONGEST_S = 10 * 365 * 86_400


def to_ms(value: Seconds, name: str) -> int:
    """Whole milliseconds. Raises TypeError (no number) and ValueError (NaN, negative, or beyond ten years), naming the option."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be seconds, as a number or a timedelta, got {value!r}")
    if math.isnan(value) or not 0 <= value <= LONGEST_S:
        raise ValueError(f"{name} must be between 0 and {LONGEST_S:,} seconds (ten years), got {value!r}")
    return round(value * 1000)


def maybe_ms(value: Seconds | None, name: str) -> int | None:
    return None if value is None else to_ms(value, name)

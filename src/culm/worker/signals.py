"""Signals as something to wait for: while the context lasts, each is a byte to read, and none interrupts anything."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def hearing(numbers: Sequence[signal.Signals]) -> Iterator[int]:
    """A descriptor from which the numbers of the signals are read that came."""
    wake, woken = os.pipe()
    for fd in (wake, woken):
        os.set_blocking(fd, False)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    old_fd = signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    try:
        yield wake
    finally:
        signal.set_wakeup_fd(old_fd)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(wake)
        os.close(woken)

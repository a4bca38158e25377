"""Bells wake whoever waits in this process, on whatever event loop it waits. A ring is a hint: the woken look for the truth themselves.

Register first, look then, and only then wait: a ring between the look and the wait is not missed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable

Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]


class Bells:
    def __init__(self) -> None:
        self._waiters: dict[str, list[Waiter]] = {}
        self._lock = threading.Lock()  # stores ring from their own threads

    def __contains__(self, name: str) -> bool:
        return name in self._waiters

    def __bool__(self) -> bool:
        return bool(self._waiters)

    def names(self) -> list[str]:
        with self._lock:
            return list(self._waiters)

    def ring(self, name: str) -> None:
        with self._lock:
            waiters = self._waiters.pop(name, ())
        for loop, future in waiters:
            try:
                loop.call_soon_threadsafe(_wake, future)
            except RuntimeError:  # its loop is closed: nobody waits there any more
                continue

    def forget(self) -> None:
        """In the child of a fork: those who wait are the parent's."""
        self._waiters = {}
        self._lock = threading.Lock()

    def listen(self, names: Iterable[str]) -> Listening:
        """Hear the next ring of any of the names, from now on."""
        return Listening(self._waiters, self._lock, tuple(names))


class Listening:
    def __init__(self, waiters: dict[str, list[Waiter]], lock: threading.Lock, names: tuple[str, ...]) -> None:
        loop = asyncio.get_running_loop()
        self._waiters, self._lock, self._names = waiters, lock, names
        self._entry: Waiter = (loop, loop.create_future())
        with lock:
            for name in names:
                waiters.setdefault(name, []).append(self._entry)

    async def wait(self, *, for_ms: int) -> None:
        """Return at the first ring since `listen`, at the latest after `for_ms`."""
        loop, future = self._entry
        timer = loop.call_later(for_ms / 1000, _wake, future)
        try:
            await future
        finally:
            timer.cancel()
            self.stop()

    def stop(self) -> None:
        with self._lock:
            for name in self._names:
                entries = self._waiters.get(name)
                if entries is not None and self._entry in entries:
                    entries.remove(self._entry)
                    if not entries:
                        del self._waiters[name]


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)

"""What a store has on each event loop that it is used from: connections belong to one loop, and a store to none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from culm.errors import StoreError


class Closes(Protocol):
    def close(self) -> None: ...


E = TypeVar("E", bound=Closes)


class PerLoop(Generic[E]):
    """Args: make: called on the loop at its first use of the store."""

    def __init__(self, make: Callable[[], E]) -> None:
        self._make = make
        self._ends: dict[asyncio.AbstractEventLoop, E] = {}
        self._latest: tuple[asyncio.AbstractEventLoop, E] | None = None  # nearly every call comes from one loop
        self._lock = threading.Lock()
        self._closed = False

    def here(self) -> E:
        """That of the running loop. Raises StoreError: all were closed."""
        loop = asyncio.get_running_loop()
        latest = self._latest  # once: another thread may change it meanwhile
        if latest is not None and latest[0] is loop:
            return latest[1]
        ends = self._ends.get(loop)
        if ends is None:
            with self._lock:
                if self._closed:
                    raise StoreError("this store was closed; open it anew")
                for gone in [known for known in self._ends if known.is_closed()]:
                    with suppress(RuntimeError):
                        self._ends.pop(gone).close()
                ends = self._ends[loop] = self._make()
        self._latest = (loop, ends)
        return ends

    async def close(self) -> None:
        """Close them all, each on its own loop."""
        with self._lock:
            self._closed = True
            ends, self._ends, self._latest = self._ends, {}, None
        here = asyncio.get_running_loop()
        for loop, end in ends.items():
            if loop is here:
                end.close()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(end.close)
        await asyncio.sleep(0)  # an aborted transport closes its socket in the next round of the loop

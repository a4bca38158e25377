"""The heart extends what the worker holds, from a thread and a connection of its own: a busy loop does not cost a lease.

It stops when the worker's loop has not ticked for `stuck_after`: then the leases run out, and others take over.
The coroutine `beat` is all of it; a simulation runs it on its own loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from culm.commit import Held
from culm.errors import StoreError
from culm.store import FullStore, LeaseState, WorkerInfo

log = logging.getLogger("culm.worker")

AT_ONCE = 2_000  # leases of one extension
AGAIN_MS = 1_000  # until the next try when the store did not answer: when it is back, leases may be near their end


class Body(Protocol):
    """What a heart needs of its worker; called from the heart's thread."""

    def held(self) -> list[Held]: ...

    def is_stuck(self) -> bool: ...

    def info(self) -> WorkerInfo: ...

    def leases_are(self, held: Sequence[Held], states: Sequence[LeaseState]) -> None: ...


async def beat(body: Body, store: FullStore, *, every_ms: int, lease_ms: int, pause: Callable[[float], Awaitable[bool]]) -> None:
    """Beat every `every_ms`, and again soon after a beat that failed, until `pause` says to stop."""
    now = asyncio.get_running_loop().time
    stuck = False
    while True:
        began, wait_s = now(), every_ms / 1000
        if body.is_stuck():
            if not stuck:
                log.error("heart.stopped: the worker's loop is blocked; its leases run out, others will take its jobs")
            stuck = True
        else:
            stuck = False
            if not await _beaten(body, store, every_ms=every_ms, lease_ms=lease_ms):
                began, wait_s = now(), min(wait_s / 10, AGAIN_MS / 1000)
        if not await pause(max(0.0, began + wait_s - now())):
            return


async def _beaten(body: Body, store: FullStore, *, every_ms: int, lease_ms: int) -> bool:
    """One beat, the leases first. False if some of it failed."""
    failed: StoreError | None = None
    held = body.held()
    for start in range(0, len(held), AT_ONCE):
        part = held[start : start + AT_ONCE]
        try:
            body.leases_are(part, await store.extend(part, for_ms=lease_ms))
        except StoreError as e:
            failed = e
    try:
        await store.register(body.info(), for_ms=3 * every_ms)
    except StoreError as e:
        failed = failed or e
    if failed is not None:
        log.warning("heart.failed: %s", failed)
    return failed is None


class ThreadHeart:
    """A heart in a daemon thread with a loop of its own."""

    def __init__(self, body: Body, connect: Callable[[], AbstractAsyncContextManager[FullStore]], *, every_ms: int, lease_ms: int) -> None:
        self._body = body
        self._connect = connect
        self._every_ms = every_ms
        self._lease_ms = lease_ms
        self._stop = threading.Event()
        self._wake: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self._run, name="culm-heart", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask_to_stop(self) -> None:
        self._stop.set()
        with contextlib.suppress(RuntimeError):  # it has just stopped by itself
            self._wake()

    async def stopped(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join, 5.0)

    def _run(self) -> None:
        asyncio.run(self._beat())

    async def _beat(self) -> None:
        woken = asyncio.Event()
        loop = asyncio.get_running_loop()

        async def pause(seconds: float) -> bool:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), seconds)
            return not self._stop.is_set()

        self._wake = lambda: loop.call_soon_threadsafe(woken.set)
        if self._stop.is_set():
            return
        again = True
        while again:
            try:
                async with self._connect() as store:
                    await beat(self._body, store, every_ms=self._every_ms, lease_ms=self._lease_ms, pause=pause)
                again = False
            except Exception:
                log.exception("heart.failed: it begins again, leases must not end for that")
                again = await pause(min(1.0, self._every_ms / 1000))

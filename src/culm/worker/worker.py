"""A worker: claimer, slots, gatherer and heart, put together. It runs in this process; `supervisor.py` starts several processes of it.

Order of a graceful stop: claim no more, give back what has not started, await what runs, give back what is left, let the last
commits be answered, stop the heart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Literal, Self, TypedDict

import msgspec

from culm.commit import Held
from culm.duration import Seconds, to_ms
from culm.errors import ConfigError, StoreError
from culm.lanes import gathering
from culm.options import check_name
from culm.store import FullStore, Hint, LeaseState, WorkerInfo
from culm.worker.claimer import Claimer
from culm.worker.heart import ThreadHeart, beat
from culm.worker.runner import Runner
from culm.worker.slots import Slots
from culm.worker.threads import Threads

if TYPE_CHECKING:
    from culm.app import App

log = logging.getLogger("culm.worker")

SCAN_S = 0.05  # how exactly timeouts are kept
NEWS_S = 0.25  # between two publications of progress
SWEEP_S = 10.0

_encode = msgspec.msgpack.Encoder().encode


class WorkerOptions(TypedDict, total=False):
    """Durations in seconds, as a number or a timedelta."""

    queues: Sequence[str]  # by default all queues of the app's tasks
    concurrency: int  # attempts at once; 100
    lease: Seconds  # a worker that is silent for so long has lost its jobs; 30
    heartbeat: Seconds  # how often leases are extended; 10
    poll: Seconds  # how often to look behind the hints; 1
    grace: Seconds  # how long a stop waits for what runs; 30
    stuck_after: Seconds  # the heart stops when the loop has not ticked for so long; the lease
    heart: Literal["thread", "loop"]  # "loop": no thread, for simulations


class Worker:
    """Runs the app's tasks. `async with app.worker(): ...` starts it and stops it gracefully.

    Raises:
        ConfigError: its options cannot work. TypeError, ValueError: one of them is out of range.
    """

    def __init__(
        self,
        app: App,
        *,
        queues: Sequence[str] = (),
        concurrency: int = 100,
        lease: Seconds = 30.0,
        heartbeat: Seconds = 10.0,
        poll: Seconds = 1.0,
        grace: Seconds = 30.0,
        stuck_after: Seconds | None = None,
        heart: Literal["thread", "loop"] = "thread",
    ) -> None:
        self.name = f"worker-{app.new_id()}"
        self._app = app
        self.queues = _queues(app, queues)
        self._concurrency = _concurrency(concurrency)
        self._lease_ms, self._beat_ms = to_ms(lease, "lease"), to_ms(heartbeat, "heartbeat")
        if self._beat_ms <= 0 or self._lease_ms <= 2 * self._beat_ms:
            raise ConfigError(
                f"lease must be longer than two heartbeats, or one lost heartbeat costs the jobs: "
                f"got lease {self._lease_ms / 1000:g} s, heartbeat {self._beat_ms / 1000:g} s"
            )
        self._poll_ms = max(1, to_ms(poll, "poll"))
        self._grace_s = to_ms(grace, "grace") / 1000
        self._stuck_s = (self._lease_ms if stuck_after is None else to_ms(stuck_after, "stuck_after")) / 1000
        self._heart_kind = heart
        self._hurry: asyncio.Event | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._ticked = 0.0
        self._started_ms = 0

    # -- life ---------------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Claim and run, until `stop`. Raises ConfigError and StoreUnavailable when the store cannot be opened."""
        if self._hurry is not None:
            raise ConfigError(f"{self.name} is running already; make another worker instead")
        app, loop = self._app, asyncio.get_running_loop()
        if self._started_ms:
            self.name = f"worker-{app.new_id()}"  # anew: the store remembers the batches and leases of the old name
        store = self._store = app.store
        self._hurry = asyncio.Event()
        self._started_ms = app.clock.now_ms()
        self._ticked = time.monotonic()
        self._gatherer = gathering(store, client=self.name, give_up_ms=None, rng=app.rng)  # the heart holds what waits there
        self._threads = Threads()
        self._claimer = Claimer(store, self.queues, name=self.name, for_ms=self._lease_ms, poll_ms=self._poll_ms, rng=app.rng)
        runner = Runner(app.tasks, store, self._threads, app.rng)
        self._slots = Slots(app, runner, self._gatherer, concurrency=self._concurrency, hungry=self._claimer.hungry)
        self._loop = loop
        self._claiming = loop.create_task(self._claimer.run(self._slots), name="culm-claimer")
        self._tasks = [loop.create_task(work) for work in (self._tick(), self._news(), self._sweep())]
        if self._heart_kind == "thread":
            self._heart = ThreadHeart(self, self._connect, every_ms=self._beat_ms, lease_ms=self._lease_ms)
            self._heart.start()
        else:
            self._tasks.append(loop.create_task(self._beat_here(), name="culm-heart"))
        log.info("worker.started: %s, queues %s, concurrency %d", self.name, ", ".join(self.queues), self._concurrency)

    async def stop(self) -> None:
        """Stop gracefully: at most the grace long, or until `hurry`."""
        if self._hurry is None:
            return
        self._claimer.stop()
        try:
            await asyncio.wait([self._claiming])
            if self.failed is not None:
                log.error("claimer.failed: %r; what it claimed is given back", self.failed)
            await self._slots.drain(self._grace_s, self._hurry)
            self._gatherer.end_within(max(self._lease_ms, 1_000))  # later than that another worker has it
            await self._gatherer.flush()
        finally:  # a stop that is cancelled must not leave a heart that holds leases for ever
            for task in self._tasks:
                task.cancel()
            if self._heart_kind == "thread":
                self._heart.ask_to_stop()
            self._threads.close()
            self._hurry = None
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._heart_kind == "thread":
            await self._heart.stopped()
        log.info("worker.stopped: %s, %d attempts done", self.name, self._slots.done)

    def hurry(self) -> None:
        """Let a stop that waits wait no more: release at once what still runs."""
        if self._hurry is not None:
            self._hurry.set()

    @property
    def done(self) -> int:
        """Attempts that ended here."""
        return self._slots.done

    @property
    def fenced(self) -> int:
        """Commits that were refused because another worker had the job."""
        return self._slots.fenced

    @property
    def failed(self) -> BaseException | None:
        """What ended the claimer, which nothing should."""
        return self._claiming.exception() if self._claiming.done() and not self._claiming.cancelled() else None

    # -- the body of its heart; called from the heart's thread ----------------------------------------------------------------

    def held(self) -> list[Held]:
        return self._slots.held()

    def is_stuck(self) -> bool:
        return self._heart_kind == "thread" and time.monotonic() - self._ticked > self._stuck_s

    def info(self) -> WorkerInfo:
        return WorkerInfo(
            id=self.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            queues=self.queues,
            tasks=tuple(sorted(self._app.tasks)),
            concurrency=self._concurrency,
            running=len(self._slots.running),
            done=self._slots.done,
            started_ms=self._started_ms,
        )

    def leases_are(self, held: Sequence[Held], states: Sequence[LeaseState]) -> None:
        if any(state != "held" for state in states):
            self._loop.call_soon_threadsafe(self._slots.leases_are, held, states)

    # -- inside -------------------------------------------------------------------------------------------------------------

    def _connect(self) -> AbstractAsyncContextManager[FullStore]:
        """The heart's own connection; a store that was handed in, or lives in memory, is shared."""
        from culm.stores.open import open_store

        url = self._app.url
        if url is None or url.startswith("memory:"):
            return contextlib.nullcontext(self._store)
        return _closing(lambda: open_store(url))

    async def _beat_here(self) -> None:
        async def pause(seconds: float) -> bool:
            await asyncio.sleep(seconds)
            return True

        await beat(self, self._store, every_ms=self._beat_ms, lease_ms=self._lease_ms, pause=pause)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(SCAN_S)
            self._ticked = time.monotonic()
            self._slots.scan(self._loop.time())
            if self._slots.release_stale():
                self._claimer.slow()

    async def _news(self) -> None:
        """Publish what running tasks say of their progress; apart from the tick, which must not wait for a store."""
        while True:
            await asyncio.sleep(NEWS_S)
            hints = []
            for attempt in self._slots.running:
                if attempt.news is not None:
                    news, attempt.news = attempt.news, None
                    hints.append(Hint(attempt.job.reply_to or attempt.id, "progress", attempt.id, _encode(news)))
            if hints:
                await _or_warn(self._store.publish(hints), "progress")

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S * (0.5 + self._app.rng.random()))
            await _or_warn(self._sweep_all(), "sweep")

    async def _sweep_all(self) -> None:
        while await self._store.sweep(limit=1_000):
            await asyncio.sleep(0)


async def _or_warn(work: Awaitable[None], what: str) -> None:
    try:
        await work
    except StoreError as e:
        log.warning("%s.failed: %s", what, e)


@contextlib.asynccontextmanager
async def _closing(connect: Callable[[], FullStore]) -> AsyncIterator[FullStore]:
    store = connect()
    try:
        yield store
    finally:
        await store.close()


def _queues(app: App, queues: Sequence[str]) -> tuple[str, ...]:
    if isinstance(queues, str):
        raise TypeError(f"queues must be a list of names, got {queues!r}; say [{queues!r}]")
    if queues:
        return tuple(dict.fromkeys(check_name(q, "queue") for q in queues))
    found = dict.fromkeys(task.options.queue for task in app.tasks.values())
    return tuple(sorted(found)) or ("default",)


def _concurrency(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 100_000:
        raise ValueError(f"concurrency must be a whole number from 1 to 100,000, got {value!r}")
    return value

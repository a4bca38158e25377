"""A worker: claimer, slots, gatherer and heart, put together. It runs in this process; `supervisor.py` starts several processes of it.

Order of a graceful stop: claim no more, give back what has not started, await what runs, give back what is left, let the last
commits be answered, carry out what the supervisor still says, stop the heart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Literal, Self, TypedDict

from culm.commit import Held
from culm.duration import Seconds, to_ms
from culm.errors import ConfigError
from culm.lanes import gathering
from culm.options import check_name
from culm.store import FullStore, LeaseState, WorkerInfo
from culm.telemetry.address import parse_address
from culm.telemetry.measured import measured
from culm.telemetry.meter import Meter
from culm.worker.board import Board
from culm.worker.cancels import hear_cancels
from culm.worker.children import Children
from culm.worker.chores import sweep, tell_progress
from culm.worker.claimer import Claimer
from culm.worker.health import Health
from culm.worker.heart import ThreadHeart, beat
from culm.worker.hooked import around
from culm.worker.leash import Leash
from culm.worker.orders import Obedience
from culm.worker.runner import Runner
from culm.worker.slots import STUBBORN_S, Slots
from culm.worker.tally import Tally, longest
from culm.worker.threads import Threads

if TYPE_CHECKING:
    from culm.app import App
    from culm.telemetry.prometheus import Endpoint

log = logging.getLogger("culm.worker")

SCAN_S = 0.05  # how exactly timeouts are kept
LATE_LEASES, HURRIED_S = 4, 1.0  # a stop awaits a claim for so many, one in a hurry for so long


class WorkerOptions(TypedDict, total=False):
    """Durations in seconds, as a number or a timedelta."""

    queues: Sequence[str]  # by default all queues of the app's tasks
    concurrency: int  # attempts at once; 100
    lease: Seconds  # a worker that is silent for so long has lost its jobs; 30
    heartbeat: Seconds  # how often leases are extended; 10
    poll: Seconds  # how often to look behind the hints; 1
    grace: Seconds  # how long a stop waits for what runs; 30
    stuck_after: Seconds  # the heart stops when the loop has not ticked for so long; the lease
    threads: int  # for def tasks, at once, those that cannot be stopped included; the concurrency
    children: int  # processes for runs_in="process" tasks, at once; the number of processors
    heart: Literal["thread", "loop"]  # "loop": no thread, for simulations
    metrics: str | None  # HOST:PORT on this machine where Prometheus may ask
    health: str | None  # a file that is touched while the store answers, or HOST:PORT on this machine for /livez and /readyz


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
        threads: int | None = None,
        children: int | None = None,
        heart: Literal["thread", "loop"] = "thread",
        metrics: str | None = None,
        health: str | None = None,
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
        self.threads = self._concurrency if threads is None else _concurrency(threads, "threads")
        self._most_children = children if children is None else _concurrency(children, "children")
        self.leash: Leash | None = None  # set before it starts
        self._board: Board | None = None
        self._metrics = None if metrics is None else parse_address(metrics)
        self._endpoint: Endpoint | None = None
        self._health_at = health
        self.health: Health | None = None
        self.meter: Meter | None = None  # what it counts, if it serves metrics
        self._hurry: asyncio.Event | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._obedience: Obedience | None = None
        self._obeying: asyncio.Task[None] | None = None
        self._ticked = self._beaten = 0.0  # when its loop turned, and when its heart was answered
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
        app.payloads.ready()
        self._started_ms = app.clock.now_ms()
        self._unready = ""
        self._ticked = time.monotonic()
        self._threads = Threads(self.threads)
        now = time.monotonic if self._heart_kind == "thread" else loop.time
        meter = self.meter = None if self._metrics is None else Meter(app.tasks, now)
        seam = store if meter is None else measured(store, meter)
        self._gatherer = gathering(seam, client=self.name, give_up_ms=None, rng=app.rng)  # the heart holds what waits there
        self._claimer = Claimer(seam, self.queues, name=self.name, for_ms=self._lease_ms, poll_ms=self._poll_ms, rng=app.rng)
        self._children = Children(self._most_children)
        runner = Runner(app.tasks, store, app.payloads, self._threads, self._children, app.rng, now)
        leash = self.leash
        self._board = Board(leash.board_fd, self._concurrency) if leash is not None else None
        self._slots = Slots(
            app,
            around(runner, app),
            self._gatherer,
            concurrency=self._concurrency,
            tally=Tally(self.queues),
            hungry=self._claimer.hungry,
            board=self._board,
            apart=self._is_apart,
            watch=None if meter is None else meter.around,
        )
        self._endpoint = None if meter is None else self._serve(meter)
        if self._health_at is not None:
            self.health = Health(self._health_at, stuck_s=self._stuck_s, fresh_s=(self._lease_ms + self._poll_ms) / 1000)
        self._hurry = asyncio.Event()
        self._loop = loop
        if self._board is not None:
            self._claimer.claiming = self._board.claiming
        claiming = self._claimer.run(self._slots) if leash is None or not leash.apart else self._claimer.rest()
        self._claiming = loop.create_task(claiming, name="culm-claimer")
        self._tasks = [loop.create_task(work) for work in self._beside_the_jobs()]
        if leash is not None and self._board is not None:
            self._obedience = self._obedient(self._board)
            self._obeying = loop.create_task(self._obedience.obey(leash.orders_fd), name="culm-orders")
            self._tasks.append(self._obeying)
        if self._heart_kind == "thread":
            self._heart = ThreadHeart(self, self._connect, every_ms=self._beat_ms, lease_ms=self._lease_ms)
            self._heart.start()
        else:
            self._tasks.append(loop.create_task(self._beat_here(), name="culm-heart"))
        log.info("worker.started: %s, queues %s, concurrency %d", self.name, ", ".join(self.queues), self._concurrency)

    def _beside_the_jobs(self) -> Iterable[Coroutine[None, None, None]]:
        yield self._tick()
        yield tell_progress(self._store, self._slots.running)
        yield sweep(self._store, self._app.payloads, self._app.rng)
        yield hear_cancels(self._store, self._slots.held, self._slots.leases_are, lease_ms=self._lease_ms)

    def _obedient(self, board: Board) -> Obedience:
        def took() -> None:
            self._show_on(board)  # first what it is to run, or it would look idle
            board.took_order()

        return Obedience(self._store, self._slots, self.queues, self._gatherer.submit, took, self._suspected, lease_ms=self._lease_ms)

    async def stop(self) -> None:
        """Stop gracefully: at most the grace long, or until `hurry`; before, for some leases at most, a claim that is under way."""
        if self._hurry is None:
            return
        self._claimer.stop()
        self._unready = "it is stopping"
        try:
            await self._last_claim(self._hurry)
            if self.failed is not None:
                log.error("claimer.failed: %r; what it claimed is given back", self.failed)
            await self._slots.drain(self._grace_s, self._hurry)
            await self._last_answers()
            if self._obedience is not None and self._obeying is not None:
                self._obedience.drained()
                await asyncio.wait([self._obeying])  # what others left behind is for whoever still lives
                await self._last_answers()
            await self._app.payloads.settle()
        finally:  # a stop that is cancelled must not leave a heart that holds leases for ever
            for task in (self._claiming, *self._tasks):
                task.cancel()
            if self._heart_kind == "thread":
                self._heart.ask_to_stop()
            self._threads.close()
            self._children.kill()
            if self.health is not None:
                self.health.close()
            self._hurry = None
        _, stubborn = await asyncio.wait(self._tasks, timeout=STUBBORN_S)
        if stubborn:
            log.error("stop: these go on although they were cancelled: %s", stubborn)
        await self._children.ended()
        if self._heart_kind == "thread":
            await self._heart.stopped()
        if self._endpoint is not None:
            await self._endpoint.close()
            self._endpoint = None
        log.info("worker.stopped: %s, %d attempts done", self.name, self._slots.done)

    async def _last_claim(self, hurry: asyncio.Event) -> None:
        """A claim that is under way is awaited, and what it grants is given back; later than its lease it is another's.

        The lease may begin late: a request, and its reply, can take long.
        """
        hurried = asyncio.ensure_future(hurry.wait())
        try:
            patience_s = LATE_LEASES * self._lease_ms / 1000
            await asyncio.wait([self._claiming, hurried], timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            if hurry.is_set():
                await asyncio.wait([self._claiming], timeout=HURRIED_S)
        finally:
            hurried.cancel()
        if not self._claiming.done():
            log.warning("stop: the store does not answer a claim; what it granted comes due again when its lease ends")
            self._claiming.cancel()

    async def _last_answers(self) -> None:
        self._gatherer.end_within(max(self._lease_ms, 1_000))  # later than that another worker has it
        await self._gatherer.flush()

    def hurry(self) -> None:
        """Let a stop that waits wait no more: release at once what still runs."""
        if self._hurry is not None:
            self._hurry.set()

    @property
    def done(self) -> int:
        """Attempts that ended here."""
        return self._slots.done

    @property
    def leaked(self) -> int:
        """Threads that still run a job that was stopped."""
        return self._threads.leaked

    @property
    def fenced(self) -> int:
        """Commits that were refused because another worker had the job."""
        return self._slots.fenced

    @property
    def failed(self) -> BaseException | None:
        """What ended the claimer, which nothing should."""
        return self._claiming.exception() if self._claiming.done() and not self._claiming.cancelled() else None

    @property
    def metrics(self) -> str | None:
        """HOST:PORT where they are served; None: they are not."""
        return None if self._endpoint is None else str(self._endpoint.address)

    def _suspected(self, jobs: int) -> None:
        if self.meter is not None:
            self.meter.suspects += jobs

    def _serve(self, meter: Meter) -> Endpoint:
        try:
            from culm.telemetry.prometheus import Endpoint
        except ImportError:
            raise ConfigError("metrics need a package that is not installed; run: pip install 'culm[prometheus]'") from None
        assert self._metrics is not None
        slots, threads = self._slots, self._threads
        gauges = [
            ("culm_running_jobs", "Attempts that run now.", lambda: float(len(slots.running))),
            ("culm_concurrency", "Attempts that may run at once.", lambda: float(slots.concurrency)),
            ("culm_leaked_threads", "Threads that go on although the outcome of their job is written.", lambda: float(threads.leaked)),
            ("culm_threads", "Threads that def tasks may have at once, leaked ones included.", lambda: float(threads.most)),
            ("culm_thread_waits", "Jobs that wait for a thread.", lambda: float(threads.waiting)),
        ]
        return Endpoint(self._metrics, meter, self._store, gauges)

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
            beat_ms=self._beat_ms,
            loads=self._slots.tally.loads(),
            longest=longest(list(self._slots.running), self._loop.time()),
        )

    def leases_are(self, held: Sequence[Held], states: Sequence[LeaseState]) -> None:
        self._beaten = time.monotonic()
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
            if self._board is not None:
                self._show_on(self._board)
            if self.health is not None:
                self.health.tick(self._ticked, self._good, self._unready)
            now = self._loop.time()
            self._slots.scan(now)
            self._slots.tally.tick(now, self._slots.running, self._slots.buffer)
            if not self._is_apart and self._slots.release_stale():
                self._claimer.slow()

    @property
    def _is_apart(self) -> bool:
        return self.leash is not None and self.leash.apart

    def _show_on(self, board: Board) -> None:
        left = len(self.held()) if self._is_apart else 0  # only there is it asked for
        board.tick(self._slots.done, left, leaked=self._threads.leaked, good_ms=round(self._good * 1000))

    @property
    def _good(self) -> float:
        """When the store last answered; where nobody claims, the heart."""
        return max(self._claimer.answered, self._beaten) if self._claimer.rests else self._claimer.answered


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


def _concurrency(value: int, name: str = "concurrency") -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 100_000:
        raise ValueError(f"{name} must be a whole number from 1 to 100,000, got {value!r}")
    return value

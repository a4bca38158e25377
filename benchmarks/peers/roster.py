"""Who is measured, how, and how many tasks make a run last: each peer's rates on two cores, as they were last seen here."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

# What becomes of a task whose worker dies while it runs.
Mode = Literal["at least once", "at most once"]
StoreName = Literal["redis", "sqlite", "postgres"]


class Rates(Struct, frozen=True, kw_only=True):
    """Roughly what to expect. They size the runs and are no result."""

    enqueue: int  # a second
    drain: int  # a second
    callers: int  # calls a second of 100 callers
    round_trips: int  # a second, one after another


class Peer(Struct, frozen=True, kw_only=True):
    name: str
    queue: str  # the module in queues/, and the environment in versions.toml
    mode: Mode
    how: str  # in a few words, for the table
    worker: tuple[str, ...]  # the command; its first word is a program of the environment
    rates: Rates
    store: StoreName = "redis"
    prepare: tuple[str, ...] = ()  # makes its tables in a new database of PostgreSQL
    env: dict[str, str] = {}
    answering: tuple[str, ...] = ()  # the worker whose results are kept, where that is another one


def module(name: str) -> str:
    return f"benchmarks.peers.queues.{name}"


# Smaller runs than its rates would ask: it is measured beside every peer.
CULM_RATES = Rates(enqueue=2_000, drain=35_000, callers=10_000, round_trips=500)

CULM = Peer(
    name="culm",
    queue="culm",
    mode="at least once",
    how="1 process, 100 at once",
    worker=("culm", "worker", f"{module('culm')}:app"),
    prepare=("culm", "migrate", f"{module('culm')}:app"),
    rates=CULM_RATES,
)


def _taskiq(name: str, mode: Mode, how: str, variant: str, rates: Rates) -> Peer:
    options = ("-w", "1", "--no-parse", "--log-level", "WARNING", "--max-async-tasks", "100", "--max-prefetch", "500")
    return Peer(
        name=name,
        queue="taskiq",
        mode=mode,
        how=f"{how}, prefetch 500",
        worker=("taskiq", "worker", f"{module('taskiq')}:plain", *options),
        answering=("taskiq", "worker", f"{module('taskiq')}:answering", *options),
        env={"PEER_VARIANT": variant},
        rates=rates,
    )


def _huey(name: str, how: str, store: Literal["redis", "sqlite"], rates: Rates) -> Peer:
    options = ("-k", "thread", "-w", "8", "-d", "0.005", "-m", "0.05", "-q", "-n")  # -d, -m: how often it polls, in seconds
    worker = ("huey_consumer", f"{module('huey')}.huey", *options)
    return Peer(name=name, queue="huey", mode="at most once", how=how, worker=worker, store=store, rates=rates)


_PROCRASTINATE = ("--log-level", "warning", "-a", f"{module('procrastinate')}.app")

PEERS = (
    _taskiq(
        "taskiq stream",
        "at least once",
        "acked when saved",
        "stream",
        Rates(enqueue=4_000, drain=4_500, callers=1_200, round_trips=450),
    ),
    _taskiq("taskiq list", "at most once", "popped", "list", Rates(enqueue=5_000, drain=3_500, callers=1_400, round_trips=500)),
    Peer(
        name="streaq",
        queue="streaq",
        mode="at least once",
        how="100 at once, prefetch 200",
        worker=("streaq", "run", f"{module('streaq')}:worker", "-w", "1"),
        rates=Rates(enqueue=4_300, drain=1_400, callers=900, round_trips=400),
    ),
    Peer(
        name="saq",
        queue="saq",
        mode="at least once",
        how="100 at once, 2 tries",
        worker=("saq", f"{module('saq')}.settings", "--workers", "1"),
        rates=Rates(enqueue=6_700, drain=3_000, callers=2_000, round_trips=200),
    ),
    Peer(
        name="arq",
        queue="arq",
        mode="at least once",
        how="100 at once, poll 10 ms",
        worker=("arq", f"{module('arq')}.WorkerSettings", "--custom-log-dict", f"{module('arq')}.QUIET"),
        rates=Rates(enqueue=3_000, drain=3_000, callers=1_400, round_trips=100),
    ),
    Peer(
        name="dramatiq",
        queue="dramatiq",
        mode="at least once",
        how="8 threads, prefetch 100",
        worker=("dramatiq", module("dramatiq"), "-p", "1", "-t", "8"),
        env={"dramatiq_queue_prefetch": "100"},
        rates=Rates(enqueue=7_000, drain=4_800, callers=2_200, round_trips=120),
    ),
    Peer(
        name="celery",
        queue="celery",
        mode="at least once",
        how="acks_late, prefork 1, prefetch 128",
        worker=(
            *("celery", "-A", module("celery"), "worker", "-P", "prefork", "-c", "1", "-l", "WARNING"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ),
        rates=Rates(enqueue=2_600, drain=1_100, callers=500, round_trips=400),
    ),
    Peer(
        name="rq",
        queue="rq",
        mode="at least once",
        how="SimpleWorker, 1 retry",
        worker=("rq", "worker", "-q", "-w", "rq.worker.SimpleWorker", "--disable-job-desc-logging", "bench"),
        rates=Rates(enqueue=3_000, drain=280, callers=380, round_trips=300),
    ),
    _huey("huey", "popped, 8 threads", "redis", Rates(enqueue=11_000, drain=3_400, callers=1_800, round_trips=1_500)),
    Peer(
        name="pgqueuer",
        queue="pgqueuer",
        mode="at least once",
        how="batches of 100, 200 at once",
        worker=("python", "-m", module("pgqueuer")),
        prepare=("pgq", "install"),
        store="postgres",
        rates=Rates(enqueue=1_000, drain=2_000, callers=800, round_trips=60),
    ),
    Peer(
        name="procrastinate",
        queue="procrastinate",
        mode="at least once",
        how="100 at once, rows deleted",
        worker=("procrastinate", *_PROCRASTINATE, "worker", "-c", "100", "--delete-jobs", "successful"),
        answering=("procrastinate", *_PROCRASTINATE, "worker", "-c", "100"),
        prepare=("procrastinate", *_PROCRASTINATE, "schema", "--apply"),
        store="postgres",
        rates=Rates(enqueue=800, drain=400, callers=250, round_trips=60),
    ),
    _huey("huey SQLite", "popped, 8 threads, FULL", "sqlite", Rates(enqueue=1_000, drain=1_700, callers=500, round_trips=250)),
)

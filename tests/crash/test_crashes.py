"""The promise, with real processes: SIGKILL, SIGSTOP longer than the lease, dying clients. A seed repeats the faults, not the timing."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.crash import records
from tests.crash.cluster import Cluster, wait_for
from tests.crash.history import Least, judge, summary, vacuous
from tests.crash.records import Fault, Start, now
from tests.crash.truths import Files, Postgres, Redis, Sqlite
from tests.crash.work import LEASE_S

JOBS = 20_400  # a little more than needed: some calls of killed clients stay unknown
BEFORE = 8_000  # of them are sent before the first fault
WORKERS = 3
CONCURRENCY = 20
FAULTS = 24
CLIENT_KILLS = 4
CLIENT_LIVES = 60  # calls at most, of 310: so every client that is to die has something to send

EACH = pytest.mark.parametrize(
    "truth",
    [
        pytest.param(Sqlite, id="sqlite"),
        pytest.param(Files, id="files"),
        pytest.param(Redis, id="redis", marks=pytest.mark.server),
        pytest.param(Postgres, id="postgres", marks=pytest.mark.server),
    ],
)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [7])
@EACH
def test_every_acknowledged_job_commits_once_while_workers_are_killed_and_stopped(
    truth: type[Sqlite | Files | Redis | Postgres], seed: int, tmp_path: Path
) -> None:
    with Cluster(tmp_path, truth(tmp_path)) as cluster:
        assert cluster.client(0, BEFORE, seed).wait(timeout=30) == 0
        workers = run_nemesis(cluster, random.Random(seed), seed)
        wait_for(lambda: cluster.truth.unfinished() == 0, "the backlog to drain", for_s=40)
        assert cluster.terminate(workers) == [0] * len(workers)
        history = cluster.history()
        seen = summary(history)
        print(f"seed {seed}: {seen}")
        assert vacuous(history, Least(kills=8, stops=4, fenced=20, reruns=50, unsent=CLIENT_KILLS)) == []
        assert judge(history)[:5] == []
        assert seen.jobs >= 20_000
        assert "Traceback" not in cluster.log()


def run_nemesis(cluster: Cluster, rng: random.Random, seed: int) -> list[subprocess.Popen[bytes]]:
    """All the faults, while the second part of the jobs is sent; returns the workers that live in the end."""
    workers = [cluster.worker(concurrency=CONCURRENCY) for _ in range(WORKERS)]
    for worker in workers:
        cluster.booted(worker)
    lives = [*(rng.randint(CLIENT_LIVES // 3, CLIENT_LIVES) for _ in range(CLIENT_KILLS)), None]
    client = cluster.client(BEFORE, JOBS, seed, lives=lives.pop(0))
    frozen: list[tuple[float, subprocess.Popen[bytes]]] = []
    plan = ["client"] * CLIENT_KILLS + ["kill"] * (FAULTS * 2 // 3) + ["stop"] * (FAULTS // 3)
    rng.shuffle(plan)
    for fault in plan:
        time.sleep(rng.uniform(0.2, 0.6))  # between two faults work goes on: this is the pace of the nemesis, nothing is awaited
        frozen = thaw_the_due(cluster, frozen)
        awake = [w for w in workers if w not in [f for _, f in frozen]]
        victim = rng.choice(awake)
        if fault == "client":
            assert client.wait(timeout=40) == -signal.SIGKILL
            client = cluster.client(BEFORE, JOBS, seed, lives=lives.pop(0))
        elif fault == "stop" and len(awake) > 1:
            cluster.freeze(victim)
            frozen.append((now() + LEASE_S * rng.uniform(1.3, 1.8), victim))
        else:
            await_work(cluster, victim)
            cluster.kill(victim)
            workers[workers.index(victim)] = cluster.worker(concurrency=CONCURRENCY)
    while frozen:
        time.sleep(0.05)
        frozen = thaw_the_due(cluster, frozen)
    assert client.wait(timeout=40) == 0
    return workers


def await_work(cluster: Cluster, worker: subprocess.Popen[bytes]) -> None:
    """Until it holds something, if that is soon: on a busy machine a new process needs its time, and its death would prove nothing."""
    ends_at = now() + 3.0
    while not cluster.held_by(worker) and now() < ends_at:
        time.sleep(0.05)


def thaw_the_due(cluster: Cluster, frozen: list[tuple[float, subprocess.Popen[bytes]]]) -> list[tuple[float, subprocess.Popen[bytes]]]:
    for at, worker in frozen:
        if now() >= at:
            cluster.thaw(worker)
    return [(at, worker) for at, worker in frozen if now() < at]


@pytest.mark.slow
@EACH
def test_another_worker_takes_over_within_the_lease_and_two_seconds(truth: type[Sqlite | Files | Redis | Postgres], tmp_path: Path) -> None:
    with Cluster(tmp_path, truth(tmp_path)) as cluster:
        busy = cluster.worker(concurrency=1)
        cluster.booted(busy)
        enqueue_stay(cluster)
        wait_for(lambda: bool(starts(cluster)), "the job to start")
        other = cluster.worker(concurrency=1)
        cluster.booted(other)
        assert cluster.kill(busy) == 1
        wait_for(lambda: len(starts(cluster)) == 2, "the other worker to take over")
        first, second = starts(cluster)
        (fault,) = records.of(Fault, records.read(cluster.journal_path))
        assert (first.pid, second.pid) == (busy.pid, other.pid)
        assert second.fence > first.fence
        assert 0 < second.at - fault.at <= LEASE_S + 2
        wait_for(lambda: cluster.truth.finished() == 1, "its commit")
        assert cluster.terminate([other]) == [0]


def starts(cluster: Cluster) -> list[Start]:
    return records.of(Start, records.read(cluster.journal_path))


def enqueue_stay(cluster: Cluster) -> None:
    from culm import App

    app = App(cluster.url)
    app.task(name="tests.crash.tasks.stay")(lambda: None)
    app.find("tests.crash.tasks.stay").sync.enqueue()
    app.portal.run(app.close())

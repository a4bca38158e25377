"""`python -m benchmarks.partitions [--rounds 3] [--jobs 60000] [--workers 1]`: a drain against the number of masters and of partitions.

Beside the rate stands what a job costs the busiest master and all of them, by their own CPU time: where the machine has fewer cores than
masters and workers, the rate says what this machine does, and the cost what a master of its own could do.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct
from tests.servers import RedisCluster, RedisServer

from benchmarks.__main__ import drain

MASTERS = (1, 2, 3)
PARTITIONS = (6, 64)


class Figure(Struct, frozen=True):
    per_s: float
    busiest_us: float  # of a master's CPU for each job of all
    all_us: float


def cpu_s(server: RedisServer) -> float:
    fields = dict(line.split(":", 1) for line in server.read("INFO", "cpu").decode().splitlines() if ":" in line)
    return float(fields["used_cpu_user"]) + float(fields["used_cpu_sys"])


def measured(url: str, servers: Sequence[RedisServer], jobs: int, workers: int) -> Figure:
    """The queueing of the jobs is in the cost, and not in the rate."""
    before = [cpu_s(server) for server in servers]
    rate = drain(url, "gone", workers, jobs)
    spent = [(cpu_s(server) - was) / jobs * 1e6 for server, was in zip(servers, before, strict=True)]
    return Figure(rate, max(spent), sum(spent))


def on_one_server(jobs: int, workers: int) -> Figure:
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder))
        try:
            return measured(server.url, [server], jobs, workers)
        finally:
            server.kill()


def on_masters(masters: int, partitions: int, jobs: int, workers: int) -> Figure:
    with tempfile.TemporaryDirectory() as folder:
        cluster = RedisCluster(Path(folder), masters=masters, replicas=False)
        try:
            return measured(cluster.url(partitions=partitions), cluster.masters, jobs, workers)
        finally:
            cluster.kill()


def on_files(partitions: int, jobs: int, workers: int) -> Figure:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/jobs?partitions={partitions}" if partitions else f"sqlite:///{folder}/jobs.db"
        return Figure(drain(url, "gone", workers, jobs), 0.0, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=60_000)
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    jobs, workers = asked.jobs, asked.workers
    places: dict[str, Callable[[], Figure]] = {"one server, redis://": lambda: on_one_server(jobs, workers)}
    for partitions in PARTITIONS:
        for masters in MASTERS:
            name = f"{masters} master{'s' * (masters > 1)}, {partitions} partitions"
            places[name] = lambda m=masters, p=partitions: on_masters(m, p, jobs, workers)  # type: ignore[misc]
    places["one file, sqlite://"] = lambda: on_files(0, jobs, workers)
    places["4 files"] = lambda: on_files(4, jobs, workers)
    found: dict[str, list[Figure]] = {name: [] for name in places}
    for _ in range(asked.rounds):
        for name, measure in places.items():
            found[name].append(measure())
    print(f"{'':<28} {'jobs/s':>10} {'least':>10} {'most':>10} {'busiest us':>11} {'all us':>8}")
    for name, figures in found.items():
        rates = [f.per_s for f in figures]
        busiest, everyone = (statistics.median(us) for us in ([f.busiest_us for f in figures], [f.all_us for f in figures]))
        print(f"{name:<28} {statistics.median(rates):>10,.0f} {min(rates):>10,.0f} {max(rates):>10,.0f} {busiest:>11.1f} {everyone:>8.1f}")


if __name__ == "__main__":
    main()

"""Metrics as Prometheus reads them: `GET /metrics` on a thread of its own; docs/telemetry.md lists them.

Depth and age are asked of the store when somebody scrapes, at most once a second. What tasks themselves count with
prometheus_client is shown beside.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from culm.errors import StoreError
from culm.outcome import Outcome, Retried
from culm.store import FullStore, QueueCounts
from culm.telemetry.address import Address, unservable
from culm.telemetry.meter import Histogram, Meter

log = logging.getLogger("culm.telemetry")

LOOK_S = 1.0  # between two looks at the store's queues
ANSWER_S = 5.0  # for a look; a scrape waits no longer

Gauge = tuple[str, str, Callable[[], float]]  # name, what it is, its value now


class Endpoint:
    """Serves until `close`.

    Args:
        gauges: numbers that somebody else keeps.

    Raises ConfigError when the address cannot be had.
    """

    def __init__(self, address: Address, meter: Meter, store: FullStore, gauges: Sequence[Gauge]) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Shown(meter, store, gauges, asyncio.get_running_loop()))
        registry.register(_Others())
        try:
            self._server, self._thread = start_http_server(address.port, address.host, registry)
        except OSError as e:
            raise unservable(address, e) from e
        self.address = Address(address.host, self._server.server_port)
        log.info("metrics: http://%s/metrics", self.address)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Others:
    """Whatever else this process registered: its memory and processor time, and what tasks count."""

    def collect(self) -> Iterable[Metric]:
        return REGISTRY.collect()


class _Shown:
    """Turns a meter into metrics, on the thread of whoever scrapes."""

    def __init__(self, meter: Meter, store: FullStore, gauges: Sequence[Gauge], loop: asyncio.AbstractEventLoop) -> None:
        self._meter = meter
        self._store = store
        self._gauges = gauges
        self._loop = loop
        self._lock = threading.Lock()
        self._seen: tuple[float, list[QueueCounts]] | None = None

    def collect(self) -> Iterable[Metric]:
        yield from self._queues()
        yield from self._tasks()
        meter = self._meter
        yield _histogram("culm_commit_batch_size", "Commits in one batch to the store.", meter.commits)
        yield _histogram("culm_claim_batch_size", "Jobs that one claim granted.", meter.claims)
        yield _histogram("culm_commit_seconds", "Seconds that a batch of commits took in the store.", meter.commit_s)
        for name, what, value in (
            ("culm_redelivered_jobs", "Attempts at jobs on which a lease had run out.", meter.redelivered),
            ("culm_fenced_commits", "Commits that were refused because another worker had the job.", meter.fenced),
            ("culm_store_unanswered", "Calls that the store did not answer.", meter.unanswered),
            ("culm_store_reconnects", "How often the store answered again after that.", meter.reconnects),
            ("culm_suspects", "Jobs that were running in a process that died.", meter.suspects),
        ):
            yield CounterMetricFamily(name, what, value=value)
        for name, what, read in self._gauges:
            yield GaugeMetricFamily(name, what, value=read())

    def _tasks(self) -> Iterable[Metric]:
        wait = HistogramMetricFamily("culm_job_wait_seconds", "Seconds from when a job was due to its first claim.", labels=["task"])
        run = HistogramMetricFamily("culm_job_run_seconds", "Seconds that an attempt ran.", labels=["task"])
        outcomes = CounterMetricFamily("culm_job_outcomes", "What attempts came to.", labels=["task", "outcome"])
        retries = CounterMetricFamily("culm_job_retries", "Attempts that failed and are tried again.", labels=["task"])
        for name, tally in sorted(self._meter.tasks.copy().items()):
            outcomes_of = tally.outcomes()
            wait.add_metric([name], *_buckets(tally.waited_ms, per_s=1000))
            run.add_metric([name], *_buckets(tally.ran_s))
            for kind, count in outcomes_of.items():
                outcomes.add_metric([name, _word(kind)], count)
            retries.add_metric([name], outcomes_of.get(Retried, 0))
        return wait, run, outcomes, retries

    def _queues(self) -> Iterable[Metric]:
        depth = GaugeMetricFamily("culm_queue_jobs", "Unfinished jobs of a queue, by state.", labels=["queue", "state"])
        oldest = GaugeMetricFamily("culm_queue_oldest_seconds", "How long the oldest ready job has been due.", labels=["queue"])
        paused = GaugeMetricFamily("culm_queue_paused", "1: nobody may claim from the queue.", labels=["queue"])
        counts = self._counts()
        for c in counts or ():
            for state, count in (("ready", c.ready), ("delayed", c.delayed), ("waiting", c.waiting), ("leased", c.leased)):
                depth.add_metric([c.queue, state], count)
            oldest.add_metric([c.queue], (c.oldest_ms or 0) / 1000)
            paused.add_metric([c.queue], c.paused)
        seen = GaugeMetricFamily("culm_queues_seen", "1: the store said how its queues are; 0: it did not.", value=counts is not None)
        return depth, oldest, paused, seen

    def _counts(self) -> list[QueueCounts] | None:
        """None: the store did not say."""
        with self._lock:  # whoever scrapes at the same time shares the answer
            if self._seen is not None and time.monotonic() - self._seen[0] < LOOK_S:
                return self._seen[1]
            asked: Any = None
            try:
                work = self._store.counts()
                asked = asyncio.run_coroutine_threadsafe(work, self._loop)
                counts: list[QueueCounts] = asked.result(ANSWER_S)
            except (StoreError, concurrent.futures.TimeoutError, concurrent.futures.CancelledError, RuntimeError) as e:
                if asked is not None:
                    asked.cancel()
                log.warning("metrics: the store did not say how its queues are: %s", str(e) or type(e).__name__)
                return None
            self._seen = (time.monotonic(), counts)
            return counts


def _histogram(name: str, what: str, histogram: Histogram) -> Metric:
    buckets, total = _buckets(histogram)
    return HistogramMetricFamily(name, what, buckets=buckets, sum_value=total)


def _buckets(histogram: Histogram, *, per_s: int = 1) -> tuple[list[tuple[str, float]], float]:
    names = [*(str(bound / per_s) for bound in histogram.bounds), "+Inf"]
    return list(zip(names, map(float, accumulate(histogram.counts)), strict=True)), histogram.sum / per_s


def _word(kind: type[Outcome]) -> str:
    return kind.__name__.lower()

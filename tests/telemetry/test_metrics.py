"""What a worker counts is what happened, and Prometheus reads it over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import prometheus_client
import pytest

from culm import App, ConfigError, Reject, RetryLater, TaskFailed
from culm.commit import BatchId, Commit, Committed
from culm.errors import StoreUnavailable
from culm.store import Claimed
from culm.stores.memory import MemoryStore
from tests.tasks.harness import Bench, run, until
from tests.telemetry.scrape import Samples, scrape

ANY = "127.0.0.1:0"


async def scraped(address: str | None) -> Samples:
    assert address is not None
    return await asyncio.to_thread(scrape, address)


def test_attempts_are_counted_by_task_and_outcome_with_how_long_they_waited_and_ran() -> None:
    bench = Bench()

    @bench.app.task(name="work", retry=2)
    async def work(times: int) -> None:
        from culm import current

        if current().attempt < times:
            raise RetryLater(after=0)

    @bench.app.task(name="boom")
    async def boom() -> None:
        raise Reject("no")

    async def scenario() -> Samples:
        jobs = [await work.enqueue(1), await work.using(delay=2).enqueue(3)]
        failing = await boom.enqueue()
        bench.clock.advance(ms=3_000)
        async with bench.working(metrics=ANY) as worker:
            for job in jobs:
                await job.result()
            with pytest.raises(TaskFailed):
                await failing.result()
            return await scraped(worker.metrics)

    found = run(scenario())
    assert found['culm_job_outcomes_total{outcome="succeeded",task="work"}'] == 2
    assert found['culm_job_outcomes_total{outcome="retried",task="work"}'] == 2
    assert found['culm_job_outcomes_total{outcome="failed",task="boom"}'] == 1
    assert found['culm_job_retries_total{task="work"}'] == 2
    assert found['culm_job_retries_total{task="boom"}'] == 0
    assert found['culm_job_run_seconds_count{task="work"}'] == 4
    assert 0 < found['culm_job_run_seconds_sum{task="work"}'] < 5
    assert found['culm_job_wait_seconds_count{task="work"}'] == 2  # a retry waited because it was told to
    assert found['culm_job_wait_seconds_sum{task="work"}'] == 3 + 1  # since it was due, not since it was sent
    assert found['culm_job_wait_seconds_bucket{le="1.0",task="work"}'] == 1
    assert found['culm_job_wait_seconds_bucket{le="+Inf",task="work"}'] == 2
    assert found["culm_commit_batch_size_sum"] >= 5
    assert found["culm_claim_batch_size_sum"] == 5
    assert found["culm_commit_seconds_count"] == found["culm_commit_batch_size_count"] >= 1
    assert found["culm_concurrency"] == 8
    assert found["culm_running_jobs"] == found["culm_leaked_threads"] == 0
    assert found["culm_fenced_commits_total"] == found["culm_suspects_total"] == found["culm_redelivered_jobs_total"] == 0


def test_a_scrape_shows_how_many_jobs_each_queue_has_and_the_oldest() -> None:
    bench = Bench()

    @bench.app.task(queue="served")
    async def served() -> None: ...

    @bench.app.task(queue="mail")
    async def mail() -> None: ...

    async def scenario() -> Samples:
        await mail.enqueue()
        bench.clock.advance(ms=7_500)
        await mail.enqueue()
        await mail.using(delay=60).enqueue()
        await bench.store.pause("mail")
        async with bench.working(metrics=ANY, queues=["served"]) as worker:
            return await scraped(worker.metrics)

    found = run(scenario())
    assert found['culm_queue_jobs{queue="mail",state="ready"}'] == 2
    assert found['culm_queue_jobs{queue="mail",state="delayed"}'] == 1
    assert found['culm_queue_jobs{queue="mail",state="leased"}'] == 0
    assert found['culm_queue_oldest_seconds{queue="mail"}'] == 7.5
    assert found['culm_queue_paused{queue="mail"}'] == 1
    assert found["culm_queues_seen"] == 1


@pytest.mark.slow
def test_a_fenced_commit_and_a_redelivery_are_counted() -> None:
    bench = Bench()
    go = asyncio.Event()
    ran: list[str] = []

    @bench.app.task(name="slow")
    async def slow() -> None:
        ran.append("began")
        if len(ran) == 1:
            await go.wait()

    async def scenario() -> tuple[Samples, Samples]:
        job = await slow.enqueue()
        async with bench.working(metrics=ANY, heartbeat=14.9) as first:
            await until(lambda: bool(ran))
            bench.clock.advance(ms=30_001)  # its heart has not beaten since
            async with bench.working(metrics=ANY, heartbeat=14.9) as second:
                await job.result()
                go.set()
                await until(lambda: first.fenced == 1)
                return await scraped(first.metrics), await scraped(second.metrics)

    stale, other = run(scenario())
    assert stale["culm_fenced_commits_total"] == 1
    assert other["culm_fenced_commits_total"] == 0
    assert stale["culm_redelivered_jobs_total"] == 0 or len(ran) > 2  # it may have met its own lapsed job again
    assert stale["culm_redelivered_jobs_total"] + other["culm_redelivered_jobs_total"] == len(ran) - 1


class Flaky(MemoryStore):
    """Does not answer while `away`."""

    away = False

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        if self.away:
            raise StoreUnavailable("away")
        return await super().commit(commits, batch=batch)

    async def claim(self, queues: Sequence[str], **asked: object) -> Claimed:
        if self.away:
            raise StoreUnavailable("away")
        return await super().claim(queues, **asked)  # type: ignore[arg-type]  # as it was asked

    async def counts(self) -> list:  # type: ignore[type-arg]  # as its parent's
        if self.away:
            raise StoreUnavailable("away")
        return await super().counts()


def test_a_store_that_went_away_and_came_back_is_a_reconnect_and_a_scrape_meanwhile_says_so() -> None:
    store = Flaky()
    app = App(store=store)

    @app.task
    async def work() -> int:
        return 1

    async def scenario() -> tuple[Samples, Samples]:
        async with app.worker(metrics=ANY, poll=0.01) as worker:
            assert await (await work.enqueue()).result() == 1
            store.away = True
            await until(lambda: worker.meter is not None and worker.meter.unanswered > 0)
            during = await scraped(worker.metrics)
            store.away = False
            assert await (await work.enqueue()).result() == 1
            return during, await scraped(worker.metrics)

    during, after = run(scenario())
    assert during["culm_queues_seen"] == 0
    assert during["culm_store_unanswered_total"] >= 1
    assert during["culm_store_reconnects_total"] == 0
    assert after["culm_store_reconnects_total"] == 1


def test_a_message_cannot_make_up_labels() -> None:
    bench = Bench()

    @bench.app.task
    async def known() -> None: ...

    other = App(store=bench.store)

    async def scenario() -> Samples:
        for n in range(20):

            @other.task(name=f"made-up-{n}")
            async def unknown() -> None: ...

            await unknown.enqueue()
        async with bench.working(metrics=ANY) as worker:
            await until(lambda: worker.done >= 20)
            return await scraped(worker.metrics)

    found = run(scenario())
    assert found['culm_job_outcomes_total{outcome="released",task="(unknown)"}'] >= 20
    assert not any("made-up" in name for name in found)


def test_what_tasks_count_themselves_is_shown_beside() -> None:
    bench = Bench()
    registry = prometheus_client.REGISTRY
    mails = prometheus_client.Counter("mails", "Sent.", registry=registry)

    @bench.app.task
    async def send() -> None:
        mails.inc()

    async def scenario() -> Samples:
        async with bench.working(metrics=ANY) as worker:
            await (await send.enqueue()).result()
            return await scraped(worker.metrics)

    try:
        found = run(scenario())
    finally:
        registry.unregister(mails)
    assert found["mails_total"] == 1
    assert found["process_cpu_seconds_total"] > 0


@pytest.mark.slow
def test_the_endpoint_ends_with_its_worker_and_two_workers_have_two() -> None:
    bench = Bench()

    @bench.app.task
    async def work() -> None: ...

    async def scenario() -> str:
        async with bench.working(metrics=ANY) as one, bench.working(metrics=ANY) as two:
            assert one.metrics != two.metrics
            assert (await scraped(one.metrics))["culm_concurrency"] == 8
            assert (await scraped(two.metrics))["culm_concurrency"] == 8
            address = str(one.metrics)
        assert one.metrics is None
        return address

    address = run(scenario())
    with pytest.raises(OSError, match="refused"):
        scrape(address)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("9000", "HOST:PORT, such as 127.0.0.1:9000, got '9000'"),
        ("127.0.0.1", "HOST:PORT"),
        ("127.0.0.1:", "HOST:PORT"),
        ("127.0.0.1:http", "HOST:PORT"),
        ("127.0.0.1:70000", "ports end at 65535"),
        ("0.0.0.0:9000", "neither a password nor TLS"),
        (":9000", "neither a password nor TLS"),
        ("[::]:9000", "neither a password nor TLS"),
        ("example.com:9000", "neither a password nor TLS"),
        ("192.0.2.1:9000", "neither a password nor TLS"),
    ],
)
def test_an_address_that_cannot_be_is_one_clear_line(address: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as found:
        Bench().app.worker(metrics=address)
    assert "\n" not in str(found.value)


def test_a_port_that_is_taken_is_refused_and_the_worker_can_start_elsewhere() -> None:
    bench = Bench()

    @bench.app.task
    async def work() -> None: ...

    async def scenario() -> None:
        async with bench.working(metrics=ANY) as one:
            assert one.metrics is not None
            with pytest.raises(ConfigError, match=f"cannot serve metrics on {one.metrics}: Address already in use; choose another"):
                await bench.app.worker(metrics=one.metrics).start()

    run(scenario())

"""What a worker says of its queues: nothing of it is measured job by job, all of it adds up."""

from __future__ import annotations

import asyncio

from culm.app import App
from culm.current import Attempt
from culm.job import Delivery, Job
from culm.store import Load
from culm.worker.tally import Tally, longest
from tests.tasks.harness import Bench, run, until

APP = App("memory://")


def delivery(n: int, queue: str = "a", *, age_ms: int = 0, fence: int = 1, after_ms: int = 0) -> Delivery:
    return Delivery(Job(id=f"{queue}{n}", task="t", queue=queue, after_ms=after_ms), "w/1", age_ms=age_ms, fence=fence)


def attempts(*deliveries: Delivery) -> list[Attempt]:
    return [Attempt(d, d.job, APP) for d in deliveries]


def test_the_mean_run_time_is_the_time_that_ran_by_what_ended() -> None:
    tally = Tally(["a"])
    jobs = [delivery(n) for n in range(4)]
    tally.fed(jobs)
    tally.tick(100.0, attempts(*jobs[:2]), jobs[2:])
    tally.tick(102.0, attempts(*jobs[:2]), jobs[2:])  # two ran for 2 s
    tally.tick(103.0, attempts(jobs[3]), [])  # one for 1 s
    [load] = tally.loads()
    assert (load.over_ms, load.running, load.ended, load.ran_ms) == (3_000, 1, 3, 5_000)


def test_each_queue_has_its_own_numbers() -> None:
    tally = Tally(["a", "b"])
    jobs = [delivery(0), delivery(1, "b", age_ms=40), delivery(2, "b", age_ms=60)]
    tally.tick(10.0, [], [])
    tally.fed(jobs)
    tally.tick(11.0, attempts(*jobs), [])
    tally.tick(12.0, attempts(jobs[1]), [])
    assert tally.loads() == (Load("a", 0, 2_000, 1, 1_000, 1, 0), Load("b", 1, 2_000, 1, 3_000, 2, 100))


def test_what_was_given_back_has_not_ended() -> None:
    tally = Tally(["a"])
    jobs = [delivery(n) for n in range(3)]
    tally.tick(10.0, [], [])
    tally.fed(jobs)
    tally.given_back(jobs[2])
    tally.tick(11.0, [], [])
    assert [load.ended for load in tally.loads()] == [2]


def test_only_jobs_that_waited_for_a_worker_are_a_sample_of_waiting() -> None:
    tally = Tally(["a"])
    tally.tick(10.0, [], [])
    tally.fed([delivery(1, age_ms=7), delivery(2, age_ms=900, after_ms=800), delivery(3, age_ms=900, fence=2)])
    assert [(load.waited, load.waited_ms) for load in tally.loads()] == [(1, 7)]


def test_what_is_older_than_a_minute_is_forgotten() -> None:
    tally = Tally(["a"])
    for second in range(200):
        tally.fed([delivery(second)])
        tally.tick(float(1 + second), [], [])
    [load] = tally.loads()
    assert (load.over_ms, load.ended) == (60_000, 60)


def test_a_worker_says_what_it_runs_and_for_how_long() -> None:
    async def main() -> None:
        bench, go = Bench(), asyncio.Event()

        @bench.app.task(queue="slow", name="hold")
        async def hold() -> None:
            await go.wait()

        job = await hold.using(id="held").enqueue()
        async with bench.working() as worker:
            await until(lambda: any(load.running for load in worker.info().loads))
            info = worker.info()
            assert [job_id for job_id, _ in info.longest] == ["held"]
            assert (info.beat_ms, info.loads[0].queue, info.loads[0].running) == (20, "slow", 1)
            go.set()
            await job.result(5)
            await until(lambda: worker.info().loads[0].ended == 1)
            assert worker.info().longest == ()

    run(main())


def test_an_attempt_whose_task_was_not_called_yet_is_not_named() -> None:
    met, unmet = attempts(delivery(1), delivery(2))
    met.began = 10.0
    assert longest([met, unmet], 12.5) == (("a1", 2_500),)

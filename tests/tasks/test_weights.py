"""What is posted is weighed as it is, however the weight is found: batches are bounded by it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from culm import App
from culm.batch import Gatherer
from culm.commit import Commit, weigh, weight_of_one
from culm.job import Job


@pytest.mark.parametrize("size", [0, 1, 4_095, 4_096, 100_000])
def test_a_job_that_is_sent_alone(size: int) -> None:
    job = Job(id="a", task="t", args=bytes(size))
    assert weight_of_one(job) == weigh(Commit(send=(job,)))


def test_sends_and_results(monkeypatch: pytest.MonkeyPatch) -> None:
    posted, post, post_all = list[tuple[int, int]](), Gatherer.post, Gatherer.post_all

    def one(gatherer: Gatherer, commit: Commit, then: object = None, *, weight: int = 1, fresh: bool = False) -> None:
        posted.append((weight, weigh(commit)))
        post(gatherer, commit, then, weight=weight, fresh=fresh)  # type: ignore[arg-type]  # passed on

    def many(gatherer: Gatherer, commits: Sequence[Commit], weight: int) -> None:
        posted.append((weight, sum(map(weigh, commits))))
        post_all(gatherer, commits, weight)

    monkeypatch.setattr(Gatherer, "post", one)
    monkeypatch.setattr(Gatherer, "post_all", many)
    asyncio.run(_echo((0, 5_000, 300_000)))
    assert len(posted) > 3
    assert all(weight == right for weight, right in posted), posted
    assert sum(right for _, right in posted) > 2 * (300_000 >> 12)


async def _echo(sizes: Sequence[int]) -> None:
    async with App("memory://") as app:

        @app.task
        async def echo(data: bytes) -> bytes:
            return data

        async with app.worker():
            jobs = await asyncio.gather(*(echo.enqueue(bytes(size)) for size in sizes))
            assert [len(await job.result(timeout=20)) for job in jobs] == [*sizes]

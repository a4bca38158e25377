"""Many connections at one moment: what the specification does one after the other has to come out the same."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack

from culm.commit import Commit, Event, Held, Trigger
from culm.job import Job
from culm.outcome import Succeeded
from culm.store import FullStore
from tests.on_postgres.conftest import Opened

Opener = Callable[[str], Opened]


async def several(stack: AsyncExitStack, opened: Opener, url: str, n: int) -> list[FullStore]:
    return [await stack.enter_async_context(opened(url)) for _ in range(n)]


async def test_of_three_hundred_concurrent_joins_every_one_fires(url: str, opened: Opener) -> None:  # I13, I14
    joins = 300
    async with AsyncExitStack() as stack:
        stores = await several(stack, opened, url, 6)
        jobs = tuple(Job(id=f"j{n:03}~join", task="t", after_ms=None) for n in range(joins))
        triggers = tuple(Trigger(job.id, job.scope, (("left", 1), ("right", 1)), 2) for job in jobs)
        assert await stores[0].commit([Commit(send=jobs, triggers=triggers)], batch=("setup", 1)) == ["applied"]
        events = [Commit(emit=(Event(f"j{n:03}", side, "x"),)) for n in range(joins) for side in ("left", "right")]
        answers = await asyncio.gather(
            *(stores[n % 6].commit([event], batch=(f"c{n}", 1)) for n, event in enumerate(events))  # the two of a join: different stores
        )
        assert Counter(a for (a,) in answers) == {"applied": 2 * joins}
        claimed = await stores[0].claim(["default"], lease="w/1", limit=1_000, for_ms=60_000)
        assert len(claimed.deliveries) == joins


async def test_one_join_of_three_hundred_concurrent_members_fires_once(url: str, opened: Opener) -> None:  # I13
    members = 300
    async with AsyncExitStack() as stack:
        stores = await several(stack, opened, url, 6)
        send = (Job(id="r~join", task="t", after_ms=None), *(Job(id=f"r~{n:03}", task="t", topic="ended") for n in range(members)))
        await stores[0].commit([Commit(send=send, triggers=(Trigger("r~join", "r", (("ended", members),), 1),))], batch=("setup", 1))
        held = (await stores[0].claim(["default"], lease="w/1", limit=1_000, for_ms=60_000)).deliveries
        assert len(held) == members
        ends = [Commit(fence=Held(d.job.id, d.lease), outcome=Succeeded(), keep_ms=0) for d in held]
        answers = await asyncio.gather(*(stores[n % 6].commit([end], batch=(f"c{n}", 1)) for n, end in enumerate(ends)))
        assert {a for (a,) in answers} == {"applied"}
        claimed = await stores[0].claim(["default"], lease="w/2", limit=10, for_ms=60_000)
        assert [d.job.id for d in claimed.deliveries] == ["r~join"]


async def test_batches_that_touch_the_same_scopes_in_opposite_orders_are_all_applied(url: str, opened: Opener) -> None:
    async with AsyncExitStack() as stack:
        stores = await several(stack, opened, url, 4)
        roots = [f"s{n}" for n in range(20)]

        async def batches(n: int) -> None:
            order = roots if n % 2 else roots[::-1]
            for number in range(1, 6):
                commits = [Commit(emit=(Event(root, "said", f"{n}/{number}"),)) for root in order]
                assert await stores[n % 4].commit(commits, batch=(f"c{n}", number)) == ["applied"] * len(roots)

        await asyncio.gather(*(batches(n) for n in range(12)))
        assert {len(await stores[0].events(root, "said")) for root in roots} == {60}


async def test_claims_of_many_workers_grant_each_job_once(url: str, opened: Opener) -> None:  # I3
    async with AsyncExitStack() as stack:
        stores = await several(stack, opened, url, 6)
        await stores[0].commit([Commit(send=tuple(Job(id=f"j{n:04}", task="t") for n in range(1_200)))], batch=("setup", 1))
        seen: Counter[str] = Counter()

        async def worker(n: int) -> None:
            number = 0
            while sum(seen.values()) < 1_200:
                number += 1
                claimed = await stores[n].claim(["default"], lease=f"w{n}/{number}", limit=25, for_ms=60_000)
                seen.update(d.job.id for d in claimed.deliveries)

        await asyncio.wait_for(asyncio.gather(*(worker(n) for n in range(6))), 60)
        assert set(seen.values()) == {1}
        assert len(seen) == 1_200


async def test_one_id_sent_by_many_at_once_is_one_job(url: str, opened: Opener) -> None:  # I9
    async with AsyncExitStack() as stack:
        stores = await several(stack, opened, url, 5)
        for job_id in ("a", "r~a"):
            answers = await asyncio.gather(
                *(stores[n % 5].commit([Commit(send=(Job(id=job_id, task="t"),))], batch=(f"{job_id}{n}", 1)) for n in range(40))
            )
            assert {a for (a,) in answers} == {"applied"}
        claimed = await stores[0].claim(["default"], lease="w/1", limit=100, for_ms=60_000)
        assert sorted(d.job.id for d in claimed.deliveries) == ["a", "r~a"]


async def test_a_cancel_that_meets_its_send_leaves_no_open_job(url: str, opened: Opener) -> None:  # I10
    async with AsyncExitStack() as stack:
        sender, canceller = await several(stack, opened, url, 2)
        for n in range(60):
            await asyncio.gather(
                sender.commit([Commit(send=(Job(id=f"j{n}", task="t"),))], batch=("s", n + 1)),
                canceller.commit([Commit(cancel=(f"j{n}",))], batch=("c", n + 1)),
            )
        assert {v.state for v in await sender.jobs(limit=100)} == {"cancelled"}

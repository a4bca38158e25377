"""Two stores that live the same history on one clock: the memory store, which is the specification, and another.

Every answer and, after every step, every table that a reader can see must be equal.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from culm.commit import BatchId, Commit, Committed, Held
from culm.job import Delivery
from culm.store import Claimed, ClaimOrder, FullStore
from culm.stores.memory import MemoryStore
from culm.testing.clock import ManualClock
from tests.conformance.stores import Opener

T = TypeVar("T")


class Twins:
    def __init__(self, opener: Opener, path: Path) -> None:
        self.clock = ManualClock()
        self.runner = asyncio.Runner()
        self.model: FullStore = MemoryStore(self.clock)
        self.subject = opener(path, self.clock)
        self.saw: Counter[str] = Counter()  # what this history touched: one that touched nothing proves nothing
        self.ids: set[str] = set()
        self.topics: set[tuple[str, str]] = set()
        self.flows: set[str] = set()

    def close(self) -> None:
        try:
            self.runner.run(self.subject.close())
        finally:
            self.runner.close()

    def ask(self, question: Callable[[FullStore], Awaitable[T]]) -> T:
        """Ask both; they must answer the same."""

        async def both() -> tuple[T, T]:
            return await question(self.model), await question(self.subject)

        wanted, got = self.runner.run(both())
        assert got == wanted, first_difference(got, wanted)
        return wanted

    # -- what a step may be -------------------------------------------------------------------------------------------------

    def commit(self, commits: Sequence[Commit], batch: BatchId) -> list[Committed]:
        for c in commits:
            self._note(c)
        answers = self.ask(lambda store: store.commit(commits, batch=batch))
        self.saw.update(answers)
        return answers

    def _note(self, c: Commit) -> None:
        self.ids.update(c.cancel)
        self.topics.update((e.scope, e.topic) for e in c.emit)
        self.flows.update(r.flow for r in c.records)
        for job in c.send:
            self.ids.add(job.id)
            if job.topic:
                self.topics.add((job.scope, job.topic))

    def claim(self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int, order: ClaimOrder) -> Sequence[Delivery]:
        claimed = self.ask(lambda store: _claimed(store, queues, lease, limit, for_ms, order))
        for d in claimed.deliveries:
            self.saw["reclaimed" if d.expiries else "retried" if d.attempt > 1 else "granted"] += 1
        return claimed.deliveries

    def claim_again(self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int) -> None:
        """With a lease under which something was granted: in any order, it is a set."""

        async def question(store: FullStore) -> list[Delivery]:
            claimed = await store.claim(queues, lease=lease, limit=limit, for_ms=for_ms)
            return sorted(claimed.deliveries, key=lambda d: d.job.id)

        self.saw["claims repeated"] += bool(self.ask(question))

    def extend(self, held: Sequence[Held], *, for_ms: int) -> None:
        self.saw.update(self.ask(lambda store: store.extend(held, for_ms=for_ms)))

    def sweep(self) -> None:
        async def question(store: FullStore) -> int:
            total = 0
            while n := await store.sweep(limit=3):
                total += n
            return total

        self.saw["swept"] += self.ask(question)

    # -- what a reader sees -------------------------------------------------------------------------------------------------

    def compare(self) -> None:
        """Every table, as a reader sees it."""
        seen = self.ask(self._tables)
        self.saw.update(job["state"] for job in seen["jobs"])
        self.saw["replays"] += sum(job["replays"] for job in seen["jobs"])
        self.saw["awaits"] += sum(len(waits.awaits) for waits in seen["waits"].values())
        self.saw["ahead"] += sum(waits.ahead or 0 for waits in seen["waits"].values())
        self.saw["events"] += sum(map(len, seen["events"].values()))
        self.saw["records"] += sum(map(len, seen["records"].values()))

    async def _tables(self, store: FullStore) -> dict[str, Any]:
        ids, topics, flows = sorted(self.ids), sorted(self.topics), sorted(self.flows)
        (jobs, dead), counts, waits, outcomes, events, records = await asyncio.gather(  # at once: a store may answer many in one go
            asyncio.gather(store.jobs(limit=10_000), store.jobs(state="dead", limit=10_000)),
            store.counts(),
            asyncio.gather(*(store.waits(i) for i in ids)),
            asyncio.gather(*(store.outcome(i) for i in ids)),
            asyncio.gather(*(store.events(*t) for t in topics)),
            asyncio.gather(*(store.records(f) for f in flows)),
        )
        looked_up = [await store.job(i) for i in ids[:: max(1, len(ids) // 2)]]
        assert looked_up == [next((v for v in jobs if v.id == i), None) for i in ids[:: max(1, len(ids) // 2)]]
        return {
            "jobs": [msgspec.structs.asdict(view) for view in jobs],
            "dead": dead,
            "counts": counts,
            "waits": dict(zip(ids, waits, strict=True)),
            "outcomes": dict(zip(ids, outcomes, strict=True)),
            "events": dict(zip(topics, events, strict=True)),
            "records": dict(zip(flows, records, strict=True)),
        }


async def _claimed(store: FullStore, queues: Sequence[str], lease: str, limit: int, for_ms: int, order: ClaimOrder) -> Claimed:
    claimed = await store.claim(queues, lease=lease, limit=limit, for_ms=for_ms, order=order)
    return Claimed(list(claimed.deliveries), claimed.next_ms)


def first_difference(got: object, wanted: object, where: str = "") -> str:
    """Where two answers part, in one line: a whole table is no help."""
    if isinstance(got, dict) and isinstance(wanted, dict) and got.keys() == wanted.keys():
        return next((first_difference(got[k], wanted[k], f"{where}.{k}") for k in got if got[k] != wanted[k]), where)
    if isinstance(got, list | tuple) and isinstance(wanted, list | tuple) and len(got) == len(wanted):
        return next((first_difference(g, w, f"{where}[{n}]") for n, (g, w) in enumerate(zip(got, wanted, strict=True)) if g != w), where)
    return f"at {where or 'the top'}: got {got!r}, wanted {wanted!r}"

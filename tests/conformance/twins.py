"""Two stores that live the same history on one clock: the memory store, which is the specification, and another.

Every answer and, after every step, every table that a reader can see must be equal.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from culm.commit import BatchId, Commit, Committed, Held
from culm.job import Delivery, scope_of
from culm.store import Claimed, ClaimOrder, FullStore
from culm.stores.memory import MemoryStore
from culm.stores.tables import Tables
from culm.testing.clock import ManualClock
from culm.testing.conformance.bench import by_id
from tests.conformance.stores import Subject

T = TypeVar("T")


class Twins:
    """Args: subject: a store whose jobs are in no order over all roots is asked for all that is due, and compared as a set."""

    def __init__(self, subject: Subject, path: Path) -> None:
        self.clock = ManualClock()
        self.runner = asyncio.Runner()
        self.model: FullStore = MemoryStore(self.clock, tables=Tables)
        self.subject = subject.open(path, self.clock)
        self.ordered = "order" in subject.features
        self.saw: Counter[str] = Counter()  # what this history touched: one that touched nothing proves nothing
        self.ids: set[str] = set()
        self.topics: set[tuple[str, str]] = set()
        self.flows: set[str] = set()
        self.joined_elsewhere = False  # a trigger awaited topics of another scope than its job's

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
        self.joined_elsewhere |= any(t.scope != scope_of(t.job_id) for t in c.triggers)
        for job in c.send:
            self.ids.add(job.id)
            if job.topic:
                self.topics.add((job.scope, job.topic))

    def claim(self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int, order: ClaimOrder) -> Sequence[Delivery]:
        if not self.ordered:
            return self._claim_all(queues, lease=lease, for_ms=for_ms, order=order)
        claimed = self.ask(lambda store: _claimed(store, queues, lease, limit, for_ms, order))
        self._see(claimed.deliveries)
        return claimed.deliveries

    def _claim_all(self, queues: Sequence[str], *, lease: str, for_ms: int, order: ClaimOrder) -> Sequence[Delivery]:
        """A claim of more than there is: who gets what when there is not enough for all is no question then."""
        announced: list[float] = []

        async def question(store: FullStore) -> list[Delivery]:
            claimed = await store.claim(queues, lease=lease, limit=1_000, for_ms=for_ms, order=order)
            announced.append(inf if claimed.next_ms is None else claimed.next_ms)
            return by_id(claimed.deliveries)

        deliveries = self.ask(question)
        assert announced[1] <= announced[0], "the next due may be announced too early, never too late"
        self._see(deliveries)
        return deliveries

    def _see(self, deliveries: Sequence[Delivery]) -> None:
        for d in deliveries:
            self.saw["reclaimed" if d.expiries else "retried" if d.attempt > 1 else "granted"] += 1

    def claim_again(self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int) -> None:
        """With a lease under which something was granted: in any order, it is a set."""

        async def question(store: FullStore) -> list[Delivery]:
            claimed = await store.claim(queues, lease=lease, limit=limit, for_ms=for_ms)
            return by_id(claimed.deliveries)

        self.saw["claims repeated"] += bool(self.ask(question))

    def extend(self, held: Sequence[Held], *, for_ms: int) -> None:
        self.saw.update(self.ask(lambda store: store.extend(held, for_ms=for_ms)))

    def sweep(self) -> None:
        if not self.ordered and self.joined_elsewhere:
            return  # the release of such a join is an event in its job's scope, which stays for an hour more

        async def question(store: FullStore) -> int:
            total = 0
            while n := await store.sweep(limit=3):
                total += n
            return total if self.ordered else 0  # partitions count for themselves what they sweep

        self.saw["swept"] += self.ask(question) if self.ordered else self._swept_apart(question)

    def _swept_apart(self, question: Callable[[FullStore], Awaitable[int]]) -> int:
        """By the tables, which are compared after each step."""
        before = len(self.ask(_ids))
        self.ask(question)
        return before - len(self.ask(_ids))

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
            "waits": dict(zip(ids, waits, strict=True)) if self.ordered else {},  # partitions see their own part
            "outcomes": dict(zip(ids, outcomes, strict=True)),
            "events": dict(zip(topics, events, strict=True)),
            "records": dict(zip(flows, records, strict=True)),
        }


async def _ids(store: FullStore) -> list[str]:
    return [view.id for view in await store.jobs(limit=10_000)]


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

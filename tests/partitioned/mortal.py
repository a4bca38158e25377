"""A process over three partitions that dies at its k-th commit to one of them; what it wrote stays, and another goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from culm.commit import BatchId, Commit, Committed, Event, Held, Trigger
from culm.job import Job
from culm.outcome import Succeeded
from culm.store import FullStore
from culm.stores.memory import MemoryStore
from culm.stores.partitioned.crossing import GRACE_MS
from culm.stores.partitioned.place import place_of
from culm.stores.partitioned.store import PartitionedStore
from culm.testing.clock import ManualClock

PARTITIONS = 3
LEASE_MS = GRACE_MS // 2  # what a dead process held runs before its outbox is looked at


class Killed(BaseException):
    """SIGKILL."""


class Life:
    """Of a process; ends at its k-th commit, before it takes effect or after."""

    def __init__(self, dies_at: int = 0, when: Literal["before", "after"] = "after") -> None:
        self.dies_at = dies_at  # 0: it lives
        self.when = when
        self.commits = 0
        self.dead = False

    def step(self, when: Literal["before", "after"]) -> None:
        self.commits += when == "before"
        if self.dead or (self.commits == self.dies_at and when == self.when):
            self.dead = True
            raise Killed


class MortalStore(MemoryStore):
    """A partition. Its tables outlive whoever uses it."""

    life = Life()

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        life = self.life
        life.step("before")
        answers = await super().commit(commits, batch=batch)
        life.step("after")
        return answers


def root_in(place: int, name: str) -> str:
    """A root's id that lies there."""
    return next(i for n in range(1_000) if place_of(i := f"{name}{n}", PARTITIONS) == place)


# An order that does all that can cross: it starts roots in every partition, cancels one, records a global event, and awaits one.
ORDER = root_in(1, "order")
STARTED = tuple(root_in(place, f"started-{place}-") for place in range(PARTITIONS))
UNWANTED = root_in(2, "unwanted")
JOIN = root_in(2, "join")  # waits for a topic of the global scope, which lies in partition 0


class World:
    """The partitions, and who uses them one after another."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.ledger: list[tuple[str, str]] = []
        self.partitions = [MortalStore(self.clock, ledger=self.ledger) for _ in range(PARTITIONS)]
        self.clients = 0

    def process(self, life: Life | None = None) -> tuple[FullStore, str]:
        """A new process, and a name that no other has."""
        self.clients += 1
        life = life or Life()
        for partition in self.partitions:
            partition.life = life
        return PartitionedStore(self.partitions), f"process-{self.clients}"

    async def begin(self) -> None:
        store, name = self.process()
        jobs = (Job(id=ORDER, task="order"), Job(id=UNWANTED, task="unwanted", after_ms=60_000), Job(id=JOIN, task="join", after_ms=None))
        sends = [Commit(send=(job,)) for job in jobs]
        trigger = Commit(triggers=(Trigger(JOIN, "", (("ordered", 1),), 1),))
        assert await store.commit([*sends, trigger], batch=(name, 1)) == ["applied"] * 4
        await store.close()

    async def live(self, life: Life | None = None) -> int:
        """Claim and run what there is, until there is nothing, or death. Returns the commits to partitions that this life had."""
        store, name = self.process(life)
        number = 0
        while True:
            number += 1
            claimed = await store.claim(["default"], lease=f"{name}/{number}", limit=10, for_ms=LEASE_MS)
            if not claimed.deliveries:
                await store.close()
                return self.partitions[0].life.commits
            for n, d in enumerate(claimed.deliveries):
                fence = Held(d.job.id, d.lease)
                commit = _order(fence) if d.job.id == ORDER else Commit(fence=fence, outcome=Succeeded(), keep_ms=d.job.keep_ms)
                await store.commit([commit], batch=(f"{name}-{number}", n + 1))

    async def survive(self) -> None:
        """Others go on, when leases and the outbox's grace are over."""
        for _ in range(8):
            await self.live()
            self.clock.advance(ms=LEASE_MS)
        await self.live()

    async def wrong(self) -> list[str]:
        """What is not exactly once."""
        store, _ = self.process()
        done = [job_id for job_id, _ in self.ledger if " " not in job_id]
        found = [f"{i}: {done.count(i)} ends" for i in (ORDER, JOIN, UNWANTED, *STARTED) if done.count(i) != 1]
        events = await store.events("", "ordered")
        if [e.key for e in events] != ["o"]:
            found.append(f"events: {events}")
        view = await store.job(UNWANTED)
        if view is None or view.state != "cancelled":
            found.append("the unwanted job was not cancelled")
        join = await store.job(JOIN)
        if join is None or join.attempt != 1:
            found.append(f"the join ran {join.attempt if join else 0} times")
        left = [v.id for p in self.partitions for v in await p.jobs(queue="~outbox")]
        return found + [f"left in the outbox: {i}" for i in left]


def _order(fence: Held) -> Commit:
    return Commit(
        fence=fence,
        outcome=Succeeded(),
        send=tuple(
            Job(id=i, task="started", keep_ms=0) for i in STARTED
        ),  # gone with their end: only the batch number keeps them from a second
        emit=(Event("", "ordered", "o"),),
        cancel=(UNWANTED,),
    )

"""What a run leaves behind: one list of notes, in the order in which things happened, by clients, tasks, the store and the nemesis.

The store's own notes are made where the truth changes, below every fault: a claim, a commit, a final row of the ledger. They belong
to no node. The other notes are those of a node, and whoever is `gone` writes none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from culm.clock import Clock
from culm.commit import BatchId, Commit, Committed, Held
from culm.store import Claimed, ClaimOrder, LeaseState
from culm.stores.memory import MemoryStore
from culm.stores.partitioned.place import is_own
from culm.stores.tables import Tables
from culm.testing.virtual_loop import NODE, gone


class Note(Struct, frozen=True):
    ms: int
    node: str  # "": the store, or the nemesis
    what: str
    job: str = ""
    lease: str = ""
    more: Any = None

    def __str__(self) -> str:
        more = "" if self.more is None else f"  {self.more}"
        return f"{self.ms / 1000 - 1e6:9.3f}  {self.node or '-':4} {self.what:10} {self.job:12} {self.lease}{more}"


class Began(Struct, frozen=True):
    """With the note of a start."""

    task: str
    attempt: int
    fence: int
    age_ms: int  # at the claim


class Awaits(Struct, frozen=True):
    """With the note of a `when`: what its join must see."""

    join: str
    keys: dict[str, list[str]]  # topic -> all keys
    need: int
    timeout_ms: int | None


class Granted(Struct, frozen=True):
    """With the note of a claim."""

    attempt: int
    expiries: int
    until_ms: int


class History:
    def __init__(self, clock: Clock) -> None:
        self.notes: list[Note] = []
        self.now_ms: Callable[[], int] = clock.now_ms

    def note(self, what: str, job: str = "", lease: str = "", more: Any = None) -> None:
        if not gone():
            self.notes.append(Note(self.now_ms(), NODE.get(), what, job, lease, more))


class Ledger(list[tuple[str, str]]):
    """Notes each final commit; a store without such a row would mask a second one."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self._history = history

    def append(self, row: tuple[str, str]) -> None:
        super().append(row)
        if not is_own(row[0]):
            self._history.note("final", *row)


class Observed(MemoryStore):
    """The memory store, or one with a bug, and what it answers written down."""

    def __init__(self, clock: Clock, history: History, tables: type[Tables]) -> None:
        super().__init__(clock)
        self.tables = tables(clock.now_ms, ledger=Ledger(history))
        self._history = history
        self._batches: dict[str, tuple[int, list[Committed]]] = {}
        self._leases: set[str] = set()

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        answers = await super().commit(commits, batch=batch)
        client, number = batch
        note = self._history.note
        last, said = self._batches.get(client, (0, []))
        if is_own(client) and commits:
            note("crossed again" if last >= number else "crossed", more=batch)
        if last >= number:
            note("resent", more=batch)
            if last == number and answers != said:
                note("contradict", more=(batch, said, answers))
            return answers
        self._batches[client] = (number, answers)
        for c, answer in zip(commits, answers, strict=True):
            if c.fence is not None and not is_own(c.fence.job_id):
                note("commit" if answer == "applied" else "fenced", c.fence.job_id, c.fence.lease, c.outcome)
            if answer == "applied":
                for job_id in [job.id for job in c.send if not is_own(job.id)]:
                    note("stored", job_id)
                for job_id in [job_id for job_id in c.cancel if not is_own(job_id)]:
                    note("cancel", job_id)
        return answers

    async def claim(self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int, order: ClaimOrder = "priority") -> Claimed:
        claimed = await super().claim(queues, lease=lease, limit=limit, for_ms=for_ms, order=order)
        until = self._history.now_ms() + for_ms
        again = lease in self._leases
        for d in claimed.deliveries:
            if is_own(d.job.id):
                self._history.note("outbox", more=d.job.id)
                continue
            self._history.note("reclaim" if again else "claim", d.job.id, d.lease, Granted(d.attempt, d.expiries, until))
        if claimed.deliveries:
            self._leases.add(lease)
        return claimed

    async def extend(self, held: Sequence[Held], *, for_ms: int) -> list[LeaseState]:
        states = await super().extend(held, for_ms=for_ms)
        until = self._history.now_ms() + for_ms
        for h, state in zip(held, states, strict=True):
            self._history.note("cancelled." if state == "cancelled" else state, h.job_id, h.lease, until)
        return states

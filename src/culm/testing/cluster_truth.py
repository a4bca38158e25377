"""Where the truth of a simulated cluster lies: one store, or partitions, each observed; and each node's ways to it.

A partitioned store is a library within each process: a node has one of its own, and a faulty way to each partition. What such a store
keeps for itself (its marks, its outbox) is no job of the plan: it is looked at here, and not by the rules for jobs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from random import Random

from culm.clock import Clock
from culm.store import FullStore
from culm.stores.partitioned.place import is_own
from culm.stores.partitioned.store import PartitionedStore
from culm.stores.rows import Row
from culm.stores.tables import Tables
from culm.testing.cluster_history import History, Observed
from culm.testing.faults import Faulty
from culm.testing.faults import Plan as Faults
from culm.testing.patience import PatientFaulty

PATIENCE_S = 0.1  # as short, beside a lease, as everything here


class Way:
    """One node's way to the truth: a connection to each part of it."""

    def __init__(self, parts: Sequence[Faulty], store: FullStore) -> None:
        self._parts = parts
        self.store = store

    def calm(self) -> None:
        for part in self._parts:
            part.calm()

    def suffer(self, plan: Faults, *, at: int | None = None) -> None:
        """From now on, at one part; None: at all of them."""
        for part in self._parts if at is None else [self._parts[at % len(self._parts)]]:
            part.plan = plan

    @property
    def bitten(self) -> Counter[str]:
        return sum((part.bitten for part in self._parts), Counter[str]())


class Truth:
    """Args: partitions: 1: a store that is not made of others."""

    def __init__(self, clock: Clock, history: History, tables: type[Tables], *, partitions: int, now: Callable[[], float]) -> None:
        self._stores = [Observed(clock, history, tables) for _ in range(partitions)]
        self._now = now

    def way(self, seed: str, faults: Faults, *, patient: bool) -> Way:
        """patient: its claims may wait there, if it is one store."""
        if len(self._stores) == 1:
            faulty = (PatientFaulty if patient else Faulty)(self._stores[0], Random(seed), faults)
            return Way([faulty], faulty)
        parts = [Faulty(store, Random(f"{seed}/{n}"), faults) for n, store in enumerate(self._stores)]
        return Way(parts, PartitionedStore(parts, patience_s=PATIENCE_S, now=self._now, rng=Random(f"{seed}/names")))

    @property
    def tables(self) -> list[Tables]:
        return [store.tables for store in self._stores]

    def rows(self) -> Iterator[Row]:
        return (row for tables in self.tables for row in tables.rows.values() if not is_own(row.job.id))

    def knows(self, job_id: str) -> bool:
        return any(job_id in tables.rows for tables in self.tables)

    def leased(self) -> Iterator[tuple[str, str]]:
        """Job, lease."""
        return ((i, row.lease) for tables in self.tables for i, row in tables.leased.items() if not is_own(i))

    def crossing(self) -> list[str]:
        """What lies in an outbox and has not arrived."""
        return [i for tables in self.tables for i, row in tables.rows.items() if is_own(i) and row.due is not None and not row.finished]

"""Commits over partitions: split, looked up where they cross, applied in all partitions at once, delivered.

The number of a batch is its number in each partition that it touches, so it may be sent again as a whole. How it was split is
remembered with it: what was found then must not be judged anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec import Struct

from culm.commit import BatchId, Commit, Committed
from culm.errors import StoreUnavailable
from culm.stores.partitioned.crossing import Parcel, Split, split
from culm.stores.partitioned.outbox import Outbox
from culm.stores.partitioned.partition import Partition
from culm.stores.partitioned.place import Place, place_of, place_of_job

MOST_CLIENTS = 1_000  # of this process, whose last batch is remembered


class Planned(Struct, gc=False):
    """One commit of a batch, and what may have to be done after it."""

    split: Split
    refused: bool = False  # what crosses would conflict
    settle: frozenset[Place] = frozenset()  # where it may have released relays: by an event, or by a trigger that came after its events


class Commits:
    def __init__(self, partitions: Sequence[Partition], outbox: Outbox) -> None:
        self._partitions = partitions
        self._outbox = outbox
        self._plans: dict[str, tuple[int, list[Planned]]] = {}  # client -> its last batch

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        plans = await self._plan(commits, batch)
        parts: dict[Place, list[tuple[int, Commit]]] = {}
        for n, planned in enumerate(plans):
            for place, part in planned.split.parts:
                parts.setdefault(place, []).append((n, part))
        asked = [self._apply(place, [part for _, part in some], batch) for place, some in parts.items()]
        found = [await asked[0]] if len(asked) == 1 else await asyncio.gather(*asked, return_exceptions=True)
        _raise_worst(found)
        answers: list[Committed] = ["applied"] * len(commits)
        for some, answered in zip(parts.values(), found, strict=True):
            for (n, _), answer in zip(some, _answers(answered), strict=True):
                if answer != "applied":
                    answers[n] = answer
        await self._after(plans, answers)
        return ["conflict" if p.refused and a == "applied" else a for p, a in zip(plans, answers, strict=True)]

    async def _apply(self, place: Place, commits: list[Commit], batch: BatchId) -> list[Committed]:
        partition = self._partitions[place]
        store = await partition.store()
        return await partition.ask(store.commit(commits, batch=batch))

    # -- before -------------------------------------------------------------------------------------------------------------

    async def _plan(self, commits: Sequence[Commit], batch: BatchId) -> list[Planned]:
        client, number = batch
        known = self._plans.get(client)
        if known is not None and known[0] == number:
            return known[1]
        plans = [self._planned(c, f"{client}/{number}/{n}") for n, c in enumerate(commits)]
        crossing = [n for n, p in enumerate(plans) if p.split.outbox]
        if crossing:
            refused = await asyncio.gather(*(self._conflicts(plans[n].split) for n in crossing))
            for n, conflicts in zip(crossing, refused, strict=True):
                if conflicts:
                    plans[n] = _refused(commits[n], plans[n].split)
        if known is None or known[0] < number:
            self._plans.pop(client, None)
            self._plans[client] = (number, plans)  # the latest last
            if len(self._plans) > MOST_CLIENTS:
                del self._plans[next(iter(self._plans))]
        return plans

    def _planned(self, c: Commit, name: str) -> Planned:
        n = len(self._partitions)
        settle = {place_of("", n)} if any(not event.scope for event in c.emit) else set()
        settle.update(place for t in c.triggers if (place := place_of(t.scope, n)) != place_of_job(t.job_id, n))
        return Planned(split(c, name, n), settle=frozenset(settle))

    async def _conflicts(self, crossing: Split) -> bool:
        """Whether a part that crosses would be refused where it goes. What cannot be known, or changes, is the outbox's affair."""
        return any(await asyncio.gather(*(self._foreseen(parcel) for parcel in crossing.parcels)))

    async def _foreseen(self, parcel: Parcel) -> bool:
        try:
            self._partitions[parcel.place].refuse_while_away()
            return await self._conflict(parcel)
        except StoreUnavailable:
            return False

    async def _conflict(self, parcel: Parcel) -> bool:
        if not (parcel.send or parcel.triggers or parcel.records):
            return False
        partition = self._partitions[parcel.place]
        store = await partition.store()
        coming: dict[str, str] = {}
        if any(coming.setdefault(job.id, job.task) != job.task for job in parcel.send):
            return True
        steps: dict[tuple[str, int], bytes] = {}
        if any(steps.setdefault((r.flow, r.seq), r.value) != r.value for r in parcel.records):
            return True
        ids = [*coming, *{t.job_id for t in parcel.triggers if t.job_id not in coming}]
        views = await asyncio.gather(*(partition.ask_soon(store.job(job_id)) for job_id in ids))
        if any(view.task != coming[job_id] if view and job_id in coming else not view and job_id not in coming
               for job_id, view in zip(ids, views, strict=True)):  # fmt: skip
            return True
        for record in parcel.records:
            held = await partition.ask_soon(store.records(record.flow, after=record.seq - 1, limit=1))
            if any(r.seq == record.seq and r.value != record.value for r in held):
                return True
        return False

    # -- after --------------------------------------------------------------------------------------------------------------

    async def _after(self, plans: Sequence[Planned], answers: Sequence[Committed]) -> None:
        """What was applied and crosses is delivered; what an event released goes on."""
        applied = [p for p, answer in zip(plans, answers, strict=True) if answer == "applied" and not p.refused]
        crossing = [p.split for p in applied if p.split.outbox]
        if crossing:
            await asyncio.gather(*(self._outbox.deliver_at_once(c.outbox, c.parcels) for c in crossing))
        for place in set().union(*(p.settle for p in applied)):
            await self._outbox.settle(place)


def _refused(c: Commit, crossing: Split) -> Planned:
    """Of it only the fence is asked for: a lease that is lost comes before a conflict."""
    return Planned(Split([(crossing.parts[0][0], Commit(fence=c.fence))] if c.fence is not None else []), refused=True)


def _answers(found: list[Committed] | BaseException) -> list[Committed]:
    assert not isinstance(found, BaseException)  # the worst was raised
    return found


def _raise_worst(found: Sequence[object]) -> None:
    """What is unknown before what was refused: the batch must be sent again."""
    errors = [e for e in found if isinstance(e, BaseException)]
    for e in sorted(errors, key=lambda e: not isinstance(e, StoreUnavailable)):
        raise e

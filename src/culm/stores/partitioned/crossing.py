"""A commit, split by partition. Pure: what is committed at once, and what crosses as the body of an outbox job in the same commit.

Rule 1: a commit with a fence is applied in the fence's partition, with an outbox job for the rest. Rule 2: one without that only
sends, or only cancels, is a commit of its own in each partition: its caller awaits them all. Rule 3: a trigger whose topics lie
elsewhere is a relay there, an outbox job that waits for them, and carries an event to a trigger beside the job.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from culm.commit import Commit, Event, Record, Trigger
from culm.errors import StoreError
from culm.job import Job, scope_of
from culm.stores.partitioned.place import OUTBOX, Place, outbox_id, place_of, place_of_job

BODY = 1  # the version of what an outbox job carries
GRACE_MS = 2_000  # the committing process delivers by itself; later than that, whoever claims does
RELAY_LOOK_MS = 86_400_000  # how often a relay looks whether its job still waits


class Parcel(Struct, frozen=True, gc=False, array_like=True):
    """What one partition receives of a crossing."""

    place: Place
    send: tuple[Job, ...] = ()
    emit: tuple[Event, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    records: tuple[Record, ...] = ()
    cancel: tuple[str, ...] = ()

    def commit(self) -> Commit:
        return Commit(send=self.send, emit=self.emit, triggers=self.triggers, records=self.records, cancel=self.cancel)

    def each(self) -> list[Commit]:
        """A commit for each item, in the order in which one commit applies them."""
        return [
            *(Commit(records=(record,)) for record in self.records),
            *(Commit(send=(job,)) for job in self.send),
            *(Commit(emit=(event,)) for event in self.emit),
            *(Commit(triggers=(trigger,)) for trigger in self.triggers),
            *(Commit(cancel=(job_id,)) for job_id in self.cancel),
        ]


class Body(Struct, frozen=True, gc=False, array_like=True):
    """What an outbox job carries."""

    v: int
    parcels: tuple[Parcel, ...]
    waits: Trigger | None = None  # of a relay: what it waits for in its own partition, and the job that it stands for


class Split(Struct, frozen=True, gc=False):
    parts: Sequence[tuple[Place, Commit]]  # what is committed at once
    outbox: str = ""  # the id of the outbox job among them; "": nothing crosses
    parcels: tuple[Parcel, ...] = ()


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Body).decode


def read_body(data: bytes) -> Body:
    """Raises StoreError: these bytes are no body."""
    try:
        return _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        raise StoreError(f"what crosses cannot be read: {e}") from e


def outbox_job(job_id: str, parcels: tuple[Parcel, ...], *, after_ms: int, waits: Trigger | None = None) -> Job:
    body = _encode(Body(BODY, parcels, waits))
    return Job(id=job_id, task=OUTBOX, queue=OUTBOX, priority=9, after_ms=after_ms, keep_ms=0, args=body)


def split(c: Commit, name: str, partitions: int) -> Split:
    """Split it.

    Args:
        name: names the outbox job; never comes twice, but for the same commit.
    """
    fence = c.fence
    if fence is not None and not (c.send or c.emit or c.triggers or c.records or c.cancel):
        return Split([(place_of_job(fence.job_id, partitions), c)])
    piles = _Piles(partitions)
    piles.sort(c)
    places = list(piles.at)
    if fence is not None:
        home = place_of_job(fence.job_id, partitions)
    elif not places:
        return Split([(0, c)])
    elif _is_of_one_kind(c):
        return Split([(place, piles.at[place].parcel(place).commit()) for place in places])
    else:
        home = places[0]
    if not piles.relays and (not places or places == [home]):
        return Split([(home, c)])
    return piles.crossing(c, home, name)


def _is_of_one_kind(c: Commit) -> bool:
    """It only sends, or only cancels: for each of these whoever asked may ask again."""
    return bool(c.send) != bool(c.cancel) and not (c.emit or c.triggers or c.records)


class _Pile:
    """What goes to one partition."""

    __slots__ = ("cancel", "emit", "records", "send", "triggers")

    def __init__(self) -> None:
        self.send: list[Job] = []
        self.emit: list[Event] = []
        self.triggers: list[Trigger] = []
        self.records: list[Record] = []
        self.cancel: list[str] = []

    def parcel(self, place: Place) -> Parcel:
        return Parcel(place, tuple(self.send), tuple(self.emit), tuple(self.triggers), tuple(self.records), tuple(self.cancel))


class _Piles:
    """Sorts the effects of one commit."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self.at: dict[Place, _Pile] = {}
        self.relays: list[Trigger] = []  # triggers whose topics lie elsewhere than their job

    def sort(self, c: Commit) -> None:
        n = self._partitions
        for job in c.send:
            self._pile(place_of_job(job.id, n)).send.append(job)
        for record in c.records:
            self._pile(place_of_job(record.flow, n)).records.append(record)
        for event in c.emit:
            self._pile(place_of(event.scope, n)).emit.append(event)
        for trigger in c.triggers:
            pile = self._pile(place := place_of_job(trigger.job_id, n))
            (pile.triggers if place == place_of(trigger.scope, n) else self.relays).append(trigger)
        for job_id in c.cancel:
            self._pile(place_of_job(job_id, n)).cancel.append(job_id)

    def crossing(self, c: Commit, home: Place, name: str) -> Split:
        for n, trigger in enumerate(self.relays):
            self._relay(trigger, f"{name}/{n}")
        mine = self.at.pop(home, _Pile()).parcel(home)
        parcels = tuple(pile.parcel(place) for place, pile in self.at.items())
        outbox = outbox_id(home, name)
        send = (*mine.send, outbox_job(outbox, parcels, after_ms=GRACE_MS))
        part = replace(c, send=send, emit=mine.emit, triggers=mine.triggers, records=mine.records, cancel=mine.cancel)
        return Split([(home, part)], outbox, parcels)

    def _relay(self, trigger: Trigger, name: str) -> None:
        here, there = place_of_job(trigger.job_id, self._partitions), place_of(trigger.scope, self._partitions)
        scope, relay = scope_of(trigger.job_id), outbox_id(there, name)
        arrival = Event(scope, f"~crossed/{relay}", "x")
        self._pile(here).triggers.append(Trigger(trigger.job_id, scope, ((arrival.topic, 1),), 1))
        pile = self._pile(there)
        pile.send.append(outbox_job(relay, (Parcel(here, emit=(arrival,)),), after_ms=RELAY_LOOK_MS, waits=trigger))
        pile.triggers.append(replace(trigger, job_id=relay))

    def _pile(self, place: Place) -> _Pile:
        pile = self.at.get(place)
        if pile is None:
            pile = self.at[place] = _Pile()
        return pile

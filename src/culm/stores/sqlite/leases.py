"""Claims and extensions. A claim moves the oldest due jobs of some lanes from `ready` to `held` in one statement, however many they are.

What was claimed is remembered here, lease by lease, so that a commit finds its rows without a look-up; the database
still has the last word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from operator import attrgetter
from sqlite3 import Connection, IntegrityError
from typing import Any

import msgspec

from culm.commit import Held
from culm.job import MAX_PAYLOAD_BYTES, Delivery, Job, as_delivered
from culm.outcome import Cancelled
from culm.store import Claimed, ClaimOrder, LeaseState
from culm.stores.sqlite.columns import MAX_BYTES, as_json
from culm.stores.sqlite.flags import CANCELLED
from culm.stores.sqlite.lanes import Lanes, of_queues
from culm.stores.sqlite.rows import Rows
from culm.stores.sqlite.sql import SQL

_heads = msgspec.json.Decoder(list[tuple[int, str, int, int, int, int, int]]).decode
_dues = msgspec.json.Decoder(dict[int, int]).decode
_numbers = msgspec.json.Decoder(list[int]).decode
_id = attrgetter("id")
_jobs = msgspec.msgpack.Decoder(list[Job]).decode

_CLAIM = "INSERT INTO claims VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_TAKE = "INSERT INTO takes VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_TAKING = ("taken", "size", "fitting", "taken_again")
_SEVERAL = {name: SQL[name].replace("lane = ?", "lane IN (SELECT value FROM json_each(?))") for name in _TAKING}


_NONE: Mapping[str, int] = {}


class Leases:
    """Which rows the leases of this process hold, as far as it knows."""

    def __init__(self) -> None:
        self._rids: dict[str, dict[str, int]] = {}  # lease -> job id -> rid

    def rids(self, lease: str, job_ids: Sequence[str]) -> list[int] | None:
        """The rows of jobs whose attempts end; None: one is not known here, or ends twice, and the database has to be asked."""
        known = self._rids.get(lease, _NONE)
        try:
            rids = [known[job_id] for job_id in job_ids]
        except KeyError:
            return None
        return rids if len(set(rids)) == len(rids) else None

    def rid(self, held: Held) -> int:
        """The same for one; -1: it is not known."""
        return self._rids.get(held.lease, _NONE).get(held.job_id, -1)

    def forget(self, lease: str, job_ids: Sequence[str]) -> None:
        """Their attempts have ended."""
        rids = self._rids.get(lease)
        if rids is not None:
            for job_id in job_ids:
                rids.pop(job_id, None)
            if not rids:
                self._rids.pop(lease, None)

    def learn(self, lease: str, rids: dict[str, int]) -> None:
        self._rids[lease] = rids


class Claim:
    """One claim, inside a transaction of the writing desk."""

    def __init__(
        self,
        connection: Connection,
        lanes: Lanes,
        now: int,
        rung: set[str],
        *,
        lease: str,
        for_ms: int,
        ledger: bool,
        room: int = MAX_BYTES,
    ) -> None:
        self._sql = connection.execute
        self._lanes = lanes
        self._now = now
        self._lease, self._claimer = lease, lease.rpartition("/")[0]
        self._until = now + for_ms
        self._rows = Rows(connection, lanes, now, rung, ledger=ledger)
        self._lid = -1
        self._room = room  # bytes of bodies in this claim
        self.rids: dict[str, int] = {}

    def at_once(self, queues: Sequence[str], *, limit: int, order: ClaimOrder) -> Claimed | None:
        """The claim as one statement that writes, and one that reads what it took; None: that will not do, and nothing was done."""
        if limit < 1:
            return None
        lanes = as_json(of_queues(self._lanes.qids(self._sql, queues)))
        try:
            self._sql(_CLAIM, (self._claimer, self._lease, self._now, self._until, lanes, order, limit, self._room))
        except IntegrityError:
            return None
        rids, *columns, next_due = self._sql(SQL["taken_at_once"], (self._now, lanes)).fetchone()
        deliveries = [] if rids is None else self._read(rids, *columns)
        if deliveries is None:  # bytes that are no job, or a newer one; each is asked for by itself, and may be gone by now
            deliveries = [d for rid in _numbers(rids) if (d := self._maybe_delivery(rid)) is not None]
        return Claimed(deliveries, None if next_due is None else max(0, next_due - self._now))

    def take(self, queues: Sequence[str], *, limit: int, order: ClaimOrder) -> Claimed:
        qids = self._lanes.qids(self._sql, queues)
        look = (self._claimer, as_json(of_queues(qids)))
        latest, first_expiry, paused, heads = self._sql(SQL["look"], look).fetchone()
        if latest == self._lease:  # the reply was lost
            rids = self._sql(SQL["held_under"], (self._lease,)).fetchall()
            return Claimed([self._delivery(rid) for (rid,) in rids], 0)
        if paused != "[]":
            shut = _numbers(paused)
            qids = [qid for qid in qids if qid not in shut]
        deliveries: list[Delivery] = []
        if first_expiry is not None and first_expiry <= self._now:
            deliveries = self._overdue(qids, limit)
            heads = self._sql(SQL["look"], look).fetchone()[3]  # one that was stopped may have released others
        dues, lanes = _dues(heads), of_queues(qids)
        due = [lane for lane in lanes if dues.get(lane, self._now + 1) <= self._now]
        for some in [due] if order == "age" else _by_priority(due):
            if len(deliveries) < limit and some and self._room > 0:
                deliveries += self._take_due(some, limit - len(deliveries))
        (next_due,) = self._sql(SQL["next_due"], (as_json(lanes),)).fetchone()
        return Claimed(deliveries, None if next_due is None else max(0, next_due - self._now))

    def _take_due(self, lanes: list[int], limit: int) -> list[Delivery]:
        sql, some = (SQL, lanes[0]) if len(lanes) == 1 else (_SEVERAL, as_json(lanes))
        due = self._now if len(lanes) == 1 else self._cut(lanes, limit)
        limit = self._fitting(sql, some, due, limit)
        due, rids, *columns = self._sql(sql["taken"], (self._now, some, due, limit)).fetchone()
        rid = _numbers(rids)[-1]
        found = self._read(rids, *columns)
        if found is None:
            found = self._read_again(*self._sql(sql["taken_again"], (some, due, rid)).fetchone())
        self._sql(_TAKE, (self._claimer, self._lease, self._now, self._until, as_json(lanes), due, rid, len(found)))
        return found

    def _fitting(self, sql: dict[str, str], some: int | str, due: int, limit: int) -> int:
        """How many of them to take: no more bytes than there is room for, but one in any case."""
        if limit * MAX_PAYLOAD_BYTES > self._room:  # else there is no need to ask
            size: int = self._sql(sql["size"], (some, due, limit)).fetchone()[0]
            if size > self._room:
                limit = max(1, self._sql(sql["fitting"], (some, due, limit, self._room)).fetchone()[0])
                size = self._room
            self._room -= size
        return limit

    def _cut(self, lanes: list[int], limit: int) -> int:
        """The due of the last job that fits: what is later need not be sorted."""
        found = sorted(due for lane in lanes for (due,) in self._sql(SQL["oldest"], (lane, self._now, limit)).fetchall())
        return found[limit - 1] if len(found) >= limit else self._now

    def _read(self, rids: str, ids: str, ages: str, fence: int, bodies: bytes) -> list[Delivery] | None:
        """Deliveries that nobody had before; None if they need a closer look."""
        if fence:
            return None
        names = ids.split("\x1f")
        try:
            jobs = _jobs(b"\xdd" + len(names).to_bytes(4, "big") + bodies)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        if list(map(_id, jobs)) != names:
            return None
        self.rids.update(zip(names, _numbers(rids), strict=True))
        return list(map(Delivery, jobs, repeat(self._lease), repeat(1), repeat(0), repeat(1), _numbers(ages)))

    def _read_again(self, heads: str, bodies: bytes) -> list[Delivery]:
        found: list[Delivery] = []
        at, lease, now, rids = 0, self._lease, self._now, self.rids
        for rid, job_id, attempt, expiries, fence, sent, length in _heads(heads):
            job, broken = as_delivered(bodies[at : at + length], job_id=job_id, queue="")
            at += length
            found.append(Delivery(job, lease, attempt + 1, expiries, fence + 1, now - sent, broken))
            rids[job_id] = rid
        return found

    def _lease_for(self, jobs: int) -> int:
        """The lid of this claim's lease, which holds so many jobs more."""
        if self._lid < 0:
            lid = self._sql(SQL["new_lease"], (self._lease, self._until, jobs)).lastrowid
            assert lid is not None
            self._lid = lid
        else:
            self._sql(SQL["lease_grows"], (jobs, self._lid))
        return self._lid

    def _overdue(self, qids: list[int], limit: int) -> list[Delivery]:
        """Jobs whose lease ran out, the earliest first; whoever was asked to stop is stopped now."""
        found: list[Delivery] = []
        for rid, job_id, flags, _, lid in self._sql(SQL["overdue"], (self._now, as_json(qids))).fetchall():
            if flags & CANCELLED:
                row = self._rows.find(job_id)
                assert row is not None
                self._rows.finish(row, Cancelled(), self._rows.keep_of(row))
            elif len(found) < limit and self._room > 0:
                self._sql(SQL["regrant"], (self._lease_for(1), self._until, rid))
                self._sql(SQL["lease_shrinks"], (1, lid))
                self._sql(SQL["lease_ends"], (lid,))
                found.append(self._delivery(rid))
                self.rids[job_id] = rid
        if found:
            self._sql(SQL["claims"], (self._claimer, self._lease, self._now))
        self._sql(SQL["refresh_leases"])
        return found

    def _delivery(self, rid: int) -> Delivery:
        found = self._maybe_delivery(rid)
        assert found is not None
        return found

    def _maybe_delivery(self, rid: int) -> Delivery | None:
        row = self._sql(SQL["delivery"], (rid,)).fetchone()
        if row is None:
            return None
        delivery, size = _delivered(row, self._lease, self._now)
        self._room -= size
        return delivery


def _delivered(row: tuple[Any, ...], lease: str, now: int) -> tuple[Delivery, int]:
    """A delivery that may be special, and the bytes of its job."""
    job_id, _, attempt, expiries, fence, sent, grants, blob = row
    job, broken = as_delivered(blob, job_id=job_id, queue="")
    return Delivery(job, lease, attempt + 1, expiries + grants - 1, fence + grants, now - sent, broken), len(blob)


def deliveries(connection: Connection, held: Sequence[Held], now: int) -> list[Delivery]:
    """What these leases still hold."""
    found: list[Delivery] = []
    for h in dict.fromkeys(held):
        fence = connection.execute(SQL["fence"], (h.job_id, h.lease)).fetchone()
        if fence is not None:
            found.append(_delivered(connection.execute(SQL["delivery"], fence[:1]).fetchone(), h.lease, now)[0])
    return found


def extend(connection: Connection, held: Sequence[Held], until: int) -> list[LeaseState]:
    """Move the ends of leases. Where all that is asked of one is held, and nobody asked to stop it, two statements serve."""
    by_lease: dict[str, list[str]] = {}
    for h in held:
        by_lease.setdefault(h.lease, []).append(h.job_id)
    answers: dict[Held, LeaseState] = {}
    for lease, job_ids in by_lease.items():
        if not _extend_all(connection, lease, job_ids, until):
            answers |= {Held(job_id, lease): _extend_one(connection, job_id, lease, until) for job_id in job_ids}
    return [answers.get(h, "held") for h in held]


def _extend_all(connection: Connection, lease: str, job_ids: Sequence[str], until: int) -> bool:
    """Whether all of them are held, and nobody asked to stop them; else nobody may rely on any of it."""
    ids = as_json(job_ids)
    if "\\u0000" in ids or connection.execute(SQL["extend_many"], (until, lease, ids)).rowcount < len(job_ids):
        return False
    connection.execute(SQL["extend_lease_of"], (until, lease))
    return True


def _extend_one(connection: Connection, job_id: str, lease: str, until: int) -> LeaseState:
    found = connection.execute(SQL["fence"], (job_id, lease)).fetchone()
    if found is None:
        return "lost"
    rid, flags, lid = found
    connection.execute(SQL["extend"], (until, rid))
    connection.execute(SQL["extend_lease"], (until, lid))
    return "cancelled" if flags & CANCELLED else "held"


def _by_priority(lanes: list[int]) -> list[list[int]]:
    """Lanes of equal priority together, the highest first."""
    return [[lane for lane in lanes if lane % 10 == n] for n in range(10)]

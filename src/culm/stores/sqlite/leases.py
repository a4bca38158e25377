"""Claims and extensions. A claim moves the oldest due jobs of some lanes from `ready` to `held` in four statements, however many they are.

What was claimed is remembered here, lease by lease, so that a commit finds its rows without a look-up; the database
still has the last word.
"""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import Connection

import msgspec

from culm.commit import Held
from culm.job import Delivery, as_delivered
from culm.outcome import Cancelled
from culm.store import Claimed, ClaimOrder, LeaseState
from culm.stores.sqlite.flags import CANCELLED
from culm.stores.sqlite.lanes import Lanes, as_json, of_queues
from culm.stores.sqlite.rows import Rows
from culm.stores.sqlite.sql import SQL

_heads = msgspec.json.Decoder(list[tuple[int, str, int, int, int, int, int]]).decode
UNKNOWN = (-1, -1)

_SEVERAL = {
    name: SQL[name].replace("lane = ?", "lane IN (SELECT value FROM json_each(?))") for name in ("taken", "hold_taken", "unready_taken")
}


class Leases:
    """Which rows the leases of this process hold, as far as it knows."""

    def __init__(self) -> None:
        self._rids: dict[str, dict[str, int]] = {}  # lease -> job id -> rid
        self._lids: dict[str, int] = {}

    def take(self, held: Held) -> tuple[int, int]:
        """(lid, rid) of a job whose attempt ends, or UNKNOWN. Known once: whoever asks again must ask the database."""
        rids = self._rids.get(held.lease)
        if rids is None:
            return UNKNOWN
        rid = rids.pop(held.job_id, -1)
        lid = self._lids[held.lease]
        if not rids:
            del self._rids[held.lease], self._lids[held.lease]
        return lid, rid

    def learn(self, lease: str, lid: int, rids: dict[str, int]) -> None:
        self._lids[lease] = lid
        self._rids[lease] = rids


class Claim:
    """One claim, inside a transaction of the writing desk."""

    def __init__(self, connection: Connection, lanes: Lanes, now: int, rung: set[str], *, lease: str, for_ms: int, ledger: bool) -> None:
        self._sql = connection.execute
        self._lanes = lanes
        self._now = now
        self._lease = lease
        self._until = now + for_ms
        self._rows = Rows(connection, lanes, now, rung, ledger=ledger)
        self._lid = -1
        self.rids: dict[str, int] = {}

    @property
    def lid(self) -> int:
        return self._lid

    def take(self, queues: Sequence[str], *, limit: int, order: ClaimOrder) -> Claimed:
        claimer = self._lease.rpartition("/")[0]
        if self._sql(SQL["claimer"], (claimer,)).fetchone() == (self._lease,):  # the reply was lost
            rids = self._sql(SQL["held_under"], (self._lease,)).fetchall()
            return Claimed([self._delivery(rid) for (rid,) in rids], 0)
        qids = self._lanes.open_qids(self._sql, queues)
        deliveries = self._overdue(qids, limit)
        lanes = of_queues(qids)
        heads = dict(self._sql(SQL["heads"], (as_json(lanes),)).fetchall())
        due = [lane for lane in lanes if heads.get(lane, self._now + 1) <= self._now]
        for some in [due] if order == "age" else _by_priority(due):
            if len(deliveries) < limit and some:
                deliveries += self._take_due(some, limit - len(deliveries))
        if deliveries:
            self._sql(SQL["claims"], (claimer, self._lease, self._now))
            self._sql(SQL["lease_grows"], (len(deliveries), self._lid))
            heads = dict(self._sql(SQL["heads"], (as_json(lanes),)).fetchall())
        return Claimed(deliveries, max(0, min(heads.values()) - self._now) if heads else None)

    def _take_due(self, lanes: list[int], limit: int) -> list[Delivery]:
        sql, some = (SQL, lanes[0]) if len(lanes) == 1 else (_SEVERAL, as_json(lanes))
        due, rid = self._cut(lanes, limit)
        heads, bodies = self._sql(sql["taken"], (some, due, rid)).fetchone()
        self._sql(sql["hold_taken"], (self._new_lease(), self._until, some, due, rid))
        self._sql(sql["unready_taken"], (some, due, rid))
        return self._read(heads, bodies)

    def _cut(self, lanes: list[int], limit: int) -> tuple[int, int]:
        """(due, rid) of the last job that fits."""
        everything = (self._now, 1 << 62)
        if len(lanes) == 1:
            last: tuple[int, int] | None = self._sql(SQL["cut"], (lanes[0], self._now, limit - 1)).fetchone()
            return last or everything
        found = sorted(e for lane in lanes for e in self._sql(SQL["oldest"], (lane, self._now, limit)).fetchall())
        return found[limit - 1] if len(found) >= limit else everything

    def _read(self, heads: str, bodies: bytes) -> list[Delivery]:
        found: list[Delivery] = []
        at, lease, now, rids = 0, self._lease, self._now, self.rids
        for rid, job_id, attempt, expiries, fence, sent, length in _heads(heads):
            job, broken = as_delivered(bodies[at : at + length], job_id=job_id, queue="")
            at += length
            found.append(Delivery(job, lease, attempt + 1, expiries, fence + 1, now - sent, broken))
            rids[job_id] = rid
        return found

    def _new_lease(self) -> int:
        if self._lid < 0:
            lid = self._sql(SQL["new_lease"], (self._lease, self._until)).lastrowid
            assert lid is not None
            self._lid = lid
        return self._lid

    def _overdue(self, qids: list[int], limit: int) -> list[Delivery]:
        """Jobs whose lease ran out, the earliest first; whoever was asked to stop is stopped now."""
        (first,) = self._sql(SQL["first_expiry"]).fetchone()
        if first is None or first > self._now:
            return []
        found: list[Delivery] = []
        for rid, job_id, flags, _, lid in self._sql(SQL["overdue"], (self._now, self._now, as_json(qids))).fetchall():
            if flags & CANCELLED:
                row = self._rows.find(job_id)
                assert row is not None
                self._rows.finish(row, Cancelled(), self._rows.keep_of(row))
            elif len(found) < limit:
                self._sql(SQL["regrant"], (self._new_lease(), self._until, rid))
                self._sql(SQL["lease_shrinks"], (1, lid))
                self._sql(SQL["lease_ends"], (lid,))
                found.append(self._delivery(rid))
                self.rids[job_id] = rid
        self._sql(SQL["refresh_leases"], (self._now,))
        return found

    def _delivery(self, rid: int) -> Delivery:
        job_id, _, attempt, expiries, fence, sent, grants, blob = self._sql(SQL["delivery"], (rid,)).fetchone()
        job, broken = as_delivered(blob, job_id=job_id, queue="")
        return Delivery(job, self._lease, attempt + 1, expiries + grants - 1, fence + grants, self._now - sent, broken)


def extend(connection: Connection, held: Sequence[Held], until: int) -> list[LeaseState]:
    """Move the ends of leases; each is answered by itself."""
    answers: list[LeaseState] = []
    for h in held:
        found = connection.execute(SQL["fence"], (h.job_id, h.lease)).fetchone()
        if found is None:
            answers.append("lost")
            continue
        rid, flags, lid = found
        connection.execute(SQL["extend"], (until, rid))
        connection.execute(SQL["extend_lease"], (until, lid))
        answers.append("cancelled" if flags & CANCELLED else "held")
    return answers


def _by_priority(lanes: list[int]) -> list[list[int]]:
    """Lanes of equal priority together, the highest first."""
    return [[lane for lane in lanes if lane % 10 == n] for n in range(10)]

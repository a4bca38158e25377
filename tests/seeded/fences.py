"""Bugs of leases, fences and batches."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from culm.commit import BatchId, Commit, Committed, Held
from culm.job import Delivery
from culm.outcome import FINAL, Outcome, Released
from culm.store import Claimed, ClaimOrder, LeaseState
from culm.stores.quick_tables import QuickTables
from culm.stores.rows import Row
from culm.stores.tables import NEVER, Tables


def _under_the_lease_there_is(tables: Tables, c: Commit) -> Commit:
    row = tables.leased.get(c.fence.job_id) if c.fence is not None else None
    return c if row is None or c.fence is None else msgspec.structs.replace(c, fence=Held(c.fence.job_id, row.lease))


class NoFence(Tables):
    """Any lease may commit while some lease holds the job."""

    def _apply(self, c: Commit, now: int) -> Committed:
        return super()._apply(_under_the_lease_there_is(self, c), now)


class QuickWithoutFence(QuickTables):
    """The short way asks whether a lease holds the job, and not which."""

    def _apply_all(self, commits: Sequence[Commit], now: int) -> list[Committed]:
        return super()._apply_all([_under_the_lease_there_is(self, c) for c in commits], now)


class QuickForgetsItsTree(QuickTables):
    """The short way is taken for jobs that others of their tree wait for."""

    def _apply_all(self, commits: Sequence[Commit], now: int) -> list[Committed]:
        scopes, self.scopes = self.scopes, {}
        try:
            return super()._apply_all(commits, now)
        finally:
            self.scopes = scopes | self.scopes


class FinishedMayBeCommittedAgain(Tables):
    """A late attempt overwrites the outcome of a finished job."""

    def _apply(self, c: Commit, now: int) -> Committed:
        row = self.rows.get(c.fence.job_id) if c.fence is not None else None
        if row is not None and row.finished and isinstance(c.outcome, FINAL):
            row.last = c.outcome
            return "applied"
        return super()._apply(c, now)


class LateAttemptOverwrites(Tables):
    """Whoever once held the job may still end it, although another holds it now."""

    def _apply(self, c: Commit, now: int) -> Committed:
        row = self.rows.get(c.fence.job_id) if c.fence is not None else None
        if row is not None and not row.finished and isinstance(c.outcome, FINAL):
            c = _under_the_lease_there_is(self, c)
        return super()._apply(c, now)


class NoResendMemory(Tables):
    def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        self._answered.clear()
        return super().commit(commits, batch=batch)


class DedupeExpiresEarly(Tables):
    """The answers of a batch are forgotten by the first sweep."""

    def sweep(self, limit: int) -> int:
        self._answered.clear()
        return super().sweep(limit)


class EffectsOfARefusedCommit(Tables):
    """The fence is checked after the writes."""

    def _apply(self, c: Commit, now: int) -> Committed:
        answer = super()._apply(c, now)
        if answer == "lease_lost":
            super()._apply(msgspec.structs.replace(c, fence=None, outcome=None), now)
        return answer


class ChildrenOutsideTheCommit(Tables):
    """What a commit sends is enqueued first, by itself."""

    def _apply(self, c: Commit, now: int) -> Committed:
        for job in c.send:
            self._send(job, now)
        return super()._apply(msgspec.structs.replace(c, send=()), now)


class HeartbeatStealsTheLease(Tables):
    """A stale heartbeat puts its own lease back."""

    def extend(self, held: Sequence[Held], *, for_ms: int) -> list[LeaseState]:
        for h in held:
            if (row := self.leased.get(h.job_id)) is not None and h.lease:
                row.lease = h.lease
        return super().extend(held, for_ms=for_ms)


class HeartbeatOfAStaleLease(Tables):
    """A stale heartbeat is answered so, but moves the end of the newer lease."""

    def extend(self, held: Sequence[Held], *, for_ms: int) -> list[LeaseState]:
        answers = super().extend(held, for_ms=for_ms)
        for h in held:
            if (row := self.leased.get(h.job_id)) is not None:
                row.due = self.now() + for_ms
        return answers


class ClaimTwice(Tables):
    """A claim that is repeated with its lease grants more."""

    def claim(self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int, order: ClaimOrder) -> Claimed:
        self._claims.clear()
        return super().claim(queues, lease=lease, limit=limit, for_ms=for_ms, order=order)


class ExpiredLeaseNotClaimable(Tables):
    def _overdue(self, queues: Sequence[str], now: int, limit: int) -> list[Row]:
        return []


class CrashNotCounted(Tables):
    """A lease that ran out leaves no trace."""

    def _grant(self, rows: Sequence[Row], lease: str, now: int, until: int) -> list[Delivery]:
        for row in rows:
            row.expiries -= bool(row.lease)
        return super()._grant(rows, lease, now, until)


class FenceFallsBack(Tables):
    """The fence begins anew with every attempt."""

    def _grant(self, rows: Sequence[Row], lease: str, now: int, until: int) -> list[Delivery]:
        for row in rows:
            if not row.lease:
                row.fence = 0
        return super()._grant(rows, lease, now, until)


class AttemptsNotGivenBack(Tables):
    def _end_attempt(self, row: Row, outcome: Outcome, keep_ms: int, now: int) -> None:
        attempt = row.attempt
        super()._end_attempt(row, outcome, keep_ms, now)
        row.attempt = attempt


class ReleasedKeepsNoDue(Tables):
    """A job that is given back waits for a release that never comes."""

    def _end_attempt(self, row: Row, outcome: Outcome, keep_ms: int, now: int) -> None:
        super()._end_attempt(row, outcome, keep_ms, now)
        if isinstance(outcome, Released) and not row.finished:
            self._unready(row)
            row.due = None


class LeaseEndsEarly(Tables):
    """An overdue lease is looked for a millisecond before its end."""

    def _overdue(self, queues: Sequence[str], now: int, limit: int) -> list[Row]:
        self._next_expiry = -NEVER
        return super()._overdue(queues, now + 1, limit)

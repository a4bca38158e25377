"""Bugs of time, cancels and retention."""

from __future__ import annotations

from collections.abc import Sequence

from culm.commit import Commit
from culm.job import Job
from culm.outcome import Succeeded
from culm.stores.rows import Row
from culm.stores.tables import Tables


class EarlyTimer(Tables):
    """A job is taken a millisecond before it is due."""

    def _take(self, lanes: Sequence[tuple[str, int]], now: int, limit: int) -> list[Row]:
        return super()._take(lanes, now + 1, limit)


class InstantIgnored(Tables):
    """`at_ms` is not looked at."""

    def _open(self, row: Row, due: int | None) -> None:
        super()._open(row, due if due is None or due != row.job.at_ms else row.sent)


class TombstoneIgnored(Tables):
    def _send(self, job: Job, now: int) -> None:
        self.tombstones.pop(job.id, None)
        super()._send(job, now)


class CancelIgnored(Tables):
    """A running job is never asked to stop."""

    def _cancel(self, job_id: str, now: int) -> None:
        row = self.rows.get(job_id)
        if row is None or not row.lease:
            super()._cancel(job_id, now)


class CancelBeatsSuccess(Tables):
    """A success that is already committing loses against the cancel."""

    def _apply(self, c: Commit, now: int) -> str:  # type: ignore[override]  # narrower is what it answers
        row = self.leased.get(c.fence.job_id) if c.fence is not None else None
        if row is not None and row.cancelled and isinstance(c.outcome, Succeeded):
            return "lease_lost"
        return super()._apply(c, now)


class ConflictIgnored(Tables):
    """Another task under a known id, or another value under a known step, is taken for the same."""

    def _conflicts(self, c: Commit) -> bool:
        return any(t.job_id not in self.rows for t in c.triggers) and not c.send


class SweptEarly(Tables):
    """Whatever is finished goes with the next sweep."""

    def _sweep_at(self, when: int, what: str, name: str) -> None:
        if what == "job":
            when = self.rows[name].sweep_at = self.now()
        super()._sweep_at(when, what, name)


class DeadLettersSwept(Tables):
    """Dead letters go like everything else."""

    def sweep(self, limit: int) -> int:
        self.discard([i for i, r in self.rows.items() if r.finished])
        return super().sweep(limit)


class ScopeForgotten(Tables):
    """A scope goes although a job of it lives."""

    def sweep(self, limit: int) -> int:
        for root in [r for r, scope in self.scopes.items() if 0 < scope.sweep_at <= self.now()]:
            del self.scopes[root]
        return super().sweep(limit)


class NewestFirst(Tables):
    """Of equal dues the newest comes first."""

    def _take(self, lanes: Sequence[tuple[str, int]], now: int, limit: int) -> list[Row]:
        rows = super()._take(lanes, now, limit)
        return sorted(rows, key=lambda r: (r.due or 0, -r.n))


class ReplayKeepsAttempts(Tables):
    def replay(self, job_ids: Sequence[str]) -> int:
        attempts = {i: r.attempt for i, r in self.rows.items()}
        replayed = super().replay(job_ids)
        for job_id in job_ids:
            if job_id in self.rows:
                self.rows[job_id].attempt = attempts[job_id]
        return replayed


class PauseIgnored(Tables):
    def claim(self, *args: object, **asked: object) -> object:  # type: ignore[override]  # whatever it is, it is passed on
        paused, self.paused = self.paused, set()
        try:
            return super().claim(*args, **asked)  # type: ignore[arg-type]
        finally:
            self.paused = paused

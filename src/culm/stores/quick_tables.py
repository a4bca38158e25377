"""The tables of the memory store: the specification, with a short way for what nearly every commit is.

That is the end of one attempt that succeeded, of a job whose tree nothing is remembered of. All others go the long way, and so does
whatever is refused. Random histories compare the two.
"""

from __future__ import annotations

from collections.abc import Sequence

from culm.commit import Commit, Committed
from culm.outcome import Succeeded
from culm.stores.tables import Tables


class QuickTables(Tables):
    """As `Tables`, in fewer steps."""

    def _apply_all(self, commits: Sequence[Commit], now: int) -> list[Committed]:
        leased, rows, scopes, ended, ledger = self.leased, self.rows, self.scopes, self.rung, self._ledger
        answers: list[Committed] = []
        for c in commits:
            fence = c.fence
            row = None if fence is None else leased.get(fence.job_id)
            if fence is None or row is None or type(c.outcome) is not Succeeded or c.send or c.emit or c.triggers or c.records or c.cancel:
                answers.append(self._apply(c, now))
                continue
            job = row.job
            if row.lease != fence.lease or job.topic or (scopes and job.scope in scopes):
                answers.append(self._apply(c, now))
                continue
            if ledger is not None:
                ledger.append((job.id, row.lease))
            row.lease, row.last, row.due, row.finished = "", c.outcome, None, True
            del leased[job.id]
            ended.add(job.id)
            if c.keep_ms:
                row.sweep_at = now + c.keep_ms
                self._sweep_at(row.sweep_at, "job", job.id)
            else:
                del rows[job.id]
            answers.append("applied")
        return answers

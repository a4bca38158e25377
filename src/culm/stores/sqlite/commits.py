"""A batch of commits, applied. Runs of plain commits go in columns, a few large statements for all; any other goes by itself.

Plain is: it ends a job that no flag makes special, or sends new roots, and nothing else. If the checks of a run fall short
by one, nothing of it was written yet, and its commits go one by one, each answered by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import chain
from sqlite3 import Connection
from typing import Any, TypeAlias

import msgspec

from culm.commit import BatchId, Commit, Committed
from culm.errors import StoreError
from culm.job import Job, decode_job, encode_job
from culm.outcome import DEAD, FINAL, Final, encode_outcome
from culm.stores.sqlite.lanes import Lanes
from culm.stores.sqlite.leases import Leases
from culm.stores.sqlite.rows import ENDED, Rows
from culm.stores.sqlite.sql import SQL

CHUNKS = (256, 32, 4, 1)  # rows of one INSERT or UPDATE: few sizes, so that their statements stay prepared

_encode_answers = msgspec.msgpack.Encoder().encode
_decode_answers = msgspec.msgpack.Decoder(list[Committed]).decode

Ending: TypeAlias = tuple[int, Final, int, str]  # rid, outcome, keep_ms, job id


class Commits:
    """Applies batches on a desk's connection. The caller gives `now` and collects `rung`."""

    def __init__(self, connection: Connection, lanes: Lanes, leases: Leases, now: int, rung: set[str], *, ledger: bool) -> None:
        self._connection = connection
        self._sql = connection.execute
        self._lanes = lanes
        self._leases = leases
        self._now = now
        self._rung = rung
        self._ledger = ledger
        self._rows = Rows(connection, lanes, now, rung, ledger=ledger)

    def apply(self, commits: Sequence[Commit], batch: BatchId) -> list[Committed]:
        client, number = batch
        known = self._sql(SQL["answers"], (client,)).fetchone()
        if known is not None and number <= known[0]:
            return _decode_answers(known[1]) if number == known[0] else ["lease_lost"] * len(commits)
        answers: list[Committed] = []
        run: list[Commit] = []
        for commit in commits:
            if _is_plain(commit):
                run.append(commit)
            else:
                answers += self._apply_run(run)
                run = []
                answers.append(self._apply_one(commit))
        answers += self._apply_run(run)
        self._sql(SQL["remember"], (client, number, _encode_answers(answers), self._now))
        return answers

    # -- in columns ---------------------------------------------------------------------------------------------------------

    def _apply_run(self, run: list[Commit]) -> list[Committed]:
        if not run:
            return []
        by_lid = self._endings(run)
        jobs = [job for commit in run if commit.send for job in commit.send]
        if by_lid is None or not self._all_held(by_lid) or not self._all_new(jobs):
            return [self._apply_one(commit) for commit in run]
        # Every check is done: from here on, all of it happens.
        for lid, endings in by_lid.items():
            self._finish(lid, endings)
        self._send(jobs)
        return ["applied"] * len(run)

    def _endings(self, run: list[Commit]) -> dict[int, list[Ending]] | None:
        """The jobs that the run ends, by lease; None if one is not known here."""
        found: dict[int, list[Ending]] = {}
        take = self._leases.take
        known = True
        for commit in run:
            fence, outcome = commit.fence, commit.outcome
            if fence is not None:
                lid, rid = take(fence)
                if rid < 0:
                    known = False
                elif lid in found:
                    found[lid].append((rid, outcome, commit.keep_ms, fence.job_id))  # type: ignore[arg-type]  # _is_plain: it is final
                else:
                    found[lid] = [(rid, outcome, commit.keep_ms, fence.job_id)]  # type: ignore[list-item]  # the same
        return found if known else None

    def _all_held(self, by_lid: dict[int, list[Ending]]) -> bool:
        return all(self._sql(SQL["plainly_held"], (_rids(endings), lid)).fetchone()[0] == len(endings) for lid, endings in by_lid.items())

    def _all_new(self, jobs: list[Job]) -> bool:
        """All are roots, without a topic, that no row, tombstone or scope knows."""
        if not jobs:
            return True
        ids = [job.id for job in jobs]
        if len(set(ids)) < len(ids) or any("~" in job.id or job.topic for job in jobs):
            return False
        if self._sql(SQL["any_special"]).fetchone()[0] and self._sql(SQL["special_many"], (json.dumps(ids),)).fetchone():
            return False
        return bool(self._sql(SQL["known_many"], (json.dumps(ids),)).fetchone()[0] == 0)

    def _finish(self, lid: int, endings: list[Ending]) -> None:
        rids = _rids(endings)
        if self._ledger:
            self._sql(SQL["ledger_many"], (*self._sql(SQL["lease_of"], (lid,)).fetchone(), self._now, rids))
        kept = [e for e in endings if e[2] or type(e[1]) in DEAD]
        gone = rids if not kept else _rids([e for e in endings if not e[2] and type(e[1]) not in DEAD])
        for part in _parts(kept):
            values = ((ENDED[type(o)], encode_outcome(o), None if type(o) in DEAD else self._now + keep) for _, o, keep, _ in part)
            self._sql(_FINISH[len(part)], [x for (rid, *_), more in zip(part, values, strict=True) for x in (rid, *more)])
        self._sql(SQL["let_go_many"], (rids,))
        if len(kept) < len(endings):
            self._sql(SQL["forget_many"], (gone,))
        self._sql(SQL["lease_shrinks"], (len(endings), lid))
        self._sql(SQL["lease_ends"], (lid,))
        self._rung.update([e[3] for e in endings])

    def _send(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        rid = self._sql(SQL["last_rid"]).fetchone()[0]
        now, rows, ready = self._now, [], []
        for job in jobs:
            rid += 1
            lane = self._lanes.lane(self._sql, job.queue, job.priority)
            due = None
            if job.after_ms is not None:
                due = max(now + job.after_ms, job.at_ms or 0)
                ready.append((lane, due, rid))
                self._rung.add(job.queue)
            rows.append((rid, job.id, lane, now, due, 0, encode_job(job)))
        for part in _parts(rows):
            self._sql(_INSERT[len(part)], tuple(chain.from_iterable(part)))
        for piece in _parts(ready):
            self._sql(_READY[len(piece)], tuple(chain.from_iterable(piece)))

    # -- one by one ---------------------------------------------------------------------------------------------------------

    def _apply_one(self, c: Commit) -> Committed:
        row = None
        if c.fence is not None:
            row = self._rows.find(c.fence.job_id)
            if row is None or row.lid is None or self._sql(SQL["lease_of"], (row.lid,)).fetchone() != (c.fence.lease,):
                return "lease_lost"
        if self._conflicts(c):
            return "conflict"
        # Every check is done: from here on, all of it happens.
        if c.fence is not None and c.outcome is not None:
            self._leases.take(c.fence)  # no longer this process' business
        if row is not None and c.outcome is not None:
            self._rows.end_attempt(row, c.outcome, c.keep_ms)
        for record in c.records:
            self._rows.record(record)
        for job in c.send:
            self._rows.send(job)
        for event in c.emit:
            self._rows.emit(event)
        for trigger in c.triggers:
            self._rows.wait_for(trigger)
        for job_id in c.cancel:
            self._rows.cancel(job_id)
        return "applied"

    def _conflicts(self, c: Commit) -> bool:
        coming: dict[str, str] = {}
        for job in c.send:
            known = self._task_of(job.id)
            if (coming.setdefault(job.id, job.task) if known is None else known) != job.task:
                return True
        steps: dict[tuple[str, int], bytes] = {}
        for r in c.records:
            known = self._sql(SQL["record"], (r.flow.partition("~")[0], r.flow, r.seq)).fetchone()
            if (known[0] if known else steps.setdefault((r.flow, r.seq), r.value)) != r.value:
                return True
        return any(t.job_id not in coming and self._rows.find(t.job_id) is None for t in c.triggers)

    def _task_of(self, job_id: str) -> str | None:
        found = self._sql(SQL["task_of"], (job_id,)).fetchone()
        if found is None:
            return None
        try:
            return decode_job(found[0], job_id=job_id).task
        except StoreError:
            return ""  # hostile bytes: they are nobody's task, so every send under this id conflicts


def _is_plain(c: Commit) -> bool:
    if c.emit or c.triggers or c.records or c.cancel:
        return False
    return isinstance(c.outcome, FINAL) if c.fence is not None else c.outcome is None


def _rids(endings: Iterable[Ending]) -> str:
    return str([e[0] for e in endings])  # a list of numbers reads as JSON


def _parts(rows: Sequence[Any]) -> Iterable[Sequence[Any]]:
    start = 0
    for size in CHUNKS:
        while len(rows) - start >= size:
            yield rows[start : start + size]
            start += size


def _values(columns: int, rows: int) -> str:
    return ",".join(["(" + ",".join("?" * columns) + ")"] * rows)


# Not in statements.sql: these repeat one row as often as a chunk is long.
_INSERT = {n: f"INSERT INTO jobs (rid, id, lane, sent, due, flags, job) VALUES {_values(7, n)}" for n in CHUNKS}  # noqa: S608  # question marks
_READY = {n: f"INSERT INTO ready VALUES {_values(3, n)}" for n in CHUNKS}  # noqa: S608  # the same
_FINISH = {
    n: f"""WITH v (rid, ended, last, sweep_at) AS (VALUES {_values(4, n)})
    UPDATE jobs SET ended = v.ended, last = v.last, sweep_at = v.sweep_at, due = NULL,
        attempt = attempt + 1, fence = fence + h.grants, expiries = expiries + h.grants - 1
    FROM v JOIN held h ON h.rid = v.rid WHERE jobs.rid = v.rid"""  # noqa: S608  # the same
    for n in CHUNKS
}

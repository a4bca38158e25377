"""A batch of commits, applied. Runs of plain commits go in columns, a few large statements for all; any other goes by itself.

Plain is: it ends a job that no flag makes special, or sends new roots, and nothing else. If the checks of a run fall short,
nothing of it was written yet: the commits that do not pass leave it, and go one by one in their place between the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from sqlite3 import Connection
from typing import TypeAlias

import msgspec

from culm.commit import BatchId, Commit, Committed
from culm.errors import StoreError
from culm.job import Job, decode_job, encode_job
from culm.outcome import DEAD, FINAL, Final, encode_outcome
from culm.stores.sqlite.columns import as_json, joined, pieces
from culm.stores.sqlite.lanes import Lanes
from culm.stores.sqlite.leases import Leases
from culm.stores.sqlite.rows import ENDED, Rows
from culm.stores.sqlite.sql import SQL

_encode_refused = msgspec.msgpack.Encoder().encode
_decode_refused = msgspec.msgpack.Decoder(dict[int, Committed]).decode

Ending: TypeAlias = tuple[int, Final, int, str]  # rid, outcome, keep_ms, job id


class Commits:
    """Applies batches on a desk's connection. The caller gives `now` and collects `rung`."""

    def __init__(self, connection: Connection, lanes: Lanes, leases: Leases, now: int, rung: set[str], *, ledger: bool) -> None:
        self._sql = connection.execute
        self._lanes = lanes
        self._leases = leases
        self._now = now
        self._rung = rung
        self._ledger = ledger
        self._rows = Rows(connection, lanes, now, rung, ledger=ledger)

    def apply(self, commits: Sequence[Commit], batch: BatchId) -> list[Committed]:
        client, number = batch
        if not self._sql(SQL["remember"], (client, number, self._now)).rowcount:
            last, refused = self._sql(SQL["answered"], (client,)).fetchone()
            return _answers(len(commits), refused) if number == last else ["lease_lost"] * len(commits)
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
        if answers.count("applied") < len(answers):
            self._sql(SQL["refused"], (_refused(answers), client))
        return answers

    # -- in columns ---------------------------------------------------------------------------------------------------------

    def _apply_run(self, run: list[Commit]) -> list[Committed]:
        if not run:
            return []
        if len(run) == 1 and run[0].fence is None and len(run[0].send) == 1 and self._send_one(run[0].send[0]):
            return ["applied"]
        rids = self._rids_of(run)
        if self._in_columns(run, rids):
            return ["applied"] * len(run)
        odd = self._odd(run, rids)
        answers: list[Committed] = []
        for is_odd, some in groupby(range(len(run)), key=odd.__contains__):
            part = list(some)
            if not is_odd and self._in_columns([run[n] for n in part], [rids[n] for n in part]):
                answers += ["applied"] * len(part)
            else:
                answers += [self._apply_one(run[n]) for n in part]
        return answers

    def _rids_of(self, run: list[Commit]) -> list[int]:
        """Of each commit the row that it ends: -1 if that is not known here, 0 if it ends none."""
        take = self._leases.take
        return [0 if c.fence is None else take(c.fence) for c in run]

    def _in_columns(self, run: list[Commit], rids: list[int]) -> bool:
        """Apply all of them, or say that not all pass the checks."""
        if -1 in rids:
            return False
        by_lease = _by_lease(run, rids)
        jobs = [job for commit in run if commit.send for job in commit.send]
        if not self._all_held(by_lease) or (last := self._last_rid(jobs)) is None:
            return False
        # Every check is done: from here on, all of it happens.
        for lease, endings in by_lease.items():
            self._finish(lease, endings)
        self._send(jobs, last)
        return True

    def _odd(self, run: list[Commit], rids: list[int]) -> set[int]:
        """Which of them do not pass the checks."""
        known = [n for n, rid in enumerate(rids) if rid >= 0]
        held: set[int] = {0}
        for lease, endings in _by_lease([run[n] for n in known], [rids[n] for n in known]).items():
            held.update(rid for (rid,) in self._sql(SQL["plainly_held_rids"], (_rids(endings), lease)).fetchall())
        ids = [job.id for commit in run for job in commit.send]
        taken: set[str] = {job_id for (job_id,) in self._sql(SQL["known_ids"], (as_json(ids),)).fetchall()}
        odd: set[int] = set()
        for n, (commit, rid) in enumerate(zip(run, rids, strict=True)):
            sent = [job.id for job in commit.send]
            if rid not in held or not taken.isdisjoint(sent) or len(set(sent)) < len(sent):
                odd.add(n)
            taken.update(sent)
        return odd

    def _all_held(self, by_lease: dict[str, list[Ending]]) -> bool:
        return all(self._sql(SQL["plainly_held"], (_rids(ends), lease)).fetchone()[0] == len(ends) for lease, ends in by_lease.items())

    def _last_rid(self, jobs: list[Job]) -> int | None:
        """The greatest rid so far. None if not all of them are new, to every job, tombstone and scope."""
        if not jobs:
            return 0
        ids = [job.id for job in jobs]
        if len(set(ids)) < len(ids):
            return None
        known, last = self._sql(SQL["known_many"], (as_json(ids),)).fetchone()
        return None if known else last

    def _finish(self, lease: str, endings: list[Ending]) -> None:
        rids, n = _rids(endings), len(endings)
        if self._ledger:
            self._sql(SQL["ledger_many"], (lease, self._now, rids))
        kept = [e for e in endings if e[2] or type(e[1]) in DEAD]
        if kept:
            self._keep(kept)
        self._sql(SQL["let_go_many"], (rids,))
        if len(kept) < n:
            gone = rids if not kept else _rids([e for e in endings if not e[2] and type(e[1]) not in DEAD])
            self._sql(SQL["forget_many"], (gone,))
        if not self._sql(SQL["emptied"], (lease, n)).rowcount:
            self._sql(SQL["shrinks"], (n, lease))
        self._rung.update([e[3] for e in endings])

    def _keep(self, kept: list[Ending]) -> None:
        """Those that end alike and are kept as long share a statement."""
        for (kind, keep_ms), some in groupby(kept, key=lambda e: (type(e[1]), e[2])):
            alike = list(some)
            rids, outcomes = [e[0] for e in alike], [encode_outcome(e[1]) for e in alike]
            sweep_at, died = (None, self._now) if kind in DEAD else (self._now + keep_ms, None)
            for piece in pieces(outcomes):
                self._sql(SQL["keep_many"], (as_json(rids[piece]), ENDED[kind], *joined(outcomes[piece]), sweep_at, died))

    def _send_one(self, job: Job) -> bool:
        """Check and send in one statement. False: nothing was written, it is not new."""
        lane, due = self._lanes.lane(self._sql, job.queue, job.priority), self._due(job.after_ms, job.at_ms)
        sent = self._sql(SQL["insert_new"], (job.id, lane, self._now, due, encode_job(job)))
        if not sent.rowcount:
            return False
        if due is not None:
            self._sql(SQL["make_ready"], (lane, due, sent.lastrowid))
            self._rung.add(job.queue)
        return True

    def _due(self, after_ms: int | None, at_ms: int | None) -> int | None:
        return None if after_ms is None else max(self._now + after_ms, at_ms or 0)

    def _send(self, jobs: list[Job], last: int) -> None:
        """Those that share a lane and a due share a statement."""
        if not jobs:
            return
        rid, now, rung = last + 1, self._now, self._rung
        for (queue, priority, after_ms, at_ms), some in groupby(jobs, key=_when):
            alike = list(some)
            lane = self._lanes.lane(self._sql, queue, priority)
            due = self._due(after_ms, at_ms)
            if due is not None:
                rung.add(queue)
            bodies = [encode_job(job) for job in alike]
            ids = [job.id for job in alike]
            for piece in pieces(bodies):
                self._sql(SQL["insert_many"], (rid + piece.start, lane, now, due, *joined(bodies[piece]), as_json(ids[piece])))
            rid += len(alike)
        self._sql(SQL["make_ready_after"], (last,))

    # -- one by one ---------------------------------------------------------------------------------------------------------

    def _apply_one(self, c: Commit) -> Committed:
        row = None
        if c.fence is not None:
            row = self._rows.find(c.fence.job_id)
            if row is None or row.lid is None or self._sql(SQL["lease_of"], (row.lid,)).fetchone() != (c.fence.lease,):
                self._leases.take(c.fence)  # whoever has it: not this lease, ever again
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
    if c.send and not all(map(_is_simple, c.send)):
        return False
    return isinstance(c.outcome, FINAL) if c.fence is not None else c.outcome is None


def _is_simple(job: Job) -> bool:
    """A root, whose end no join hears of; its id survives being JSON, which SQLite cuts at a NUL."""
    return not job.topic and "~" not in job.id and "\0" not in job.id


def _by_lease(run: list[Commit], rids: list[int]) -> dict[str, list[Ending]]:
    """The jobs that the run ends, by lease."""
    found: dict[str, list[Ending]] = {}
    for commit, rid in zip(run, rids, strict=True):
        fence = commit.fence
        if fence is not None:
            ending: Ending = (rid, commit.outcome, commit.keep_ms, fence.job_id)  # type: ignore[assignment]  # _is_plain: it is final
            if fence.lease in found:
                found[fence.lease].append(ending)
            else:
                found[fence.lease] = [ending]
    return found


def _when(job: Job) -> tuple[str, int, int | None, int | None]:
    return (job.queue, job.priority, job.after_ms, job.at_ms)


def _rids(endings: list[Ending]) -> str:
    return str([e[0] for e in endings])  # a list of numbers reads as JSON


def _refused(answers: list[Committed]) -> bytes:
    return _encode_refused({n: answer for n, answer in enumerate(answers) if answer != "applied"})


def _answers(n: int, refused: bytes | None) -> list[Committed]:
    found = _decode_refused(refused) if refused is not None else {}
    return [found.get(i, "applied") for i in range(n)]

"""A batch of commits, applied. Runs of plain commits go in columns, a few large statements for all; any other goes by itself.

Plain is: it ends a job that no flag makes special, or sends new roots, and nothing else. If the checks of a run fall short,
nothing of it was written yet: the commits that do not pass leave it, and go one by one in their place between the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, groupby
from sqlite3 import Connection

import msgspec

from culm.commit import BatchId, Commit, Committed
from culm.errors import StoreError
from culm.job import decode_job
from culm.outcome import Succeeded, encode_outcome
from culm.stores.sqlite.columns import as_json
from culm.stores.sqlite.lanes import Lanes
from culm.stores.sqlite.leases import Leases
from culm.stores.sqlite.plain import Plain, Steps
from culm.stores.sqlite.rows import Rows
from culm.stores.sqlite.spot import SMALL_BYTES
from culm.stores.sqlite.sql import SQL

_encode_refused = msgspec.msgpack.Encoder().encode
_decode_refused = msgspec.msgpack.Decoder(dict[int, Committed]).decode


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

    def at_once(self, commits: Sequence[Commit], batch: BatchId | None = None, *, on_the_spot: bool = False) -> list[Committed] | None:
        """All of them in one statement, if they are plain and pass its checks; else None, and nothing was done.

        Args:
            batch: is remembered in the same statement.
            on_the_spot: nor may any other statement be needed, as for a new queue, or for very many steps.
        """
        plain = Plain.of(commits)
        if plain is None or (on_the_spot and not all(self._lanes.knows(jobs[0].queue) for jobs in plain.sends)):
            return None
        steps = Steps(self._connection, self._lanes, self._now, ledger=self._ledger)
        if batch is not None:
            steps.remember(batch)
        for way, ended in plain.ends.items():
            rids = self._leases.rids(way[0], ended.ids)
            if rids is None:
                return None
            steps.end(way, ended, rids)
        for jobs in plain.sends:
            steps.send(jobs)
        if (on_the_spot and steps.are_many) or not steps.write():
            return None
        for (lease, _, _), ended in plain.ends.items():
            self._leases.forget(lease, ended.ids)
        self._rung.update(steps.rung)
        return ["applied"] * len(commits)

    def apply(self, commits: Sequence[Commit], batch: BatchId) -> list[Committed]:
        """What `at_once` does not."""
        client, number = batch
        if not self._sql(SQL["remember"], (client, number, self._now)).rowcount:
            last, refused = self._sql(SQL["answered"], (client,)).fetchone()
            return _answers(len(commits), refused) if number == last else ["lease_lost"] * len(commits)
        answers: list[Committed] = []
        runs = [(plain, list(some)) for plain, some in groupby(commits, key=_is_plain)]
        for plain, run in runs:
            answers += self._apply_run(run, refused=len(runs) == 1) if plain else map(self._apply_one, run)
        if answers.count("applied") < len(answers):
            self._sql(SQL["refused"], (_refused(answers), client))
        return answers

    # -- in columns ---------------------------------------------------------------------------------------------------------

    def _apply_run(self, run: Sequence[Commit], *, refused: bool) -> list[Committed]:
        """`refused`: they were tried together."""
        found = None if refused else self.at_once(run)
        if found is not None:
            return found
        odd = self._odd(run)
        answers: list[Committed] = []
        for is_odd, some in groupby(range(len(run)), key=odd.__contains__):
            part = [run[n] for n in some]
            answers += (None if is_odd else self.at_once(part)) or map(self._apply_one, part)
        return answers

    def _odd(self, run: Sequence[Commit]) -> set[int]:
        """Which of them do not pass the checks."""
        rids = [0 if commit.fence is None else self._leases.rid(commit.fence) for commit in run]
        by_lease: dict[str, list[int]] = {}
        for commit, rid in zip(run, rids, strict=True):
            if commit.fence is not None and rid > 0:
                by_lease.setdefault(commit.fence.lease, []).append(rid)
        held: set[int] = {0}
        for lease, some in by_lease.items():
            held.update(rid for (rid,) in self._sql(SQL["plainly_held"], (as_json(some), lease)).fetchall())
        ids = [job.id for commit in run for job in commit.send]
        taken: set[str] = {job_id for (job_id,) in self._sql(SQL["known_ids"], (as_json(ids),)).fetchall()}
        odd: set[int] = set()
        for n, (commit, rid) in enumerate(zip(run, rids, strict=True)):
            sent = [job.id for job in commit.send]
            if rid not in held or not taken.isdisjoint(sent) or len(set(sent)) < len(sent):
                odd.add(n)
            taken.update(sent)
        return odd

    # -- one by one ---------------------------------------------------------------------------------------------------------

    def _apply_one(self, c: Commit) -> Committed:
        row = None
        if c.fence is not None:
            row = self._rows.find(c.fence.job_id)
            if row is None or row.lid is None or self._sql(SQL["lease_of"], (row.lid,)).fetchone() != (c.fence.lease,):
                self._leases.forget(c.fence.lease, [c.fence.job_id])  # whoever has it: not this lease, ever again
                return "lease_lost"
        if self._conflicts(c):
            return "conflict"
        # Every check is done: from here on, all of it happens.
        if c.fence is not None and c.outcome is not None:
            self._leases.forget(c.fence.lease, [c.fence.job_id])  # no longer this process' business
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


def how_many(commits: Sequence[Commit]) -> int:
    """How many jobs they send or end."""
    return sum([len(commit.send) + (commit.fence is not None) for commit in commits])


def are_short(commits: Sequence[Commit]) -> bool:
    """What they write are few bytes."""
    size = 0
    for commit in commits:
        for job in commit.send:
            size += len(job.args)
            if job.headers:
                size += sum(map(len, chain(job.headers, job.headers.values())))
        if type(commit.outcome) is Succeeded:
            size += len(commit.outcome.value)
        elif commit.outcome is not None:
            size += len(encode_outcome(commit.outcome))
    return size <= SMALL_BYTES


def _is_plain(commit: Commit) -> bool:
    return Plain.of([commit]) is not None


def _refused(answers: list[Committed]) -> bytes:
    return _encode_refused({n: answer for n, answer in enumerate(answers) if answer != "applied"})


def _answers(n: int, refused: bytes | None) -> list[Committed]:
    found = _decode_refused(refused) if refused is not None else {}
    return [found.get(i, "applied") for i in range(n)]

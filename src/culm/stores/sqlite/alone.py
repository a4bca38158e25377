"""One new job, sent alone: the commit of a caller who enqueues and waits. One short statement, its batch included."""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import Connection, IntegrityError

from culm.commit import BatchId, Commit, Committed
from culm.job import Job, encode_job
from culm.stores.sqlite.lanes import Lanes
from culm.stores.sqlite.plain import due_of, is_plain_root

_SEND = "INSERT INTO sends VALUES (?, ?, ?, ?, ?, ?, ?)"


def sent_alone(commits: Sequence[Commit]) -> Job | None:
    """The plain job that they send, if they do nothing else."""
    if len(commits) != 1:
        return None
    commit = commits[0]
    if len(commit.send) != 1 or commit.fence or commit.outcome or commit.emit or commit.triggers or commit.records or commit.cancel:
        return None
    job = commit.send[0]
    return job if is_plain_root(job) else None


def send_alone(connection: Connection, lanes: Lanes, now: int, rung: set[str], job: Job, batch: BatchId) -> list[Committed] | None:
    """None: a check refused it, and nothing was done."""
    lane, due = lanes.lane(connection.execute, job.queue, job.priority), due_of(job.after_ms, job.at_ms, now)
    try:
        connection.execute(_SEND, (*batch, now, job.id, lane, due, encode_job(job)))
    except IntegrityError:
        return None
    if due is not None:
        rung.add(job.queue)
    return ["applied"]

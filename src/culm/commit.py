"""A Commit is everything that one decision writes. A store applies all of it or none of it.

Acknowledgement, outcome, next jobs, events and joins are one value, so there is no order in which a crash could tear them apart.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

from culm.job import DEFAULT_KEEP_MS, Job
from culm.outcome import Outcome, Succeeded

MAX_EFFECTS = 10_000  # of one commit: beyond it a store's transaction would hold up everybody else

GLOBAL_SCOPE = ""  # of events that belong to no tree of jobs

BatchId: TypeAlias = tuple[str, int]  # (client, a number that only grows): a resent batch is recognised
Committed: TypeAlias = Literal["applied", "lease_lost", "conflict"]


class Held(Struct, frozen=True, gc=False, array_like=True):
    """A claim to a job: right while that lease still holds it."""

    job_id: str
    lease: str


class Event(Struct, frozen=True, gc=False, array_like=True):
    """A recorded fact. The same key under the same topic of a scope is recorded once, whoever says it first."""

    scope: str  # the root's id, or GLOBAL_SCOPE
    topic: str
    key: str
    value: bytes = b"\xc0"


class Trigger(Struct, frozen=True, gc=False, array_like=True):
    """Release that job when `need` of these topics hold so many events each.

    The topic `done/<job id>` is reached when that job is not, or no longer, unfinished; nobody emits it.
    """

    job_id: str
    scope: str
    topics: tuple[tuple[str, int], ...]  # (topic, how many events reach it); topics are distinct
    need: int


class Record(Struct, frozen=True, gc=False, array_like=True):
    """One remembered step of a flow; (flow, seq) is unique."""

    flow: str
    seq: int
    value: bytes = b"\xc0"


class Commit(Struct, frozen=True, gc=False, kw_only=True):
    fence: Held | None = None  # refuse all of this unless that lease still holds the job
    outcome: Outcome | None = None  # ends the attempt; None: a checkpoint, the lease stays
    keep_ms: int = DEFAULT_KEEP_MS  # how long a final outcome is remembered
    send: tuple[Job, ...] = ()  # due now, after a delay, or never until released
    emit: tuple[Event, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    records: tuple[Record, ...] = ()  # a conflicting (flow, seq) refuses the whole commit
    cancel: tuple[str, ...] = ()


def weight_of_one(job: Job) -> int:
    """What a commit weighs that sends this job and does nothing else."""
    return 2 + (len(job.args) >> 12)


def weigh(commit: Commit) -> int:
    """How much a store writes for it: one for each thing, and one for every 4 KiB of its payload. Batches are bounded by this."""
    weight = 1
    if commit.send:
        weight += len(commit.send)
        for job in commit.send:
            weight += len(job.args) >> 12
    if commit.emit or commit.triggers or commit.records or commit.cancel:
        weight += len(commit.emit) + len(commit.triggers) + len(commit.records) + len(commit.cancel)
        weight += sum(len(event.value) >> 12 for event in commit.emit) + sum(len(record.value) >> 12 for record in commit.records)
    if type(commit.outcome) is Succeeded:
        weight += len(commit.outcome.value) >> 12
    return weight

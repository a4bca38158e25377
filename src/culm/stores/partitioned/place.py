"""Which partition a thing lies in: docs/partitions.md. What is written here holds for the life of the data."""

from __future__ import annotations

import zlib
from typing import TypeAlias

from culm.job import scope_of

Place: TypeAlias = int  # the number of a partition, from 0

OUTBOX = "~outbox"  # the queue, and the task, of outbox jobs; no user's name holds a `~`
MARKS = "~partition"  # the queue of the job by which a store remembers which partition it is
RESERVED = frozenset({OUTBOX, MARKS})
MARK = "culm partition"  # its id; no user's id holds a space
_OUTBOX_ID = "culm outbox "


def place_of(name: str, partitions: int) -> Place:
    """Of a scope, by its root's id; of a channel; of a worker."""
    return zlib.crc32(name.encode("utf-8", "surrogatepass")) % partitions


def place_of_job(job_id: str, partitions: int) -> Place:
    """With its root; an outbox job lies where it was written, and says so in its id."""
    if job_id.startswith(_OUTBOX_ID):
        return int(job_id.removeprefix(_OUTBOX_ID).partition(" ")[0]) % partitions
    return place_of(scope_of(job_id), partitions)


def is_own(job_id: str) -> bool:
    """What a partitioned store keeps for itself."""
    return job_id == MARK or job_id.startswith(_OUTBOX_ID)


def outbox_id(place: Place, name: str) -> str:
    """Of the outbox job of that name in that partition."""
    return f"{_OUTBOX_ID}{place} {name}"

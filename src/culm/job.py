"""A Job is one durable invocation of a task: written once when it is sent, never changed. What changes lies in a store's row.

The wire form is a MessagePack array whose first member is the version, pinned by golden files in `tests/wire/`. Fields
are only ever appended; a reader ignores those it does not know, and a job whose version is newer than `WIRE` is left to
newer workers.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import Struct

from culm.errors import StoreError

PLAIN = 1  # the version of rows and messages that this code writes
WRAPPED = 2  # of a job whose arguments are in an envelope (envelope.py)
WIRE = 2  # the newest that it reads
MAX_PAYLOAD_BYTES = 1 << 20  # arguments, results and events, each
DEFAULT_KEEP_MS = 3_600_000
DEFAULT_PRIORITY = 5


class RetrySpec(Struct, frozen=True, gc=False, array_like=True):
    """A retry policy as it travels with one job: which errors count is the worker's task's own affair."""

    times: int
    first_ms: int
    cap_ms: int


class Job(Struct, frozen=True, gc=False, kw_only=True, array_like=True):
    v: int = PLAIN
    id: str
    task: str
    args: bytes = b"\x90"  # MessagePack array, by the task's signature; this is "none"
    queue: str = "default"
    priority: int = DEFAULT_PRIORITY  # 0-9, the highest first
    after_ms: int | None = 0  # None: only a release makes it claimable
    at_ms: int | None = None  # not before this instant of the store's clock, in ms since the epoch
    expires_ms: int | None = None  # an attempt may start until so long after the send
    timeout_ms: int | None = None  # of each attempt
    deadline_ms: int | None = None  # of the whole job, from the send
    keep_ms: int = DEFAULT_KEEP_MS  # how long its end is remembered; 0: gone with the commit
    retry: RetrySpec | None = None  # None: the task's own
    topic: str = ""  # its end is recorded as an event under this topic of its scope; "": nowhere
    reads: tuple[str, ...] = ()  # topics of its scope whose events `current().events` shows
    reply_to: str = ""  # hints about it go to this channel; "": to nobody
    headers: dict[str, str] = {}

    @property
    def scope(self) -> str:
        """The id of the root of its tree."""
        return scope_of(self.id)


def scope_of(job_id: str) -> str:
    """`root~local` and `root` both belong to the scope `root`."""
    return job_id.partition("~")[0]


class Delivery(Struct, frozen=True, gc=False, array_like=True):
    """A job leased to a worker."""

    job: Job
    lease: str
    attempt: int = 1  # counts from 1; a lease that ran out does not consume one
    expiries: int = 0  # how often a lease on it ran out
    fence: int = 1  # grows with every claim of this job, never falls
    age_ms: int = 0  # since the send, by the store's clock
    broken: str = ""  # why the stored bytes are no job; "": they are one


encode_job: Callable[[Job], bytes] = msgspec.msgpack.Encoder().encode  # a row's bytes
_decode = msgspec.msgpack.Decoder(Job).decode
_parts = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_whole = msgspec.msgpack.Decoder(int).decode


def decode_job(data: bytes, *, job_id: str) -> Job:
    """The job in a row's bytes. Raises StoreError with the reason when they are not the job that the row is about."""
    try:
        job = _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        raise StoreError(f"the stored bytes of job {job_id!r} are not a job: {e}") from e
    if job.id != job_id:
        raise StoreError(f"the stored bytes of job {job_id!r} are those of another job")
    return job


def as_delivered(data: bytes, *, job_id: str, queue: str) -> tuple[Job, str]:
    """The job to hand to a worker, and why it is none: hostile bytes must reach a worker, which makes a dead letter of them."""
    try:
        return decode_job(data, job_id=job_id), ""
    except StoreError as e:
        job = Job(v=_version(data), id=job_id, task="", queue=queue)
        return job, "" if job.v > WIRE else str(e)  # newer bytes are not broken, only not for this worker


def maybe_job(data: bytes, *, job_id: str) -> Job | None:
    """The job in a row's bytes; None if there is none."""
    try:
        return decode_job(data, job_id=job_id)
    except StoreError:
        return None


def _version(data: bytes) -> int:
    try:
        return _whole(_parts(data)[0])
    except (msgspec.MsgspecError, IndexError, RecursionError):
        return PLAIN

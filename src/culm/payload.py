"""How arguments, results and events travel beyond plain MessagePack: sealed by keys, and stored apart when they are large.

Sealed first, stored apart last: what comes out of a store is believed only by its seal. A job names what it stored apart by
digest, and it lies under the job's id:

- It is written before the commit that names it. If that commit never happens, nobody has the job: what lies there for a job that
  nobody has, a day later, is an orphan, and swept.
- It goes with the job. Arguments go as soon as the job has ended well; whatever else is left goes when the store, asked now and
  then, has no such job any more (its `keep` is over, it was discarded, or it was purged).
- What is not there, or not what was stored, is a failure of that job, and says so. Dead letters keep theirs, for a replay.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from culm.commit import Event
from culm.envelope import MARK, Stored, is_wrapped, unwrap, wrap
from culm.errors import ConfigError, NotAuthentic, PayloadMissing, StoreError
from culm.job import MAX_PAYLOAD_BYTES, WRAPPED, Job
from culm.keys import Belongs, Keys, shown
from culm.outcome import DEAD, FINAL, Outcome, Succeeded, decode_outcome, encode_outcome
from culm.store import BlobKey, Blobs, FullStore
from culm.stores.open import open_blobs

log = logging.getLogger("culm")

ORPHAN_MS = 86_400_000  # a commit that has not happened by then never will
LOOK_MS = 3_600_000  # between two questions whether a job is still there
SLACK_MS = 60_000  # beyond a result's `keep`, so that the first question finds the job gone
MOST_BYTES = 512 << 20  # Redis takes no more in one string
SWEPT_AT_ONCE = 500
SALT_BYTES = 16  # before what is stored, so that every name is new
SETTLE_S = 5.0


class Offload(Struct, frozen=True, kw_only=True):
    """Store arguments and results apart that are larger than `beyond`; nobody notices.

    Args:
        beyond: bytes that still travel with the job.
        largest: bytes that arguments or a result may have at most.
        folder: a directory that all workers and senders share; None: the store itself.
    """

    beyond: int = 64 << 10
    largest: int = 64 << 20
    folder: str | Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.beyond <= MAX_PAYLOAD_BYTES or not self.beyond <= self.largest <= MOST_BYTES:
            raise ConfigError(
                f"offload: beyond must be from 0 to {MAX_PAYLOAD_BYTES:,} bytes and largest from there to {MOST_BYTES:,}, "
                f"got {self.beyond!r} and {self.largest!r}"
            )


class Payloads:
    """What one app does with them.

    Attributes:
        plain: nothing; then nobody needs to ask.
    """

    def __init__(self, store: Callable[[], FullStore], keys: Keys | None, offload: Offload | None) -> None:
        self._store = store
        self._keys = keys
        self._offload = offload
        self._blobs: dict[str, tuple[FullStore, Blobs]] = {}
        self._dropping: set[asyncio.Task[None]] = set()
        self.plain = keys is None and offload is None
        self.max_bytes = MAX_PAYLOAD_BYTES if offload is None else offload.largest

    def ready(self) -> None:
        """Raises ConfigError when payloads cannot be stored apart as was said: better now than with the first large one."""
        if self._offload is not None:
            self._where(self._place)

    @property
    def _place(self) -> str:
        return "" if self._offload is None or self._offload.folder is None else "folder"

    # -- what is sent -------------------------------------------------------------------------------------------------------

    def sealed_job(self, job: Job) -> Job:
        return job if self._keys is None else replace(job, v=WRAPPED, args=self._keys.seal(job.args, _arguments_of(job)))

    def sealed_event(self, scope: str, topic: str, key: str, value: bytes) -> bytes:
        return value if self._keys is None else self._keys.seal(value, ("event", scope, topic, key))

    async def stored_jobs(self, jobs: Sequence[Job]) -> list[Job]:
        """The same jobs, with large arguments stored apart. Raises StoreUnavailable and StoreError; what is stored then is swept."""
        limit = None if self._offload is None else self._offload.beyond
        large = [job for job in jobs if limit is not None and len(job.args) > limit]
        stored = iter(await asyncio.gather(*(self._stored_job(job) for job in large)))  # together: a store may write them at once
        return [next(stored) if limit is not None and len(job.args) > limit else job for job in jobs]

    async def _stored_job(self, job: Job) -> Job:
        return replace(job, v=WRAPPED, args=await self._put(job.id, job.args, look_ms=ORPHAN_MS))

    async def ended(self, job: Job, outcome: Outcome) -> Outcome:
        """The outcome as it travels. Raises ValueError (too large), StoreUnavailable, StoreError."""
        if type(outcome) is not Succeeded or is_wrapped(outcome.value):
            return outcome
        value = outcome.value if self._keys is None else self._keys.seal(outcome.value, ("result", job.id))
        if job.topic:  # its end is an event, too, which may outlive the job
            if len(outcome.value) > MAX_PAYLOAD_BYTES:
                raise ValueError(
                    f"the result of a job with a topic stays in its event, and takes {len(outcome.value):,} bytes; "
                    f"{MAX_PAYLOAD_BYTES:,} are allowed: return a reference instead"
                )
        elif self._offload is not None and len(value) > self._offload.beyond:
            value = await self._put(job.id, value, look_ms=job.keep_ms + SLACK_MS)
        return Succeeded(value)

    async def _put(self, job_id: str, data: bytes, *, look_ms: int) -> bytes:
        # Whoever sends a job anew, under the id of one that is just ending, must not name what goes with that one.
        data = os.urandom(SALT_BYTES) + data
        digest = hashlib.sha256(data)
        await self._where(self._place).put(BlobKey(job_id, digest.hexdigest()), data, look_ms=look_ms)
        return wrap(Stored(digest.digest(), len(data) - SALT_BYTES, self._place))

    # -- what arrives -------------------------------------------------------------------------------------------------------

    def is_plain(self, data: bytes) -> bool:
        """These bytes need no `open_result`."""
        return self._keys is None and data[:1] != MARK

    async def open_arguments(self, job: Job) -> bytes:
        """Raises NotAuthentic, PayloadMissing, StoreUnavailable, StoreError; nothing was decoded then."""
        return await self._open(job.id, job.args, _arguments_of(job))

    async def open_result(self, job_id: str, data: bytes) -> bytes:
        """Raises as `open_arguments`."""
        try:
            return await self._open(job_id, data, ("result", job_id))
        except NotAuthentic as e:
            raise NotAuthentic(f"the result of job {job_id} is refused: {e}") from None

    async def open_event(self, event: Event) -> bytes:
        """An emitted value, or the encoded end of a job, as its reader expects it. Raises as `open_arguments`."""
        if self._keys is None and not is_wrapped(event.value):
            return event.value
        if is_wrapped(event.value):
            return await self._open("", event.value, ("event", event.scope, event.topic, event.key))
        try:
            outcome = decode_outcome(event.value)
        except ValueError:
            raise NotAuthentic("it is not signed, and this app has keys") from None
        if type(outcome) is Succeeded:
            return encode_outcome(Succeeded(await self.open_result(event.key, outcome.value)))
        if not isinstance(outcome, FINAL):
            raise NotAuthentic("it is not signed, and this app has keys")
        return event.value

    async def _open(self, job_id: str, data: bytes, belongs: Belongs) -> bytes:
        if is_wrapped(data) and isinstance(envelope := unwrap(data), Stored):
            data = await self._get(job_id, envelope)
        if self._keys is not None:
            return self._keys.open(data, belongs)
        if is_wrapped(data):
            raise NotAuthentic(f"it is sealed with key {shown(unwrap(data))}, and this app has no keys")
        return data

    async def _get(self, job_id: str, stored: Stored) -> bytes:
        key = BlobKey(job_id, stored.digest.hex())
        data = await self._where(stored.place).get(key)
        what = f"{stored.size:,} bytes that were stored apart from job {job_id}"
        if data is None:
            raise PayloadMissing(f"{what} are not there (digest {key.digest}); were they removed by hand, or is this another folder?")
        if hashlib.sha256(data).digest() != stored.digest:
            raise PayloadMissing(f"{what} are damaged: they have another digest than {key.digest}")
        return data[SALT_BYTES:]

    def _where(self, place: str) -> Blobs:
        store = self._store()
        known = self._blobs.get(place)
        if known is None or known[0] is not store:
            known = self._blobs[place] = (store, self._opened(store, place))
        return known[1]

    def _opened(self, store: FullStore, place: str) -> Blobs:
        if place == "":
            return open_blobs(store, None)
        folder = None if self._offload is None else self._offload.folder
        if place != "folder" or folder is None:
            raise PayloadMissing(
                "it is stored apart in a folder, which this app does not know; give it the same App(offload=Offload(folder=...))"
            )
        return open_blobs(store, Path(folder))

    # -- what goes ----------------------------------------------------------------------------------------------------------

    def leaving(self, job: Job, outcome: Outcome) -> Callable[[object], None] | None:
        """What to do once the store has taken the end of a job whose arguments are stored apart; None: nothing."""
        if type(outcome) in DEAD or not isinstance(outcome, FINAL) or not is_wrapped(job.args):
            return None
        try:
            stored = unwrap(job.args)
        except NotAuthentic:
            return None
        return (lambda answer: self._left(job.id, stored, answer)) if isinstance(stored, Stored) else None

    def _left(self, job_id: str, stored: Stored, answer: object) -> None:
        if answer == "applied":
            task = asyncio.get_running_loop().create_task(self._drop(BlobKey(job_id, stored.digest.hex()), stored.place))
            self._dropping.add(task)
            task.add_done_callback(self._dropping.discard)

    async def _drop(self, key: BlobKey, place: str) -> None:
        try:
            await self._where(place).drop([key])
        except (StoreError, PayloadMissing) as e:
            log.warning("payload.stays: of job %s: %s; it is swept later", key.job_id, e)

    async def settle(self) -> None:
        """Await what is being dropped, but not for long: what stays is swept."""
        if self._dropping:
            await asyncio.wait(list(self._dropping), timeout=SETTLE_S)

    async def sweep(self) -> int:
        """Drop some of what no job needs any more. Returns how many were looked at; repeat while it is many."""
        if self._offload is None:
            return 0
        blobs, store = self._where(self._place), self._store()
        keys = await blobs.overdue(limit=SWEPT_AT_ONCE, again_ms=LOOK_MS)
        gone = {job_id for job_id in {key.job_id for key in keys} if await store.job(job_id) is None}
        await blobs.drop([key for key in keys if key.job_id in gone])
        return len(keys)


def _arguments_of(job: Job) -> Belongs:
    return ("arguments", job.id, job.task, job.queue, job.expires_ms, job.deadline_ms)

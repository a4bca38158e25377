"""The seam of the kernel: a Store is where the truth lives. Four methods carry every job; the rest is beside them.

Claims are leases. Rule 1: only `claim` grants a lease. Rule 2: only `commit` ends an attempt or a job, and only under the
lease that holds it. Rule 3: what `commit` writes, it writes wholly or not at all. Rule 4: whoever lost a reply asks again
with the same batch number, or the same lease, and gets the same answer. `transitions.py` is the table of a job's life;
`stores/tables.py` is the plainest code that obeys it.

A store may be used from any event loop. It raises only StoreUnavailable (it may have happened: repeat it) and StoreError
(it cannot work).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from msgspec import Struct

from culm.commit import BatchId, Commit, Committed, Event, Held, Record
from culm.job import Delivery, Job
from culm.outcome import Final, Outcome

LeaseState: TypeAlias = Literal["held", "lost", "cancelled"]
ClaimOrder: TypeAlias = Literal["priority", "age"]
State: TypeAlias = Literal["open", "leased", "succeeded", "failed", "cancelled", "expired", "lost"]
Shown: TypeAlias = State | Literal["dead"]  # what lists may be asked for; dead: failed or lost, a dead letter
HintKind: TypeAlias = Literal["accepted", "heartbeat", "progress", "outcome", "cancel"]
CANCELS = "~cancels"  # the channel on which workers hear which jobs are to stop; no job has such an id


class Claimed(Struct, frozen=True, gc=False):
    deliveries: Sequence[Delivery] = ()
    next_ms: int | None = None  # until the next job of these queues comes due; 0: more are due now; None: none is known


class Store(Protocol):
    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        """Apply each commit, in order, wholly or not at all; one that is refused does not harm the others.

        A batch with the number of the client's last one is not applied again: it gets the answers of the first time.
        """
        ...

    async def claim(self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int, order: ClaimOrder = "priority") -> Claimed:
        """Lease up to `limit` due jobs for `for_ms`.

        `lease` is `claimer/number`, new for each claim; a claim repeated with the lease under which the claimer was last
        granted something grants nothing, and returns what that still holds. Each delivery says under which lease it is held: that
        one, or `claimer/more/number` where a store had to ask several times. Jobs whose lease ran out come first; then, by
        "priority": the highest first, of equals the oldest due; by "age": the oldest due first. Paused queues give nothing.
        """
        ...

    async def extend(self, held: Sequence[Held], *, for_ms: int) -> list[LeaseState]:
        """Let each lease end `for_ms` from now.

        "lost": another worker has it, or the attempt ended: stop at once. "cancelled": still held, but asked to stop.
        """
        ...

    async def wait(self, queues: Sequence[str], *, for_ms: int) -> None:
        """Return when there may be something to claim, at the latest after `for_ms`. Only a hint: it may return early, and for nothing."""
        ...


class Hint(Struct, frozen=True, gc=False, array_like=True):
    """News for a caller. Never the truth: it may be late, doubled or missing."""

    channel: str
    kind: HintKind
    job_id: str
    body: bytes = b"\xc0"


class Subscription(Protocol):
    async def next(self, *, for_ms: int) -> Sequence[Hint]:
        """The hints that came since the last call, in order; waits up to `for_ms` for the first; () if none came."""
        ...

    async def close(self) -> None: ...


class Hints(Protocol):
    async def publish(self, hints: Sequence[Hint]) -> None:
        """Send each to whoever is subscribed to its channel now. Best effort."""
        ...

    async def subscribe(self, channel: str) -> Subscription:
        """Hear that channel's hints from now on."""
        ...


class JobView(Struct, frozen=True, gc=False, kw_only=True):
    """A job as a reader sees it."""

    id: str
    task: str
    queue: str
    priority: int
    state: State
    attempt: int
    expiries: int
    due_in_ms: int | None  # until it can be claimed, or until its lease ends; None: only a release, or finished
    age_ms: int  # since the send
    last: Outcome | None  # of the last attempt that ended; a finished job's outcome
    lease: str = ""
    topic: str = ""
    claims: int = 0  # how often it was ever claimed, by attempts that were replayed, given back or died, too
    replays: int = 0  # how often it was a dead letter and was replayed
    dead_ms: int | None = None  # how long it has been a dead letter; None: it is none


class Awaited(Struct, frozen=True, gc=False, kw_only=True):
    """A trigger that has not fired yet: it releases the job when `need` of its topics are reached."""

    scope: str
    need: int
    reached: int
    topics: tuple[tuple[str, int, int], ...]  # those that are not reached, by name: topic, how many events reach it, how many there are


class Waits(Struct, frozen=True, gc=False, kw_only=True):
    """What an open job waits for."""

    ahead: int | None = None  # how many jobs of its queue are claimed before it by priority; None: it is not open, or waits for a release
    awaits: tuple[Awaited, ...] = ()  # of its own scope and of the global one, in the order of (scope, need, reached, topics)


class Ended(Struct, frozen=True, gc=False):
    outcome: Final


class Pending(Struct, frozen=True, gc=False):
    """Not finished yet."""


class Absent(Struct, frozen=True, gc=False):
    """Never sent, or finished longer than `keep` ago."""


class QueueCounts(Struct, frozen=True, gc=False, kw_only=True):
    queue: str
    paused: bool
    ready: int  # due now
    delayed: int  # due later
    waiting: int  # for a release
    leased: int
    oldest_ms: int | None  # how long the oldest ready job has been due


class Reader(Protocol):
    async def job(self, job_id: str) -> JobView | None: ...

    async def sent(self, job_id: str) -> Job | None:
        """The job as it was sent, arguments and all. None: it is not known, or what is stored under its id is no job."""
        ...

    async def deliveries(self, held: Sequence[Held]) -> list[Delivery]:
        """Those that the leases still hold, as they were claimed: for a process that goes on in the place of one that died."""
        ...

    async def outcome(self, job_id: str, *, for_ms: int = 0) -> Ended | Pending | Absent:
        """How the job ended; waits up to `for_ms` for it to end."""
        ...

    async def waits(self, job_id: str) -> Waits:
        """What stands between the job and its next start. Ahead of a job that is due later is what will be due by then."""
        ...

    async def jobs(
        self,
        *,
        state: Shown | None = None,
        queue: str | None = None,
        task: str | None = None,
        scope: str | None = None,
        after: str = "",
        limit: int = 100,
    ) -> list[JobView]:
        """Jobs by ascending id, those after the id `after`; `scope`: the root of that id and what lies in its scope."""
        ...

    async def events(self, scope: str, topic: str, *, after: str = "", limit: int = 1000) -> list[Event]:
        """The events of one topic by ascending key, those after the key `after`. For `done/<id>`, ask `outcome` instead."""
        ...

    async def records(self, flow: str, *, after: int = -1, limit: int = 1000) -> list[Record]:
        """A flow's records by ascending number, those after `after`."""
        ...

    async def counts(self) -> list[QueueCounts]:
        """One entry for each queue that has unfinished jobs or is paused, by name."""
        ...


class Load(Struct, frozen=True, gc=False, array_like=True):
    """What a worker says of one of its queues: what runs now, and what happened within the last `over_ms`."""

    queue: str
    running: int = 0  # attempts
    over_ms: int = 0
    ended: int = 0  # attempts that ended
    ran_ms: int = 0  # how long attempts ran, all together: divided by `ended` it is their mean
    waited: int = 0  # a sample of first attempts, sent without a delay
    waited_ms: int = 0  # how long these waited from their send to the claim, all together


class WorkerInfo(Struct, frozen=True, gc=False, array_like=True):
    """What a worker says of itself with every heartbeat."""

    id: str
    host: str
    pid: int
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    concurrency: int
    running: int = 0
    done: int = 0
    started_ms: int = 0  # by the worker's wall clock
    beat_ms: int = 0  # between two heartbeats: what it says is no older, while it lives
    loads: tuple[Load, ...] = ()
    longest: tuple[tuple[str, int], ...] = ()  # some of the jobs that it runs, those that have run longest, and for how many ms


class Condition(Struct, frozen=True, kw_only=True):
    """What a store says of itself."""

    place: str  # where the truth lives: an address or a file, without a password
    engine: str  # what keeps it, and its version
    durability: str  # its class and what that survives: "D2: survives a power cut"
    layout: int  # the version of its tables or keys; 0: it has none
    now_ms: int  # by its own clock, since the epoch
    more: dict[str, str] = {}  # what only this kind of store has, such as a namespace


class Admin(Protocol):
    async def condition(self) -> Condition:
        """What this store is, and what it survives. Raises ConfigError: it cannot be the truth's place. StoreUnavailable."""
        ...

    async def replay(self, job_ids: Sequence[str]) -> int:
        """Make dead letters claimable again, now, with their attempts from zero. Returns how many were. Others are left alone."""
        ...

    async def discard(self, job_ids: Sequence[str]) -> int:
        """Forget dead letters. Returns how many were."""
        ...

    async def purge(self, queue: str) -> int:
        """Cancel every open job of the queue (joins hear of it; leased ones go on). Returns how many were."""
        ...

    async def pause(self, queue: str) -> None:
        """Let nobody claim from the queue until `resume`; what runs goes on."""
        ...

    async def resume(self, queue: str) -> None: ...

    async def register(self, worker: WorkerInfo, *, for_ms: int) -> None:
        """Show the worker among `workers` for so long."""
        ...

    async def workers(self) -> list[WorkerInfo]: ...

    async def sweep(self, *, limit: int = 1000) -> int:
        """Remove up to `limit` things whose `keep` is over. Returns how many; repeat while it is `limit`."""
        ...

    async def close(self) -> None:
        """Finish what was asked and let everything go. Safe to repeat."""
        ...


class BlobKey(Struct, frozen=True, gc=False, array_like=True):
    """Names bytes that are kept for a job, by their digest."""

    job_id: str
    digest: str  # SHA-256, hexadecimal


class Blobs(Protocol):
    """Bytes that are too large for a job's row. Whoever keeps them knows nothing of jobs: `payload.py` decides when they go.

    As a store, these raise StoreUnavailable and StoreError only.
    """

    async def put(self, key: BlobKey, data: bytes, *, look_ms: int) -> None:
        """Keep them, as durably as the store keeps a job, and ask so long from now whether anybody still needs them. Safe to repeat."""
        ...

    async def get(self, key: BlobKey) -> bytes | None: ...

    async def drop(self, keys: Sequence[BlobKey]) -> None: ...

    async def overdue(self, *, limit: int, again_ms: int) -> list[BlobKey]:
        """Those to ask about now, the oldest first. Each of them is not returned again for so long."""
        ...


@runtime_checkable
class KeepsBlobs(Protocol):
    """A store that has a place for them."""

    @property
    def blobs(self) -> Blobs: ...


@runtime_checkable
class Laned(Protocol):
    """A store of which a part may be away while the others answer."""

    def lane(self, commit: Commit) -> int:
        """Commits of different lanes need not wait for each other's answers; those of one lane keep their order."""
        ...

    async def owed(self, claimer: str) -> list[Delivery]:
        """What that claimer, which claims no more, was granted in answers that are missing. What cannot be had soon is left out."""
        ...


AtOnce: TypeAlias = Callable[[list[Committed] | None], None]  # told the answers


@runtime_checkable
class Prompt(Protocol):
    """A store that can be asked for a commit without a task.

    It may answer before it returns; one that is `InOrder`, too, only what is alone.
    """

    def commit_at_once(self, commits: Sequence[Commit], *, batch: BatchId, alone: bool, fresh: bool, then: AtOnce) -> bool:
        """As `commit`, but `then` is called with the answers, once; None: whether it was done the same batch will tell.

        Args:
            alone: who sends has sent one commit after another for a while, and awaits this one.
            fresh: they send jobs under ids that were made just now, which no job can have yet, and do nothing else.

        False: that cannot be now; `then` is not called.
        """
        ...


@runtime_checkable
class TellsEnds(Protocol):
    """A store that can be asked how a job ended without a coroutine."""

    def told(self, job_id: str) -> asyncio.Future[Ended | Pending | Absent] | None:
        """How the job ended, as soon as it has; Pending after a second. None: ask `outcome`, which may take a while to begin.

        Whoever awaits it may be cancelled, and it with him. Raises, there, what `outcome` raises.
        """
        ...


@runtime_checkable
class InOrder(Protocol):
    """A store that applies new jobs under new ids in the order in which one event loop sent them, the former answered or not.

    What is not new may take it a second look, and be overtaken. Not for a store that writes one batch after another to a disk,
    as SQLite does: they had better be few.
    """

    in_order: Literal[True]


@runtime_checkable
class TellsGrants(Protocol):
    """A store that makes several claims of one: asking it once more under that lease elsewhere does not find all."""

    async def granted(self, queues: Sequence[str], *, lease: str) -> list[Delivery]:
        """What a claim from these queues under that lease still holds, of a claimer that has gone. Parts that are away are left out.

        Raises StoreUnavailable: none of them answered.
        """
        ...


class LanedStore(Store, Laned, Protocol):
    """A store whose commits are gathered for each lane apart."""


@runtime_checkable
class Patient(Protocol):
    """A store that keeps a claim until there is something to grant: one trip less than to wait, and then to claim."""

    async def claim_within(
        self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int, order: ClaimOrder = "priority", wait_ms: int
    ) -> Claimed:
        """As `claim`, asked when there may be something to grant, at the latest after `wait_ms`. Whoever lost the reply repeats `claim`."""
        ...

    async def hurry(self, lease: str) -> None:
        """Let the claim that waits under this lease be answered now."""
        ...


class PatientStore(Store, Patient, Protocol):
    """A store whose claims may wait there."""


class Transaction(Protocol):
    """A transaction of the store's own database, open."""

    connection: Any  # of its driver: what a task writes with it is committed with the job's end

    async def commit(self, commit: Commit) -> Committed:
        """Apply it and commit all, or undo all. Raises StoreUnavailable (it may have happened) and StoreError (it did not)."""
        ...

    async def roll_back(self) -> None: ...


@runtime_checkable
class Transactional(Protocol):
    """A store in a database that users have tables in, too."""

    async def begin(self) -> Transaction: ...

    async def commit_within(self, commit: Commit, within: Any) -> Committed:
        """Apply it with a connection of the caller's, in the transaction that is open there. Raises TypeError, ValueError."""
        ...


class FullStore(Store, Hints, Reader, Admin, Protocol):
    """What `open_store` returns."""

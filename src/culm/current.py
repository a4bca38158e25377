"""The attempt that runs: what `current()` shows to its task, and what it has sent and emitted so far.

What a task sends, leaves with its commit: `enqueue`, `emit` and `when` inside a task only add to the attempt's effects.
They become part of the one Commit that ends the attempt, or of none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Struct

from culm.commit import MAX_EFFECTS, Committed, Event, Trigger
from culm.errors import ConfigError, CulmError, NotInTask, TooManyEffects
from culm.job import MAX_PAYLOAD_BYTES, Delivery, Job
from culm.kinds import Kinds
from culm.options import MAX_NAME_CHARS, check_name, printable
from culm.outcome import FINAL, Final, decode_outcome
from culm.store import Transaction, Transactional

T = TypeVar("T")
Stopping: TypeAlias = Literal["", "timeout", "cancel", "shutdown", "lost"]


class Effects:
    """What one attempt has sent, emitted and awaited, in order."""

    __slots__ = ("emit", "send", "triggers")

    def __init__(self) -> None:
        self.send: list[Job] = []
        self.emit: list[Event] = []
        self.triggers: list[Trigger] = []

    def check_room(self, more: int) -> None:
        if len(self.send) + len(self.emit) + len(self.triggers) + more > MAX_EFFECTS:
            raise TooManyEffects(f"an attempt may send and emit {MAX_EFFECTS:,} things at most; let it enqueue tasks that enqueue the rest")


class ReadEvent:
    """An event as a join sees it: `key`, and its value by `read`."""

    __slots__ = ("_kinds", "key", "raw")

    def __init__(self, key: str, raw: bytes, kinds: Kinds) -> None:
        self.key = key
        self.raw = raw
        self._kinds = kinds

    def read(self, kind: type[T]) -> T:
        """The emitted value. Raises msgspec.ValidationError when it is no `kind`."""
        value: T = self._kinds.decoder(kind).decode(self.raw)
        return value

    def outcome(self) -> Final:
        """How the job ended whose end this event records (`using(topic=...)`); `key` is its id.

        Raises CulmError if it records something else.
        """
        try:
            outcome = decode_outcome(self.raw)
        except msgspec.MsgspecError as e:
            raise CulmError(f"event {self.key!r} records no job's end; read its value with .read(type)") from e
        if not isinstance(outcome, FINAL):
            raise CulmError(f"event {self.key!r} records no job's end; read its value with .read(type)")
        return outcome


class Attempt(Struct, eq=False):
    """One run of one delivery. Tasks meet it as `current()`.

    Attributes:
        attempt: counts from 1; a crash of a worker does not consume one.
        events: for a join, the events it waited for, by topic.
        cancelled: somebody asked the job to stop. A coroutine is cancelled besides; a `def` task looks here, or calls `check`.
    """

    delivery: Delivery
    job: Job
    app: Any  # App, which imports this
    effects: Effects | None = None  # made at the first effect: most jobs have none
    events: Mapping[str, Sequence[ReadEvent]] = {}
    cancelled: bool = False
    stopping: Stopping = ""  # why the worker cancelled it; "": it did not
    over: bool = False  # its commit has left: nothing can join it any more
    began: float = 0.0  # when its task was called, by the runner's clock; 0: it was not
    ends_at: float = 0.0  # on the loop's clock, set by the first scan that meets it
    before_hook: tuple[int, int, int] | None = None  # so much of its effects is not of a hook, which leave with whatever end it is for
    waits: bool = False  # for a thread: its task was not called yet
    slot: int = -1  # where a supervisor's board shows it
    news: tuple[float, str] | None = None  # progress that was not published yet
    transaction_open: Transaction | None = None  # what the task wrote in it waits for the job's end
    committed: Committed | None = None  # what the store answered to the job's end in that transaction; None: it is still to be posted

    @property
    def id(self) -> str:
        return self.job.id

    @property
    def attempt(self) -> int:
        return self.delivery.attempt

    @property
    def headers(self) -> Mapping[str, str]:
        return self.job.headers

    @property
    def idempotency_key(self) -> str:
        """The same on every attempt of this job: hand it to a service that should act once."""
        return self.job.id

    @property
    def fence(self) -> int:
        """Grows with every claim of this job: a service that refuses smaller numbers refuses stale workers."""
        return self.delivery.fence

    def progress(self, fraction: float, note: str = "") -> None:
        """Say how far the job is, from 0 to 1. The newest one is published a few times a second. Raises ValueError."""
        if not 0 <= fraction <= 1:
            raise ValueError(f"progress must be from 0 to 1, got {fraction!r}")
        self.news = (float(fraction), printable(str(note)[:500]))

    def check(self) -> None:
        """Raise CancelledError if the job was asked to stop: for `def` tasks, in their loops."""
        if self.cancelled:
            raise asyncio.CancelledError("the job was cancelled")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """A connection of the store's database, in a transaction that the job's success commits: the rows that are written with it and
        the job's end are there together, once, or neither is.

        Leaving the block does not commit: a task that fails later, or whose worker dies, leaves no rows. An error that leaves the block
        undoes what was written in it. Several blocks of one attempt share the transaction; while it is open it holds its locks, so let it
        be the last thing that a task does. Use the connection inside the block only.

        Raises ConfigError: the store is in no database of this kind. StoreUnavailable.

        Example:
            >>> async with current().transaction() as tx:
            ...     await tx.execute("UPDATE accounts SET cents = cents - $1 WHERE id = $2", cents, account)
        """
        if self.over:
            raise CulmError(f"job {self.job.id} has ended: what is written now cannot be committed with it")
        store = self.app.store
        if not isinstance(store, Transactional):
            raise ConfigError(f"transaction() needs a store that is in a database, postgresql://; this one is {store}")
        if self.transaction_open is None:
            self.transaction_open = await store.begin()
        connection = self.transaction_open.connection
        async with connection.transaction():
            yield connection

    def join(self, *, more: int = 1) -> Effects:
        """The effects of this attempt, to add to. Raises CulmError once its commit has left or in a fork, TooManyEffects beyond 10,000."""
        if self.over:
            raise CulmError(
                f"job {self.job.id} has ended, or runs in the process that forked this one; what is sent here needs using(now=True)"
            )
        if self.effects is None:
            self.effects = Effects()
        self.effects.check_room(more)
        return self.effects


_current: ContextVar[Attempt | None] = ContextVar("culm_current", default=None)
enter = _current.set
running = _current.get


def current() -> Attempt:
    """The attempt that runs here. Raises NotInTask outside a task.

    Example:
        >>> @app.task
        ... async def charge(order: int) -> None:
        ...     await bank.charge(order, key=current().idempotency_key)
    """
    attempt = _current.get()
    if attempt is None:
        raise NotInTask("current() works inside a running task only")
    return attempt


def emit(topic: str, value: Any = None, *, key: str | None = None) -> None:
    """Record an event in the scope of the running task, with its commit.

    Args:
        topic: what happened; `when` waits for it.
        value: anything that can be an argument.
        key: the same key under the same topic is recorded once; by default each call has its own, the same on every attempt.

    Raises:
        NotInTask: outside a task.
        TypeError: the value cannot be encoded. ValueError: a bad topic or key, or more than 1 MiB.
    """
    attempt = _current.get()
    if attempt is None:
        raise NotInTask("emit() works inside a running task only")
    if check_name(topic, "topic").startswith("done/"):
        raise ValueError(f"topic must not start with 'done/', got {topic!r}: those topics are culm's own")
    if key is not None and not (isinstance(key, str) and 0 < len(key) <= MAX_NAME_CHARS and printable(key) == key):
        raise ValueError(f"the key of event {topic!r} must be a str of 1 to {MAX_NAME_CHARS} characters, got {key!r}")
    try:
        data = attempt.app.kinds.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as e:
        raise TypeError(f"the value of event {topic!r} cannot be encoded: {e}") from e
    if len(data) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"the value of event {topic!r} takes {len(data):,} bytes; {MAX_PAYLOAD_BYTES:,} are allowed")
    effects = attempt.join()
    scope, key = attempt.job.scope, key or f"{attempt.job.id}#{len(effects.emit)}"
    payloads = attempt.app.payloads
    effects.emit.append(Event(scope, topic, key, data if payloads.plain else payloads.sealed_event(scope, topic, key, data)))

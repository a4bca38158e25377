"""A Handle is the caller's view of one job. It holds no result: it asks the store, which wakes it when the job ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import cache
from math import inf
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import msgspec
from msgspec import Struct

from culm.commit import Commit
from culm.current import Attempt
from culm.duration import Seconds, maybe_ms
from culm.errors import (
    CulmError,
    ResultExpired,
    ResultPending,
    StoreUnavailable,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    TaskLost,
    TimedOut,
)
from culm.outcome import Cancelled, Expired, Failed, Final, Lost, Succeeded
from culm.store import Absent, Ended, FullStore, JobView, Pending, State, TellsEnds

if TYPE_CHECKING:
    from culm.app import App
    from culm.sync import SyncHandle
    from culm.task import AnyTask

R = TypeVar("R")
Answer: TypeAlias = Ended | Pending | Absent


class Progress(Struct, frozen=True, array_like=True, gc=False):
    """How far a job is: from 0 to 1, and a note."""

    fraction: float
    note: str = ""


_decode_progress = msgspec.msgpack.Decoder(Progress).decode

LOOK_MS = 1_000  # behind every hint is a look at the truth, so often
PATIENCE_S = 10.0  # with a store that did not answer yet
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0


class Handle(Generic[R]):
    """One job, seen from outside.

    Attributes:
        id: the job's id; `app.job(id, task)` finds the job again, in any process.
    """

    __slots__ = ("_leaves_with", "_task", "app", "id")

    def __init__(self, app: App, job_id: str, task: AnyTask | None, leaves_with: Attempt | None = None) -> None:
        self.id = job_id
        self.app = app
        self._task = task
        self._leaves_with = leaves_with  # the attempt whose commit carries it; None: it was sent

    def __repr__(self) -> str:
        return f"<Handle {self.id}{' (pending)' if self.pending else ''}>"

    @property
    def pending(self) -> bool:
        """The job leaves with the commit of the task that is running."""
        return self._leaves_with is not None and not self._leaves_with.over

    @property
    def sync(self) -> SyncHandle[R]:
        """The same for code without async."""
        from culm.sync import SyncHandle

        return SyncHandle(self)

    async def result(self, timeout: Seconds | None = None) -> R:
        """Await the job's end and return its result.

        Args:
            timeout: seconds to wait at most; None: as long as it takes.

        Raises:
            TaskFailed, TaskCancelled, TaskExpired, TaskLost: it ended otherwise.
            TimedOut: the wait ended first; the job goes on.
            StoreUnavailable: the store did not answer for ten seconds from the start, or at the end of the wait. In between it may be away.
            ResultExpired: it ended longer than `keep` ago, or was never sent.
            NotAuthentic, PayloadMissing: its result is not what the app's keys demand, or was stored apart and is not there.
            ResultPending: it leaves only when the task that awaits it here has ended.
        """
        store, first, patience = self.app.store, None, None
        tell = _told_by(type(store)) if timeout is None and self._leaves_with is None else None
        if tell is not None and (told := tell(store, self.id)) is not None:  # as _ended() does, without two coroutines more
            try:
                first = await told
            except StoreUnavailable as e:
                told, patience = None, _Patience()  # else the error would hold this frame, and this frame the error
                await patience.bear(e)
        outcome = first.outcome if type(first) is Ended else await self._ended(store, maybe_ms(timeout, "timeout"), first, patience)
        if not isinstance(outcome, Succeeded):
            raise _as_error(self.id, outcome)
        payloads, data = self.app.payloads, outcome.value
        if not payloads.is_plain(data):
            data = await payloads.open_result(self.id, data)
        result: R = self._task.signature.decode_result(data) if self._task is not None else msgspec.msgpack.decode(data)
        return result

    async def outcome(self) -> Final | None:
        """How the job ended; None while it has not. Raises ResultExpired, NotAuthentic, PayloadMissing."""
        self._refuse_pending()
        match await self.app.store.outcome(self.id):
            case Ended(outcome=Succeeded(value=data)) if not self.app.payloads.is_plain(data):
                return Succeeded(await self.app.payloads.open_result(self.id, data))
            case Ended(outcome=outcome):
                return outcome
            case Absent():
                raise self._expired()
            case Pending():
                return None

    async def status(self) -> State:
        """ "open", "leased", "succeeded", "failed", "cancelled", "expired" or "lost". Raises ResultExpired."""
        return (await self.view()).state

    async def view(self) -> JobView:
        """All that the store knows of the job. Raises ResultExpired."""
        self._refuse_pending()
        view = await self.app.store.job(self.id)
        if view is None:
            raise self._expired()
        return view

    async def progress(self) -> AsyncIterator[Progress]:
        """What the task says with `current().progress(...)`, as it comes, until the job ends. Hints: some may be missing.

        Raises ResultExpired.

        Example:
            >>> async for step in job.progress():
            ...     print(f"{step.fraction:.0%} {step.note}")
        """
        self._refuse_pending()
        store = self.app.store
        subscription, patience = await store.subscribe(self.id), _Patience()
        try:
            while True:
                try:
                    found = await store.outcome(self.id)  # before the news, so that what came before the end is not missed
                except StoreUnavailable as e:
                    await patience.bear(e)
                    continue
                patience.renew()
                for hint in await subscription.next(for_ms=LOOK_MS if isinstance(found, Pending) else 0):
                    if hint.kind == "progress":
                        yield _decode_progress(hint.body)
                if isinstance(found, Absent):
                    raise self._expired()
                if isinstance(found, Ended):
                    return
        finally:
            await subscription.close()

    async def cancel(self, *, tree: bool = False) -> None:
        """Ask the job to stop: at once while it is queued, within moments while it runs (its worker hears of it, or learns of it with
        its next heartbeat). A coroutine is cancelled, a process killed, a `def` task sees `current().cancelled`.

        A success that is already committing wins.

        Args:
            tree: all that it started, too, and what these start meanwhile: returns when nothing of it is left, or after ten seconds with
                what runs on although it was asked to stop.

        Raises:
            ValueError: tree=True for a job that is itself part of a tree.
            TreeGrows: after a minute the tree still starts jobs; it says which are left.
        """
        self._refuse_pending()
        if tree:
            from culm.trees import cancel_tree

            await cancel_tree(self.app, self.id)
            return
        await self.app.gatherer().submit(Commit(cancel=(self.id,)))
        await self.app.tell_cancelled([self.id])

    # -- inside -------------------------------------------------------------------------------------------------------------

    async def _ended(self, store: FullStore, timeout_ms: int | None, first: Answer | None, patience: _Patience | None) -> Final:
        """How it ended.

        Args:
            first: what the store has said already.
            patience: with that store, if it was needed already.
        """
        if self._leaves_with is not None:
            self._refuse_pending()
        for_ms = LOOK_MS
        ends_at = inf if timeout_ms is None else asyncio.get_running_loop().time() + timeout_ms / 1000
        while True:
            if timeout_ms is not None:
                for_ms = min(LOOK_MS, max(0, round((ends_at - asyncio.get_running_loop().time()) * 1000)))
            try:
                found, first = first or await store.outcome(self.id, for_ms=for_ms), None
            except StoreUnavailable as e:
                patience = patience or _Patience(ends_at)
                await patience.bear(e)
                continue
            if type(found) is Ended:
                return found.outcome
            if type(found) is Absent:
                raise self._expired()
            if timeout_ms is not None and asyncio.get_running_loop().time() >= ends_at:
                raise TimedOut(self.id, f"did not end within {timeout_ms / 1000:g} s; it goes on, ask again or cancel it")
            patience = patience or _Patience(ends_at)
            patience.renew()

    def _refuse_pending(self) -> None:
        if self.pending:
            raise ResultPending(
                self.id, "leaves with the commit of the task that is running; join it with when(), or send it with using(now=True)"
            )

    def _expired(self) -> ResultExpired:
        return ResultExpired(self.id, "is not known; it was never sent, or it ended longer than its `keep` ago")


@cache
def _told_by(store: type[Any]) -> Callable[[Any, str], asyncio.Future[Answer] | None] | None:
    """Its class's `told`, if it has one: to ask an object whether it fits a protocol takes longer than the wait."""
    return store.told if issubclass(store, TellsEnds) else None


def _as_error(job_id: str, outcome: Failed | Cancelled | Expired | Lost) -> CulmError:
    match outcome:
        case Failed(fault=fault):
            return TaskFailed(job_id, fault)
        case Cancelled(reason=why):
            return TaskCancelled(job_id, f"was cancelled {why}".rstrip())
        case Expired(reason=why):
            return TaskExpired(job_id, f"expired: {why}")
        case Lost(reason=why):
            return TaskLost(job_id, f"was given up: {why}")


class _Patience:
    """Whoever waits for an outcome waits out the store's absence, too; a store that never answered is given up."""

    def __init__(self, ends_at: float = inf) -> None:
        self._ends_at = ends_at  # by the loop's clock
        self._give_up_at: float | None = None
        self._lasts_s = PATIENCE_S
        self._pause_s = FIRST_PAUSE_S

    def renew(self) -> None:
        """The store has answered."""
        self._give_up_at, self._lasts_s, self._pause_s = None, inf, FIRST_PAUSE_S

    async def bear(self, error: StoreUnavailable) -> None:
        """Pause before the next question. Raises the error: the wait ends, or the patience is over."""
        now = asyncio.get_running_loop().time()
        if self._give_up_at is None:
            self._give_up_at = min(self._ends_at, now + self._lasts_s)
        if now + self._pause_s >= self._give_up_at:
            raise error
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)

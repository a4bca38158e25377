"""Dead letters: jobs that failed or were lost, until somebody replays or discards them. `app.dead` is all of it.

A replayed job is the same job: its id, its arguments, its history. It is claimable at once, with its attempts from zero. Lists go by
ascending id, page after page, so that a million dead letters fill no memory; ids that culm makes grow with time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Literal, TypedDict, Unpack

from msgspec import Struct

from culm.duration import Seconds, maybe_ms
from culm.outcome import Failed, Fault, Lost
from culm.store import FullStore, JobView, Reader
from culm.sync import Portal

PAGE = 500


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A job that failed or was lost. Durations are seconds."""

    id: str
    task: str
    queue: str
    state: Literal["failed", "lost"]
    error: str  # its last error, type and message; of a lost one the reason
    fault: Fault | None  # of a failed one: type, message and trace
    attempts: int  # since it was sent, or replayed
    claims: int  # how often it was ever given to a worker: those before a replay count, and those that died
    replays: int
    age: float  # since it was sent, or replayed
    dead_for: float


class Filter(TypedDict, total=False):
    """Which dead letters; by default all. Durations in seconds, as a number or a timedelta."""

    task: str
    queue: str
    error: str  # what the error's type or message, or the reason, contains; capitals do not matter
    older_than: Seconds  # dead for longer
    newer_than: Seconds  # dead for less


class DeadLetters:
    """The dead letters of an app's store. What is asked here happens at once, inside a task too.

    Example:
        >>> async for letter in app.dead.list(task="mail.send", error="Timeout"):
        ...     print(letter.id, letter.error)
        >>> await app.dead.replay_all(task="mail.send", newer_than=3600)
    """

    def __init__(self, store: Callable[[], FullStore], portal: Portal) -> None:
        self._store = store
        self._portal = portal

    @property
    def sync(self) -> SyncDeadLetters:
        """The same for code without async."""
        return SyncDeadLetters(self, self._portal)

    async def list(self, *, after: str = "", **which: Unpack[Filter]) -> AsyncIterator[DeadLetter]:
        """Those that match, by ascending id, those after the id `after`. Raises TypeError and ValueError: a filter that cannot be."""
        pages = Pages(which, after)
        while not pages.over:
            for found in await pages.next(self._store()):
                yield found

    async def get(self, job_id: str) -> DeadLetter | None:
        """None: there is no dead letter of that id."""
        view = await self._store().job(job_id)
        return None if view is None else letter(view)

    async def count(self, **which: Unpack[Filter]) -> int:
        """How many match: what `replay_all` or `discard_all` would do now. Looks at each."""
        pages, found = Pages(which), 0
        while not pages.over:
            found += len(await pages.next(self._store()))
        return found

    async def replay(self, *job_ids: str) -> int:
        """Let these run again, now, with their attempts from zero. Returns how many were dead letters; others are left alone."""
        return await self._store().replay(job_ids)

    async def discard(self, *job_ids: str) -> int:
        """Forget these. Returns how many were dead letters; others are left alone."""
        return await self._store().discard(job_ids)

    async def replay_all(self, **which: Unpack[Filter]) -> int:
        """Replay those that match, each once, though it die again meanwhile. Returns how many were."""
        pages, replayed = Pages(which), 0
        while not pages.over:
            if some := await pages.next(self._store()):
                replayed += await self.replay(*[found.id for found in some])
        return replayed

    async def discard_all(self, **which: Unpack[Filter]) -> int:
        """Forget those that match. Returns how many were."""
        pages, discarded = Pages(which), 0
        while not pages.over:
            if some := await pages.next(self._store()):
                discarded += await self.discard(*[found.id for found in some])
        return discarded


class SyncDeadLetters:
    """As `DeadLetters`, blocking."""

    def __init__(self, letters: DeadLetters, portal: Portal) -> None:
        self._letters = letters
        self._run = portal.run

    def list(self, *, after: str = "", **which: Unpack[Filter]) -> Iterator[DeadLetter]:
        pages = Pages(which, after)
        while not pages.over:
            yield from self._run(pages.next(self._letters._store()))  # noqa: SLF001  # its own module

    def get(self, job_id: str) -> DeadLetter | None:
        return self._run(self._letters.get(job_id))

    def count(self, **which: Unpack[Filter]) -> int:
        return self._run(self._letters.count(**which))

    def replay(self, *job_ids: str) -> int:
        return self._run(self._letters.replay(*job_ids))

    def discard(self, *job_ids: str) -> int:
        return self._run(self._letters.discard(*job_ids))

    def replay_all(self, **which: Unpack[Filter]) -> int:
        return self._run(self._letters.replay_all(**which))

    def discard_all(self, **which: Unpack[Filter]) -> int:
        return self._run(self._letters.discard_all(**which))


class Pages:
    """A walk over the dead letters that match.

    Attributes:
        over: there are no more.
    """

    def __init__(self, which: Filter, after: str = "") -> None:
        unknown = which.keys() - Filter.__annotations__
        if unknown:
            raise TypeError(f"dead letters cannot be chosen by {', '.join(sorted(unknown))}; by {', '.join(Filter.__annotations__)}")
        for name in ("task", "queue", "error"):
            if not isinstance(which.get(name, ""), str):
                raise TypeError(f"{name} must be a str, got {which.get(name)!r}")
        self._task, self._queue = which.get("task"), which.get("queue")
        self._error = which.get("error", "").casefold()
        self._older_ms, self._newer_ms = maybe_ms(which.get("older_than"), "older_than"), maybe_ms(which.get("newer_than"), "newer_than")
        self._after = after
        self.over = False

    async def next(self, store: Reader) -> list[DeadLetter]:
        """Of the next page those that match: perhaps none."""
        views = await store.jobs(state="dead", task=self._task, queue=self._queue, after=self._after, limit=PAGE)
        self.over = len(views) < PAGE
        if views:
            self._after = views[-1].id
        return [found for view in views if (found := letter(view)) is not None and self._matches(view, found)]

    def _matches(self, view: JobView, found: DeadLetter) -> bool:
        dead_ms = view.dead_ms or 0
        if self._older_ms is not None and dead_ms <= self._older_ms:
            return False
        if self._newer_ms is not None and dead_ms >= self._newer_ms:
            return False
        return self._error in found.error.casefold()


def letter(view: JobView) -> DeadLetter | None:
    """The job as a dead letter; None: it is none."""
    match view.last:
        case Failed(fault=fault) if view.state == "failed":
            return _letter(view, "failed", f"{fault.type}: {fault.message}" if fault.message else fault.type, fault)
        case Lost(reason=why) if view.state == "lost":
            return _letter(view, "lost", why, None)
        case _:
            return None


def _letter(view: JobView, state: Literal["failed", "lost"], error: str, fault: Fault | None) -> DeadLetter:
    return DeadLetter(
        id=view.id,
        task=view.task,
        queue=view.queue,
        state=state,
        error=error,
        fault=fault,
        attempts=view.attempt,
        claims=view.claims,
        replays=view.replays,
        age=view.age_ms / 1000,
        dead_for=(view.dead_ms or 0) / 1000,
    )

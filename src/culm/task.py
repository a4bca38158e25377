"""A Task is a decorated function: its name, its typed signature, its options. Calling it runs the plain function, here and now."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, ParamSpec, Self, TypeAlias, TypeVar, Unpack, cast

from msgspec import Struct
from msgspec.structs import replace

from culm.codec import Signature
from culm.commit import Commit, Committed, Trigger, weight_of_one
from culm.current import running
from culm.duration import Seconds, maybe_ms
from culm.errors import ConfigError, CulmError, IdConflict, NotInTask
from culm.handle import Handle
from culm.hooks import When, add_hook
from culm.job import Delivery, Job
from culm.options import JobOptions, Options, changed, check_name
from culm.outcome import Cancelled, Expired, Failed, Lost, Succeeded
from culm.retry import Retry
from culm.store import Transactional

if TYPE_CHECKING:
    from culm.app import App
    from culm.current import Attempt
    from culm.sync import SyncTask

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
H = TypeVar("H")
OnSuccess = TypeVar("OnSuccess", bound=Callable[[Succeeded], Awaitable[None]])
OnFailure = TypeVar("OnFailure", bound=Callable[[Failed | Lost], Awaitable[None]])
OnExpired = TypeVar("OnExpired", bound=Callable[[Expired], Awaitable[None]])
OnCancelled = TypeVar("OnCancelled", bound=Callable[[Cancelled], Awaitable[None]])
OnRescue = TypeVar("OnRescue", bound=Callable[[Delivery], Awaitable[None]])
MAX_COUNT = 1_000_000_000  # events that a join may wait for

AnyTask: TypeAlias = "Task[Any, Any]"


class Bound(Struct, Generic[R], frozen=True, gc=False):
    """A task with its arguments and options, not sent yet: for `enqueue_many`, `when`, and whatever starts jobs later."""

    task: AnyTask
    args: bytes

    @property
    def options(self) -> Options:
        return self.task.options


class Task(Generic[P, R]):
    """A function that runs somewhere else. Made by `@app.task`.

    Attributes:
        name: what messages call it; an exact key of the app's registry.
        fn: the plain function.
        retry: its policy, with the errors that are worth a retry.
        runs_in: "process": in a process apart from the worker's; None: in its loop, or in a thread if it is `def`.
        memory: how many bytes of data that process may have.
    """

    runs_in: Literal["process"] | None = None
    memory: int | None = None

    def __init__(
        self, app: App, fn: Callable[P, R | Coroutine[Any, Any, R]], *, name: str, signature: Signature[R], options: Options, retry: Retry
    ) -> None:
        self.app = app
        self.fn = fn
        self.is_async = inspect.iscoroutinefunction(fn)
        self.name = name
        self.signature = signature
        self.options = options
        self.retry = retry
        self.blank = _blank(name, options)  # what all its jobs have in common
        self.__wrapped__ = fn
        self.__name__ = getattr(fn, "__name__", name)
        self.__doc__ = fn.__doc__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The plain function: no job, no store."""
        return cast("R", self.fn(*args, **kwargs))

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    @property
    def sync(self) -> SyncTask[P, R]:
        """The same for code without async."""
        from culm.sync import SyncTask

        return SyncTask(self)

    def using(self, **options: Unpack[JobOptions]) -> Self:
        """This task with other options: `send.using(delay=60, priority=9).enqueue(...)`.

        Raises TypeError (unknown option, wrong type) and ValueError (out of range), each naming the option.
        """
        return type(self)(
            self.app,
            self.fn,
            name=self.name,
            signature=self.signature,
            options=changed(self.options, cast("dict[str, Any]", options), JobOptions),
            retry=self.retry,
        )

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> Bound[R]:
        """This task with its arguments, not sent yet. Raises TypeError when they do not fit."""
        return Bound(self, self.signature.encode_call(args, kwargs))

    # -- hooks: see culm.hooks ------------------------------------------------------------------------------------------------

    def on_success(self, hook: OnSuccess) -> OnSuccess:
        """Call this when a job of the task has succeeded; what it sends leaves with that success. Raises TypeError, ConfigError."""
        return self._hook("on_success", hook)

    def on_failure(self, hook: OnFailure) -> OnFailure:
        """Call this when a job has failed for good, or was lost by a worker that could not run it; what it sends leaves with that end."""
        return self._hook("on_failure", hook)

    def on_expired(self, hook: OnExpired) -> OnExpired:
        """Call this when a job did not start or end in time."""
        return self._hook("on_expired", hook)

    def on_cancelled(self, hook: OnCancelled) -> OnCancelled:
        """Call this when a job was cancelled while it ran. One that never ran has no worker to call it: let a join hear of that."""
        return self._hook("on_cancelled", hook)

    def on_rescue(self, hook: OnRescue) -> OnRescue:
        """Call this before a job runs again whose worker died or stalled; what it sends leaves with the job's success."""
        return self._hook("on_rescue", hook)

    def _hook(self, when: When, hook: H) -> H:
        add_hook(self.app.hooks.setdefault(self.name, {}), when, hook, task=self.name)
        return hook

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Send a job; it is durable when this returns.

        Inside a task the job leaves with that task's commit, or not at all; `using(now=True)` sends it at once.

        Raises:
            TypeError: an argument does not fit its annotation. ValueError: the arguments take more than 1 MiB.
            IdConflict: another task has a job under this id.
            StoreUnavailable: the store did not answer; the job may or may not be there. With an id of your own, sending again is safe.

        Example:
            >>> job = await send_email.enqueue("ada@example.com", subject="hi")
            >>> receipt = await job.result(timeout=10)
        """
        bound: Bound[R] = Bound(self, self.signature.encode_call(args, kwargs))
        attempt = running()
        if attempt is not None and not self.options.now and self.options.within is None:
            return join_send(bound, attempt)
        job_id, answer = _posted(bound, attempt)  # as send() does, without two calls more
        if await answer == "conflict":
            raise IdConflict(job_id)
        return Handle(self.app, job_id, self)

    async def map(self: Callable[[A], Any], items: Iterable[A]) -> list[Handle[R]]:
        """Enqueue one job per item, for tasks that can be called with one argument; as `app.enqueue_many` does.

        Raises ValueError when the task has an id: an id is one job.
        """
        task = cast("Task[[A], R]", self)  # typed by what it can be called with: names and defaults do not matter
        if task.options.id:
            raise ValueError(f"id={task.options.id!r} is one job's, and map() sends one for each item; leave it out")
        return cast("list[Handle[R]]", await task.app.enqueue_many(task.bind(item) for item in items))


class AsyncTask(Task[P, R]):
    """A task that is `async def`: called plainly it returns the coroutine of its result."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]  # else all as a Task
        """The plain coroutine: no job, no store."""
        return cast("Coroutine[Any, Any, R]", self.fn(*args, **kwargs))


def make_job(bound: Bound[Any], job_id: str) -> Job:
    task = bound.task
    job = replace(task.blank, id=job_id, args=bound.args)
    payloads = task.app.payloads
    return job if payloads.plain else payloads.sealed_job(job)


def _blank(task: str, o: Options) -> Job:
    return Job(
        id="",
        task=task,
        queue=o.queue,
        priority=o.priority,
        after_ms=o.after_ms,
        at_ms=o.at_ms,
        expires_ms=o.expires_ms,
        timeout_ms=o.timeout_ms,
        deadline_ms=o.deadline_ms,
        keep_ms=o.keep_ms,
        retry=o.retry,
        topic=o.topic,
        headers=o.headers,
    )


def refuse_topic(topic: str) -> NoReturn:
    raise NotInTask(f"topic={topic!r} means something inside a task only, where a when() waits for it")


async def send(bound: Bound[R], attempt: Attempt | None) -> Handle[R]:
    """Send one job now and await its acceptance."""
    job_id, answer = _posted(bound, attempt)
    if await answer == "conflict":
        raise IdConflict(job_id)
    return Handle(bound.task.app, job_id, bound.task)


def _posted(bound: Bound[Any], attempt: Attempt | None) -> tuple[str, Awaitable[Committed]]:
    """The id of a job that is on its way, and what to await."""
    task = bound.task
    app, options = task.app, task.options
    if attempt is None and options.topic:
        refuse_topic(options.topic)
    job_id = options.id or (app.new_id() if attempt is None else f"{attempt.job.scope}~{app.new_id()}")
    if app.tracing is not None or not app.payloads.plain:
        return job_id, _stored(app, make_job(bound, job_id), options)
    job = replace(task.blank, id=job_id, args=bound.args)
    if options.within is not None:
        return job_id, _answer(app, job, options)
    # As _answer() does, without two calls more.
    return job_id, app.gatherer().submit(Commit(send=(job,)), weight=2 + (len(bound.args) >> 12), fresh=not options.id)


async def _stored(app: App, job: Job, options: Options) -> Committed:
    """Sent, and its payload before it; traced, what is refused is an error in its trace."""
    with nullcontext([job]) if app.tracing is None else app.tracing.sending([job]) as jobs:
        (stored,) = jobs if app.payloads.plain else await app.payloads.stored_jobs(jobs)
        answer = await _answer(app, stored, options)
        if answer == "conflict":
            raise IdConflict(job.id)
        return answer


def _answer(app: App, job: Job, options: Options) -> Awaitable[Committed]:
    commit = Commit(send=(job,))
    if options.within is None:
        return app.gatherer().submit(commit, weight=weight_of_one(job), fresh=not options.id)
    return send_within(app, commit, options.within)


async def send_within(app: App, commit: Commit, within: object) -> Committed:
    """Let it leave with the caller's transaction. Raises ConfigError: this store has no part in one."""
    store = app.store
    if not isinstance(store, Transactional):
        raise ConfigError(f"within= needs a store in the database of that transaction, postgresql://; this one is {store}")
    return await store.commit_within(commit, within)


def join_send(bound: Bound[R], attempt: Attempt, *, after_ms: int | None = 0, reads: tuple[str, ...] = ()) -> Handle[R]:
    """Let the job leave with the attempt's commit, in the scope of the attempt unless it has an id of its own."""
    app, options = bound.task.app, bound.options
    if app is not attempt.app:
        raise CulmError(f"task {bound.task.name!r} belongs to another app, whose store this commit does not reach; use using(now=True)")
    if options.id and options.topic:
        raise ValueError(f"id={options.id!r} makes a job a root of its own, so topic={options.topic!r} would reach nobody; leave one out")
    effects = attempt.join()
    job = make_job(bound, options.id or f"{attempt.job.scope}~{app.new_id()}")
    if reads:
        job = _waiting(job, after_ms, reads)
    effects.send.append(job if app.tracing is None else app.tracing.leaving(job))
    return Handle(app, job.id, bound.task, attempt)


def _waiting(job: Job, after_ms: int | None, reads: tuple[str, ...]) -> Job:
    return replace(job, after_ms=after_ms, at_ms=None, reads=reads)


def when(*topics: str | tuple[str, int], run: Bound[R], need: int | None = None, timeout: Seconds | None = None) -> Handle[R]:
    """A join: run that job once these topics of the scope hold their events. Event before or after: both count.

    The joined job reads the events as `current().events[topic]`.

    Args:
        topics: a name (one event), or a name and how many events.
        run: the job, as `task.bind(...)`.
        need: how many of the topics suffice; by default all, 1 is a race.
        timeout: run it after so many seconds at the latest, with the events that are there.

    Raises:
        NotInTask: outside a task. ValueError: no topics, a topic twice, or a count that cannot be.

    Example:
        >>> for path in paths:
        ...     await digest.using(topic="digested").enqueue(path)
        >>> when(("digested", len(paths)), run=report.bind())
    """
    attempt = running()
    if attempt is None:
        raise NotInTask("when() works inside a running task only")
    wanted = tuple((t, 1) if isinstance(t, str) else t for t in topics)
    if not all(isinstance(t, tuple) and len(t) == 2 for t in wanted):
        raise TypeError(f"when() takes topics as names or as (name, how many), got {topics!r}")
    names = tuple(check_name(name, "topic") for name, _ in wanted)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"when() needs one or more different topics, got {names!r}")
    if any(isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= MAX_COUNT for _, n in wanted):
        raise ValueError(f"when() counts events by whole numbers from 0 to {MAX_COUNT:,}, got {wanted!r}")
    if need is not None and not 1 <= need <= len(names):
        raise ValueError(f"need must be from 1 to the number of topics, {len(names)}, got {need!r}")
    if run.options.id:
        raise ValueError("a job that when() runs belongs to this scope; leave out id")
    after_ms = maybe_ms(timeout, "timeout")
    attempt.join(more=2)  # room for both, or for none
    handle = join_send(run, attempt, after_ms=after_ms, reads=names)
    attempt.join().triggers.append(Trigger(handle.id, attempt.job.scope, wanted, need or len(names)))
    return handle

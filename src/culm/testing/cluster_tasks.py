"""What the simulated cluster runs: tasks that tell the history what they do, and do what their arguments say.

Rule 1: a task notes its start first, and its end last; `History.note` is deaf to whoever is gone. Rule 2: what an attempt returns
names its lease, so that a result tells whose it is. Rule 3: what fails, fails by the number of its attempt, so that the plan knows
how often it must run. Rule 4: each thing that should leave with the commit is noted when it is asked for: the check compares.
The tasks are registered once, with templates, and handed to each node's App: a signature is too dear to be made for every run.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import msgspec

from culm.app import App
from culm.current import Attempt, ReadEvent, current, emit
from culm.errors import Reject
from culm.handle import Handle
from culm.retry import Retry
from culm.task import Task, when
from culm.testing.cluster_history import Awaits, Began, History

HISTORY: ContextVar[History] = ContextVar("culm_history")

TIMES, FIRST_MS = 2, 60  # of every retry here
RETRY = Retry(TIMES, first=FIRST_MS / 1000, cap=1)

_all = App("memory://")
_clients = App("memory://")


def equip(app: App, *, knows_rare: bool = True, lies: bool = False) -> None:
    """Register the tasks. One that `lies` thinks another signature of `typed`, so that what it sends cannot be decoded."""
    for task in [*_all.tasks.values(), *(_clients.tasks.values() if lies else ())]:
        if knows_rare or task.name != "rare":
            app.tasks[task.name] = Task(app, task.fn, name=task.name, signature=task.signature, options=task.options, retry=task.retry)


# -- telling ---------------------------------------------------------------------------------------------------------------------


def _note(what: str, more: Any = None) -> None:
    attempt = current()
    HISTORY.get().note(what, attempt.id, attempt.delivery.lease, more)


def _began() -> Attempt:
    attempt = current()
    _note("start", Began(attempt.job.task, attempt.attempt, attempt.fence, attempt.delivery.age_ms))
    return attempt


async def _spend(ms: int) -> None:
    if ms:
        await asyncio.sleep(ms / 1000)


def _done() -> str:
    token = token_of(current().id, current().delivery.lease)
    _note("end", token)
    return token


def token_of(job_id: str, lease: str) -> str:
    return f"{job_id}@{lease}"


async def _send(name: str, *args: Any, **options: Any) -> Handle[Any]:
    handle: Handle[Any] = await current().app.tasks[name].using(**options).enqueue(*args)
    _note("child", (handle.id, name))
    return handle


def _when(*topics: tuple[str, int], keys: dict[str, list[str]], need: int | None = None, timeout_ms: int | None = None) -> None:
    join_it = current().app.tasks["join"].bind()
    handle = when(*topics, run=join_it, need=need, timeout=None if timeout_ms is None else timeout_ms / 1000)
    _note("child", (handle.id, "join"))
    _note("awaits", Awaits(handle.id, keys, need or len(topics), timeout_ms))


# -- the tasks -------------------------------------------------------------------------------------------------------------------


@_all.task(name="plain")
async def plain(ms: int) -> str:
    _began()
    await _spend(ms)
    return _done()


@_all.task(name="rare")
async def rare(ms: int) -> str:
    _began()
    await _spend(ms)
    return _done()


@_all.task(name="typed")
async def typed(ms: int) -> str:
    _began()
    await _spend(ms)
    return _done()


@_clients.task(name="typed")
async def typed_otherwise(ms: str) -> str:
    raise NotImplementedError("clients run nothing")


@_all.task(name="flaky", retry=RETRY)
async def flaky(ms: int, fails: int) -> str:
    """Sends and emits each time, and fails so often: only the last attempt's child may live."""
    attempt = _began()
    await _send("plain", 0)
    emit("tried", attempt.attempt)
    await _spend(ms)
    if attempt.attempt <= fails:
        _note("raise")
        raise ValueError(f"attempt {attempt.attempt} of {fails} that fail")
    return _done()


@_all.task(name="slow", retry=RETRY)
async def slow(ms: int, times: int) -> str:
    """The first attempts take so long that their timeout stops them; the others end in one step."""
    if _began().attempt <= times:
        await _spend(ms)
    return _done()


@_all.task(name="stubborn")
async def stubborn(ms: int) -> str:
    """Does not end at once when it is told to."""
    _began()
    try:
        await _spend(ms)
    except asyncio.CancelledError:
        await _spend(100)
        raise
    return _done()


@_all.task(name="chain")
async def chain(depth: int, ms: int) -> str:
    """Sends its next link under an id of its own, or under one that every attempt repeats."""
    attempt = _began()
    if depth:
        options = {"id": f"{attempt.id.replace('~', '/')}+"} if depth % 2 else {}
        await _send("chain", depth - 1, ms, **options)
    await _spend(ms)
    return _done()


@_all.task(name="fork")
async def fork(n: int, ms: int, how: str) -> str:
    """Forks, and joins: `how` says by what."""
    _began()
    match how:
        case "topic" | "late":
            ids = [(await _send("part", i, ms, "", topic="part")).id for i in range(n)]
            if how == "topic":
                _when(("part", n), keys={"part": ids})
            else:
                await _send("waiter", ids, delay=ms / 1000)
        case "facts":
            keys = [f"k{i // 2}" for i in range(n)]
            for i, key in enumerate(keys):
                await _send("part", i, ms, key)
            _when(("fact", len(set(keys))), keys={"fact": sorted(set(keys))})
        case "both":
            ids = [(await _send("part", i, ms, f"k{i // 2}", topic="part")).id for i in range(n)]
            keys = sorted({f"k{i // 2}" for i in range(n)})
            _when(("part", n), ("fact", len(keys)), keys={"part": ids, "fact": keys})
        case "race":
            ids = [(await _send("part", i, ms * i, "", topic=f"part{i}")).id for i in range(n)]
            _when(*((f"part{i}", 1) for i in range(n)), keys={f"part{i}": [ids[i]] for i in range(n)}, need=1)
        case "timed":
            _when(("never", 1), keys={"never": ["?"]}, timeout_ms=ms)
        case _:
            raise AssertionError(how)
    await _spend(ms)
    return _done()


@_all.task(name="part")
async def part(i: int, ms: int, key: str) -> str:
    _began()
    if key:
        emit("fact", i, key=key)
        _note("emit", (key, i))
    await _spend(ms)
    if not key and i == 1:
        _note("raise")
        raise Reject("a member that fails still counts")
    return _done()


@_all.task(name="waiter")
async def waiter(ids: list[str]) -> str:
    """Asks for the join when its events may be there already."""
    _began()
    _when(("part", len(ids)), keys={"part": ids})
    return _done()


@_all.task(name="join")
async def join() -> str:
    attempt = _began()
    _note("joined", {topic: {e.key: _value(e) for e in events} for topic, events in attempt.events.items()})
    return _done()


def _value(event: ReadEvent) -> int | None:
    """What was emitted; None: it records a job's end."""
    try:
        return event.read(int)
    except msgspec.ValidationError:
        return None

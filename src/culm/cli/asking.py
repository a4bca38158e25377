"""`enqueue`, `result`, `status` and `cancel`: what a caller can do, from a terminal."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from culm.app import App
from culm.cli.output import Exit, Quit, described, say, say_json, to_json
from culm.cli.target import load_app, reachable
from culm.duration import maybe_ms
from culm.errors import JobError, ResultExpired, UnknownTask
from culm.handle import Handle
from culm.options import JobOptions
from culm.store import JobView
from culm.task import Bound, send
from culm.trees import cancel_tree


async def enqueue(
    target: str, name: str, texts: list[str], *, url: str | None, options: dict[str, Any], wait: float | None, as_json: bool
) -> int:
    """All of it is checked before the store is opened."""
    app = load_app(target, url)
    with usage():
        maybe_ms(wait, "wait")
        bound = _bound(app, name, texts, options)
    async with reachable(app):
        job = await send(bound, None)
        if wait is None:
            say_json({"id": job.id}) if as_json else say(job.id)
            return Exit.OK
        if not as_json:
            say(job.id)
        return await _say_result(job, timeout=wait, as_json=as_json)


def _bound(app: App, name: str, texts: list[str], options: dict[str, Any]) -> Bound[Any]:
    stray = next((t for t in texts if t.startswith("--")), None)
    if stray is not None:
        near = difflib.get_close_matches(
            stray.partition("=")[0], [f"--{o}" for o in (*JobOptions.__annotations__, "wait", "json", "url")], n=1
        )
        raise TypeError(f"unknown option {stray}; {f'did you mean {near[0]}?' if near else 'see culm enqueue --help'}")
    if "at" in options:
        options["at"] = _instant(options["at"])
    task = app.find(name)
    args, kwargs = task.signature.from_json(texts)
    return task.using(**options).bind(*args, **kwargs)


def _instant(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as e:
        raise ValueError(f"at must be an ISO 8601 instant such as 2030-01-31T09:00:00+01:00, got {text!r}") from e


@contextlib.contextmanager
def usage() -> Iterator[None]:
    """What is wrong with what was typed: one line, exit 2."""
    try:
        yield
    except (TypeError, ValueError, UnknownTask) as e:
        raise Quit(str(e), Exit.USAGE) from e


async def result(app: App, job_id: str, *, timeout: float | None, as_json: bool) -> int:
    with usage():
        maybe_ms(timeout, "timeout")
    async with app:
        return await _say_result(Handle[Any](app, job_id, None), timeout=timeout, as_json=as_json)


async def _say_result(job: Handle[Any], *, timeout: float | None, as_json: bool) -> int:
    """The result as plain JSON data; a failure is one line on stderr, and exit 1."""
    try:
        value = await Handle[Any](job.app, job.id, None).result(timeout)  # plain data, whatever the task's own type is
    except JobError as e:
        if as_json and not isinstance(e, ResultExpired):
            outcome = await job.outcome()
            say_json({"id": job.id, **({"outcome": None} if outcome is None else described(outcome))})
        raise
    say_json({"id": job.id, "outcome": "succeeded", "result": value}) if as_json else say_json(value)
    return Exit.OK


async def status(app: App, job_id: str, *, as_json: bool) -> int:
    async with app:
        view = await Handle[Any](app, job_id, None).view()
    known = {name: getattr(view, name) for name in view.__struct_fields__ if name != "last"}
    if as_json:
        say_json(known | {"last": None if view.last is None else described(view.last)})
    else:
        for name, value in (known | _last(view)).items():
            if value not in (None, ""):
                say(f"{name:<10} {value}")
    return Exit.OK


def _last(view: JobView) -> dict[str, Any]:
    if view.last is None:
        return {}
    return {"last": to_json(described(view.last))}


async def cancel(app: App, job_id: str, *, tree: bool, as_json: bool) -> int:
    async with app:
        if tree:
            return await _cancel_tree(app, job_id, as_json=as_json)
        job = Handle[Any](app, job_id, None)
        before = await job.status()  # an id that nobody sent is refused: its cancel would wait for a later send
        if before not in ("open", "leased"):
            raise Quit(f"job {job_id}: nothing to cancel, it has ended already: {before}")
        await job.cancel()
        after = await job.status()
    if as_json:
        say_json({"id": job_id, "before": before, "state": after})
    else:
        say("cancelled" if after == "cancelled" else "asked to stop; its worker hears of it now, or with its next heartbeat")
    return Exit.OK


async def _cancel_tree(app: App, job_id: str, *, as_json: bool) -> int:
    try:
        asked = await cancel_tree(app, job_id)
    except ValueError as e:
        raise Quit(str(e), Exit.USAGE) from None
    if not asked:
        raise Quit(f"job {job_id}: nothing to cancel, neither it nor anything that it started is unfinished")
    if as_json:
        say_json({"id": job_id, "asked": sorted(asked)})
    else:
        say(f"{len(asked):,} jobs were cancelled, or asked to stop")
    return Exit.OK

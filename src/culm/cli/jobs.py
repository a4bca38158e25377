"""`culm jobs`: the jobs that match, by ascending id, a page at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer

from culm.app import App
from culm.cli.arguments import Json, MaybeApp, NewerThan, OlderThan, Url, age_s, at_least_one
from culm.cli.output import Exit, described, say, say_json
from culm.cli.table import clipped, lines, span
from culm.cli.target import store_app
from culm.dead import letter
from culm.job import scope_of
from culm.outcome import Retried
from culm.store import FullStore, JobView

PAGE = 500
COLUMNS = ("id", "task", "queue", "state", "attempt", "due", "age", "last")

Keep = Callable[[JobView], bool]


class StateName(StrEnum):
    OPEN = "open"
    LEASED = "leased"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    LOST = "lost"
    DEAD = "dead"


def jobs(
    app: MaybeApp = None,
    state: Annotated[StateName | None, typer.Option("--state", "-s", help="dead: failed or lost")] = None,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="of this queue")] = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="of this task")] = None,
    scope: Annotated[str | None, typer.Option("--scope", metavar="ID", help="this job's root, and all that was started from it")] = None,
    ids: Annotated[list[str] | None, typer.Option("--id", metavar="ID", help="this one; may be repeated")] = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    after: Annotated[str, typer.Option("--after", metavar="ID", help="go on behind this id")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", help="so many at most")] = 100,
    url: Url = None,
    json: Json = False,
) -> int:
    """Print the jobs that match, by ascending id. Ages count from the send.

    \b
    Examples:
      culm jobs shop.tasks:app --state leased --older-than 1h
      culm jobs --queue mail --task mail.send --limit 20
      culm jobs --scope order-42 --json
      culm jobs --id order-42 --id order-43
    """
    at_least_one(limit, "--limit")
    keep = _of_age(age_s(older_than, "--older-than"), age_s(newer_than, "--newer-than"))
    which: dict[str, Any] = {"state": state.value if state else None, "queue": queue, "task": task, "scope": scope and scope_of(scope)}
    return asyncio.run(_jobs(store_app(app, url), which, ids or [], keep, after=after, limit=limit, as_json=json))


def _of_age(older_s: float | None, newer_s: float | None) -> Keep:
    def keep(view: JobView) -> bool:
        return (older_s is None or view.age_ms > older_s * 1000) and (newer_s is None or view.age_ms < newer_s * 1000)

    return keep


async def _jobs(app: App, which: dict[str, Any], ids: list[str], keep: Keep, *, after: str, limit: int, as_json: bool) -> int:
    async with app:
        found = await _some(app.store, ids, which, keep) if ids else await _page(app.store, which, keep, after, limit + 1)
    more = found[limit - 1].id if len(found) > limit and not ids else None
    found = found if ids else found[:limit]
    if as_json:
        say_json({"jobs": [shown(view) for view in found], "after": more})
    elif not found:
        say("no job matches")
    else:
        for line in lines(COLUMNS, [_row(view) for view in found]):
            say(line)
        if more is not None:
            say(f"there are more: --after {more}")
    return Exit.OK


async def _some(store: FullStore, ids: list[str], which: dict[str, Any], keep: Keep) -> list[JobView]:
    """Of these ids, those that are there and match."""
    views = [view for job_id in sorted(set(ids)) if (view := await store.job(job_id)) is not None]
    return [
        view
        for view in views
        if which["state"] in (None, view.state, "dead" if view.state in ("failed", "lost") else None)
        and which["queue"] in (None, view.queue)
        and which["task"] in (None, view.task)
        and which["scope"] in (None, scope_of(view.id))
        and keep(view)
    ]


async def _page(store: FullStore, which: dict[str, Any], keep: Keep, after: str, limit: int) -> list[JobView]:
    found: list[JobView] = []
    asked = max(PAGE, limit)
    while True:
        views = await store.jobs(**which, after=after, limit=asked)
        found += [view for view in views if keep(view)]
        if len(found) >= limit or len(views) < asked:
            return found[:limit]
        after = views[-1].id


def shown(view: JobView) -> dict[str, Any]:
    """For machines."""
    return msgspec.structs.asdict(view) | {"last": None if view.last is None else described(view.last)}


def _row(view: JobView) -> tuple[str, ...]:
    if view.state == "open":
        due = "a release" if view.due_in_ms is None else "now" if not view.due_in_ms else f"in {span(view.due_in_ms)}"
    else:
        due = f"lease {span(view.due_in_ms)}" if view.state == "leased" else "-"
    return view.id, view.task, view.queue, view.state, str(view.attempt), due, span(view.age_ms), clipped(_last(view), 60)


def _last(view: JobView) -> str:
    if isinstance(view.last, Retried):
        return f"{view.last.fault.type}: {view.last.fault.message}"
    found = letter(view)
    return found.error if found is not None else ""

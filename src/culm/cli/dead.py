"""`culm dead list|show|replay|discard`: dead letters from a terminal, one by one or in bulk."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Annotated, Any, Literal, cast

import msgspec
import typer

from culm.app import App
from culm.cli.arguments import AppOption, Json, NewerThan, OlderThan, Url, age_s, at_least_one
from culm.cli.output import Exit, Quit, say, say_json
from culm.cli.table import clipped, harmless, lines, span
from culm.cli.target import store_app
from culm.dead import DeadLetter, Filter
from culm.errors import CulmError

SHOWN = 20  # of a dry run
BATCH = 500
MOST_SHOWN_CHARS = 2_000  # of one line
COLUMNS = ("id", "task", "queue", "state", "attempts", "replays", "dead for", "error")

Task = Annotated[str | None, typer.Option("--task", "-t", help="of this task")]
Queue = Annotated[str | None, typer.Option("--queue", "-q", help="of this queue")]
Error = Annotated[str | None, typer.Option("--error", "-e", metavar="TEXT", help="whose error or reason contains this")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="these; else those that the options choose")]
All = Annotated[bool, typer.Option("--all", help="every dead letter there is")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say which and how many, and change nothing")]

dead = typer.Typer(
    help="Jobs that failed or were lost stay as dead letters until they are replayed or discarded.\n\n\b\nExamples:\n"
    "  culm dead list --task mail.send --error Timeout\n  culm dead replay order-42",
    add_completion=False,
    rich_markup_mode=None,
    invoke_without_command=True,
)


@dead.callback()
def _group(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        raise Quit("dead needs a command: list, show, replay, discard", Exit.USAGE)


@dead.command("list")
def list_(
    task: Task = None,
    queue: Queue = None,
    error: Error = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    after: Annotated[str, typer.Option("--after", metavar="ID", help="go on behind this id")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", help="so many at most")] = 100,
    app: AppOption = None,
    url: Url = None,
    json: Json = False,
) -> int:
    """Print dead letters by ascending id, those that match. Ages count from the death.

    \b
    Examples:
      culm dead list --app shop.tasks:app
      culm dead list --task mail.send --error Timeout --newer-than 2h
      culm dead list --limit 1000 --json
    """
    at_least_one(limit, "--limit")
    which = _which(task, queue, error, older_than, newer_than)
    return asyncio.run(_list(store_app(app, url), which, after=after, limit=limit, as_json=json))


@dead.command()
def show(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="the dead letter")],
    arguments: Annotated[bool, typer.Option("--arguments/--no-arguments", help="what it was called with, too")] = True,
    app: AppOption = None,
    url: Url = None,
    json: Json = False,
) -> int:
    """Print all that is known of one dead letter, its trace included.

    \b
    Example:
      culm dead show order-42
    """
    return asyncio.run(_show(store_app(app, url), job_id, with_arguments=arguments, as_json=json))


@dead.command()
def replay(
    ids: Ids = None,
    task: Task = None,
    queue: Queue = None,
    error: Error = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    all_: All = False,
    dry_run: DryRun = False,
    app: AppOption = None,
    url: Url = None,
    json: Json = False,
) -> int:
    """Let dead letters run again, now: the same ids and arguments, attempts from zero, their history kept.

    \b
    Examples:
      culm dead replay order-42 order-43
      culm dead replay --task mail.send --error Timeout --dry-run
      culm dead replay --app shop.tasks:app --all
    """
    which = _which(task, queue, error, older_than, newer_than)
    return asyncio.run(_act("replay", store_app(app, url), ids or [], which, everything=all_, dry_run=dry_run, as_json=json))


@dead.command()
def discard(
    ids: Ids = None,
    task: Task = None,
    queue: Queue = None,
    error: Error = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    all_: All = False,
    dry_run: DryRun = False,
    app: AppOption = None,
    url: Url = None,
    json: Json = False,
) -> int:
    """Forget dead letters, for good.

    \b
    Examples:
      culm dead discard order-42
      culm dead discard --older-than 30d --dry-run
    """
    which = _which(task, queue, error, older_than, newer_than)
    return asyncio.run(_act("discard", store_app(app, url), ids or [], which, everything=all_, dry_run=dry_run, as_json=json))


def _which(task: str | None, queue: str | None, error: str | None, older: str | None, newer: str | None) -> Filter:
    given = {
        "task": task,
        "queue": queue,
        "error": error,
        "older_than": age_s(older, "--older-than"),
        "newer_than": age_s(newer, "--newer-than"),
    }
    return cast("Filter", {name: value for name, value in given.items() if value is not None})


async def _list(app: App, which: Filter, *, after: str, limit: int, as_json: bool) -> int:
    async with app:
        found: list[DeadLetter] = []
        async for letter in app.dead.list(**which, after=after):
            found.append(letter)
            if len(found) > limit:
                break
    more = found[limit - 1].id if len(found) > limit else None
    found = found[:limit]
    if as_json:
        say_json({"dead": [shown(letter) for letter in found], "after": more})
    elif not found:
        say("no dead letter matches")
    else:
        for line in lines(COLUMNS, [_row(letter) for letter in found]):
            say(line)
        if more is not None:
            say(f"there are more: --after {more}")
    return Exit.OK


async def _show(app: App, job_id: str, *, with_arguments: bool, as_json: bool) -> int:
    async with app:
        letter = await app.dead.get(job_id)
        state = await app.store.job(job_id) if letter is None else None
        arguments = await _arguments(app, job_id) if letter is not None and with_arguments else None
    if letter is None:
        raise Quit(f"job {job_id} is no dead letter: {'it is not known' if state is None else f'it is {state.state}'}")
    if as_json:
        say_json(shown(letter) | ({"arguments": arguments} if with_arguments else {}))
        return Exit.OK
    for name, value in shown(letter).items():
        if name in ("age", "dead_for"):
            say(f"{name:<10} {span(value * 1000)}")
        elif name != "fault":
            say(f"{name:<10} {clipped(str(value), MOST_SHOWN_CHARS)}")
    if with_arguments:
        say(f"{'arguments':<10} {harmless(msgspec.json.encode(arguments).decode())[:MOST_SHOWN_CHARS]}")
    if letter.fault is not None and letter.fault.trace:
        for line in letter.fault.trace.rstrip().split("\n"):
            say(harmless(line))
    return Exit.OK


async def _arguments(app: App, job_id: str) -> Any:
    """What the task was called with, in the order of its parameters; why it cannot be shown, if it cannot."""
    job = await app.store.sent(job_id)
    if job is None:
        return None
    try:
        arguments = msgspec.msgpack.decode(await app.payloads.open_arguments(job))
        msgspec.json.encode(arguments)
    except (CulmError, msgspec.MsgspecError, TypeError, ValueError, RecursionError) as e:
        return f"cannot be shown: {e}"
    return arguments


async def _act(
    what: Literal["replay", "discard"], app: App, ids: list[str], which: Filter, *, everything: bool, dry_run: bool, as_json: bool
) -> int:
    _refuse_unclear(what, ids, which, everything)
    async with app:
        if dry_run:
            return await _dry_run(what, app, ids, which, as_json=as_json)
        if ids:
            act = app.dead.replay if what == "replay" else app.dead.discard
            done = sum([await act(*ids[at : at + BATCH]) for at in range(0, len(ids), BATCH)])
        else:
            done = await (app.dead.replay_all(**which) if what == "replay" else app.dead.discard_all(**which))
    past = "replayed" if what == "replay" else "discarded"
    say_json({past: done}) if as_json else say(f"{past} {done}")
    if done < (missing := len(set(ids))):
        raise Quit(f"{missing - done} of {missing} ids are no dead letters; see: culm dead list")
    return Exit.OK


def _refuse_unclear(what: str, ids: list[str], which: Filter, everything: bool) -> None:
    given = [bool(ids), bool(which), everything]
    if sum(given) > 1:
        raise Quit(f"dead {what} takes ids, or options that choose, or --all: one of these only", Exit.USAGE)
    if not any(given):
        raise Quit(f"dead {what} what? name ids, choose by --task, --queue, --error, --older-than, --newer-than, or say --all", Exit.USAGE)


async def _dry_run(what: str, app: App, ids: list[str], which: Filter, *, as_json: bool) -> int:
    some: list[DeadLetter] = []
    count = 0
    if ids:
        found = [letter for job_id in dict.fromkeys(ids) if (letter := await app.dead.get(job_id)) is not None]
        some, count = found[:SHOWN], len(found)
    else:
        async for letter in app.dead.list(**which):
            count += 1
            if len(some) < SHOWN:
                some.append(letter)
    if as_json:
        say_json({f"would_{what}": count, "ids": [letter.id for letter in some]})
        return Exit.OK
    if some:
        for line in islice(lines(COLUMNS, [_row(letter) for letter in some]), SHOWN + 1):
            say(line)
    more = f", the first {len(some)} of them above" if count > len(some) else ""
    say(f"would {what} {count}{more}; nothing was changed")
    return Exit.OK


def shown(letter: DeadLetter) -> dict[str, Any]:
    """For machines."""
    fault = letter.fault
    return msgspec.structs.asdict(letter) | {"fault": None if fault is None else msgspec.structs.asdict(fault)}


def _row(letter: DeadLetter) -> tuple[str, ...]:
    counts = (str(letter.attempts), str(letter.replays), span(letter.dead_for * 1000))
    return (letter.id, letter.task, letter.queue, letter.state, *counts, clipped(letter.error, 70))

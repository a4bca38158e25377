"""The command line. Exit codes: 0; 1 failed; 2 usage; 78 configuration. Whatever was wrong is one line on stderr, never a traceback.

Every command takes MODULE:APP first where it has one (`dead`: --app), and `--url` to say the store's address itself; a command that
only asks the store may leave both out: then it is $CULM_URL, else culm.db beside the nearest pyproject.toml.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Annotated, Any

import typer

from culm.cli import asking
from culm.cli.arguments import AppName, JobId, Json, MaybeApp, Seconds, Url, subject
from culm.cli.dead import dead
from culm.cli.jobs import jobs
from culm.cli.output import Exit, Quit, say, say_json, warn
from culm.cli.queues import queues
from culm.cli.steer import drain, pause, purge, resume
from culm.cli.target import existing
from culm.cli.top import top
from culm.cli.why import why
from culm.cli.worker import worker
from culm.cli.workers import workers
from culm.errors import ConfigError, CulmError

cli = typer.Typer(
    help="Run Python functions somewhere else, reliably.\n\n\b\nTry it:\n  culm demo\n  culm worker shop.tasks:app\n"
    "  culm enqueue shop.tasks:app shop.tasks.add 1 2 --wait 10",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# A newer typer carries a click of its own: its base of all usage errors is found through the one that typer exports.
UsageError: Any = typer.BadParameter.__mro__[1]


cli.command()(worker)


@cli.command(context_settings={"ignore_unknown_options": True})  # -5 is an argument
def enqueue(
    app: AppName,
    task: Annotated[str, typer.Argument(metavar="TASK", help="the task's name")],
    args: Annotated[list[str] | None, typer.Argument(metavar="ARGS...", help="JSON, or name=JSON")] = None,
    queue: Annotated[str | None, typer.Option(help="instead of the task's own")] = None,
    priority: Annotated[int | None, typer.Option(help="0 to 9, the highest first")] = None,
    delay: Annotated[Seconds | None, typer.Option(help="seconds before it can start")] = None,
    at: Annotated[str | None, typer.Option(metavar="ISO", help="instant before which it cannot start, with its time zone")] = None,
    expires: Annotated[Seconds | None, typer.Option(help="seconds within which it must start")] = None,
    timeout: Annotated[Seconds | None, typer.Option(help="seconds that an attempt may run")] = None,
    deadline: Annotated[Seconds | None, typer.Option(help="seconds within which it must end")] = None,
    keep: Annotated[Seconds | None, typer.Option(help="seconds that its end is remembered")] = None,
    retry: Annotated[int | None, typer.Option(help="retries after the first attempt")] = None,
    id: Annotated[str | None, typer.Option("--id", help="the same id is the same job, however often it is sent")] = None,  # noqa: A002  # the option's name
    wait: Annotated[Seconds | None, typer.Option(metavar="SECONDS", help="await its result, so long at most")] = None,
    url: Url = None,
    json: Json = False,
) -> int:
    """Send a job and print its id. Arguments are JSON, checked against the task's signature.

    \b
    Example:
      culm enqueue shop.tasks:app shop.tasks.send_mail '"ada@example.com"' subject='"hi"' --delay 60
    """
    given: dict[str, Any] = {
        "queue": queue, "priority": priority, "delay": delay, "at": at, "expires": expires,
        "timeout": timeout, "deadline": deadline, "keep": keep, "retry": retry, "id": id,
    }  # fmt: skip
    options = {name: value for name, value in given.items() if value is not None}
    return asyncio.run(asking.enqueue(app, task, args or [], url=url, options=options, wait=wait, as_json=json))


@cli.command()
def result(
    job: JobId,
    timeout: Annotated[Seconds | None, typer.Option(help="seconds to wait at most [as long as it takes]")] = None,
    url: Url = None,
    json: Json = False,
) -> int:
    """Await a job's end and print its result as JSON; exit 1 when it ended otherwise, or not in time.

    \b
    Example:
      culm result shop.tasks:app order-42 --timeout 10
    """
    app, job_id = subject(job, url, what="ID")
    return asyncio.run(asking.result(app, job_id, timeout=timeout, as_json=json))


@cli.command()
def status(job: JobId, url: Url = None, json: Json = False) -> int:
    """Print what the store knows of a job.

    \b
    Example:
      culm status shop.tasks:app order-42 --json
    """
    app, job_id = subject(job, url, what="ID")
    return asyncio.run(asking.status(app, job_id, as_json=json))


@cli.command()
def cancel(
    job: JobId,
    tree: Annotated[bool, typer.Option("--tree", help="and all that it started")] = False,
    url: Url = None,
    json: Json = False,
) -> int:
    """Cancel a job: at once while it is queued, within moments while it runs.

    \b
    Example:
      culm cancel --url sqlite:///culm.db order-42 --tree
    """
    app, job_id = subject(job, url, what="ID")
    return asyncio.run(asking.cancel(app, job_id, tree=tree, as_json=json))


for command in (queues, workers, jobs, top, why, pause, resume, drain, purge):
    cli.command()(command)
cli.add_typer(dead, name="dead")


@cli.command()
def doctor(
    app: MaybeApp = None,
    url: Url = None,
    json: Json = False,
) -> int:
    """Print what the store is, which falls it survives, how far away it and its clock are, who serves it, and what wants attention.

    \b
    Example:
      culm doctor --url redis://localhost
    """
    from culm.cli.doctor import doctor as look

    return asyncio.run(look(existing(app, url), as_json=json))


@cli.command()
def migrate(
    app: Annotated[str | None, typer.Argument(metavar="[MODULE:APP|URL]", help="the app whose store to migrate, or its address")] = None,
    check: Annotated[bool, typer.Option("--check", help="change nothing; exit 1 when something is to be done")] = False,
    sql: Annotated[bool, typer.Option("--sql", help="print the SQL of a first migration, and do nothing")] = False,
    grant: Annotated[str | None, typer.Option(metavar="ROLE", help="let this role use the tables")] = None,
    url: Url = None,
    json: Json = False,
) -> int:
    """Bring the tables of a postgresql:// store to this version, as the owner of their schema.

    \b
    Example:
      culm migrate postgresql://owner@localhost/shop --grant shop_app
    """
    from culm.cli import migrate as migrating

    return asyncio.run(migrating.migrate(migrating.address_of(app, url), check=check, sql=sql, grant=grant, as_json=json))


@cli.command()
def demo(
    folder: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="the tree to read [the project's own]")] = None,
    kill: Annotated[bool, typer.Option("--kill", help="kill a worker with SIGKILL half-way")] = False,
    processes: Annotated[int, typer.Option("--processes", "-p", min=1, max=100, help="worker processes")] = 2,
    store: Annotated[Path | None, typer.Option("--store", metavar="PATH", help="the store's file [a new one]")] = None,
    json: Json = False,
) -> int:
    """Read every file of a tree in worker processes, join the results into a report, and prove that each was committed once.

    \b
    Example:
      culm demo --kill
    """
    from culm.cli.demo import Demo

    return Demo(folder, kill=kill, processes=processes, store=store, as_json=json).run()


@cli.command()
def version(json: Json = False) -> int:
    """Print the version.

    \b
    Example:
      culm version --json
    """
    import platform
    import sqlite3

    from culm import __version__

    if json:
        say_json({"culm": __version__, "python": platform.python_version(), "sqlite": sqlite3.sqlite_version})
    else:
        say(f"culm {__version__}")
    return Exit.OK


def run() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


@functools.cache
def _command(name: str) -> Callable[..., object]:
    """What the signatures above come to: of that command alone if there is one, since all of them take longer than most commands do."""
    some = copy(cli)
    some.registered_commands = [c for c in cli.registered_commands if c.callback is not None and c.callback.__name__ == name]
    some.registered_groups = [g for g in cli.registered_groups if g.name == name]
    return typer.main.get_group(some if some.registered_commands or some.registered_groups else cli)


def main(arguments: list[str]) -> int:
    """One command; returns its exit code."""
    try:
        code = _command(arguments[0] if arguments else "")(args=arguments or ["--help"], prog_name="culm", standalone_mode=False)
    except UsageError as e:
        return _refuse(e.format_message(), Exit.USAGE)
    except Quit as e:
        return _refuse(str(e), e.code)
    except ConfigError as e:
        return _refuse(str(e), Exit.CONFIG)
    except CulmError as e:
        return _refuse(str(e), Exit.FAILED)
    except (KeyboardInterrupt, typer.Abort):
        return Exit.INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    except OSError as e:  # such as a working directory that was removed
        return _refuse(str(e), Exit.FAILED)
    return code if isinstance(code, int) else Exit.OK


def _refuse(message: str, code: Exit) -> int:
    warn(f"culm: {message}")
    return code

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
from enum import StrEnum
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
from culm.cli.target import existing, load_app
from culm.cli.top import top
from culm.cli.why import why
from culm.cli.workers import workers
from culm.errors import ConfigError, CulmError
from culm.telemetry.address import Address, parse_address, refuse_taken

cli = typer.Typer(
    help="Run Python functions somewhere else, reliably.\n\n\b\nTry it:\n  culm demo\n  culm worker shop.tasks:app\n"
    "  culm enqueue shop.tasks:app shop.tasks.add 1 2 --wait 10",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Lines(StrEnum):
    TEXT = "text"
    JSON = "json"


Metrics = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="serve Prometheus metrics there; each further process on the next port")
]


# A newer typer carries a click of its own: its base of all usage errors is found through the one that typer exports.
UsageError: Any = typer.BadParameter.__mro__[1]


@cli.command()
def worker(
    app: AppName,
    queue: Annotated[list[str] | None, typer.Option("--queue", "-q", help="serve this queue; may be repeated [all of the app]")] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", help="attempts at once, in each process")] = 100,
    processes: Annotated[int, typer.Option("--processes", "-p", min=1, max=1000, help="worker processes")] = 1,
    lease: Annotated[Seconds, typer.Option(help="seconds of silence after which a worker has lost its jobs")] = 30.0,
    heartbeat: Annotated[Seconds, typer.Option(help="seconds between two extensions of the leases")] = 10.0,
    grace: Annotated[Seconds, typer.Option(help="seconds that a stop waits for what runs")] = 30.0,
    stuck_after: Annotated[Seconds | None, typer.Option(help="seconds that a task may block its process [lease]")] = None,
    start_timeout: Annotated[Seconds, typer.Option(help="seconds that one of several processes may take to start")] = 60.0,
    max_jobs: Annotated[int | None, typer.Option(min=1, help="attempts after which a process ends")] = None,
    max_rss: Annotated[int | None, typer.Option(min=16, metavar="MIB", help="a process larger than this is replaced")] = None,
    metrics: Metrics = None,
    log_format: Annotated[Lines, typer.Option("--log-format", help="how log lines are written, to stderr")] = Lines.TEXT,
    url: Url = None,
) -> int:
    """Run an app's tasks until SIGTERM or SIGINT; the second one gives back at once what still runs.

    Of several processes, one that dies or ends is replaced; what ran when it died runs again alone, and is lost after three such deaths.

    \b
    Example:
      culm worker shop.tasks:app -q mail -c 100 --processes 2 --metrics 127.0.0.1:9000
      culm worker shop.tasks:app --processes 4 --max-jobs 100000 --max-rss 512
    """
    from culm.worker import leash, process

    attached = leash.attach()
    process.log_to_stderr(log_format.value)
    address = None if metrics is None else parse_address(metrics, processes=processes)
    options: dict[str, Any] = {
        "lease": lease,
        "heartbeat": heartbeat,
        "grace": grace,
        "stuck_after": lease if stuck_after is None else stuck_after,
    }
    if processes > 1:
        with asking.usage():
            given = options | {"log_format": log_format.value, "max_jobs": max_jobs, "url": url}
            return _supervise(
                app,
                queue or [],
                given,
                concurrency=concurrency,
                processes=processes,
                start_timeout=start_timeout,
                max_rss=max_rss,
                metrics=address,
            )
    if max_rss is not None and attached.leash is None:
        raise ConfigError("--max-rss needs a supervisor: say --processes 2 or more")
    loaded = load_app(app, url)
    with asking.usage():
        it = loaded.worker(queues=queue or [], concurrency=concurrency, metrics=metrics, **options)
    it.leash = attached.leash
    if (loaded.url or os.environ.get("CULM_URL", "")).startswith("memory:"):
        raise ConfigError("a memory:// store lives inside one process, nobody could send to this worker; give --url or set CULM_URL")
    return process.run_worker(loaded, it, title=app, grace=grace, ready=attached.ready, max_jobs=max_jobs)


def _supervise(
    app: str,
    queues: list[str],
    options: dict[str, Any],
    *,
    concurrency: int,
    processes: int,
    start_timeout: float,
    max_rss: int | None,
    metrics: Address | None,
) -> int:
    from culm.duration import to_ms
    from culm.worker.supervisor import Supervisor

    if metrics is not None:
        refuse_taken(metrics, processes=processes)
    command = [sys.executable, "-m", "culm", "worker", app, "--processes", "1"]
    command += [f"--queue={q}" for q in queues]
    command += [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None and name != "max_jobs"]
    jobs = [] if options["max_jobs"] is None else [f"--max-jobs={options['max_jobs']}"]  # none apart: suspects would be given back
    return Supervisor(
        command,
        processes=processes,
        concurrency=concurrency,
        grace_s=to_ms(options["grace"], "grace") / 1000,
        stuck_s=to_ms(options["stuck_after"], "stuck_after") / 1000,
        start_s=to_ms(start_timeout, "start_timeout") / 1000,
        beat_s=to_ms(options["heartbeat"], "heartbeat") / 1000,
        max_rss=None if max_rss is None else max_rss << 20,
        one_more=lambda number: jobs + ([] if metrics is None else [f"--metrics={metrics.of_place(number)}"]),
    ).run()


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
def _command() -> Callable[..., object]:
    """What the signatures above come to: most of a refused command's time, so it is made once."""
    return typer.main.get_command(cli)


def main(arguments: list[str]) -> int:
    """One command; returns its exit code."""
    try:
        code = _command()(args=arguments or ["--help"], prog_name="culm", standalone_mode=False)
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

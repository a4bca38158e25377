"""`culm worker`: one process, a supervisor with several, or (`--reload`) a reloader with either as its child."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import Struct

from culm.cli import asking
from culm.cli.arguments import AppName, Seconds, Url
from culm.cli.target import load_app
from culm.errors import ConfigError
from culm.telemetry.address import parse_address, refuse_taken

if TYPE_CHECKING:
    from culm.worker.leash import Attached


STILL_S = 5.0  # a supervisor that has not looked for so long stands still
POLL_S = 1.0  # between two claims of a worker that has nothing to do


class Lines(StrEnum):
    TEXT = "text"
    JSON = "json"


Queues = Annotated[list[str] | None, typer.Option("--queue", "-q", help="serve this queue; may be repeated [all of the app]")]
Concurrency = Annotated[int, typer.Option("--concurrency", "-c", help="attempts at once, in each process")]
Processes = Annotated[int, typer.Option("--processes", "-p", min=1, max=1000, help="worker processes")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="threads for def tasks, in each process [concurrency]")]
Lease = Annotated[Seconds, typer.Option(help="seconds of silence after which a worker has lost its jobs")]
Heartbeat = Annotated[Seconds, typer.Option(help="seconds between two extensions of the leases")]
Grace = Annotated[Seconds, typer.Option(help="seconds that a stop waits for what runs")]
StuckAfter = Annotated[Seconds | None, typer.Option(help="seconds that a task may block its process [lease]")]
StartTimeout = Annotated[Seconds, typer.Option(help="seconds that one of several processes may take to start")]
MaxJobs = Annotated[int | None, typer.Option(min=1, help="attempts after which a process ends")]
MaxRss = Annotated[int | None, typer.Option(min=16, metavar="MIB", help="a process larger than this is replaced")]
Metrics = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="serve Prometheus metrics there; each further process on the next port")
]
Health = Annotated[
    str | None,
    typer.Option(metavar="FILE|HOST:PORT", help="touch this file while the store answers, or serve /livez and /readyz there"),
]
LogFormat = Annotated[Lines, typer.Option("--log-format", help="how log lines are written, to stderr")]
Reload = Annotated[bool, typer.Option("--reload", help="start anew when the code changes; for development")]


class Asked(Struct, frozen=True, kw_only=True):
    """What was said on the command line."""

    app: str
    queue: list[str]
    concurrency: int
    processes: int
    threads: int | None
    lease: float
    heartbeat: float
    grace: float
    stuck_after: float
    start_timeout: float
    max_jobs: int | None
    max_rss: int | None
    metrics: str | None
    health: str | None
    log_format: str
    url: str | None

    def command(self, *without: str) -> list[str]:
        """The same as a command, but for some of it."""
        words = [sys.executable, "-m", "culm", "worker", self.app]
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name != "app" and name not in without and value is not None:
                option = f"--{name.replace('_', '-')}"
                words += [f"{option}={one}" for one in (value if isinstance(value, list) else [value])]
        return words


def worker(
    app: AppName,
    queue: Queues = None,
    concurrency: Concurrency = 100,
    processes: Processes = 1,
    threads: Threads = None,
    lease: Lease = 30.0,
    heartbeat: Heartbeat = 10.0,
    grace: Grace = 30.0,
    stuck_after: StuckAfter = None,
    start_timeout: StartTimeout = 60.0,
    max_jobs: MaxJobs = None,
    max_rss: MaxRss = None,
    metrics: Metrics = None,
    health: Health = None,
    log_format: LogFormat = Lines.TEXT,
    reload: Reload = False,
    url: Url = None,
) -> int:
    """Run an app's tasks until SIGTERM or SIGINT; the second one gives back at once what still runs.

    Of several processes, one that dies or ends is replaced; what ran when it died runs again alone, and is lost after three such deaths.

    \b
    Example:
      culm worker shop.tasks:app -q mail -c 100 --processes 2 --metrics 127.0.0.1:9000
      culm worker shop.tasks:app --processes 4 --max-jobs 100000 --max-rss 512 --health /run/shop/health
      culm worker shop.tasks:app --reload
    """
    from culm.worker import leash, process

    attached = leash.attach()
    process.log_to_stderr(log_format.value)
    asked = Asked(
        app=app, queue=queue or [], concurrency=concurrency, processes=processes, threads=threads, lease=lease, heartbeat=heartbeat,
        grace=grace, stuck_after=lease if stuck_after is None else stuck_after, start_timeout=start_timeout, max_jobs=max_jobs,
        max_rss=max_rss, metrics=metrics, health=health, log_format=log_format.value, url=url,
    )  # fmt: skip
    if max_rss is not None and processes == 1 and attached.leash is None:
        raise ConfigError("--max-rss needs a supervisor: say --processes 2 or more")
    if reload:
        return _reload(asked)
    return _supervise(asked) if processes > 1 else _alone(asked, attached)


def _reload(asked: Asked) -> int:
    from culm.duration import to_ms
    from culm.worker.reloader import Reloader

    return Reloader(asked.command(), grace_s=to_ms(asked.grace, "grace") / 1000).run()


def _supervise(asked: Asked) -> int:
    from culm.duration import to_ms
    from culm.worker.health import Health
    from culm.worker.supervisor import Supervisor

    address = None if asked.metrics is None else parse_address(asked.metrics, processes=asked.processes)
    if address is not None:
        refuse_taken(address, processes=asked.processes)
    health = None if asked.health is None else Health(asked.health, stuck_s=STILL_S, fresh_s=asked.lease + POLL_S)
    each = asked.command("processes", "concurrency", "start_timeout", "max_jobs", "max_rss", "metrics", "health")
    jobs = [] if asked.max_jobs is None else [f"--max-jobs={asked.max_jobs}"]  # none apart: suspects would be given back
    with asking.usage():
        return Supervisor(
            each,
            processes=asked.processes,
            concurrency=asked.concurrency,
            grace_s=to_ms(asked.grace, "grace") / 1000,
            stuck_s=to_ms(asked.stuck_after, "stuck_after") / 1000,
            start_s=to_ms(asked.start_timeout, "start_timeout") / 1000,
            beat_s=to_ms(asked.heartbeat, "heartbeat") / 1000,
            max_rss=None if asked.max_rss is None else asked.max_rss << 20,
            health=health,
            one_more=lambda number: jobs + ([] if address is None else [f"--metrics={address.of_place(number)}"]),
        ).run()


def _alone(asked: Asked, attached: Attached) -> int:
    from culm.worker import process
    from culm.worker.imported import Imported

    imported = Imported.asked_for()
    loaded = load_app(asked.app, asked.url)
    imported.report()
    options: dict[str, Any] = {
        name: getattr(asked, name) for name in ("concurrency", "threads", "lease", "heartbeat", "grace", "stuck_after", "metrics", "health")
    }
    with asking.usage():
        it = loaded.worker(queues=asked.queue, **options)
    it.leash = attached.leash
    if (loaded.url or os.environ.get("CULM_URL", "")).startswith("memory:"):
        raise ConfigError("a memory:// store lives inside one process, nobody could send to this worker; give --url or set CULM_URL")
    return process.run_worker(
        loaded, it, title=asked.app, grace=asked.grace, ready=attached.ready, max_jobs=asked.max_jobs, look=imported.report
    )

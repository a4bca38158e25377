"""The demo: real worker processes on a new store file, one job per file of a tree, one join; and, with --kill, a murder half-way.

The command itself only sends the root job and watches. What it shows comes from the store, as any other process would see it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from culm.cli import demo_tasks
from culm.cli.demo_proof import Proof, prove
from culm.cli.demo_screen import PlainScreen, Progress, Screen, open_screen
from culm.cli.demo_tasks import Forked, Pace, Report
from culm.cli.output import Exit, Quit, say, say_json, warn
from culm.cli.target import working_folder
from culm.handle import Handle
from culm.store import WorkerInfo
from culm.worker.leash import PARENT

CONCURRENCY = 4
LEASE_S, HEARTBEAT_S = 2.0, 0.5
KILL_LASTS_S = 2.5  # the work with --kill shall take about so long
START_WITHIN_S = 20.0
LOOK_S = 0.1
STOP_WITHIN_S = 10.0


class Demo:
    """One run.

    Args:
        folder: the tree; None: the project's own.
        kill: kill a worker half-way.
        store: the store's file; None: a new one in a folder of its own.
    """

    def __init__(self, folder: Path | None, *, kill: bool, processes: int, store: Path | None, as_json: bool) -> None:
        self._folder = (folder or working_folder()).absolute()
        self._kill = kill
        self._processes = processes
        self._store = store.absolute() if store is not None else None
        self._as_json = as_json
        self._killed: tuple[int, ...] = ()
        self._held = 0  # by the one that was killed
        self._started = 0.0
        self._others: set[str] = set()  # workers that an older store knew before ours

    def run(self) -> int:
        """Raises Quit (no such folder, workers that do not start) and ConfigError (the store's file)."""
        if not self._folder.is_dir():
            raise Quit(f"there is no folder {self._folder}; give the demo an existing one", Exit.USAGE)
        if self._kill and self._processes < 2:
            raise Quit("a process without a supervisor is not replaced; --kill needs --processes 2 or more", Exit.USAGE)
        home = Path(tempfile.mkdtemp(prefix="culm-demo-"))
        path = self._path = self._store or home / "culm.db"
        demo_tasks.app.url = f"sqlite:///{quote(str(path))}?ledger=on"
        self._log = home / "workers.log"
        self._screen: Screen = PlainScreen(sys.stderr) if self._as_json else open_screen(sys.stdout)
        try:
            return asyncio.run(self._main())
        finally:
            self._screen.close()
            with contextlib.suppress(OSError):
                home.rmdir()  # if nothing came of it

    async def _main(self) -> int:
        app = demo_tasks.app
        async with app:  # makes the file, so that what is wrong with it is said here
            self._others = {w.id for w in await app.store.workers()}
            with self._workers() as supervisor:
                await self._up(supervisor)
                root = await self._send()
                forked, report = await self._watch(supervisor, root)
                took = time.monotonic() - self._started
            proof = await prove(app.store, self._path, root.id, files=forked.files)
        self._screen.close()
        return self._tell(report, proof, took)

    # -- the workers --------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _workers(self) -> Iterator[subprocess.Popen[bytes]]:
        """`culm worker` in processes of its own, stopped at the end whatever happens."""
        command = [sys.executable, "-m", "culm", "worker", "culm.cli.demo_tasks:app", "--processes", str(self._processes)]
        command += ["-c", str(CONCURRENCY), "--lease", str(LEASE_S), "--heartbeat", str(HEARTBEAT_S), "--grace", "2"]
        env = os.environ | {"CULM_URL": str(demo_tasks.app.url), PARENT: str(os.getpid())}
        with self._log.open("wb") as log:
            supervisor = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stderr=log, process_group=0)  # noqa: S603
        try:
            yield supervisor
        finally:
            _stop(supervisor)

    async def _up(self, supervisor: subprocess.Popen[bytes]) -> None:
        self._screen.say(f"{self._processes} worker process{'es' * (self._processes > 1)}, store {self._path}")
        began = time.monotonic()
        while len(await self._ours()) < self._processes:
            self._check(supervisor)
            if time.monotonic() - began > START_WITHIN_S:
                raise Quit(f"the workers did not start within {START_WITHIN_S:g} s; see {self._log}")
            await asyncio.sleep(0.02)
        self._screen.say(f"workers are up after {time.monotonic() - began:.1f} s; reading {self._folder}")

    async def _ours(self) -> list[WorkerInfo]:
        return sorted((w for w in await demo_tasks.app.store.workers() if w.id not in self._others), key=lambda w: w.pid)

    def _check(self, supervisor: subprocess.Popen[bytes]) -> None:
        if supervisor.poll() is not None:
            last = self._log.read_text("utf-8", "replace").strip().rpartition("\n")[2]
            raise Quit(f"the workers ended: {last or 'without a word'}; see {self._log}")

    # -- the work -----------------------------------------------------------------------------------------------------------

    async def _send(self) -> Handle[Forked]:
        pace = Pace(KILL_LASTS_S, self._processes * CONCURRENCY) if self._kill else None
        self._started = time.monotonic()
        return await demo_tasks.walk.enqueue(os.fsencode(self._folder), pace)

    async def _watch(self, supervisor: subprocess.Popen[bytes], root: Handle[Forked]) -> tuple[Forked, Report]:
        """Show what goes on until the report is there; kill when it is time."""
        forked: Forked | None = None
        look = asyncio.ensure_future(root.result())
        report: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
        try:
            while True:
                await asyncio.wait([look], timeout=LOOK_S)
                self._check(supervisor)
                if look.done() and forked is None:
                    forked = look.result()
                    report = asyncio.ensure_future(demo_tasks.app.job(forked.report, demo_tasks.report).result())
                progress = await self._progress(forked)
                self._screen.show(progress)
                if forked is None:
                    continue
                if self._kill and not self._killed and _is_half_way(progress, self._processes * CONCURRENCY):
                    await self._murder(root.id, progress)
                await asyncio.wait([report], timeout=LOOK_S)
                if report.done():
                    return forked, report.result()
        finally:
            look.cancel()
            report.cancel()

    async def _progress(self, forked: Forked | None) -> Progress:
        store = demo_tasks.app.store
        open_ = {c.queue: c.ready + c.delayed + c.leased for c in await store.counts()}
        total = None if forked is None else forked.files
        left = open_.get("demo.files", 0) + open_.get("demo.shares", 0) * demo_tasks.SHARE
        return Progress(
            seconds=time.monotonic() - self._started,
            done=0 if total is None else max(0, total - left),
            total=total,
            workers=await self._ours(),
            killed=self._killed,
            phase="walking" if total is None else "",
        )

    async def _murder(self, root: str, progress: Progress) -> None:
        """SIGKILL to the worker that holds the most files; it is frozen first, so that what we say of it is true."""
        for victim in await _busiest(root):
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGSTOP)
                holds = (await _holders(root)).get(victim, 0)
                os.kill(victim, signal.SIGKILL if holds else signal.SIGCONT)
                if holds:
                    self._killed, self._held = (victim,), holds
                    self._screen.say(
                        f"killed worker pid {victim} with SIGKILL at {progress.done}/{progress.total} files; it held {holds}, "
                        f"which others take over"
                    )
                    return

    # -- the end ------------------------------------------------------------------------------------------------------------

    def _tell(self, report: Report, proof: Proof, took: float) -> int:
        survived = not self._kill or bool(self._killed) or not proof.files
        if self._as_json:
            say_json(self._facts(report, proof, took))
        else:
            for line in self._lines(report, proof, took):
                say(line)
        if not proof.holds:
            warn(f"culm: BROKEN: {len(proof.twice)} jobs were committed twice {proof.twice[:3]}, {proof.missing} files are missing")
            return Exit.FAILED
        if not survived:
            warn("culm: the work was over before a worker could be killed; give the demo a larger folder")
            return Exit.FAILED
        return Exit.OK

    def _facts(self, report: Report, proof: Proof, took: float) -> dict[str, Any]:
        return {
            "folder": str(self._folder),
            "report": msgspec.to_builtins(report),
            "seconds": round(took, 3),
            "files_per_s": round(proof.files / took, 1),
            "mb_per_s": round(report.bytes / 1e6 / took, 3),
            "killed": list(self._killed),
            "taken_over": self._held,
            "proof": msgspec.to_builtins(proof) | {"holds": proof.holds},
            "store": str(self._path),
        }

    def _lines(self, report: Report, proof: Proof, took: float) -> Iterator[str]:
        skipped = ", ".join(f"{n} {what}" for what, n in msgspec.to_builtins(report.skipped).items() if n)
        yield ""
        yield f"report     {self._folder}"
        yield f"files      {report.files:,}  ({report.bytes:,} bytes, {report.lines:,} lines)"
        yield f"skipped    {skipped or 'nothing'}"
        for n, (name, size) in enumerate(report.largest):
            yield f"{'' if n else 'largest':<10} {size:>12,}  {name}"
        yield f"digest     {report.digest}"
        yield f"failures   {len(report.failures) or 'none'}"
        yield from (f"           {failure}" for failure in report.failures[:10])
        yield f"took       {took:.2f} s: {proof.files / took:,.0f} files/s, {report.bytes / 1e6 / took:,.1f} MB/s"
        if self._killed:
            yield f"killed     pid {self._killed[0]}; {self._held} jobs that it held were taken over and run again"
        if proof.holds:
            yield f"ledger     each of {proof.committed:,} files was committed exactly once"
        yield f"store      {self._path}"


def _is_half_way(progress: Progress, lanes: int) -> bool:
    total = progress.total or 0
    return progress.done < total and (progress.done * 2 >= total or total <= 2 * lanes)


async def _holders(root: str) -> dict[int, int]:
    """How many files of this run each worker holds at this moment, by pid."""
    store = demo_tasks.app.store
    pids = {w.id: w.pid for w in await store.workers()}
    held: dict[int, int] = {}
    for view in await store.jobs(state="leased", queue="demo.files", limit=10_000):
        pid = pids.get(view.lease.partition("/")[0])
        if pid is not None and view.id.startswith(f"{root}~"):
            held[pid] = held.get(pid, 0) + 1
    return held


async def _busiest(root: str) -> list[int]:
    held = await _holders(root)
    return sorted(held, key=lambda pid: -held[pid])


def _stop(supervisor: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        if supervisor.poll() is not None:
            return
        supervisor.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            supervisor.wait(STOP_WITHIN_S / 2)

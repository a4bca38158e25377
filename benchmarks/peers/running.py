"""Processes of a queue: its worker, of which nothing is left afterwards, and a client that answers with figures."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from benchmarks.peers.environments import ROOT
from benchmarks.peers.failed import Failed, tail
from benchmarks.peers.roster import Peer

PREPARE_S = 60


class Place(Struct, frozen=True):
    """Where one measurement of one peer happens."""

    peer: Peer
    programs: Path
    folder: Path  # of this measurement alone
    url: str

    @property
    def ticks(self) -> Path:
        return self.folder / "ticks"

    @property
    def log(self) -> Path:
        return self.folder / "worker.log"

    def env(self) -> dict[str, str]:
        ours = {
            "PEER_URL": self.url,
            "CULM_URL": self.url,
            "RQ_REDIS_URL": self.url,
            "PGDSN": self.url,
            "PEER_TICKS": str(self.ticks),
            "PYTHONPATH": str(ROOT),
        }
        return {**os.environ, **ours, "PATH": f"{self.programs}:{os.environ['PATH']}", **self.peer.env}


def ask(place: Place, workload: str, n: int, *, timeout_s: float) -> dict[str, float]:
    """Run one workload of the client. Raises Failed."""
    command = [str(place.programs / "python"), "-m", "benchmarks.peers.client", place.peer.queue, workload, str(n)]
    try:
        done = subprocess.run(command, cwd=place.folder, env=place.env(), capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as e:
        raise Failed(f"{workload} of {n} did not end within {timeout_s:.0f} s", printed=tail(place.log)) from e
    if done.returncode or not done.stdout:
        raise Failed(f"{workload}, exit {done.returncode}", printed=done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def prepare(place: Place) -> None:
    """Make the peer's tables. Raises Failed."""
    program, *words = place.peer.prepare
    command = [str(place.programs / program), *words]
    done = subprocess.run(command, cwd=place.folder, env=place.env(), capture_output=True, text=True, timeout=PREPARE_S, check=False)
    if done.returncode:
        raise Failed(f"its tables, exit {done.returncode}", printed=done.stderr)


@contextlib.contextmanager
def worker(place: Place, command: tuple[str, ...]) -> Iterator[subprocess.Popen[bytes]]:
    """The worker and all that it forks; killed at the end, since what it still holds is of no use."""
    with place.log.open("ab") as log:
        child = subprocess.Popen(
            [str(place.programs / command[0]), *command[1:]],
            cwd=place.folder,
            env=place.env(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        _kill_session(child.pid)
        child.wait()


def _kill_session(session: int) -> None:
    """Kill by session, not by group or parent: some workers put their children in groups, and orphans have no parent."""
    while pids := [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _alive_in(pid, session)]:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _alive_in(pid: int, session: int) -> bool:
    try:
        state, _, _, its = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:4]
    except OSError:
        return False
    return int(its) == session and state not in "ZX"

"""Real processes on one store, and what may happen to them. Every child has its own process group, and none survives `close`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.crash import records
from tests.crash.history import History
from tests.crash.records import Boot, Fault, Journal, now
from tests.crash.truths import Truth

ROOT = Path(__file__).parents[2]


class Cluster:
    def __init__(self, folder: Path, truth: Truth) -> None:
        self.truth = truth
        self.journal_path = folder / "journal"
        self.journal = Journal(self.journal_path)
        self.url = truth.url
        self._log = (folder / "log").open("ab")
        self.children: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for child in self.children:
            _signal(child, signal.SIGKILL)
        for child in self.children:
            child.wait()
        self._log.close()
        self.journal.close()

    # -- processes ----------------------------------------------------------------------------------------------------------

    def worker(self, *, concurrency: int) -> subprocess.Popen[bytes]:
        return self._spawn("tests.crash.work", str(concurrency))

    def client(self, first: int, last: int, seed: int, *, lives: int | None = None) -> subprocess.Popen[bytes]:
        """Sends those jobs; with `lives` it dies while its call of that number is under way."""
        numbers = (first, last, seed) if lives is None else (first, last, seed, lives)
        return self._spawn("tests.crash.client", *map(str, numbers))

    def _spawn(self, module: str, *args: str) -> subprocess.Popen[bytes]:
        env = {**os.environ, "CULM_URL": self.url, "CULM_JOURNAL": str(self.journal_path), "PYTHONPATH": str(ROOT)}
        child = subprocess.Popen([sys.executable, "-m", module, *args], env=env, cwd=ROOT, stderr=self._log, start_new_session=True)
        self.children.append(child)
        return child

    def booted(self, child: subprocess.Popen[bytes]) -> None:
        """Wait until that worker runs."""
        wait_for(
            lambda: any(b.pid == child.pid for b in records.of(Boot, records.read(self.journal_path))), "a worker to boot", child=child
        )

    def terminate(self, children: list[subprocess.Popen[bytes]]) -> list[int]:
        """Stop them gracefully; their exit codes. Whoever does not stop is asked to show, in the log, what it does instead."""
        for child in children:
            _signal(child, signal.SIGTERM)
        try:
            return [child.wait(timeout=15) for child in children]
        except subprocess.TimeoutExpired as e:
            for child in children:
                if child.poll() is None:
                    _signal(child, signal.SIGUSR1)
            time.sleep(1)
            raise AssertionError(f"{e}\n{self.log()[-8_000:]}") from e

    # -- faults -------------------------------------------------------------------------------------------------------------

    def kill(self, child: subprocess.Popen[bytes]) -> int:
        """SIGKILL; returns how many jobs it held. It is stopped first, so that what it held can be counted."""
        _signal(child, signal.SIGSTOP)
        held = self.held_by(child)
        _signal(child, signal.SIGKILL)
        child.wait()
        self.journal.write(Fault("kill", child.pid, held, now()))
        return held

    def freeze(self, child: subprocess.Popen[bytes]) -> int:
        """SIGSTOP, but not in the middle of a transaction: that would stop everybody, and only prove that SQLite has one lock."""
        while True:
            _signal(child, signal.SIGSTOP)
            if self.truth.can_write():
                break
            _signal(child, signal.SIGCONT)
            time.sleep(0.003)
        held = self.held_by(child)
        self.journal.write(Fault("stop", child.pid, held, now()))
        return held

    def thaw(self, child: subprocess.Popen[bytes]) -> None:
        _signal(child, signal.SIGCONT)

    # -- looking ------------------------------------------------------------------------------------------------------------

    def held_by(self, child: subprocess.Popen[bytes]) -> int:
        name = next((b.worker for b in records.of(Boot, records.read(self.journal_path)) if b.pid == child.pid), None)
        return 0 if name is None else self.truth.held_by(name)

    def log(self) -> str:
        self._log.flush()
        return Path(self._log.name).read_text(encoding="utf-8")

    def history(self) -> History:
        return History(records.read(self.journal_path), self.truth.ledger(), self.truth.states(), fenced=self.log().count("commit.fenced"))


def wait_for(done: Callable[[], bool], what: str, *, for_s: float = 30.0, child: subprocess.Popen[bytes] | None = None) -> None:
    """Poll what other processes do; they have no signal for us."""
    ends_at = now() + for_s
    while not done():
        if child is not None and child.poll() is not None:
            raise AssertionError(f"waited for {what}, but that process ended with {child.returncode}")
        if now() > ends_at:
            raise AssertionError(f"waited {for_s:g} s for {what}")
        time.sleep(0.01)


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if child.poll() is None:
        os.killpg(child.pid, number)

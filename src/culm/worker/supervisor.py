"""The supervisor keeps N worker processes alive. It imports no user code and opens no store: what breaks them does not break it.

The first process starts alone and proves the configuration; when it is ready, the others follow. A process that dies unasked
is replaced, after a pause that doubles while its replacements die young. SIGTERM and SIGINT are passed on; each process has a
group of its own, so that a Ctrl-C in the terminal reaches it once, through here.

One thread sleeps in `select` on two kinds of pipes: the signals', and one per process that is not ready yet.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence

from culm.worker.process import PARENT, PLACE, READY_FD

log = logging.getLogger("culm.worker")

HOPELESS = (2, 78)  # usage, configuration: exit codes that another start would only repeat
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0
YOUNG_S = 10.0  # a process that lived longer is replaced as if it were the first to die
PATIENCE_S = 10.0  # beyond the grace, before a process that does not stop is killed
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


class Place:
    """One of the N places, and the process that fills it now."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: subprocess.Popen[bytes] | None = None
        self.ready_fd = -1  # -1: it is ready, or gone
        self.started = 0.0
        self.start_at = 0.0
        self.pause_s = FIRST_PAUSE_S

    def start(self, command: Sequence[str]) -> None:
        self.ready_fd, fd = os.pipe()
        env = os.environ | {PARENT: str(os.getpid()), READY_FD: str(fd), PLACE: str(self.number)}
        try:
            self.process = subprocess.Popen(command, env=env, pass_fds=[fd], stdin=subprocess.DEVNULL, process_group=0)  # noqa: S603
        finally:
            os.close(fd)
        self.started = time.monotonic()
        log.info("supervisor.started: process %d, pid %d", self.number, self.process.pid)

    def close_ready(self) -> bool:
        """True: it has just become ready."""
        data = b""
        if self.ready_fd >= 0:
            with contextlib.suppress(BlockingIOError):
                os.set_blocking(self.ready_fd, False)
                data = os.read(self.ready_fd, 1)
            os.close(self.ready_fd)
            self.ready_fd = -1
        return bool(data)

    def next_pause(self, now: float) -> float:
        if now - self.started > YOUNG_S:
            self.pause_s = FIRST_PAUSE_S
        pause, self.pause_s = self.pause_s, min(self.pause_s * 2, LONGEST_PAUSE_S)
        return pause


class Supervisor:
    """Runs `command` in `processes` processes until a signal says stop.

    Args:
        command: a worker for one process.
        grace_s: how long a worker may take to stop; a while later it is killed.
    """

    def __init__(self, command: Sequence[str], *, processes: int, grace_s: float) -> None:
        self._command = list(command)
        self._places = [Place(n) for n in range(1, processes + 1)]
        self._grace_s = grace_s
        self._proven = False  # a process was ready once: the configuration works
        self._kill_at: float | None = None  # not None: stopping
        self._code = 0

    def run(self) -> int:
        """The exit code: 0, 1 when a process did not stop well, or that of the first when it could not start."""
        wake, woken = os.pipe()
        for fd in (wake, woken):
            os.set_blocking(fd, False)
        before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
        old_fd = signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        try:
            self._loop(wake)
        finally:
            self._kill()
            signal.set_wakeup_fd(old_fd)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(wake)
            os.close(woken)
        return self._code

    def _loop(self, wake: int) -> None:
        while True:
            self._start_due()
            if self._kill_at is not None and not any(p.process for p in self._places):
                return
            starting = {p.ready_fd: p for p in self._places if p.ready_fd >= 0}
            heard, _, _ = select.select([wake, *starting], [], [], self._sleep_s())
            for fd in heard:
                if fd == wake:
                    self._signalled(os.read(wake, 64))
                else:
                    self._proven = starting[fd].close_ready() or self._proven
            self._reap()
            if self._kill_at is not None and time.monotonic() > self._kill_at:
                self._kill()

    def _start_due(self) -> None:
        if self._kill_at is not None:
            return
        now = time.monotonic()
        for place in self._places if self._proven else self._places[:1]:
            if place.process is None and now >= place.start_at:
                place.start(self._command)

    def _sleep_s(self) -> float | None:
        now = time.monotonic()
        if self._kill_at is not None:
            return max(0.0, self._kill_at - now) + 0.01
        waiting = [p.start_at - now for p in self._places if p.process is None] if self._proven else [self._places[0].start_at - now]
        waiting = waiting if self._proven or self._places[0].process is None else []
        return max(0.0, min(waiting)) if waiting else None

    def _signalled(self, numbers: bytes) -> None:
        for number in numbers:
            if number in (signal.SIGTERM, signal.SIGINT):
                log.info("supervisor.stopping: %s", signal.Signals(number).name)
                self._stop()

    def _stop(self) -> None:
        self._kill_at = self._kill_at or time.monotonic() + self._grace_s + PATIENCE_S
        for place in self._places:
            if place.process is not None:
                place.process.send_signal(signal.SIGTERM)

    def _reap(self) -> None:
        for place in self._places:
            if place.process is None or (code := place.process.poll()) is None:
                continue
            pid, place.process = place.process.pid, None
            self._proven = place.close_ready() or self._proven
            self._ended(place, pid, code)

    def _ended(self, place: Place, pid: int, code: int) -> None:
        if self._kill_at is not None:
            if code not in (0, -signal.SIGTERM):
                log.error("supervisor.ended: process %d, pid %d, %s", place.number, pid, ending(code))
                self._code = self._code or 1
        elif code in HOPELESS and not self._proven:
            self._code = code  # it has said why
            self._stop()
        else:
            now = time.monotonic()
            pause = place.next_pause(now)
            place.start_at = now + pause
            log.error("supervisor.died: process %d, pid %d, %s; replaced in %g s", place.number, pid, ending(code), pause)

    def _kill(self) -> None:
        for place in self._places:
            if place.process is not None:
                log.error("supervisor.kills: process %d, pid %d, did not stop", place.number, place.process.pid)
                place.process.kill()
                place.process.wait()
                place.process = None
                self._code = self._code or 1
            place.close_ready()


def ending(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"

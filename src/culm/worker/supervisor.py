"""The supervisor keeps N worker processes alive. It imports no user code and opens no store: what breaks them does not break it.

The first process starts alone and proves the configuration; when it is ready, the others follow. A process that dies unasked
is replaced, after a pause that doubles while its replacements die young and do no work. What it held is known from its board: what
had not begun is given back at once, by any other process; what ran is suspect (`suspects.py`), and runs one after another in processes
apart. A process whose loop stands still shows its stacks, and is killed; one that grew too large is replaced.

SIGTERM and SIGINT are passed on; each process has a group of its own, so that a Ctrl-C in the terminal reaches it once, through
here. One thread sleeps in `select` on the signals' pipe, a pipe per process that is not ready yet, and the sockets of orders.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from culm.worker.ending import ending
from culm.worker.health import Health
from culm.worker.notify import tell_systemd
from culm.worker.orders import Order
from culm.worker.place import LONGEST_PAUSE_S, Place
from culm.worker.suspects import Suspects

log = logging.getLogger("culm.worker")

HOPELESS = (2, 78)  # usage, configuration: exit codes that another start would only repeat
PATIENCE_S = 10.0  # beyond the grace, before a process that does not stop is killed
LOOK_S = 0.5  # how often the processes are looked at
REST_S = 10.0  # how long a process apart may idle
MANY = 20  # suspects that are worth another process apart
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


class Supervisor:
    """Runs `command` in `processes` processes until a signal says stop.

    Args:
        command: a worker for one process; `--concurrency` follows.
        concurrency: of each process.
        grace_s: how long a worker may take to stop; a while later it is killed.
        stuck_s: a process whose loop has not ticked for so long is killed.
        one_more: arguments of the n-th process, from 1; none of those apart.
        health: told how they are.
        max_rss: bytes; a process that is larger is replaced when what it runs has ended, one twice as large at once.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        processes: int,
        concurrency: int,
        grace_s: float,
        stuck_s: float,
        max_rss: int | None = None,
        one_more: Callable[[int], Sequence[str]] = lambda _: (),
        health: Health | None = None,
    ) -> None:
        each = [*command, f"--concurrency={concurrency}"]
        self._places = [Place(str(n), [*each, *one_more(n)], concurrency=concurrency) for n in range(1, processes + 1)]
        alone = [*command, "--concurrency=1"]
        self._aparts = [Place(f"apart {n}", alone, concurrency=1, apart=True) for n in range(1, processes + 1)]
        self._suspects = Suspects()
        self._unordered: list[Order] = []  # for the first process that is ready
        self._grace_s = grace_s
        self._stuck_s = stuck_s
        self._max_rss = max_rss
        self._health = health
        self._good = 0.0  # when the store last answered all of them
        self._proven = False  # a process was ready once: the configuration works
        self._look_at = 0.0
        self._idle_since: dict[Place, float] = {}
        self._kill_at: float | None = None  # not None: stopping
        self._code = 0
        self._told = False  # to stop

    @property
    def _all(self) -> list[Place]:
        return [*self._places, *self._aparts]

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
            if self._health is not None:
                self._health.close()
            signal.set_wakeup_fd(old_fd)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(wake)
            os.close(woken)
        return self._code

    def _loop(self, wake: int) -> None:
        while True:
            self._start_due()
            if self._kill_at is not None and not any(p.process for p in self._all):
                return
            starting = {p.ready_fd: p for p in self._all if p.ready_fd >= 0}
            unsent = [p for p in self._all if p.process is not None and p.has_unsent]
            heard, writable, _ = select.select([wake, *starting], unsent, [], self._sleep_s())
            for fd in heard:
                if fd == wake:
                    self._signalled(os.read(wake, 64))
                else:
                    self._hear(starting[fd])
            for place in writable:
                place.send()
            self._reap()
            now = time.monotonic()
            if now >= self._look_at:
                self._look(now)
            if self._kill_at is not None and now > self._kill_at:
                self._kill()

    # -- starting and stopping ------------------------------------------------------------------------------------------------

    def _start_due(self) -> None:
        if self._kill_at is not None:
            return
        now = time.monotonic()
        for place in self._due():
            if place.process is None and now >= place.start_at:
                self._start(place, now)

    def _start(self, place: Place, now: float) -> None:
        try:
            place.start()
        except OSError as e:  # no memory, no descriptors, no processes left: those that live must go on
            place.start_at = now + LONGEST_PAUSE_S
            log.error("supervisor.failed: process %s cannot be started: %s; tried again in %g s", place.name, e, LONGEST_PAUSE_S)

    def _due(self) -> list[Place]:
        """Those that should be filled."""
        places = self._places if self._proven else self._places[:1]
        return places + self._aparts[: self._wanted_apart()]

    def _wanted_apart(self) -> int:
        """How many processes apart the suspects who wait are worth."""
        return min(len(self._aparts), -(-len(self._suspects.waiting) // MANY))

    def _hear(self, place: Place) -> None:
        place.hear_ready()
        if place.ready and not self._proven:
            self._proven = True
            tell_systemd("READY=1")
        self._pass_on()

    def _pass_on(self) -> None:
        """Orders go to whoever can carry them out."""
        resting = [p for p in self._aparts if p.is_able and p.is_idle()]
        if resting and self._suspects.waiting:
            orders = self._suspects.take(max(len(resting), self._wanted_apart()))  # some of them may be about to come
            for place, order in zip(resting, orders, strict=False):
                place.give(order)
            for order in orders[len(resting) :]:
                self._suspects.not_taken(order)
        able = next((p for p in self._all if p.is_able), None)
        if able is not None:
            for order in self._unordered:
                able.give(order)
            self._unordered = []

    def _sleep_s(self) -> float:
        now = time.monotonic()
        moments = [self._look_at] if self._kill_at is None else [self._look_at, self._kill_at]
        if self._kill_at is None:
            moments += [p.start_at for p in self._due() if p.process is None]
        return max(0.0, min(moments) - now) + 0.001

    def _signalled(self, numbers: bytes) -> None:
        for number in numbers:
            if number in (signal.SIGTERM, signal.SIGINT):
                log.info("supervisor.stopping: %s", signal.Signals(number).name)
                self._stop()

    def _stop(self) -> None:
        tell_systemd("STOPPING=1")
        self._give_back_suspects()
        self._kill_at = self._kill_at or time.monotonic() + self._grace_s + PATIENCE_S
        hurry, self._told = self._told, True
        for place in self._all:
            if hurry or not place.stopping:  # one that is being replaced would take it for the second signal
                place.stop()

    def _give_back_suspects(self) -> None:
        """Those that have not begun to run apart are for others to suspect."""
        self._unordered += [Order(give_back=order.run) for order in self._suspects.take(1)]
        self._pass_on()

    # -- how they are, and how they end ---------------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        late, self._look_at = now - self._look_at > 2 * LOOK_S, now + LOOK_S
        tell_systemd("WATCHDOG=1")
        self._tell_health(now)
        for place in self._all:
            if place.process is None or place.killed:
                continue
            if (stuck_s := place.stuck_for(now)) > self._stuck_s and not late:  # after a sleep of our own, they get another look
                log.error("supervisor.stuck: process %s, pid %d, for %.1f s; its stacks follow", place.name, place.pid, stuck_s)
                place.show_and_kill()
            elif self._max_rss is not None and (rss := place.rss_bytes()) > self._max_rss:
                self._too_large(place, rss, self._max_rss)
        for place in self._aparts:
            self._rest(place, now)
        if self._suspects.waiting:
            self._pass_on()

    def _tell_health(self, now: float) -> None:
        """As of the one that is worst; while one is being replaced, as of before: that grows old, if it takes long."""
        if self._health is None:
            return
        if all(p.ready and p.process is not None for p in self._places):
            self._good = min(min(head.good_ms, head.ticked_ms) for head in (p.board.head() for p in self._places)) / 1000
        self._health.tick(now, self._good, "it is stopping" if self._kill_at is not None else "")

    def _too_large(self, place: Place, rss: int, most: int) -> None:
        if rss > 2 * most:
            log.error("supervisor.kills: process %s, pid %d takes %d MiB", place.name, place.pid, rss >> 20)
            place.kill()
        elif not place.stopping and not place.apart:  # suspects stay where they are
            log.info("supervisor.recycles: process %s, pid %d takes %d MiB", place.name, place.pid, rss >> 20)
            place.stop()

    def _rest(self, apart: Place, now: float) -> None:
        """Nobody is suspect any more: a process apart may go."""
        if apart.process is None or self._suspects.waiting or not apart.is_idle():
            self._idle_since[apart] = now
        elif now - self._idle_since[apart] > REST_S and not apart.stopping:
            apart.stop()

    def _reap(self) -> None:
        for place in self._all:
            pid = place.pid
            if (code := place.reap()) is None:
                continue
            if place.ready and not self._proven:
                self._proven = True
                tell_systemd("READY=1")
            self._ended(place, pid, code)
            place.board.close()

    def _ended(self, place: Place, pid: int, code: int) -> None:
        seen = place.board.seen() if place.ready else None
        well = code == 0 and (place.stopping or (seen is not None and not seen.running))  # a task may call os._exit(0)
        if seen is not None:
            for order in place.not_taken():
                self._suspects.not_taken(order)
                self._unordered.append(replace(order, run=[]))
            if not well:
                self._unordered.append(self._suspects.died(seen, ending(code), apart=place.apart))
            self._pass_on()
        if place.apart and not any(p.process for p in self._aparts):
            self._suspects.cleared()
        if self._kill_at is not None:
            if code not in (0, -signal.SIGTERM):
                log.error("supervisor.ended: process %s, pid %d, %s", place.name, pid, ending(code))
                self._code = self._code or 1
            self._give_back_suspects()
        elif code in HOPELESS and not self._proven:
            self._code = code  # it has said why
            self._stop()
        elif well:
            log.info("supervisor.recycled: process %s, pid %d", place.name, pid)
            place.start_at = 0.0
        else:
            now = time.monotonic()
            pause = place.next_pause(now)
            place.start_at = now + pause
            log.error("supervisor.died: process %s, pid %d, %s; replaced in %g s", place.name, pid, ending(code), pause)

    def _kill(self) -> None:
        for place in self._all:
            if place.process is not None:
                log.error("supervisor.kills: process %s, pid %d, did not stop", place.name, place.pid)
                place.process.kill()
                place.process.wait()
                place.reap()
                self._code = self._code or 1

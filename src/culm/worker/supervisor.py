"""The supervisor keeps N worker processes alive. It imports no user code and opens no store: what breaks them does not break it.

The first process starts alone and proves the configuration; when it is ready, the others follow. A process that dies unasked
is replaced, after a pause that doubles while its replacements die young and do no work. What it held is known from its board: what
had not begun is given back at once, by any other process; what ran is suspect (`suspects.py`), and runs one after another in processes
apart. A process whose loop stands still, or that is not ready in time, shows its stacks, and is killed; one that grew too large is
replaced.

SIGTERM and SIGINT are passed on; each process leads a session of its own, so that a Ctrl-C in the terminal reaches it once, through
here, and all that its tasks started is killed with it. Who stops says when it holds nothing any more, and waits to be let go: when all
stop, one of them stays to the last, and gives back what others leave behind.

One thread sleeps in `poll` on the signals' pipe, a pipe per process that is not ready yet, and the sockets of orders; it waits nowhere
else.
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
from culm.worker.orphans import adopts_orphans, reap_orphans
from culm.worker.place import LONGEST_PAUSE_S, Place
from culm.worker.signals import hearing
from culm.worker.suspects import Suspects

log = logging.getLogger("culm.worker")

HOPELESS = (2, 78)  # usage, configuration: exit codes that another start would only repeat
PATIENCE_S = 10.0  # beyond the grace, before a process that does not stop is killed
LAST_S = 5.0  # what the killed leave behind may take so long to be given back
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
        start_s: a process that is not ready after so long is killed.
        beat_s: how often leases must be extended.
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
        start_s: float = 60.0,
        beat_s: float = 10.0,
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
        self._start_s = start_s
        self._beat_s = beat_s
        self._hold_at = 0.0  # when the leases of suspects who wait are to be extended
        self._max_rss = max_rss
        self._health = health
        self._good = 0.0  # when the store last answered all of them
        self._proven = False  # a process was ready once: the configuration works
        self._look_at = 0.0
        self._idle_since: dict[Place, float] = {}
        self._kill_at: float | None = None  # not None: stopping
        self._code = 0
        self._told = False  # to stop
        self._kills_all = False  # also who has drained
        self._adopts = adopts_orphans()

    @property
    def _all(self) -> list[Place]:
        return [*self._places, *self._aparts]

    def run(self) -> int:
        """The exit code: 0, 1 when a process did not stop well, or that of the first when it could not start."""
        with hearing(SIGNALS) as wake:
            try:
                self._loop(wake)
            except Exception:
                log.exception("supervisor.failed: a defect; its processes stop, and then it ends")
                self._code = 1
                self._abandon(wake)
            finally:
                self._end()
                if self._health is not None:
                    self._health.close()
        return self._code

    def _loop(self, wake: int) -> None:
        while True:
            self._start_due()
            if self._kill_at is not None and not any(p.process for p in self._all):
                return
            heard = self._sleep(wake)
            if wake in heard:
                self._signalled(os.read(wake, 64))
            for place in self._all:
                if place.ready_fd in heard:
                    self._hear(place)
                if place.listening and place.fileno() in heard:
                    place.hear()
                    place.send()
            self._reap()
            self._let_go()
            self._after(time.monotonic())

    def _sleep(self, wake: int) -> set[int]:
        """Until something is to be done. Returns who says so; `poll`, since `select` knows no descriptor beyond 1,023."""
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        for place in self._all:
            if place.ready_fd >= 0:
                poll.register(place.ready_fd, select.POLLIN)
            if place.listening:
                poll.register(place.fileno(), select.POLLIN | (select.POLLOUT if place.has_unsent else 0))
        return {fd for fd, _ in poll.poll(self._sleep_s() * 1000)}

    def _after(self, now: float) -> None:
        """What its time has come for."""
        for place in self._all:
            if place.kill_at is not None and now >= place.kill_at:
                place.kill()
        if now >= self._look_at:
            self._look(now)
        if now >= self._hold_at:
            self._hold(now)
        if self._kill_at is not None and now > self._kill_at:
            self._kill(now)

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
        resting = [p for p in self._aparts if p.is_able and not p.stopping and p.is_idle() and not p.board.head().leaked]
        if resting and self._suspects.waiting:
            orders = self._suspects.take(max(len(resting), self._wanted_apart()))  # some of them may be about to come
            for place, order in zip(resting, orders, strict=False):
                place.give(order)
            for order in orders[len(resting) :]:
                self._suspects.not_taken(order)
        while self._unordered and (able := self._able()) is not None:
            able.give(self._unordered.pop(0))

    def _able(self) -> Place | None:
        """Who carries out orders soonest."""
        return min((p for p in self._all if p.is_able), key=Place.load, default=None)

    def _hold(self, now: float) -> None:
        """No process extends the leases of suspects who wait for theirs, or of those whom a process apart has not taken up."""
        held = list(self._suspects.waiting.values())
        held += [h for p in self._aparts if p.process is not None for order in p.not_taken() for h in order.run]
        able = self._able() if held else None
        if able is not None:
            able.give(Order(hold=held))
        self._hold_at = now + (LOOK_S if held and able is None else self._beat_s)

    def _let_go(self) -> None:
        """Who holds nothing any more may end. While all stop, one of them stays until the others hold nothing either."""
        waiting = [p for p in self._all if p.process is not None and not p.is_let_go]
        drained = [p for p in waiting if p.drained]
        stays = 1 if self._kill_at is not None and len(drained) < len(waiting) else 0
        for place in drained[stays:]:
            place.let_go()

    def _sleep_s(self) -> float:
        now = time.monotonic()
        moments = [self._look_at, self._hold_at, *(p.kill_at for p in self._all if p.kill_at is not None)]
        if self._kill_at is None:
            moments += [p.start_at for p in self._due() if p.process is None]
        else:
            moments.append(self._kill_at)
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
            if place.process is not None and not place.killed:
                self._look_at_one(place, now, late=late)
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

    def _look_at_one(self, place: Place, now: float, *, late: bool) -> None:
        """late: after a sleep of our own, they get another look."""
        if not place.ready:
            if (took_s := now - place.started) > self._start_s and not late:
                log.error("supervisor.hangs: process %s, pid %d, not ready after %.0f s; its stacks follow", place.name, place.pid, took_s)
                place.show(now)
        elif (stuck_s := place.stuck_for(now)) > self._stuck_s and not late:
            log.error("supervisor.stuck: process %s, pid %d, for %.1f s; its stacks follow", place.name, place.pid, stuck_s)
            place.show(now)
        elif self._max_rss is not None and (rss := place.rss_bytes()) > (spare := place.spare_bytes(self._max_rss)):
            self._too_large(place, rss, kill=rss > spare + self._max_rss)

    def _too_large(self, place: Place, rss: int, *, kill: bool) -> None:
        if kill:
            log.error("supervisor.kills: process %s, pid %d takes %d MiB", place.name, place.pid, rss >> 20)
            place.kill()
        elif not place.stopping and (not place.apart or place.is_idle()):  # suspects stay where they are
            log.info("supervisor.recycles: process %s, pid %d takes %d MiB", place.name, place.pid, rss >> 20)
            place.stop()

    def _rest(self, apart: Place, now: float) -> None:
        """Nobody is suspect any more: a process apart may go; at once if a thread goes on there that could kill it."""
        if apart.process is None or not apart.is_idle():
            self._idle_since[apart] = now
        elif apart.board.head().leaked:
            if not apart.stopping:
                apart.stop()
        elif self._suspects.waiting:
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
        if self._adopts:
            reap_orphans({p.pid for p in self._all if p.process is not None})

    def _ended(self, place: Place, pid: int, code: int) -> None:
        seen = place.board.seen() if place.ready else None
        # A task may call os._exit(0), also while its process stops.
        well = code == 0 and (place.stopping if seen is None else place.drained or not seen.running)
        if seen is not None:
            for order in place.not_taken():
                self._suspects.not_taken(order)
                self._unordered.append(replace(order, run=[]))
            if not well:
                self._unordered.append(self._suspects.died(seen, ending(code), apart=place.apart))
            self._pass_on()
            self._hold_at = 0.0
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

    def _kill(self, now: float) -> None:
        """The grace is over. Who holds nothing any more has a little longer, for what the killed leave behind."""
        for place in self._all:
            if place.process is not None and not place.killed and (self._kills_all or not place.drained):
                log.error("supervisor.kills: process %s, pid %d, did not stop", place.name, place.pid)
                place.kill()
                self._code = self._code or 1
        self._kill_at, self._kills_all = now + LAST_S, True

    # -- when it fails itself -------------------------------------------------------------------------------------------------

    def _abandon(self, wake: int) -> None:
        """Stop all, and wait for them. Nothing of what has failed is used for it; a second signal lets them hurry."""
        living = [p for p in self._all if p.process is not None]
        for place in living:
            place.stop()
            place.let_go()
        ends_at = time.monotonic() + self._grace_s + PATIENCE_S
        while (living := [p for p in living if p.reap() is None]) and time.monotonic() < ends_at:
            if select.select([wake], [], [], LOOK_S)[0] and {signal.SIGTERM, signal.SIGINT} & set(os.read(wake, 64)):
                for place in living:
                    place.stop()

    def _end(self) -> None:
        """Nobody is left behind, whatever has happened."""
        for place in self._all:
            if place.process is not None:
                place.kill()
                while place.reap() is None:
                    time.sleep(0.001)
        if self._unordered:
            log.warning("supervisor.left: what %d dead processes held comes back when its leases end", len(self._unordered))

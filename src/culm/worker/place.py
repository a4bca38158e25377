"""One of a supervisor's places, and the worker process that fills it now."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from culm.worker.board import BoardReader
from culm.worker.ending import has_ended
from culm.worker.leash import LEASH, PARENT, READY_FD, SHOW
from culm.worker.orders import Order, encode_order
from culm.worker.session import kill_session

log = logging.getLogger("culm.worker")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0
YOUNG_S = 10.0  # a process that lived longer is replaced as if it were the first to die
SHOWN_S = 0.5  # a stuck process has so long to write down its stacks
TICK_MS = 1_000  # who has not ticked for so long is not asked to do what another could


class Place:
    """Args:
    name: in the log.
    command: starts the worker process.
    apart: it claims nothing, and runs suspects one after another.
    """

    def __init__(self, name: str, command: Sequence[str], *, concurrency: int, apart: bool = False) -> None:
        self.name = name
        self.apart = apart
        self.process: subprocess.Popen[bytes] | None = None
        self.ready = False
        self.ready_fd = -1  # -1: it is ready, or gone
        self.start_at = 0.0
        self.killed = False  # or about to be, for being stuck or too large
        self.kill_at: float | None = None  # not None: it may write down its stacks until then
        self._given: list[Order] = []  # to this process, without those that it was seen to have taken up
        self._taken = 0  # so many
        self.stopping = False  # it was asked to
        self.drained = False  # it stops, and has said that it holds nothing any more
        self.listening = False  # it reads orders
        self.is_let_go = False  # it was told that no more orders come
        self._command = list(command)
        self._concurrency = concurrency
        self._board: BoardReader | None = None
        self._socket: socket.socket | None = None
        self._unsent = b""
        self.started = 0.0
        self._first_rss = 0  # bytes, when it was ready
        self._pause_s = FIRST_PAUSE_S
        self._stuck: tuple[int, float] = (0, 0.0)  # the tick that was seen, and when first

    def start(self) -> None:
        """Raises OSError: it cannot be, and nothing of it is left open but `ready_fd`, which says so."""
        self.ready = self.stopping = self.killed = self.drained = self.is_let_go = False
        self.kill_at, self._first_rss = None, 0
        self._given, self._taken, self._unsent, self._stuck = [], 0, b"", (0, time.monotonic())
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            self.ready_fd, ready = os.pipe()
            theirs.callback(os.close, ready)
            self._board = BoardReader(self._concurrency)
            ours.callback(self._board.close)
            theirs.callback(self._board.handed)
            self._socket, orders = socket.socketpair()
            ours.callback(self._socket.close)
            theirs.enter_context(orders)
            self._socket.setblocking(False)
            fds = [ready, self._board.fd, orders.fileno()]
            leash = f"{self._board.fd},{orders.fileno()},{'apart' if self.apart else ''}"
            env = os.environ | {PARENT: str(os.getpid()), READY_FD: str(ready), LEASH: leash}
            self.process = subprocess.Popen(self._command, env=env, pass_fds=fds, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
            ours.pop_all()
        self.listening = True
        self.started = time.monotonic()
        log.info("supervisor.started: process %s, pid %d", self.name, self.process.pid)

    @property
    def board(self) -> BoardReader:
        """Of the process that is, or has just ended."""
        assert self._board is not None
        return self._board

    @property
    def is_able(self) -> bool:
        """It carries out orders; also while it stops."""
        return self.ready and self.process is not None and self.listening and not self.killed and not self.is_let_go

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    def hear_ready(self) -> None:
        """It has written that it is ready, or is gone."""
        if self.ready_fd >= 0:
            with contextlib.suppress(BlockingIOError):
                os.set_blocking(self.ready_fd, False)
                self.ready = bool(os.read(self.ready_fd, 1)) or self.ready
                self._stuck = (0, time.monotonic())
                self._first_rss = self.rss_bytes()
            os.close(self.ready_fd)
            self.ready_fd = -1

    def give(self, order: Order) -> None:
        taken = self.board.head().orders
        self._given = [*self._given[taken - self._taken :], order]
        self._taken = taken
        self._unsent += encode_order(order)
        self.send()

    def send(self) -> None:
        """As much of the orders as the socket takes now."""
        assert self._socket is not None
        while self._unsent:
            try:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
            except BlockingIOError:
                return
            except OSError:  # it died: that is about to be noticed
                self._unsent = b""
        if self.is_let_go:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def hear(self) -> None:
        """It says that it has drained, or ends."""
        assert self._socket is not None
        try:
            said = self._socket.recv(16)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        self.drained = self.drained or bool(said)
        self.listening = bool(said)

    def let_go(self) -> None:
        """No more orders come: it may end."""
        self.is_let_go = True
        self.send()

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def fileno(self) -> int:
        assert self._socket is not None
        return self._socket.fileno()

    def not_taken(self) -> list[Order]:
        """Orders that the process did not take up before it died."""
        return self._given[self.board.head().orders - self._taken :]

    def load(self) -> tuple[bool, int]:
        """Who has the least is the first to be asked: a loop that stands still comes last, then by orders that it did not take up yet."""
        head = self.board.head()
        stands = time.monotonic_ns() // 1_000_000 - head.ticked_ms > TICK_MS
        return stands, self._taken + len(self._given) - head.orders

    def is_idle(self) -> bool:
        """It has carried out all orders, and runs nothing."""
        head = self.board.head()
        return self.ready and head.orders == self._taken + len(self._given) and not head.left

    def stuck_for(self, now: float) -> float:
        """For how long its loop has been seen not to tick: seconds."""
        ticked = self.board.head().ticked_ms
        if not self.ready or ticked != self._stuck[0]:
            self._stuck = (ticked, now)
        return now - self._stuck[1]

    def rss_bytes(self) -> int:
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1])
        except (OSError, IndexError, ValueError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def spare_bytes(self, most: int) -> int:
        """How much it may take: `most`, but for one that takes as much when it starts; replacing that would never end."""
        return most if self._first_rss < most else self._first_rss + most

    def stop(self) -> None:
        if self.process is not None:
            self.stopping = True
            self._signal(signal.SIGTERM)

    def show(self, now: float) -> None:
        """Let it write its stacks to stderr, even if C code never returns; at `kill_at` it is to be killed."""
        self.killed, self.kill_at = True, now + SHOWN_S
        self._signal(SHOW)

    def kill(self) -> None:
        """It is not waited for: `reap` tells when it has gone, and kills what its tasks have started."""
        self.killed, self.kill_at = True, None
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        """Nothing is reaped here, as Popen's own method does it: `reap` has to see it first."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def reap(self) -> int | None:
        """Its exit code, once, when it has ended; `board` can still be read."""
        if self.process is None or not has_ended(self.pid):
            return None
        self.hear_ready()
        self.hear()
        assert self._socket is not None
        self._socket.close()
        self.listening = False
        if not self.drained:  # it did not stop: what it has started goes with it, while it still has its number
            kill_session(self.pid)
        code, self.process = self.process.poll(), None
        return code

    def next_pause(self, now: float) -> float:
        """Before it is replaced: longer each time, unless it worked for a while, did some work, or found a culprit."""
        if self.ready and (self.apart or now - self.started > YOUNG_S or self.board.head().done):
            self._pause_s = FIRST_PAUSE_S
        pause, self._pause_s = self._pause_s, min(self._pause_s * 2, LONGEST_PAUSE_S)
        return pause

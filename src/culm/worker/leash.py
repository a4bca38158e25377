"""What ties a worker process to the supervisor (or the demo) that started it: it dies with it, tells it over a pipe when work can
begin, shows it on a board what it holds, and takes its orders over a socket.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
from collections.abc import Callable

from msgspec import Struct

PARENT = "CULM_PARENT"  # environment: the pid to die with
READY_FD = "CULM_READY_FD"  # environment: a byte written here says that the worker claims
LEASH = "CULM_LEASH"  # environment: descriptors of board and orders, and "apart" or ""
SHOW = signal.SIGUSR2  # write every thread's stack to stderr
PR_SET_PDEATHSIG = 1


class Leash(Struct, frozen=True):
    board_fd: int  # shared memory: what the process holds
    orders_fd: int  # a socket: what it is to do for those that died
    apart: bool  # it claims nothing, and runs what it is ordered to, one job after another


class Attached(Struct, frozen=True):
    ready: Callable[[], None]  # to be called when work can begin
    leash: Leash | None


def attach() -> Attached:
    """Die with the parent that the environment names, and be seen by it.

    The variables are taken out of the environment: what a task starts is not the supervisor's child.
    """
    parent, fd, leash = (os.environ.pop(name, "") for name in (PARENT, READY_FD, LEASH))
    if parent:
        die_with(int(parent))
    ready: Callable[[], None] = (lambda: _tell(int(fd))) if fd else lambda: None
    return Attached(ready, _leash(leash) if leash else None)


def die_with(parent: int, number: int = signal.SIGTERM) -> None:
    """Get that signal when the parent dies; SIGTERM: what runs may still end. Elsewhere than on Linux nothing happens."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel was asked
        raise SystemExit(1)


def _tell(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.write(fd, b"r")
        os.close(fd)


def _leash(text: str) -> Leash:
    faulthandler.register(SHOW, all_threads=True)  # even while C code never returns
    board, orders, apart = text.split(",")
    for descriptor in (int(board), int(orders)):
        os.set_inheritable(descriptor, False)
    return Leash(int(board), int(orders), bool(apart))

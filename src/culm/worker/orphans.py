"""As the first process of a container the supervisor becomes the parent of every orphan there; those that ended are to be reaped."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Container

PR_GET_CHILD_SUBREAPER = 37


def adopts_orphans() -> bool:
    """Whether this process is the parent of those whose own has gone: process 1, or who asked Linux to be."""
    if os.getpid() == 1:
        return True
    asked = ctypes.c_int(0)
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(asked), 0, 0, 0)
    return bool(asked.value)


def reap_orphans(own: Container[int]) -> None:
    """Reap who ended, except for our own: whoever started those wants to know how they ended, and reaps them."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None and ended.si_pid not in own:
            os.waitpid(ended.si_pid, os.WNOHANG)

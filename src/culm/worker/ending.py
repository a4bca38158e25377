"""Whether and how a process ended."""

from __future__ import annotations

import os
import signal


def ending(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def has_ended(child: int) -> bool:
    """It is not reaped by this: its number, and that of the group it leads, are still its own."""
    try:
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # it was reaped
        return True

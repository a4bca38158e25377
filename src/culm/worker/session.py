"""What a worker process, and the tasks in it, have started: it all lies in the session that the worker process leads."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

ROUNDS = 5  # who is about to be killed may start another meanwhile
SESSION_FIELD = 3  # of /proc/PID/stat, after the name: state, parent, group, session


def kill_session(leader: int) -> None:
    """SIGKILL for all of that session, in whichever group, but for the leader. Elsewhere than on Linux: for the leader's group.

    Call it before the leader is reaped: until then nobody else has its number.
    """
    for _ in range(ROUNDS):
        found = _members(leader)
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            break
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _members(leader: int) -> list[int]:
    """Who lives there, except for the leader."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_bytes().rpartition(b") ")[2].split()
        except OSError:  # it has gone
            continue
        pid = int(entry.parent.name)
        if pid != leader and len(fields) > SESSION_FIELD and int(fields[SESSION_FIELD]) == leader and fields[0] not in (b"Z", b"X"):
            found.append(pid)
    return found

"""The app of the crash runs. Workers and clients are processes of their own; this is what they share."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from pathlib import Path

from culm import App, current
from tests.crash.records import Journal, Start, now

app = App(os.environ.get("CULM_URL", "memory://"))
journal = Journal(Path(os.environ.get("CULM_JOURNAL", os.devnull)))


@app.task
async def work(ms: int) -> int:
    attempt = current()
    journal.write(Start(attempt.id, os.getpid(), attempt.fence, now()))
    await asyncio.sleep(ms / 1000)
    return ms


@app.task
async def stay() -> str:
    """Runs for a minute, except when it runs again."""
    attempt = current()
    journal.write(Start(attempt.id, os.getpid(), attempt.fence, now()))
    if attempt.fence == 1:
        await asyncio.sleep(60)
    return "moved"


def die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() == 1:
        raise SystemExit("the parent is gone already")

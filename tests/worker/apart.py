"""Tasks that run in processes of their own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from pathlib import Path

from culm import App, Reject, Retry, RetryLater, current, emit, when

app = App("memory://")


@app.task(runs_in="process")
def where() -> int:
    return os.getpid()


@app.task(runs_in="process")
async def where_async() -> int:
    return os.getpid()


@app.task(runs_in="process")
async def who_async() -> str:
    await where.enqueue()
    return current().idempotency_key


@app.task(runs_in="process")
def spins(seconds: float) -> float:
    """Takes that much of a processor."""
    began = time.process_time()
    while time.process_time() - began < seconds:
        pass
    return seconds


@app.task(runs_in="process")
def sleeps(path: str, seconds: float) -> None:
    Path(path).write_text(str(os.getpid()), encoding="ascii")
    time.sleep(seconds)


@app.task(runs_in="process", retry=Retry(2, first=0, on=(KeyError,)))
def raises(kind: str, path: str) -> str:
    tries = Path(path).read_text(encoding="ascii") if Path(path).exists() else ""
    Path(path).write_text(tries + "x", encoding="ascii")
    match kind:
        case "key":
            raise KeyError("lost")
        case "value":
            raise ValueError("bad")
        case "reject":
            raise Reject("no")
        case "later" if len(tries) < 2:
            raise RetryLater(after=0)
        case "fault":
            ctypes.string_at(0)
        case "leave":
            os._exit(3)
        case _:
            pass
    return "done"


@app.task(runs_in="process", memory_mb=192)
def eats(mb: int) -> int:
    return len(bytearray(mb << 20))


@app.task(runs_in="process")
def tells() -> dict[str, object]:
    current().progress(0.5, "half")
    time.sleep(0.8)
    return {"id": current().id, "attempt": current().attempt, "key": current().idempotency_key}


@app.task
async def child(n: int) -> int:
    return n


@app.task
async def report() -> list[int]:
    return sorted(e.read(int) for e in current().events["seen"])


@app.task(runs_in="process")
async def forks(n: int) -> str:
    for i in range(n):
        emit("seen", i)
        await child.enqueue(i)
    return when(("seen", n), run=report.bind()).id


@app.task(runs_in="process")
def gives(what: str) -> object:
    return object() if what == "object" else b"x" * (2 << 20)


@app.task(runs_in="process")
def starts(path: str, then: str) -> None:
    """Starts a program of its own, which outlives it unless somebody ends it."""
    program = subprocess.Popen(["sleep", "600"])
    Path(path).write_text(str(program.pid), encoding="ascii")
    match then:
        case "leave":
            os._exit(3)
        case "hang up":
            os.closerange(3, 64)
            time.sleep(60)
        case _:
            time.sleep(60)

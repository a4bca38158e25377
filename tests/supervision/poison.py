"""Tasks that kill whatever runs them, and one that does no harm."""

import ctypes
import mmap
import os
import re
import subprocess
import time
from pathlib import Path

from culm import App

app = App()


@app.task(keep=3600, timeout=60)
async def good(n: int) -> int:
    return n


@app.task(keep=3600, timeout=60)
async def slow(n: int) -> int:
    import asyncio

    await asyncio.sleep(0.05)
    return n


@app.task(timeout=60)
async def leaves() -> None:
    os._exit(7)


@app.task(timeout=60)
async def leaves_well() -> None:
    os._exit(0)


@app.task(timeout=60)
def faults() -> None:
    ctypes.string_at(0)


@app.task(timeout=60)
async def grows() -> None:
    """Takes memory until somebody ends it; the loop stays alive."""
    import asyncio

    held = []
    while True:
        block = mmap.mmap(-1, 32 << 20)
        block[:: mmap.PAGESIZE] = b"x" * (len(block) // mmap.PAGESIZE)
        held.append(block)
        await asyncio.sleep(0.005)


@app.task(timeout=60)
async def loops() -> None:
    """C code that never returns and never gives up the interpreter's lock."""
    re.match(r"(a+)+$", "a" * 64 + "b")


@app.task(timeout=60)
async def blocks(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251  # that is the point


@app.task(timeout=60)
async def naps(path: str, seconds: float) -> str:
    """Says in that file which process it naps in."""
    import asyncio

    Path(path).write_text(str(os.getpid()), encoding="ascii")  # noqa: ASYNC240  # it is quick
    await asyncio.sleep(seconds)
    return path


@app.task(timeout=60)
async def starts(folder: str) -> None:
    """Starts programs that outlive whoever does not kill them, and blocks its process."""
    for n, group in enumerate((None, 0)):
        program = subprocess.Popen(["sleep", "600"], process_group=group)  # noqa: ASYNC220
        (Path(folder) / f"{os.getpid()}-{n}").write_text(str(program.pid), encoding="ascii")
    time.sleep(60)  # noqa: ASYNC251


@app.task
def orphans() -> int:
    """The pid of one whose parent ends at once."""
    shell = subprocess.run(["sh", "-c", "sleep 0.2 >/dev/null & echo $!"], check=True, capture_output=True)
    return int(shell.stdout)


POISON = (leaves, faults, grows, loops)

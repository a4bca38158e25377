"""A disk that refuses to sync: while strace holds some processes, every fsync and fdatasync of theirs and their children answers EIO."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CALLS = "fsync,fdatasync"


class Refusals:
    """What was refused so far."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def count(self) -> int:
        return self._path.read_text(encoding="utf-8", errors="replace").count("(INJECTED)")


@contextmanager
def failing_sync(pids: Sequence[int], folder: Path) -> Iterator[Refusals]:
    """Within the block nothing of what they write reaches the disk for certain. A missing program is an error, never a skip."""
    program = shutil.which("strace")
    if program is None:
        raise FileNotFoundError("strace is not installed; run: make servers")
    seen, said = folder / "refused", folder / "strace"
    tracees = [word for pid in pids for word in ("-p", str(pid))]
    command = [program, "-f", "-o", str(seen), "-e", f"trace={CALLS}", "-e", f"inject={CALLS}:error=EIO", *tracees]
    with said.open("wb") as log:
        tracer = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        ends_at = time.monotonic() + 20
        while any(f"Process {pid} attached" not in said.read_text() and Path(f"/proc/{pid}").exists() for pid in pids):  # some may end
            if tracer.poll() is not None or time.monotonic() > ends_at:
                raise RuntimeError(f"strace did not attach:\n{said.read_text()[-2000:]}")
            time.sleep(0.01)
        yield Refusals(seen)
    finally:
        tracer.terminate()  # it lets go of them, and they go on
        tracer.wait()

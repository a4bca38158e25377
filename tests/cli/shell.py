"""Runs `culm` as a user does: in a process of its own, in a folder of its own. Whatever waits, waits for a named line, and not for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

WITHIN_S = 20.0

SHOP = """
import asyncio, logging, os, time
from culm import App

app = App()
log = logging.getLogger("shop")

@app.task
async def add(a: int, b: int = 1) -> int:
    return a + b

@app.task
async def nap(seconds: float) -> str:
    log.info("napping in %d", os.getpid())
    await asyncio.sleep(seconds)
    log.info("rested")
    return "rested"

@app.task
async def stubborn() -> None:
    log.info("deaf in %d", os.getpid())
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass

@app.task
async def boom() -> None:
    raise ValueError("no way,\\nno how")
"""


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.out)


class Running:
    """A command under way; its stderr is read line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, args=(process.stderr,), daemon=True)
        self._reader.start()

    def _read(self, pipe: IO[str]) -> None:
        for line in pipe:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()

    def line(self, *parts: str, nth: int = 1, within: float = WITHIN_S) -> str:
        """Await the n-th line of stderr that has all these parts."""

        def found() -> list[str]:
            return [line for line in self.lines if all(p in line for p in parts)]

        with self._news:
            assert self._news.wait_for(lambda: len(found()) >= nth, within), f"no {parts} in {self.lines}"
            return found()[nth - 1]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, within: float = WITHIN_S) -> int:
        """Await the exit code."""
        code = self.process.wait(within)
        self._reader.join(within)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stderr, self.process.stdout):
            if pipe is not None:
                self._reader.join(WITHIN_S)
                pipe.close()


class Shell:
    """A folder with `shop.py` in it and a store beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "jobs.db"
        self.env = os.environ | {"CULM_URL": f"sqlite:///{self.store}", "COLUMNS": "200", "TMPDIR": str(folder)}
        self._running: list[Running] = []
        (folder / "shop.py").write_text(SHOP)

    def run(self, *arguments: str, env: dict[str, str] | None = None) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "culm", *arguments],
            cwd=self.folder, env=self.env | (env or {}), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str) -> Running:
        process = subprocess.Popen(
            [sys.executable, "-m", "culm", *arguments],
            cwd=self.folder, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        running = Running(process)
        self._running.append(running)
        return running

    def close(self) -> None:
        for running in self._running:
            running.close()


def pid_in(line: str) -> int:
    """The number behind `pid `, or the last one."""
    line = line.partition(" [job_id=")[0]  # what a job's lines end with
    words = line.partition("pid ")[2] or line.rpartition(" ")[2]
    return int(words.split(",")[0].split()[0])


def gone(pid: int, within: float = WITHIN_S) -> bool:
    """Await a process' end that is not ours to wait for."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":  # its new parent has not looked yet
            return True
        threading.Event().wait(0.02)
    return False

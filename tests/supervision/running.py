"""`culm worker` with several processes, as a child of the test."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from culm import App

ROOT = Path(__file__).parents[2]
WITHIN_S = 60.0


class Supervised:
    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder}/jobs.db"
        self.lines: list[str] = []
        self._said = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._apps: list[App] = []

    def app(self, app: App) -> App:
        """The tasks' app, on this store."""
        app.url = self.url
        app._store = None  # another test may have opened it on its own
        app._gatherers.clear()
        app._latest = None
        return app

    def start(self, *options: str, program: str = "culm", module: str = "poison", **variables: str) -> None:
        """`program`: a module that runs culm's command line."""
        command = [sys.executable, "-m", program, "worker", f"tests.supervision.{module}:app", *options, "--url", self.url]
        env = os.environ | {"PYTHONPATH": str(ROOT)} | variables
        self._process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._said:
                self.lines.append(line.rstrip())
                self._said.notify_all()

    def line(self, *words: str, nth: int = 1) -> str:
        """The nth line with all of these words, once it is said."""
        deadline = time.monotonic() + WITHIN_S
        with self._said:
            while True:
                found = [line for line in self.lines if all(word in line for word in words)]
                if len(found) >= nth:
                    return found[nth - 1]
                left = deadline - time.monotonic()
                assert left > 0, f"no line {nth} with {words} among:\n" + "\n".join(self.lines[-40:])
                self._said.wait(left)

    def pid_of(self, nth: int) -> int:
        found = re.search(r"pid (\d+)", self.line("supervisor.started", nth=nth))
        assert found is not None
        return int(found[1])

    def ask_to_stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def ended(self) -> int:
        """Its exit code, once it has ended."""
        assert self._process is not None
        return self._process.wait(WITHIN_S)

    def stop(self) -> int:
        self.ask_to_stop()
        return self.ended()

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)  # its children die with it
            self._process.wait()
        if self._process is not None and self._process.stderr is not None:
            self._reader.join(WITHIN_S)
            self._process.stderr.close()

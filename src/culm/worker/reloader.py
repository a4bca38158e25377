"""`--reload`: a worker, or a supervisor with several, is a child of this process, and starts anew when its code changes.

What is looked after are the files that its processes have imported (`imported.py`), below the working directory and not installed
there. Their times are looked at a few times a second: so few files cost next to nothing, it needs no package, and it works on network
and container file systems, which tell a watcher of the kernel's nothing. A file that is no Python yet is one line, and the worker
goes on with the code that it has; a worker that cannot start has said why, and starts again when any .py file below changes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import select
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from culm.worker.ending import ending
from culm.worker.imported import IMPORTED, NOT_OURS, Stamp, read, stamp
from culm.worker.leash import PARENT
from culm.worker.signals import hearing

log = logging.getLogger("culm.worker")

LOOK_S = 0.25
PATIENCE_S = 20.0  # beyond the grace, before a worker that does not stop is killed
USAGE = 2  # an exit code that no change of the code can cure
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


class Reloader:
    """Runs `command` until a signal says stop; the second signal is passed on, too."""

    def __init__(self, command: Sequence[str], *, grace_s: float) -> None:
        self._command = list(command)
        self._grace_s = grace_s
        self._here = Path.cwd()
        self._process: subprocess.Popen[bytes] | None = None
        self._stamps: dict[str, Stamp] = {}  # of what is looked after, as of the code that runs
        self._tree: dict[str, Stamp] = {}  # of all that may be the cause when it does not start
        self._unsettled: dict[str, Stamp] = {}  # as of the last look, when something had changed
        self._kill_at: float | None = None  # not None: it was told to stop
        self._stopping = False  # for good

    def run(self) -> int:
        """The worker's last exit code."""
        with hearing(SIGNALS) as wake:
            try:
                with tempfile.TemporaryDirectory(prefix="culm-reload-") as folder:
                    self._told = Path(folder) / "imported"
                    return self._loop(wake)
            finally:
                if self._process is not None:
                    self._process.kill()
                    self._process.wait()

    def _loop(self, wake: int) -> int:
        self._start()
        while True:
            if select.select([wake], [], [], LOOK_S)[0]:
                for number in os.read(wake, 64):
                    self._signalled(number)
            if self._process is None:
                if self._stopping:
                    return 0
                self._look()
            elif (code := self._process.poll()) is not None:
                if self._ended(code):
                    return code
            elif self._kill_at is None:
                self._look()
            elif time.monotonic() > self._kill_at:
                log.error("reload.kills: pid %d did not stop", self._process.pid)
                self._process.kill()

    def _start(self) -> None:
        self._told.write_text("", encoding="utf-8")
        self._stamps = {file: stamp(file) for file in self._stamps}
        self._tree = {file: stamp(file) for file in _python_files(self._here)}
        self._kill_at = None
        # Bytecode is judged by whole seconds: of two changes within one, the first would go on running. Others write it, too.
        env = os.environ | {PARENT: str(os.getpid()), IMPORTED: str(self._told), "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen(self._command, env=env, stdin=subprocess.DEVNULL, process_group=0)  # noqa: S603

    def _stop(self) -> None:
        if self._process is not None:
            self._kill_at = self._kill_at or time.monotonic() + self._grace_s + PATIENCE_S
            self._process.terminate()

    def _signalled(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return
        if self._stopping or self._kill_at is None:  # one that stops because of a change would take it for the second signal
            self._stop()
        self._stopping = True

    def _ended(self, code: int) -> bool:
        """The worker has ended; whether that is all."""
        self._process, changed = None, self._kill_at is not None
        if self._stopping or (not changed and code == USAGE):
            return True
        if changed or code == 0:  # or it recycles itself
            self._start()
        else:
            log.error("reload.waits: the worker ended, %s; it starts again when a .py file below %s changes", ending(code), self._here)
            self._stamps = self._tree | self._stamps
        return False

    def _look(self) -> None:
        """Start anew when something has changed, and stays as it is for another look: editors write in several steps."""
        self._stamps = read(self._told) | self._stamps
        watched = set(self._stamps) if self._process is not None else {*self._stamps, *_python_files(self._here)}
        changed = {file: now for file in watched if (now := stamp(file)) != self._stamps.get(file)}
        if changed != self._unsettled or not changed:
            self._unsettled = changed
            return
        self._unsettled = {}
        self._stamps |= changed
        if (wrong := _first_error(sorted(changed))) is not None:
            log.error("reload.waits: %s; nothing is started until it changes again", wrong)
            return
        log.info("reload.restarts: %s changed", ", ".join(sorted(changed)[:5]))
        _forget_bytecode(changed)
        if self._process is None:
            self._start()
        else:
            self._stop()


def _python_files(here: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(here):
        folders[:] = [f for f in folders if f not in NOT_OURS and not f.startswith(".") and not Path(folder, f, "pyvenv.cfg").exists()]
        yield from (os.path.join(folder, file) for file in files if file.endswith(".py"))


def _forget_bytecode(files: Iterable[str]) -> None:
    for file in files:
        with contextlib.suppress(OSError, NotImplementedError):
            os.unlink(importlib.util.cache_from_source(file))


def _first_error(files: Iterable[str]) -> str | None:
    """Where the first of them is no Python."""
    for file in files:
        try:
            source = Path(file).read_bytes()
        except OSError:
            continue  # it is gone: the worker will say what it misses
        try:
            with warnings.catch_warnings(action="ignore"):
                compile(source, file, "exec", dont_inherit=True)
        except SyntaxError as e:
            return f"{file}:{e.lineno}: {type(e).__name__}: {e.msg}"
        except ValueError as e:
            return f"{file}: {e}"
    return None

"""How the demo shows what goes on: a live panel on a terminal, else a plain line a second. rich is imported for the panel only."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TextIO

from msgspec import Struct

from culm.store import WorkerInfo

if TYPE_CHECKING:
    from rich.console import Group

BAR = 40


class Progress(Struct, frozen=True):
    seconds: float
    done: int
    total: int | None  # None: the walk has not ended
    workers: Sequence[WorkerInfo]
    killed: tuple[int, ...] = ()
    phase: str = ""

    @property
    def rate(self) -> float:
        return self.done / self.seconds if self.seconds > 0 else 0.0


class Screen(Protocol):
    def show(self, progress: Progress) -> None: ...

    def say(self, text: str) -> None:
        """A line that stays."""
        ...

    def close(self) -> None: ...


def open_screen(out: TextIO) -> Screen:
    return LiveScreen(out) if out.isatty() else PlainScreen(out)


class PlainScreen:
    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._next = 0.0

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + 1.0
        total = "?" if progress.total is None else progress.total
        workers = ", ".join(worker_line(w, progress.killed) for w in progress.workers)
        self.say(f"{progress.seconds:5.1f} s  {progress.done}/{total} files  {progress.rate:.0f} files/s  {workers}")

    def say(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()

    def close(self) -> None:
        """Nothing is left open."""


class LiveScreen:
    def __init__(self, out: TextIO = sys.stdout) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(file=out, highlight=False), refresh_per_second=10, transient=True)
        self._live.start()

    def show(self, progress: Progress) -> None:
        self._live.update(_panel(progress))

    def say(self, text: str) -> None:
        self._live.console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        self._live.stop()


def _panel(p: Progress) -> Group:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    head = Text(f"{p.seconds:5.1f} s  {p.done}/{'?' if p.total is None else p.total} files  {p.rate:.0f} files/s  {p.phase}")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("worker", "running", "done"):
        table.add_column(title, justify="right")
    for w in p.workers:
        killed = w.pid in p.killed
        table.add_row(f"pid {w.pid}", "killed" if killed else str(w.running), str(w.done), style="red" if killed else "")
    bar = Table.grid()  # a bar by itself ends no line
    bar.add_row(ProgressBar(total=max(1, p.total or 1), completed=p.done, width=BAR))
    return Group(head, bar, table)


def worker_line(w: WorkerInfo, killed: tuple[int, ...]) -> str:
    return f"pid {w.pid} killed" if w.pid in killed else f"pid {w.pid} running {w.running} done {w.done}"

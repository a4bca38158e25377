"""`culm top`: queues and workers, live. Two questions to the store for each look, and a pause of ten times what they took at least."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import msgspec
import typer
from msgspec import Struct

from culm.app import App
from culm.cli import queues, workers
from culm.cli.arguments import Json, MaybeApp, Url
from culm.cli.output import Exit, Quit, say, say_json
from culm.cli.queues import Sight, see
from culm.cli.table import lines
from culm.cli.target import store_app
from culm.errors import StoreUnavailable
from culm.store import FullStore, WorkerInfo

if TYPE_CHECKING:
    from rich.console import RenderableType

LEAST_S = 0.1
SHARE = 10  # a look may take a tenth of the time

Show: TypeAlias = "Callable[[str, Look], None]"


class Look(Struct, frozen=True, kw_only=True):
    """What was seen at one moment; or why nothing was."""

    at: float  # seconds since the epoch, by this machine
    took_ms: float
    queues: Sequence[Sight] = ()
    workers: Sequence[WorkerInfo] = ()
    error: str = ""


def top(
    app: MaybeApp = None,
    every: Annotated[float, typer.Option("--every", "-e", help="seconds between two looks")] = 2.0,
    times: Annotated[int, typer.Option("--times", "-n", help="end after so many looks; 0: at Ctrl-C")] = 0,
    url: Url = None,
    json: Json = False,
) -> int:
    """Show queues and workers, live, until Ctrl-C. Without a terminal: a plain table for each look; with --json a line for each.

    \b
    Examples:
      culm top shop.tasks:app
      culm top --url redis://localhost --every 5
      culm top --times 1
    """
    if not LEAST_S <= every <= 3_600 or times < 0:
        raise Quit(f"--every must be from {LEAST_S} to 3600 seconds and --times 0 or more, got {every} and {times}", Exit.USAGE)
    target = store_app(app, url)
    try:
        asyncio.run(_top(target, every, times, as_json=json))
    except KeyboardInterrupt:
        return Exit.OK
    return Exit.OK


async def _top(app: App, every_s: float, times: int, *, as_json: bool) -> None:
    async with app:
        with ExitStack() as screen:
            show = _json if as_json else _live(screen) if sys.stdout.isatty() else _plain
            looks = 0
            while True:
                seen = await _look(app.store, first=not looks)
                show(str(app.store), seen)
                looks += 1
                if looks == times:
                    return
                await asyncio.sleep(max(every_s, seen.took_ms / 1000 * SHARE))


async def _look(store: FullStore, *, first: bool) -> Look:
    """Raises StoreUnavailable the first time only: later the store may be away for a while."""
    at, began = time.time(), time.perf_counter()
    try:
        counts, live = await asyncio.gather(store.counts(), store.workers())
        found = see(counts, live)
    except StoreUnavailable as e:
        if first:
            raise
        return Look(at=at, took_ms=(time.perf_counter() - began) * 1000, error=str(e))
    return Look(at=at, took_ms=(time.perf_counter() - began) * 1000, queues=found, workers=live)


# -- screens ------------------------------------------------------------------------------------------------------------------


def _head(place: str, seen: Look) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(seen.at))
    if seen.error:
        return f"{clock}  {place}: {seen.error}"
    ready, running = sum(s.ready for s in seen.queues), sum(w.running for w in seen.workers)
    done = sum(s.rate or 0.0 for s in seen.queues)
    sums = f"{len(seen.workers)} workers, {running} running, {ready} ready, {done:.1f} done/s"
    return f"{clock}  {place}  {sums}; the look took {seen.took_ms:.0f} ms"


def _queue_rows(seen: Look) -> list[tuple[str, ...]]:
    return [queues.row(s) for s in seen.queues]


def _worker_rows(seen: Look) -> list[tuple[str, ...]]:
    return [workers.row(w, seen.at * 1000) for w in seen.workers]


def _plain(place: str, seen: Look) -> None:
    say(_head(place, seen))
    for columns, rows in ((queues.COLUMNS, _queue_rows(seen)), (workers.COLUMNS, _worker_rows(seen))):
        for line in lines(columns, rows) if rows else ():
            say(line)
    say("")


def _json(place: str, seen: Look) -> None:
    found: dict[str, Any] = {"at_ms": round(seen.at * 1000), "store": place, "took_ms": round(seen.took_ms, 1)}
    if seen.error:
        say_json(found | {"error": seen.error})
    else:
        shown = [msgspec.structs.asdict(s) for s in seen.queues]
        say_json(found | {"queues": shown, "workers": [workers.shown(w) for w in seen.workers]})


def _live(screen: ExitStack) -> Show:
    """In a terminal: one screen that is drawn anew."""
    from rich.live import Live

    live = screen.enter_context(Live(auto_refresh=False, screen=True))
    return lambda place, seen: live.update(_drawn(place, seen), refresh=True)


def _drawn(place: str, seen: Look) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
        drawn = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            drawn.add_column(column, justify="left" if column in ("queue", "worker", "host", "queues", "") else "right", no_wrap=True)
        for row in rows:
            drawn.add_row(*map(Text, row))  # Text: what looks like markup in a name is none
        return drawn

    parts: list[RenderableType] = [Text(_head(place, seen), style="bold red" if seen.error else ""), Text("")]
    if not seen.error:
        parts += [table(queues.COLUMNS, _queue_rows(seen)), Text(""), table(workers.COLUMNS, _worker_rows(seen))]
    return Group(*parts, Text("\nCtrl-C ends this", style="dim"))

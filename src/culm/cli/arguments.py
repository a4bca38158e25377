"""The arguments and options that several commands share, and how they are read. What cannot be is one line, exit 2."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from culm.app import App
from culm.cli.output import Exit, Quit
from culm.cli.target import store_app

AppName = Annotated[str, typer.Argument(metavar="MODULE:APP", help="where the App is, such as shop.tasks:app")]
MaybeApp = Annotated[str | None, typer.Argument(metavar="[MODULE:APP]", help="the app whose store to ask")]
AppOption = Annotated[str | None, typer.Option("--app", "-a", metavar="MODULE:APP", help="the app whose store to ask")]
JobId = Annotated[list[str], typer.Argument(metavar="[MODULE:APP] ID", help="the job, and the app whose store has it")]
QueueName = Annotated[list[str], typer.Argument(metavar="[MODULE:APP] QUEUE", help="the queue, and the app whose store has it")]
Url = Annotated[str | None, typer.Option("--url", "-u", metavar="URL", help="the store's address, instead of the app's or $CULM_URL")]
Json = Annotated[bool, typer.Option("--json", help="machine output")]
OlderThan = Annotated[str | None, typer.Option("--older-than", metavar="AGE", help="such as 90 (seconds), 15m, 2h, 7d")]
NewerThan = Annotated[str | None, typer.Option("--newer-than", metavar="AGE", help="such as 90 (seconds), 15m, 2h, 7d")]
Seconds = float

_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


def subject(words: list[str], url: str | None, *, what: str) -> tuple[App, str]:
    """The app and the name in `[MODULE:APP] NAME`. Raises Quit and ConfigError."""
    if len(words) > 2:
        raise Quit(f"expected [MODULE:APP] {what}, got {len(words)} words: {' '.join(words)}", Exit.USAGE)
    return store_app(words[0] if len(words) == 2 else None, url), words[-1]


def age_s(text: str | None, option: str) -> float | None:
    """Seconds in `90`, `15m`, `2h` or `7d`. Raises Quit."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if found is None:
        raise Quit(f"{option} must be seconds, or a number with s, m, h or d behind it such as 15m, got {text!r}", Exit.USAGE)
    return float(found[1]) * _UNITS_S[found[2]]


def at_least_one(value: int, option: str) -> int:
    """Raises Quit."""
    if value < 1:
        raise Quit(f"{option} must be 1 or more, got {value}", Exit.USAGE)
    return value

"""An asyncio task of its own for each attempt, made without what a loop adds to that: a fifth of its time is the name "Task-1234"."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeAlias

Make: TypeAlias = Callable[..., "asyncio.Task[Any]"]

_asyncios_own = asyncio.BaseEventLoop.create_task


def task_maker(loop: asyncio.AbstractEventLoop) -> Make:
    """What makes a task in that loop of `(coro, loop=, name=, context=)`: asyncio's own Task, unless the loop has others now."""
    plain = type(loop).__module__ == "uvloop" or getattr(loop.create_task, "__func__", None) is _asyncios_own
    if plain and loop.get_task_factory() is None:
        return asyncio.Task

    def make(coro: Coroutine[Any, Any, Any], *, loop: asyncio.AbstractEventLoop, name: str, context: Context) -> asyncio.Task[Any]:
        return loop.create_task(coro, name=name, context=context)

    return make

"""Hooks of a task: called by the worker once it is known how a job ended, before that is committed.

    @charge.on_failure
    async def tell(ended: Failed | Lost) -> None:
        await send_alert.enqueue(current().id)

What a hook sends and emits leaves with the commit of that end, whatever the end is: the job has ended and the alert is on its way, or
neither. What the task itself sent leaves with a success only. A hook that fails, or takes longer than ten seconds, is a line in the
log: what it sent is dropped, and the end stands.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeAlias

from culm.errors import ConfigError
from culm.outcome import Cancelled, Expired, Failed, Lost, Outcome, Succeeded

When: TypeAlias = Literal["on_success", "on_failure", "on_expired", "on_cancelled", "on_rescue"]
Hook: TypeAlias = Callable[[Any], Awaitable[None]]
Hooks: TypeAlias = dict[When, Hook]  # of one task

ENDS: dict[type[Outcome], When] = {
    Succeeded: "on_success",
    Failed: "on_failure",
    Lost: "on_failure",
    Expired: "on_expired",
    Cancelled: "on_cancelled",
}


def add_hook(hooks: Hooks, when: When, hook: Any, *, task: str) -> None:
    """Raises TypeError: it is no `async def`. ConfigError: the task has one for that."""
    if not inspect.iscoroutinefunction(hook):
        raise TypeError(f"{when} of task {task!r} must be `async def name(ended)`, got {hook!r}")
    if when in hooks:
        raise ConfigError(f"task {task!r} has a hook {when} already, {hooks[when].__qualname__}; let that one do both")
    hooks[when] = hook

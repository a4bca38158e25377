"""Attempts with the hooks of their tasks: a runner around the runner, outside of all middleware. An app without hooks does without it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from culm import decide
from culm.current import Attempt, Effects, enter
from culm.errors import StoreError
from culm.hooks import ENDS, Hook, Hooks
from culm.middleware import Middleware
from culm.outcome import Outcome, Released, Succeeded
from culm.worker.runner import AGAIN_MS, Runner
from culm.worker.wrapped import Wrapped

if TYPE_CHECKING:
    from culm.app import App
    from culm.payload import Payloads

log = logging.getLogger("culm.worker")

HOOK_S = 10.0  # a hook may take so long: its job is held, and so is a slot


class Hooked:
    """Runs attempts as `runner` does, and calls what `hooks` has for their tasks."""

    def __init__(self, runner: Runner | Wrapped, hooks: dict[str, Hooks], payloads: Payloads) -> None:
        self._runner = runner
        self._hooks = hooks
        self._payloads = payloads

    async def run(self, attempt: Attempt, ended: Callable[[Attempt, Outcome], None]) -> None:
        """As `Runner.run`."""
        hooks = self._hooks.get(attempt.job.task)
        if hooks is None:
            await self._runner.run(attempt, ended)
            return
        enter(attempt)
        came_to: list[Outcome] = []
        try:
            if attempt.delivery.expiries and (rescue := hooks.get("on_rescue")) is not None:
                await self._call(rescue, attempt.delivery, attempt)
            if attempt.stopping:
                came_to.append(decide.on_cancel() if attempt.stopping == "cancel" else Released())
            else:
                await self._runner.run(attempt, lambda _, outcome: came_to.append(outcome))
            came_to.append(await self._after(attempt, came_to[0], hooks))
        except KeyboardInterrupt:  # somebody stops this process
            ended(attempt, Released())
            raise
        ended(attempt, came_to[-1])

    async def _after(self, attempt: Attempt, outcome: Outcome, hooks: Hooks) -> Outcome:
        """The hook for that end, if there is one. Returns what the attempt comes to."""
        name = ENDS.get(type(outcome))
        hook = None if name is None else hooks.get(name)
        if hook is None or attempt.committed not in (None, "applied"):
            return outcome
        if not isinstance(outcome, Succeeded):
            attempt.effects = None  # the task's own
        before = 0 if attempt.effects is None else len(attempt.effects.send)
        if not await self._call(hook, outcome, attempt) or attempt.effects is None:
            return outcome
        attempt.hooked = True
        if not self._payloads.plain:
            send = attempt.effects.send
            try:
                send[before:] = await self._payloads.stored_jobs(send[before:])
            except StoreError as e:
                log.warning("payload.failed: job %s: %s; it runs again", attempt.id, e)
                return Released(AGAIN_MS)
        return outcome

    async def _call(self, hook: Hook, said: Any, attempt: Attempt) -> bool:
        """Whether it went well; otherwise what it sent is dropped."""
        kept = attempt.effects
        sizes = (0, 0, 0) if kept is None else (len(kept.send), len(kept.emit), len(kept.triggers))
        work = asyncio.ensure_future(_error_of(hook, said))
        while not work.done():  # a stop must not tear it from its end: it is soon over, or the whole job is given back
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError:
                continue
        error = work.result()
        if error is None:
            return True
        log.error("hook.failed: %s of job %s: %s", hook.__name__, attempt.id, type(error).__name__, exc_info=error)
        _cut(attempt, kept, sizes)
        return False


async def _error_of(hook: Hook, said: Any) -> BaseException | None:
    """What it raised: an end stands, whatever that is, SystemExit included."""
    try:
        async with asyncio.timeout(HOOK_S):
            await hook(said)
    except KeyboardInterrupt:
        raise
    except BaseException as e:
        if asyncio._get_running_loop() is None:  # noqa: SLF001  # its loop is gone, and this coroutine is being closed
            raise
        return e
    return None


def _cut(attempt: Attempt, kept: Effects | None, sizes: tuple[int, int, int]) -> None:
    attempt.effects = kept
    if kept is not None:
        sent, emitted, triggers = sizes
        del kept.send[sent:], kept.emit[emitted:], kept.triggers[triggers:]


def around(runner: Runner, app: App) -> Runner | Wrapped | Hooked:
    """That runner within what the app has: traces, middleware, hooks."""
    wraps: list[Middleware] = [*([] if app.tracing is None else [app.tracing]), *app.wraps]
    inner = Wrapped(runner, wraps) if wraps else runner
    return Hooked(inner, app.hooks, app.payloads) if app.hooks else inner

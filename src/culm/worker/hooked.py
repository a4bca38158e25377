"""Attempts with the hooks of their tasks: a runner around the runner, outside of all middleware. An app without hooks does without it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

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

T = TypeVar("T")
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
                attempt.ends_at = inf
                await self._call(rescue, attempt.delivery, attempt)
                attempt.ends_at = 0.0  # its time begins now: the next scan says when it ends
            if attempt.stopping:
                came_to.append(decide.on_cancel() if attempt.stopping == "cancel" else Released())
            else:
                await self._runner.run(attempt, lambda _, outcome: came_to.append(outcome))
            came_to.append(await self._after(attempt, came_to[0], hooks))
        except KeyboardInterrupt:  # somebody stops this process
            ended(attempt, Released())
            raise
        except BaseException:
            if asyncio._get_running_loop() is None:  # noqa: SLF001  # its loop is gone, and this coroutine is being closed
                raise
            log.exception("hook.failed: a defect around the hooks of job %s", attempt.id)
        ended(attempt, came_to[-1] if came_to else Released())

    async def _after(self, attempt: Attempt, outcome: Outcome, hooks: Hooks) -> Outcome:
        """The hook for that end, if there is one. Returns what the attempt comes to."""
        name = ENDS.get(type(outcome))
        hook = None if name is None else hooks.get(name)
        if hook is None or attempt.committed not in (None, "applied"):
            return outcome
        if not isinstance(outcome, Succeeded):
            attempt.effects = None  # the task's own
        kept = attempt.effects
        before = _sizes(kept)
        if not await self._call(hook, outcome, attempt) or attempt.effects is None:
            return outcome
        attempt.before_hook = before
        if not self._payloads.plain:
            send, sent = attempt.effects.send, before[0]
            try:
                send[sent:] = await _to_its_end(self._payloads.stored_jobs(send[sent:]))
            except StoreError as e:
                log.warning("payload.failed: job %s: %s; it runs again", attempt.id, e)
                return Released(AGAIN_MS)
            except ValueError as e:
                log.error("hook.failed: %s of job %s: %s", hook.__name__, attempt.id, e)
                _cut(attempt, kept, before)
        return outcome

    async def _call(self, hook: Hook, said: Any, attempt: Attempt) -> bool:
        """Whether it went well; otherwise what it sent is dropped."""
        kept = attempt.effects
        sizes = _sizes(kept)
        error = await _to_its_end(_error_of(hook, said))
        if error is None:
            return True
        log.error("hook.failed: %s of job %s: %s", hook.__name__, attempt.id, type(error).__name__, exc_info=error)
        _cut(attempt, kept, sizes)
        return False


async def _to_its_end(coro: Coroutine[Any, Any, T]) -> T:
    """A stop must not tear it from its end: it is soon over, or the whole job is given back."""
    work = asyncio.ensure_future(coro)
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            continue
    return work.result()


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


def _sizes(effects: Effects | None) -> tuple[int, int, int]:
    return (0, 0, 0) if effects is None else (len(effects.send), len(effects.emit), len(effects.triggers))


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

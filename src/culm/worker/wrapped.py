"""Attempts within the app's middleware: a runner around the runner. A worker whose app has no middleware does without it.

What the middleware raises is decided like what a task raises: it fails the attempt, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from culm import decide
from culm.current import Attempt, enter
from culm.job import Delivery
from culm.middleware import Middleware, compose
from culm.outcome import Outcome, Released
from culm.worker.runner import Refused, Runner


class Wrapped:
    """Runs attempts as `runner` does, those that run user code within `middleware`."""

    def __init__(self, runner: Runner, middleware: Sequence[Middleware]) -> None:
        self._runner = runner
        self._middleware = tuple(middleware)

    async def run(self, attempt: Attempt, ended: Callable[[Attempt, Outcome], None]) -> None:
        """As `Runner.run`."""
        task = self._runner.tasks.get(attempt.job.task)
        if task is None or decide.before_start(attempt.delivery, knows_task=True) is not None:
            await self._runner.run(attempt, ended)
            return
        enter(attempt)
        came_to: list[Outcome] = []

        async def innermost(_: Delivery) -> Outcome:
            await self._runner.run(attempt, lambda _, outcome: came_to.append(outcome))
            return came_to[0]

        started = self._runner.now()
        try:
            outcome = await compose(self._middleware, innermost)(attempt.delivery)
            if not came_to or outcome is not came_to[0]:
                outcome = await self._runner.put_away(attempt, outcome)
        except Refused as e:
            outcome = e.outcome
        except asyncio.CancelledError as e:
            outcome = self._runner.stopped(attempt, task, e, started)
        except KeyboardInterrupt:
            ended(attempt, Released())
            raise
        except BaseException as e:  # SystemExit, too: middleware must not end its worker
            if asyncio._get_running_loop() is None:  # noqa: SLF001  # its loop is gone, and this coroutine is being closed
                raise
            outcome = self._runner.raised(attempt, task, e, started)
        ended(attempt, outcome)

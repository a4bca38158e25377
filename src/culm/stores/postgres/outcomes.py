"""How jobs ended, for many who ask at once: look-ups travel in batches, and whoever waits is told by the commit that ends the job.

Looking and asking to be told is one function of the server, so no end falls between the two. A message may be lost: whoever still
waits after a second looks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal, TypeAlias

from culm.stores.postgres.link import Link

LOOK_MS = 1_000  # behind the messages
POLL_MS = 50  # without any
MOST_AT_ONCE = 1_000

Found: TypeAlias = bytes | Literal["pending", "absent"]


class Outcomes:
    """What one store awaits on one event loop.

    Args:
        who: the channel on which this process is told of ends; "" while it does not listen.
    """

    def __init__(self, link: Link, now: Callable[[], int | None], who: Callable[[], str]) -> None:
        self._link = link
        self._now = now
        self._who = who
        self._waiting: dict[str, list[asyncio.Event]] = {}
        self._looks: dict[bool, list[tuple[str, asyncio.Future[Found]]]] = {False: [], True: []}  # by whether to be told
        self._looking: set[asyncio.Task[None]] = set()

    def told(self, job_id: str) -> None:
        for bell in self._waiting.get(job_id, ()):
            bell.set()

    def look_again(self) -> None:
        for bells in self._waiting.values():
            for bell in bells:
                bell.set()

    async def wait(self, job_id: str, *, for_ms: int) -> Found:
        """How it ended, as soon as it has; "pending" after for_ms."""
        loop, bell = self._link.loop, asyncio.Event()
        ends_at = loop.time() + for_ms / 1000
        self._waiting.setdefault(job_id, []).append(bell)
        try:
            while True:
                found = await self.look(job_id, tell=True)
                left = ends_at - loop.time()
                if found != "pending" or left <= 0:
                    return found
                try:
                    async with asyncio.timeout(min(left, (LOOK_MS if self._who() else POLL_MS) / 1000)):
                        await bell.wait()
                except TimeoutError:
                    pass
                bell.clear()
        finally:
            bells = self._waiting[job_id]
            bells.remove(bell)
            if not bells:
                del self._waiting[job_id]

    def look(self, job_id: str, *, tell: bool = False) -> asyncio.Future[Found]:
        """Look with the next batch; while one is in flight the next gathers."""
        found: asyncio.Future[Found] = self._link.loop.create_future()
        looks = self._looks[tell]
        looks.append((job_id, found))
        if len(looks) == 1:
            task = self._link.loop.create_task(self._look_all(tell))
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)
        return found

    async def _look_all(self, tell: bool) -> None:
        looks = self._looks[tell]
        while looks:
            some = looks[:MOST_AT_ONCE]
            try:
                rows = await self._link.rows("look", self._now(), self._who() if tell else "", list({job_id for job_id, _ in some}))
            except BaseException as e:
                for _, found in looks:
                    if not found.done():
                        found.set_exception(e)
                looks.clear()
                if isinstance(e, Exception):
                    return
                raise
            known: dict[str, Found] = {job_id: "pending" if ended is None else last for job_id, ended, last in rows}
            for job_id, found in some:
                if not found.done():
                    found.set_result(known.get(job_id, "absent"))
            del looks[: len(some)]

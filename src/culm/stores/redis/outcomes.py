"""How jobs ended, for many who ask at once: look-ups travel in batches, and whoever waits is told by the commit that ends the job.

Looking and asking to be told is one script, so no end falls between the two. A message may be lost: whoever still waits after a
second is told that nothing is known, and looks again. What this process sent itself it may be told of without a look (`expected.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import msgspec

from culm.errors import StoreError, StoreUnavailable
from culm.outcome import FINAL, decode_outcome
from culm.store import Absent, Ended, Pending
from culm.stores.redis.expected import Expected
from culm.stores.redis.news import News
from culm.stores.redis.way import Way
from culm.stores.redis.wire import Word

LOOK_MS, LOOK_S = 1_000, 1.0
TICK_S = 0.05  # waits of a whole second end by this clock: a timer for each costs more than all the rest of a wait
MOST_AT_ONCE = 1_000
OPEN = 1

Found: TypeAlias = bytes | int  # what `outcomes` holds; 1: it has not ended; 0: there is no such job; b"": it ended, and is gone
Waiting: TypeAlias = "asyncio.Future[Ended | Pending | Absent]"

_PENDING, _ABSENT = Pending(), Absent()
_decode_told = msgspec.msgpack.Decoder(list[Any]).decode


def _answer(waiting: Waiting, found: Found) -> None:
    """Tell whoever waits, if he still does."""
    if waiting.done():
        return
    if not isinstance(found, bytes) or not found:
        waiting.set_result(_PENDING if found == OPEN else _ABSENT)
        return
    try:
        final = decode_outcome(found.partition(b"\n")[2])
        assert isinstance(final, FINAL)
    except Exception as e:  # noqa: BLE001  # hostile bytes: whoever asked must hear of it, and the others must be told
        waiting.set_exception(e)
    else:
        waiting.set_result(Ended(final))


class Outcomes:
    """What one store awaits on one event loop.

    Args:
        prefix: of the namespace's keys and channels.
        channel: behind the prefix, where this process is told of ends.

    Attributes:
        is_listening: it was subscribed; `listen` first, where it is not.
    """

    def __init__(self, link: Way, news: News, now: Callable[[], Word], prefix: str, channel: str) -> None:
        self._link = link
        self._loop = link.loop
        self._news = news
        self._now = now
        self._name = channel
        self._channel = prefix + channel
        self._expected = Expected()
        self._waiting: dict[str, list[Waiting]] = {}
        self._looks: dict[str, list[tuple[str, Waiting]]] = {"": [], self._channel: []}  # by the channel that is to be told
        self._looking: set[asyncio.Task[None]] = set()
        self._unlooked: set[Waiting] = set()  # waits whose first look was not answered yet
        self._late: set[Waiting] = set()  # those of them whose time is over
        self._line: dict[Waiting, tuple[str, bool, float]] = {}  # waits of a second: whose, looked for, when they end; the first first
        self._ticking = False
        self._listening: asyncio.Task[None] | None = None
        self.is_listening = False

    def look(self, job_id: str) -> Waiting:
        """How it ended, if it has."""
        waiting: Waiting = self._loop.create_future()
        self._look("", job_id, waiting)
        return waiting

    def wait(self, job_id: str, *, for_ms: int = LOOK_MS) -> Waiting:
        """How it ended, as soon as it has; Pending after for_ms, or a second."""
        loop = self._loop
        waiting: Waiting = loop.create_future()
        looks = not (self._expected.awaits(job_id) and self._news.is_up)
        others = self._waiting.get(job_id)
        if others is None:
            self._waiting[job_id] = [waiting]
        else:
            others.append(waiting)
        if for_ms < LOOK_MS:
            loop.call_later(for_ms / 1000, self._end, job_id, waiting, looks)
        else:
            self._line[waiting] = job_id, looks, loop.time() + LOOK_S
            if not self._ticking:
                self._tick_later()
        if looks:
            self._unlooked.add(waiting)
            self._look(self._channel, job_id, waiting)
        self._link.awaits(waiting)
        return waiting

    # -- sending --------------------------------------------------------------------------------------------------------------

    def asks(self, n: int) -> str:
        """So many are sent next. Returns the channel to tell of their ends, as a record names it; "": nobody is to be told."""
        return self._name if self._expected.asks(n) and self.is_listening and self._news.is_up else ""

    def sends(self, job_ids: Sequence[str], channel: str) -> None:
        """These are about to be sent, and their ends to be told there: the answer of `asks` for as many."""
        self._expected.sends(job_ids, asked=bool(channel))

    def sent(self, job_ids: Sequence[str], *, asked: bool) -> None:
        """The server has answered; False: it may not have been asked to tell of these."""
        self._expected.sent(job_ids, asked=asked)

    # -- looking ------------------------------------------------------------------------------------------------------------

    def _look(self, channel: str, job_id: str, waiting: Waiting) -> None:
        """Look with the next batch; while one is in flight the next gathers."""
        looks = self._looks[channel]
        looks.append((job_id, waiting))
        if len(looks) == 1:
            task = self._loop.create_task(self._look_all(channel))
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)

    async def _look_all(self, channel: str) -> None:
        looks = self._looks[channel]
        while looks:
            some = looks[:MOST_AT_ONCE]
            try:
                found = await self._link.run("look", self._now(), channel, *[job_id for job_id, _ in some])
            except asyncio.CancelledError:
                self._fail(looks, StoreError("this store was closed; open it anew"))
                raise
            except Exception as e:  # noqa: BLE001  # whoever asked must hear of it
                self._fail(looks, e)
                continue
            for (_, waiting), one in zip(some, found, strict=True):
                self._unlooked.discard(waiting)
                if one == OPEN and channel and waiting not in self._late:
                    continue
                self._late.discard(waiting)
                _answer(waiting, one)
            del looks[: len(some)]

    def _fail(self, looks: list[tuple[str, Waiting]], error: Exception) -> None:
        for _, waiting in looks:
            self._unlooked.discard(waiting)
            self._late.discard(waiting)
            if not waiting.done():
                waiting.set_exception(error)
        looks.clear()

    # -- being told -----------------------------------------------------------------------------------------------------------

    async def listen(self, *, for_ms: int) -> None:
        """Subscribe, once, before the first wait. Without a subscription there is still the look."""
        listening = self._listening
        if listening is None or (listening.done() and (listening.cancelled() or listening.exception() is not None)):
            listening = self._listening = self._loop.create_task(self._news.subscribe(self._channel, self._told))
        with suppress(TimeoutError, StoreUnavailable):
            async with asyncio.timeout(min(for_ms, LOOK_MS) / 1000):
                await asyncio.shield(listening)
                self.is_listening = True

    def _told(self, message: bytes) -> None:
        told, waits = _decode_told(message), self._waiting
        job_ids = told[::2]
        self._expected.ended(job_ids)
        for job_id, outcome in zip(job_ids, told[1::2], strict=True):
            for waiting in waits.pop(job_id, ()):
                self._line.pop(waiting, None)
                if isinstance(outcome, bytes):
                    _answer(waiting, outcome)
                elif not waiting.done():  # it is large
                    self._look("", job_id, waiting)

    # -- the end of a wait ------------------------------------------------------------------------------------------------------

    def _tick_later(self) -> None:
        self._ticking = True
        self._loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        now, over = self._loop.time(), list[tuple[str, Waiting, bool]]()
        for waiting, (job_id, looked, ends_at) in self._line.items():
            if ends_at > now:
                break
            over.append((job_id, waiting, looked))
        for job_id, waiting, looked in over:
            del self._line[waiting]
            self._end(job_id, waiting, looked)
        self._ticking = False
        if self._line:
            self._tick_later()

    def _end(self, job_id: str, waiting: Waiting, looked: bool) -> None:
        """It is told, or its caller is gone, or it has waited long enough."""
        others = self._waiting.get(job_id)
        if others is not None and waiting in others:
            others.remove(waiting)
            if not others:
                del self._waiting[job_id]
        if waiting in self._unlooked:
            self._late.add(waiting)  # nothing is known of it yet: the look, or its failure, is the answer
        elif waiting.done():
            return
        elif looked:
            waiting.set_result(_PENDING)
        else:
            self._look("", job_id, waiting)

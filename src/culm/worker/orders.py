"""What a supervisor tells a worker process to do for one that died, over a socket: MessagePack behind four bytes of length."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import groupby
from typing import TypeVar

import msgspec
from msgspec import Struct

from culm.commit import Commit, Committed, Held
from culm.errors import StoreUnavailable
from culm.job import Delivery
from culm.outcome import Lost, Released
from culm.store import FullStore
from culm.worker.slots import Slots

log = logging.getLogger("culm.worker")

T = TypeVar("T")
SHORT_MS = 1_000  # what a claim grants that asks for another's grant is given back at once
AT_ONCE = 500  # leases of one question
PAUSE_S = 0.2  # until a store that did not answer is asked again


class Order(Struct, frozen=True, array_like=True):
    """What a living process is to do for a dead one."""

    give_back: list[Held] = []
    claiming: str = ""  # give back what a claim under this lease was granted, whose answer nobody heard
    lost: list[tuple[Held, str]] = []  # these are, for that reason
    run: list[Held] = []  # one after another
    suspects: int = 0  # how many were running there


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Order).decode


def encode_order(order: Order) -> bytes:
    body = _encode(order)
    return len(body).to_bytes(4, "big") + body


class Obedience:
    """Carries out orders.

    Args:
        queues: what its worker claims from.
        submit: sends a commit; what it returns waits for the answer.
        noticed: told how many jobs were running in a process that died.
        taken: told after each order, when what it ends is ended, and what it says to run is held here.
    """

    def __init__(
        self,
        store: FullStore,
        slots: Slots,
        queues: Sequence[str],
        submit: Callable[[Commit], Awaitable[Committed]],
        taken: Callable[[], None],
        noticed: Callable[[int], None] = lambda _: None,
        *,
        lease_ms: int,
    ) -> None:
        self._store = store
        self._slots = slots
        self._queues = queues
        self._submit = submit
        self._taken = taken
        self._lease_ms = lease_ms
        self._noticed = noticed

    async def obey(self, fd: int) -> None:
        """Carry out what comes over `fd`, until its other end is gone."""
        reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=fd))
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(4), "big")
                order = _decode(await reader.readexactly(size))
                try:
                    await self._carry_out(order)
                except Exception:
                    log.exception("orders.failed: the jobs come back when their leases end")
                self._taken()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the supervisor is gone; this process is told so by other means
        finally:
            writer.close()

    async def _carry_out(self, order: Order) -> None:
        self._noticed(order.suspects)
        back: list[Delivery] = []
        for start in range(0, len(order.give_back), AT_ONCE):
            part = order.give_back[start : start + AT_ONCE]
            back += await _until_answered(partial(self._store.deliveries, part))
        if order.claiming:
            lease = order.claiming
            claimed = await _until_answered(lambda: self._store.claim(self._queues, lease=lease, limit=1, for_ms=SHORT_MS))
            known = {d.job.id for d in back}
            back += [d for d in claimed.deliveries if d.job.id not in known]
        ends = [Commit(fence=held, outcome=Lost(reason)) for held, reason in order.lost]
        ends += [Commit(fence=Held(d.job.id, d.lease), outcome=Released()) for d in back]
        for answer in await asyncio.gather(*map(self._submit, ends), return_exceptions=True):
            if isinstance(answer, BaseException):
                log.error("orders.failed: %s; the jobs come back when their leases end", answer)
        for held, reason in order.lost:
            log.error("job.lost: %s: %s", held.job_id, reason)
        if order.run:
            await _until_answered(lambda: self._store.extend(order.run, for_ms=self._lease_ms))  # the heart's next beat may be far
            deliveries = await _until_answered(lambda: self._store.deliveries(order.run))
            log.info("suspects.run: %d jobs that ran when a process died run alone here", len(deliveries))
            for _, some in groupby(deliveries, lambda d: d.lease):
                self._slots.feed(list(some))


async def _until_answered(ask: Callable[[], Awaitable[T]]) -> T:
    while True:
        try:
            return await ask()
        except StoreUnavailable as e:
            log.warning("orders.wait: %s", e)
            await asyncio.sleep(PAUSE_S)

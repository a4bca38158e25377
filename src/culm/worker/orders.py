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
from culm.store import FullStore, Patient, TellsGrants
from culm.worker.slots import Slots

log = logging.getLogger("culm.worker")

T = TypeVar("T")
SHORT_MS = 1_000  # what a claim grants that asks for another's grant is given back at once
AT_ONCE = 500  # leases of one question
DRAINED = b"d"  # a worker process says so: nothing is held there any more
LAST_TRIES_S = 2.0  # how long a process that is about to end asks a store that does not answer
PAUSE_S = 0.2  # until a store that did not answer is asked again


class Order(Struct, frozen=True, array_like=True):
    """What a living process is to do for a dead one."""

    give_back: list[Held] = []
    claiming: str = ""  # give back what a claim under this lease was granted, whose answer nobody heard
    lost: list[tuple[Held, str]] = []  # these are, for that reason
    run: list[Held] = []  # one after another
    suspects: int = 0  # how many were running there
    hold: list[Held] = []  # nobody runs these yet: their leases must not end


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
        self._writer: asyncio.StreamWriter | None = None
        self._is_drained = False

    async def obey(self, fd: int) -> None:
        """Carry out what comes over `fd`, until its other end says that no more will come, or is gone."""
        reader, self._writer = await asyncio.open_connection(sock=socket.socket(fileno=fd))
        try:
            if self._is_drained:
                self._writer.write(DRAINED)
            while True:
                size = int.from_bytes(await reader.readexactly(4), "big")
                order = _decode(await reader.readexactly(size))
                try:
                    await self._carry_out(order)
                except StoreUnavailable as e:
                    log.warning("orders.left: %s; they are for another process", e)
                    return
                except Exception:
                    log.exception("orders.failed: the jobs come back when their leases end")
                self._taken()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # no more will come, or the supervisor is gone, which this process is told by other means
        finally:
            self._writer.close()

    def drained(self) -> None:
        """Nothing is held here any more: tell it, so that the supervisor lets this process go. Until then it carries out orders."""
        self._is_drained = True
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(DRAINED)

    async def _carry_out(self, order: Order) -> None:
        self._noticed(order.suspects)
        await self._hold(order.hold)
        back: list[Delivery] = []
        for start in range(0, len(order.give_back), AT_ONCE):
            part = order.give_back[start : start + AT_ONCE]
            back += await self._until_answered(partial(self._store.deliveries, part))
        if order.claiming:
            known = {d.job.id for d in back}
            back += [d for d in await self._until_answered(partial(self._granted, order.claiming)) if d.job.id not in known]
        ends = [Commit(fence=held, outcome=Lost(reason)) for held, reason in order.lost]
        ends += [Commit(fence=Held(d.job.id, d.lease), outcome=Released()) for d in back]
        for answer in await asyncio.gather(*map(self._submit, ends), return_exceptions=True):
            if isinstance(answer, StoreUnavailable) and self._is_drained:
                raise answer
            if isinstance(answer, BaseException):
                log.error("orders.failed: %s; the jobs come back when their leases end", answer)
        for held, reason in order.lost:
            log.error("job.lost: %s: %s", held.job_id, reason)
        if order.run:
            await self._hold(order.run)  # the heart's next beat may be far
            deliveries = await self._until_answered(lambda: self._store.deliveries(order.run))
            log.info("suspects.run: %d jobs that ran when a process died run alone here", len(deliveries))
            place = {held.job_id: n for n, held in enumerate(order.run)}
            deliveries.sort(key=lambda d: place[d.job.id])  # who was told to be the first is
            for _, some in groupby(deliveries, lambda d: d.lease):
                self._slots.feed(list(some))

    async def _granted(self, lease: str) -> list[Delivery]:
        if isinstance(self._store, TellsGrants):
            return await self._store.granted(self._queues, lease=lease)
        limit = 0 if isinstance(self._store, Patient) else 1  # there, the original may wait still: nothing makes it too late as well
        return list((await self._store.claim(self._queues, lease=lease, limit=limit, for_ms=SHORT_MS)).deliveries)

    async def _hold(self, held: Sequence[Held]) -> None:
        for start in range(0, len(held), AT_ONCE):
            part = held[start : start + AT_ONCE]
            await self._until_answered(partial(self._store.extend, part, for_ms=self._lease_ms))

    async def _until_answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Raises StoreUnavailable: this process is about to end, and others may have better luck."""
        now = asyncio.get_running_loop().time
        drained_at: float | None = None
        while True:
            try:
                return await ask()
            except StoreUnavailable as e:
                drained_at = drained_at or (now() if self._is_drained else None)
                if drained_at is not None and now() - drained_at > LAST_TRIES_S:
                    raise
                log.warning("orders.wait: %s", e)
                await asyncio.sleep(PAUSE_S)

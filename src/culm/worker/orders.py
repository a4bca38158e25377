"""What a supervisor tells a worker process to do for one that died, over a socket: MessagePack behind four bytes of length."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from itertools import groupby

import msgspec
from msgspec import Struct

from culm.commit import Commit, Held
from culm.errors import StoreError
from culm.outcome import Lost, Released
from culm.store import FullStore
from culm.worker.slots import Slots

log = logging.getLogger("culm.worker")

PAUSE_S = 0.2  # until a store that did not answer is asked again


class Order(Struct, frozen=True, array_like=True):
    """What a living process is to do for a dead one."""

    end: list[tuple[str, str, str]] = []  # (job id, lease, reason): give it back, or if there is a reason, it is lost
    run: list[Held] = []  # one after another


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Order).decode


def encode_order(order: Order) -> bytes:
    body = _encode(order)
    return len(body).to_bytes(4, "big") + body


async def obey(fd: int, store: FullStore, slots: Slots, post: Callable[[Commit], None], taken: Callable[[], None]) -> None:
    """Carry out the orders that come over `fd`, until its other end is gone.

    Args:
        post: sends a commit.
        taken: told after each order, when what it says to run is held here.
    """
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=fd))
    try:
        while True:
            size = int.from_bytes(await reader.readexactly(4), "big")
            order = _decode(await reader.readexactly(size))
            for job_id, lease, reason in order.end:
                if reason:
                    log.error("job.lost: %s: %s", job_id, reason)
                post(Commit(fence=Held(job_id, lease), outcome=Lost(reason) if reason else Released()))
            if order.run:
                await _take_up(order.run, store, slots)
            taken()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the supervisor is gone; this process is told so by other means
    finally:
        writer.close()


async def _take_up(held: list[Held], store: FullStore, slots: Slots) -> None:
    """Run what a dead process ran, as far as its leases still hold it."""
    while True:
        try:
            deliveries = await store.deliveries(held)
            break
        except StoreError as e:
            log.warning("suspects.wait: %s", e)
            await asyncio.sleep(PAUSE_S)
    log.info("suspects.run: %d jobs that ran when a process died run alone here", len(deliveries))
    for _, some in groupby(deliveries, lambda d: d.lease):
        slots.feed(list(some))

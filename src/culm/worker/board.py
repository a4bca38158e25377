"""What a worker process holds, written where its supervisor can read it after its death: shared memory, no lock, no store.

A head: when the loop last ticked, how many attempts ended, how many orders were taken up, how many jobs are left. Then the lease of
the claim that may be under way. Then a place for each slot: what runs there. Then what was claimed of late, lease by lease; some of it
has ended, which does no harm: its lease holds it no more.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import time
from collections import deque
from collections.abc import Sequence

from msgspec import Struct

from culm.commit import Held

SLOT_BYTES = 1_024  # two bytes of length, lease and id; a longer pair is not shown
CLAIMS_BYTES = 1 << 20
KEPT_CLAIMS = 8  # beyond those that have jobs in the buffer: their commits may be under way
_HEAD = struct.Struct("=QQQQ")  # the fields of Head
_ORDERS_AT = 16
_ORDERS = struct.Struct("=Q")
_CLAIMING_AT = _HEAD.size
_SLOTS_AT = _CLAIMING_AT + SLOT_BYTES
_LENGTH = struct.Struct("=H")
_BLOCK = struct.Struct("=I")


class Head(Struct, frozen=True):
    """How a process is."""

    ticked_ms: int  # when its loop last ticked, by the system's monotonic clock; 0: never
    done: int  # attempts that ended
    orders: int  # orders that it took up
    left: int  # jobs that it holds


class Seen(Struct, frozen=True):
    """What a process holds."""

    running: list[Held]
    claimed: list[Held] = []  # of late, without those that run
    claiming: str = ""  # the lease of its latest claim, whose answer it may not have heard


def _size(concurrency: int) -> int:
    return _SLOTS_AT + concurrency * SLOT_BYTES + CLAIMS_BYTES


class Board:
    """The worker's end.

    Args:
        fd: of a `BoardReader`, with the same concurrency.
    """

    def __init__(self, fd: int, concurrency: int) -> None:
        self._memory = mmap.mmap(fd, _size(concurrency))
        self._free = list(range(concurrency))
        self._claims_at = _SLOTS_AT + concurrency * SLOT_BYTES
        self._claims: deque[tuple[str, bytes]] = deque()
        self._orders = 0

    def tick(self, done: int, left: int) -> None:
        _HEAD.pack_into(self._memory, 0, time.monotonic_ns() // 1_000_000, done, self._orders, left)

    def took_order(self) -> None:
        self._orders += 1
        _ORDERS.pack_into(self._memory, _ORDERS_AT, self._orders)

    def claiming(self, lease: str) -> None:
        _write(self._memory, _CLAIMING_AT, lease.encode())

    def begin(self, lease: str, job_id: str) -> int:
        """The job runs. Returns its slot."""
        slot = self._free.pop()
        _write(self._memory, _SLOTS_AT + slot * SLOT_BYTES, f"{lease}\n{job_id}".encode())
        return slot

    def end(self, slot: int) -> None:
        _LENGTH.pack_into(self._memory, _SLOTS_AT + slot * SLOT_BYTES, 0)
        self._free.append(slot)

    def claimed(self, lease: str, ids: Sequence[str], *, in_buffer: int) -> None:
        """These were claimed; the buffer holds jobs of so many leases."""
        body = "\n".join([lease, *ids]).encode()
        self._claims.append((lease, _BLOCK.pack(len(body)) + body))
        while len(self._claims) > in_buffer + KEPT_CLAIMS:
            self._claims.popleft()
        text = b"".join(block for _, block in self._claims)[: CLAIMS_BYTES - _BLOCK.size] + _BLOCK.pack(0)
        self._memory[self._claims_at : self._claims_at + len(text)] = text


class BoardReader:
    """The supervisor's end, which makes it.

    Attributes:
        fd: to hand to the worker process; `handed` closes it here.
    """

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self.fd = _memory()
        os.ftruncate(self.fd, _size(concurrency))
        self._memory = mmap.mmap(self.fd, _size(concurrency), prot=mmap.PROT_READ)

    def handed(self) -> None:
        os.close(self.fd)

    def head(self) -> Head:
        return Head(*_HEAD.unpack_from(self._memory, 0))

    def seen(self) -> Seen:
        """What the process that wrote it holds; whatever is half-written is left out."""
        claims_at = _SLOTS_AT + self._concurrency * SLOT_BYTES
        pairs = [_read(self._memory, at).partition("\n") for at in range(_SLOTS_AT, claims_at, SLOT_BYTES)]
        running = [Held(job_id, lease) for lease, _, job_id in pairs if job_id]
        claimed = dict.fromkeys(_claims_in(self._memory[claims_at:]))
        for held in running:
            claimed.pop(held, None)
        return Seen(running, list(claimed), _read(self._memory, _CLAIMING_AT))

    def close(self) -> None:
        self._memory.close()


def _write(memory: mmap.mmap, at: int, text: bytes) -> None:
    """The text first, then its length: what is half-written is not there yet."""
    if len(text) <= SLOT_BYTES - _LENGTH.size:
        memory[at + _LENGTH.size : at + _LENGTH.size + len(text)] = text
        _LENGTH.pack_into(memory, at, len(text))


def _read(memory: mmap.mmap, at: int) -> str:
    (length,) = _LENGTH.unpack_from(memory, at)
    return memory[at + _LENGTH.size : at + _LENGTH.size + min(length, SLOT_BYTES - _LENGTH.size)].decode(errors="replace")


def _memory() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("culm-board")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _claims_in(text: bytes) -> list[Held]:
    found, at = [], 0
    while at + _BLOCK.size <= len(text):
        (length,) = _BLOCK.unpack_from(text, at)
        at += _BLOCK.size
        if not length or at + length > len(text):
            break
        lease, *ids = text[at : at + length].decode(errors="replace").split("\n")
        found += [Held(job_id, lease) for job_id in ids]
        at += length
    return found

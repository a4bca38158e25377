"""What a worker process holds, written where its supervisor can read it after its death: shared memory, no lock, no store.

Four parts. The head: how the process is. The claims: a log of what was claimed of late, lease by lease, numbered; some of it has ended,
which does no harm: its lease holds it no more. The slots: which of the claimed runs there, a number. The names: who that is, written for
whatever runs for a while, since the log forgets. Quick jobs cost two numbers each.
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

CLAIMS_BYTES = 4 << 20
NAME_BYTES = 1_024  # number, length, lease and id; a longer pair is not shown
KEPT_CLAIMS = 40  # beyond those that have jobs in the buffer: what they granted may run, or its commit be under way
PLACES = 1 << 16  # of one claim
_HEAD = struct.Struct("=QQQQQQQ")  # the fields of Head
_TICKED = struct.Struct("=QQQQQQ")  # all but the last
_ORDERS_AT = 16
_BEGUN_AT = 48
_NUMBER = struct.Struct("=Q")
_FIRST_AT = _HEAD.size  # where the log begins
_CLAIMING_AT = _FIRST_AT + _NUMBER.size
_CLAIMS_AT = _CLAIMING_AT + NAME_BYTES
_SLOTS_AT = _CLAIMS_AT + CLAIMS_BYTES
_BLOCK = struct.Struct("=QI")  # of the log: number of the claim, bytes
_NAME = struct.Struct("=QH")  # number of what it names, bytes


class Head(Struct, frozen=True):
    """How a process is."""

    ticked_ms: int  # when its loop last ticked, by the system's monotonic clock; 0: never
    done: int  # attempts that ended
    orders: int  # orders that it took up
    left: int  # jobs that it holds, if it runs suspects
    leaked: int  # threads that still run a job that was stopped
    good_ms: int  # when the store last answered it, by the clock of `ticked_ms`; 0: never
    begun: int  # attempts that ever began


class Seen(Struct, frozen=True):
    """What a process holds."""

    running: list[Held]
    claimed: list[Held] = []  # of late, without those that run
    claiming: str = ""  # the lease of its latest claim, whose answer it may not have heard
    first: bool = False  # nothing ever ran there before what runs


def _size(concurrency: int) -> int:
    return _SLOTS_AT + concurrency * (_NUMBER.size + NAME_BYTES)


class Board:
    """The worker's end.

    Args:
        fd: of a `BoardReader`, with the same concurrency.
    """

    def __init__(self, fd: int, concurrency: int) -> None:
        self._memory = mmap.mmap(fd, _size(concurrency))
        self._names_at = _SLOTS_AT + concurrency * _NUMBER.size
        self._slots = memoryview(self._memory)[_SLOTS_AT : self._names_at].cast("Q")
        self._begun = memoryview(self._memory)[_BEGUN_AT : _BEGUN_AT + _NUMBER.size].cast("Q")
        self._free = list(range(concurrency))
        self._numbers: dict[str, dict[str, int]] = {}  # lease -> job id -> its number
        self._log: deque[tuple[str, int, bytes]] = deque()  # lease, where it lies, the block
        self._end = 0
        self._claims = 0
        self._orders = 0

    def tick(self, done: int, left: int, *, leaked: int = 0, good_ms: int = 0) -> None:
        _TICKED.pack_into(self._memory, 0, time.monotonic_ns() // 1_000_000, done, self._orders, left, leaked, good_ms)

    def took_order(self) -> None:
        self._orders += 1
        _NUMBER.pack_into(self._memory, _ORDERS_AT, self._orders)

    def claiming(self, lease: str) -> None:
        _write_name(self._memory, _CLAIMING_AT, 0, lease.encode())

    def claimed(self, lease: str, ids: Sequence[str], *, in_buffer: int) -> None:
        """These were claimed; the buffer holds jobs of so many leases."""
        self._claims += 1
        first = self._claims * PLACES
        self._numbers.setdefault(lease, {}).update(zip(ids, range(first, first + len(ids)), strict=True))
        text = "\n".join([lease, *ids]).encode()
        block = _BLOCK.pack(self._claims, len(text)) + text
        while len(self._log) >= in_buffer + KEPT_CLAIMS:
            self._forget_oldest()
        if self._end + len(block) + _BLOCK.size > CLAIMS_BYTES:
            self._begin_anew()
        self._append(lease, block)
        _NUMBER.pack_into(self._memory, _FIRST_AT, self._log[0][1] if self._log else 0)

    def _forget_oldest(self) -> int:
        lease, _, block = self._log.popleft()
        self._numbers.pop(lease, None)
        return len(block)

    def _begin_anew(self) -> None:
        """The log has come to its end: the newer half moves to the front."""
        size = sum(len(block) for _, _, block in self._log)
        while size > CLAIMS_BYTES // 2:
            size -= self._forget_oldest()
        kept, self._log, self._end = self._log, deque(), 0
        _NUMBER.pack_into(self._memory, _FIRST_AT, 0)
        for lease, _, block in kept:
            self._append(lease, block)

    def _append(self, lease: str, block: bytes) -> None:
        if self._end + len(block) + _BLOCK.size <= CLAIMS_BYTES:
            at = _CLAIMS_AT + self._end
            self._memory[at + len(block) : at + len(block) + _BLOCK.size] = bytes(_BLOCK.size)
            self._memory[at : at + len(block)] = block
            self._log.append((lease, self._end, block))
            self._end += len(block)

    def begin(self, lease: str, job_id: str) -> int:
        """The job runs. Returns its slot."""
        slot = self._free.pop()
        self._begun[0] += 1
        try:
            self._slots[slot] = self._numbers[lease][job_id]
        except KeyError:  # its claim was forgotten while it waited
            self._slots[slot] = 1
            self.name(slot, lease, job_id)
        return slot

    def name(self, slot: int, lease: str, job_id: str) -> None:
        """It runs for a while."""
        _write_name(self._memory, self._names_at + slot * NAME_BYTES, self._slots[slot], f"{lease}\n{job_id}".encode())

    def end(self, slot: int) -> None:
        self._slots[slot] = 0
        self._free.append(slot)


class BoardReader:
    """The supervisor's end, which makes it.

    Attributes:
        fd: to hand to the worker process; `handed` closes it here.
    """

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self.fd = _shared_memory()
        try:
            os.ftruncate(self.fd, _size(concurrency))
            self._memory = mmap.mmap(self.fd, _size(concurrency), prot=mmap.PROT_READ)
        except OSError:
            os.close(self.fd)
            raise

    def handed(self) -> None:
        os.close(self.fd)

    def head(self) -> Head:
        return Head(*_HEAD.unpack_from(self._memory, 0))

    def seen(self) -> Seen:
        """What the process that wrote it holds; whatever is half-written is left out."""
        claimed = self._log()
        running: list[Held] = []
        names_at = _SLOTS_AT + self._concurrency * _NUMBER.size
        for slot in range(self._concurrency):
            (number,) = _NUMBER.unpack_from(self._memory, _SLOTS_AT + slot * _NUMBER.size)
            if not number:
                continue
            named, text = _read_name(self._memory, names_at + slot * NAME_BYTES)
            lease, _, job_id = text.partition("\n")
            held = Held(job_id, lease) if named == number else claimed.get(number)
            if held is not None:
                running.append(held)
        running = list(dict.fromkeys(running))
        rest = dict.fromkeys(claimed.values())
        for held in running:
            rest.pop(held, None)
        first = len(running) == self.head().begun
        return Seen(running, list(rest), _read_name(self._memory, _CLAIMING_AT)[1], first)

    def _log(self) -> dict[int, Held]:
        """What was claimed, by number."""
        found: dict[int, Held] = {}
        (at,) = _NUMBER.unpack_from(self._memory, _FIRST_AT)
        while at + _BLOCK.size <= CLAIMS_BYTES:
            claim, length = _BLOCK.unpack_from(self._memory, _CLAIMS_AT + at)
            at += _BLOCK.size
            if not claim or at + length > CLAIMS_BYTES:
                break
            text = self._memory[_CLAIMS_AT + at : _CLAIMS_AT + at + length]
            lease, *ids = text.decode(errors="replace").split("\n")
            found.update({claim * PLACES + place: Held(job_id, lease) for place, job_id in enumerate(ids)})
            at += length
        return found

    def close(self) -> None:
        self._memory.close()


def _write_name(memory: mmap.mmap, at: int, number: int, text: bytes) -> None:
    """The text first, then its number and length: what is half-written is not there yet."""
    if len(text) <= NAME_BYTES - _NAME.size:
        memory[at + _NAME.size : at + _NAME.size + len(text)] = text
        _NAME.pack_into(memory, at, number, len(text))


def _read_name(memory: mmap.mmap, at: int) -> tuple[int, str]:
    number, length = _NAME.unpack_from(memory, at)
    text = memory[at + _NAME.size : at + _NAME.size + min(length, NAME_BYTES - _NAME.size)]
    return number, text.decode(errors="replace")


def _shared_memory() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("culm-board")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())

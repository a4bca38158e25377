"""What the processes of a crash run write down: one JSON line per `write`, with O_APPEND, so that no kill tears or loses a record."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TypeAlias, TypeVar

import msgspec
from msgspec import Struct

T = TypeVar("T")


class Invoke(Struct, frozen=True, tag="invoke"):
    """A client is about to send these ids; it may die before, while, or after it does."""

    ids: list[str]


class Ack(Struct, frozen=True, tag="ack"):
    """`enqueue` returned for these ids."""

    ids: list[str]


class Boot(Struct, frozen=True, tag="boot"):
    """A worker runs; its leases are `worker/1`, `worker/2`, ..."""

    pid: int
    worker: str
    at: float


class Start(Struct, frozen=True, tag="start"):
    """User code of a job begins."""

    id: str
    pid: int
    fence: int
    at: float


class Fault(Struct, frozen=True, tag="fault"):
    """The nemesis struck: what the victim held then, by the store's own tables, is the most that may run again for it."""

    kind: str  # "kill" or "stop"
    pid: int
    held: int
    at: float


Entry: TypeAlias = Invoke | Ack | Boot | Start | Fault

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


class Journal:
    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, entry: Entry) -> None:
        os.write(self._fd, _encode(entry) + b"\n")

    def close(self) -> None:
        os.close(self._fd)


def read(path: Path) -> list[Entry]:
    """What is written so far; another process may be in the middle of a line."""
    return [_decode(line) for line in path.read_bytes().rpartition(b"\n")[0].splitlines()] if path.exists() else []


def of(kind: type[T], entries: list[Entry]) -> list[T]:
    return [e for e in entries if isinstance(e, kind)]


def now() -> float:
    """Comparable between the processes of one machine."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)

"""What an attempt came to. Five outcomes end the job; four do not. One union, matched exhaustively.

Only `Store.commit` writes an outcome, and only under the lease that still holds the job. `decide.py` chooses it, purely.
Retried consumes an attempt; Snoozed, Suspended and Released give it back.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct


class Fault(Struct, frozen=True, gc=False, array_like=True):
    """An exception, made inert: its type's name, its message and its trace (without locals). Never turned back into a live exception."""

    type: str
    message: str = ""
    trace: str = ""


class Succeeded(Struct, frozen=True, gc=False, array_like=True, tag=1):
    value: bytes = b"\xc0"  # the result as MessagePack; this is None


class Failed(Struct, frozen=True, gc=False, array_like=True, tag=2):
    fault: Fault


class Cancelled(Struct, frozen=True, gc=False, array_like=True, tag=3):
    reason: str = ""


class Expired(Struct, frozen=True, gc=False, array_like=True, tag=4):
    reason: str = ""


class Lost(Struct, frozen=True, gc=False, array_like=True, tag=5):
    reason: str = ""


class Retried(Struct, frozen=True, gc=False, array_like=True, tag=6):
    after_ms: int
    fault: Fault


class Snoozed(Struct, frozen=True, gc=False, array_like=True, tag=7):
    after_ms: int


class Suspended(Struct, frozen=True, gc=False, array_like=True, tag=8):
    after_ms: int | None = None  # None: until a trigger releases it


class Released(Struct, frozen=True, gc=False, array_like=True, tag=9):
    """Handed back untouched: due when it was due before."""

    after_ms: int = 0  # at least so long from now: a worker that cannot run it does not meet it again at once


Final: TypeAlias = Succeeded | Failed | Cancelled | Expired | Lost
NotFinal: TypeAlias = Retried | Snoozed | Suspended | Released
Outcome: TypeAlias = Final | NotFinal

Ending: TypeAlias = Literal["succeeded", "failed", "cancelled", "expired", "lost"]

FINAL = (Succeeded, Failed, Cancelled, Expired, Lost)

ENDINGS: dict[type[Final], Ending] = {
    Succeeded: "succeeded",
    Failed: "failed",
    Cancelled: "cancelled",
    Expired: "expired",
    Lost: "lost",
}

DEAD = frozenset({Failed, Lost})  # a dead letter until somebody replays or discards it: exempt from `keep`
# Ask `type(outcome) in DEAD`: isinstance costs ten times as much when the answer is no.

encode_outcome = msgspec.msgpack.Encoder().encode
decode_outcome = msgspec.msgpack.Decoder(Outcome).decode

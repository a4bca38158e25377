"""What arguments, results and events look like when they do not travel as plain MessagePack: signed, encrypted, or stored apart.

An envelope is the byte 0xC1, with which no MessagePack begins, and a MessagePack array that a golden file pins. A job whose
arguments are in one has version 2, so that older workers leave it to newer ones. What is sealed may be stored apart, never the
other way round: what comes out of a store is believed only by its seal.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from msgspec import Struct

from culm.errors import NotAuthentic

MARK = b"\xc1"


class Signed(Struct, frozen=True, gc=False, array_like=True, tag=1):
    """HMAC-SHA256 over what it belongs to, and the body; `keys.py` says how."""

    key: str  # the id of the key
    mac: bytes
    body: bytes


class Encrypted(Struct, frozen=True, gc=False, array_like=True, tag=2):
    """AES-256-GCM, with what it belongs to as associated data."""

    key: str
    salt: bytes  # 16 bytes that make this message's own key, and 12 of nonce
    body: bytes


class Stored(Struct, frozen=True, gc=False, array_like=True, tag=3):
    """The bytes lie elsewhere, under the job's id and this digest."""

    digest: bytes  # SHA-256
    size: int
    place: str = ""  # "": the store's own blobs; "folder": a directory


Envelope: TypeAlias = Signed | Encrypted | Stored

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Envelope).decode


def wrap(envelope: Envelope) -> bytes:
    return MARK + _encode(envelope)


def is_wrapped(data: bytes) -> bool:
    return data[:1] == MARK


def unwrap(data: bytes) -> Envelope:
    """Raises NotAuthentic when the bytes are no envelope that this version reads."""
    try:
        envelope: Envelope = _decode(memoryview(data)[1:])
        return envelope
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        raise NotAuthentic(f"its envelope cannot be read: {e}") from None

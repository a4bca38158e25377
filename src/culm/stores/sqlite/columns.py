"""A list as a parameter: texts and numbers as JSON, blobs joined, beside a column that says where each of them lies.

One statement over a thousand rows costs a third of a thousand rows of parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

MAX_BYTES = 16 << 20  # of the blobs of one statement or claim, unless one alone has more

_json = msgspec.json.Encoder().encode


def as_json(values: Sequence[object]) -> str:
    return _json(values).decode()


def joined(blobs: Sequence[bytes]) -> tuple[bytes, bytes]:
    """(the blobs, where each begins and how long it is: ten digits each, counting from 1)."""
    at, places = 1, []
    for blob in blobs:
        size = len(blob)
        places.append(b"%010d%010d" % (at, size))
        at += size
    return b"".join(blobs), b"".join(places)


def pieces(blobs: Sequence[bytes]) -> Iterable[slice]:
    """Where to cut so that no piece is larger than MAX_BYTES."""
    start = size = 0
    for n, blob in enumerate(blobs):
        size += len(blob)
        if size > MAX_BYTES and n > start:
            yield slice(start, n)
            start, size = n, len(blob)
    yield slice(start, len(blobs))

"""Many jobs are sent in chunks, a commit each: bounded in number and in bytes, so that no store has to take too much at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from culm.task import Bound

CHUNK, CHUNK_BYTES = 1_000, 4 << 20  # jobs, and bytes of arguments, in one commit of enqueue_many


def chunks(bounds: Iterable[Bound[Any]]) -> Iterable[list[Bound[Any]]]:
    """At most CHUNK jobs, and CHUNK_BYTES of arguments unless one alone has more."""
    chunk: list[Bound[Any]] = []
    size = 0
    for bound in bounds:
        size += len(bound.args)
        if chunk and size > CHUNK_BYTES:
            yield chunk
            chunk, size = [], len(bound.args)
        chunk.append(bound)
        if len(chunk) == CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk

"""The blobs of `memory://`: a dict."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from culm.store import BlobKey


class MemoryBlobs:
    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self.kept: dict[BlobKey, tuple[int, bytes]] = {}  # when to look, and what it is

    async def put(self, key: BlobKey, data: bytes, *, look_ms: int) -> None:
        with self._lock:
            self.kept[key] = (self._now() + look_ms, data)

    async def get(self, key: BlobKey) -> bytes | None:
        found = self.kept.get(key)
        return None if found is None else found[1]

    async def drop(self, keys: Sequence[BlobKey]) -> None:
        with self._lock:
            for key in keys:
                self.kept.pop(key, None)

    async def overdue(self, *, limit: int, again_ms: int) -> list[BlobKey]:
        with self._lock:
            now = self._now()
            due = sorted((look, key.job_id, key.digest) for key, (look, _) in self.kept.items() if look <= now)[:limit]
            keys = [BlobKey(job_id, digest) for _, job_id, digest in due]
            for key in keys:
                self.kept[key] = (now + again_ms, self.kept[key][1])
            return keys

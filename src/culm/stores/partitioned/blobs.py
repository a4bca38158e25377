"""The blobs of a partitioned store: each in the partition of its job, with that partition's own place for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from culm.errors import StoreUnavailable
from culm.store import BlobKey, Blobs, FullStore, KeepsBlobs
from culm.stores.partitioned.place import Place, place_of_job

T = TypeVar("T")


class At(Protocol):
    """Asks the store of one partition."""

    async def __call__(self, place: Place, question: Callable[[FullStore], Awaitable[T]], /) -> T: ...


class PartitionedBlobs:
    """Args: count: of partitions, each of which has a place for blobs."""

    def __init__(self, at: At, count: int) -> None:
        self._at = at
        self._count = count

    async def put(self, key: BlobKey, data: bytes, *, look_ms: int) -> None:
        await self._at(self._place(key), lambda store: blobs_of(store).put(key, data, look_ms=look_ms))

    async def get(self, key: BlobKey) -> bytes | None:
        return await self._at(self._place(key), lambda store: blobs_of(store).get(key))

    async def drop(self, keys: Sequence[BlobKey]) -> None:
        """Raises when a partition is missing, after all were asked; safe to repeat."""
        places: dict[Place, list[BlobKey]] = {}
        failed: StoreUnavailable | None = None
        for key in keys:
            places.setdefault(self._place(key), []).append(key)
        for place, some in places.items():
            try:
                await self._at(place, lambda store, some=some: blobs_of(store).drop(some))  # type: ignore[misc]
            except StoreUnavailable as e:
                failed = e
        if failed is not None:
            raise failed

    async def overdue(self, *, limit: int, again_ms: int) -> list[BlobKey]:
        """The oldest first within each partition. One that is away is passed by; raises when nothing was found beside it."""
        found: list[BlobKey] = []
        failed: StoreUnavailable | None = None
        for place in range(self._count):
            if (left := limit - len(found)) > 0:
                try:
                    found += await self._at(place, lambda store, left=left: blobs_of(store).overdue(limit=left, again_ms=again_ms))  # type: ignore[misc]
                except StoreUnavailable as e:
                    failed = e
        if failed is not None and not found:
            raise failed
        return found

    def _place(self, key: BlobKey) -> Place:
        return place_of_job(key.job_id, self._count)


def blobs_of(store: FullStore) -> Blobs:
    assert isinstance(store, KeepsBlobs)  # looked at before any blob was put
    return store.blobs

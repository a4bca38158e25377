"""Every place for large payloads keeps, finds and drops them alike, and says in time which ones to ask about."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from culm import ConfigError, StoreError, StoreUnavailable
from culm.store import BlobKey, Blobs, FullStore, KeepsBlobs
from culm.stores.folder_blobs import FolderBlobs
from culm.stores.open import open_blobs
from culm.testing.clock import ManualClock
from tests.conformance import stores

Story = Callable[[Blobs, ManualClock], Awaitable[None]]
OPENERS = {
    "memory": stores.memory,
    "sqlite": stores.sqlite,
    "redis": stores.redis,
    "postgres": stores.postgres,
    "partitions": stores.partitions,
    "cluster": stores.cluster,
}
PARTED = ("partitions", "cluster")
PLACES = [
    "memory",
    "sqlite",
    pytest.param("redis", marks=pytest.mark.server),
    pytest.param("postgres", marks=pytest.mark.server),
    "partitions",
    pytest.param("cluster", marks=pytest.mark.server),
    "folder",
]


def key(job_id: str, data: bytes) -> BlobKey:
    return BlobKey(job_id, hashlib.sha256(data).hexdigest())


def told(place: str, path: Path, story: Story) -> None:
    async def run() -> None:
        clock = ManualClock()
        if place == "folder":
            await story(FolderBlobs(path, now=lambda: clock.now_ms() / 1000), clock)
            return
        store = OPENERS[place](path, clock)
        try:
            await story(open_blobs(store, None), clock)
        finally:
            await store.close()

    asyncio.run(run())


@pytest.mark.parametrize("place", PLACES)
def test_what_was_put_is_there_for_its_job_until_it_is_dropped(place: str, tmp_path: Path) -> None:
    async def story(blobs: Blobs, clock: ManualClock) -> None:
        data = os.urandom(300_000)
        one, two = key("a/../b~c ü", data), key("other", data)
        assert await blobs.get(one) is None
        await blobs.drop([one])
        await blobs.put(one, data, look_ms=1_000)
        await blobs.put(one, data, look_ms=1_000)
        assert await blobs.get(one) == data
        assert await blobs.get(two) is None
        await blobs.put(two, data, look_ms=1_000)
        await blobs.put(key("other", b""), b"", look_ms=1_000)
        assert await blobs.get(key("other", b"")) == b""
        await blobs.drop([one])
        await blobs.drop([])
        assert await blobs.get(one) is None
        assert await blobs.get(two) == data

    told(place, tmp_path, story)


@pytest.mark.parametrize("place", PLACES)
def test_what_is_overdue_is_named_once_the_oldest_first_and_again_later(place: str, tmp_path: Path) -> None:
    async def story(blobs: Blobs, clock: ManualClock) -> None:
        assert await blobs.overdue(limit=10, again_ms=5_000) == []
        keys = [key(f"job~{n}", str(n).encode()) for n in range(4)]
        for n, one in enumerate(keys):
            await blobs.put(one, str(n).encode(), look_ms=(4 - n) * 10_000)
        assert await blobs.overdue(limit=10, again_ms=5_000) == []
        clock.advance(ms=30_000)
        if place in PARTED:  # the oldest first in each of them
            assert len(first := await blobs.overdue(limit=2, again_ms=5_000)) == 2
            assert {*first, *await blobs.overdue(limit=10, again_ms=5_000)} == set(keys[1:])
        else:
            assert await blobs.overdue(limit=2, again_ms=5_000) == [keys[3], keys[2]]
            assert await blobs.overdue(limit=10, again_ms=5_000) == [keys[1]]
        assert await blobs.overdue(limit=10, again_ms=5_000) == []
        clock.advance(ms=5_000)
        assert sorted(k.job_id for k in await blobs.overdue(limit=10, again_ms=60_000)) == ["job~1", "job~2", "job~3"]
        await blobs.put(keys[1], b"1", look_ms=0)  # put again: asked about as was said last
        assert await blobs.overdue(limit=10, again_ms=60_000) == [keys[1]]
        await blobs.drop(keys)
        clock.advance(ms=600_000)
        assert await blobs.overdue(limit=10, again_ms=60_000) == []

    told(place, tmp_path, story)


def test_a_sqlite_file_without_blobs_has_no_table_for_them(tmp_path: Path) -> None:
    import sqlite3

    async def story(blobs: Blobs, clock: ManualClock) -> None:
        assert await blobs.get(key("a", b"x")) is None

    told("sqlite", tmp_path, story)
    with sqlite3.connect(tmp_path / "culm.db") as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name LIKE 'blobs%'").fetchone() == (0,)
    connection.close()


class Bare:
    """A store that has no place for them."""

    def __str__(self) -> str:
        return "bare"


def test_a_store_without_a_place_for_blobs_says_what_to_do() -> None:
    bare: Any = Bare()
    assert not isinstance(bare, KeepsBlobs)
    store: FullStore = bare
    with pytest.raises(ConfigError, match="the store bare has no place for large payloads; give Offload a folder"):
        open_blobs(store, None)


def test_a_folder_that_cannot_be_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(ConfigError, match=f"cannot keep payloads in {path}"):
            FolderBlobs(path)


def test_names_in_a_folder_are_digests_whatever_a_job_is_called(tmp_path: Path) -> None:
    async def story() -> None:
        folder = FolderBlobs(tmp_path)
        for job_id in ("../../etc/passwd", "/absolute", "a" * 200):
            await folder.put(key(job_id, b"x"), b"x", look_ms=0)
            assert await folder.get(key(job_id, b"x")) == b"x"

    asyncio.run(story())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert all(set(path.name) <= set("0123456789abcdef-") for path in files)
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)


def test_what_a_crash_left_half_written_goes_an_hour_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        folder = FolderBlobs(tmp_path)
        await folder.put(key("a", b"x"), b"x", look_ms=3_600_000)
        half = tmp_path / key("a", b"x").digest[:2] / ".0123"
        half.write_bytes(b"half")
        assert await folder.overdue(limit=10, again_ms=1) == []
        assert half.exists()
        monkeypatch.setattr("culm.stores.folder_blobs.HALF_WRITTEN_S", -1)
        assert await folder.overdue(limit=10, again_ms=1) == []
        assert not half.exists()
        assert await folder.get(key("a", b"x")) == b"x"

    asyncio.run(story())


def test_a_folder_that_is_gone_is_a_store_that_does_not_answer(tmp_path: Path) -> None:
    async def story() -> None:
        (tmp_path / "blobs").mkdir()
        folder = FolderBlobs(tmp_path / "blobs")
        (tmp_path / "blobs").rmdir()
        with pytest.raises(StoreUnavailable, match=r"payloads in .*: No such file or directory"):
            await folder.put(key("a", b"x"), b"x", look_ms=0)

    asyncio.run(story())
    assert issubclass(StoreUnavailable, StoreError)

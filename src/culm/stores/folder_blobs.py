"""Blobs in a directory, which all machines that share the store must share too: a file each.

A file begins with its job's id; its modification time is when to look at it again. It is written beside its place, synced, and
moved there, so that it is there wholly or not at all; what a crash left half-written begins with a dot, and goes an hour later.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from heapq import nsmallest
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from culm.errors import ConfigError, StoreFull, StoreUnavailable
from culm.store import BlobKey

P = ParamSpec("P")
R = TypeVar("R")

HALF_WRITTEN_S = 3_600
ID_BYTES = 2  # that say how long the job's id is
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FolderBlobs:
    """Raises ConfigError when the folder is none, or not ours to write to."""

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        self._folder = folder.absolute()
        self._now = now
        if not self._folder.is_dir() or not os.access(self._folder, os.W_OK | os.X_OK):
            raise ConfigError(f"cannot keep payloads in {self._folder}: it is no folder, or this user may not write there; make it first")

    async def put(self, key: BlobKey, data: bytes, *, look_ms: int) -> None:
        await self._do(FolderBlobs._put, key, data, look_ms)

    async def get(self, key: BlobKey) -> bytes | None:
        return await self._do(FolderBlobs._get, key)

    async def drop(self, keys: Sequence[BlobKey]) -> None:
        await self._do(FolderBlobs._drop, keys)

    async def overdue(self, *, limit: int, again_ms: int) -> list[BlobKey]:
        return await self._do(FolderBlobs._overdue, limit, again_ms)

    # -- on a thread of the loop's ------------------------------------------------------------------------------------------

    async def _do(self, work: Callable[Concatenate[FolderBlobs, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await asyncio.to_thread(work, self, *args, **kwargs)
        except OSError as e:
            kind = StoreFull if e.errno in FULL else StoreUnavailable
            raise kind(f"payloads in {self._folder}: {e.strerror or e}") from e

    def _put(self, key: BlobKey, data: bytes, look_ms: int) -> None:
        path = self._path(key)
        path.parent.mkdir(exist_ok=True, mode=0o700)
        half = path.with_name(f".{secrets.token_hex(8)}")
        job_id = key.job_id.encode()
        try:
            with open(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(len(job_id).to_bytes(ID_BYTES, "big") + job_id)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._look_at(half, self._now() + look_ms / 1000)
            half.rename(path)
        except BaseException:
            half.unlink(missing_ok=True)
            raise
        for folder in (path.parent, self._folder):  # the name must be as durable as the bytes
            _sync(folder)

    def _get(self, key: BlobKey) -> bytes | None:
        try:
            data = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        size = int.from_bytes(data[:ID_BYTES], "big") + ID_BYTES
        return data[size:] if data[ID_BYTES:size] == key.job_id.encode() else None

    def _drop(self, keys: Sequence[BlobKey]) -> None:
        for key in keys:
            self._path(key).unlink(missing_ok=True)

    def _overdue(self, limit: int, again_ms: int) -> list[BlobKey]:
        now = self._now()
        found: list[BlobKey] = []
        for _, path in nsmallest(limit, self._due(now)):
            with contextlib.suppress(FileNotFoundError):  # somebody else dropped it
                self._look_at(path, now + again_ms / 1000)
                with path.open("rb") as file:
                    job_id = file.read(int.from_bytes(file.read(ID_BYTES), "big"))
                found.append(BlobKey(job_id.decode(errors="replace"), path.name[-64:]))
        return found

    def _due(self, now: float) -> Iterator[tuple[float, Path]]:
        for folder in self._folder.iterdir():
            if len(folder.name) != 2 or not folder.is_dir():
                continue
            for path in folder.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    look_at = path.stat().st_mtime
                    if path.name.startswith("."):
                        if path.stat().st_ctime < time.time() - HALF_WRITTEN_S:
                            path.unlink()
                    elif look_at <= now:
                        yield look_at, path

    def _look_at(self, path: Path, when: float) -> None:
        os.utime(path, (when, when))

    def _path(self, key: BlobKey) -> Path:
        """A job's id is anybody's text: only its digest becomes a name."""
        owner = hashlib.sha256(key.job_id.encode()).hexdigest()
        return self._folder / key.digest[:2] / f"{owner[:32]}-{key.digest}"


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

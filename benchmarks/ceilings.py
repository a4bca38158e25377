"""The least that each workload could cost here: the same disk, the same interpreter, nothing of culm.

Every function returns operations per second.
"""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from culm import App
from culm.job import Job, decode_job, encode_job

BODY = b"\x94" + b"x" * 63  # about what a no-op job takes


def sqlite(folder: Path, *, synchronous: str, per: int, n: int, take: bool) -> float:
    """Plain transactions of `per` rows on one connection: inserts, or claims followed by deletes."""
    connection = _open(folder, synchronous)
    try:
        started = time.perf_counter()
        _insert(connection, per, n)
        if take:
            started = time.perf_counter()
            _take(connection, per, n)
        return n / (time.perf_counter() - started)
    finally:
        connection.close()


def _open(folder: Path, synchronous: str) -> sqlite3.Connection:
    connection = sqlite3.connect(folder / "ceiling.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("CREATE TABLE q (id INTEGER PRIMARY KEY, state INTEGER NOT NULL DEFAULT 0, body BLOB)")
    connection.execute("CREATE INDEX ready ON q (id) WHERE state = 0")
    return connection


def _insert(connection: sqlite3.Connection, per: int, n: int) -> None:
    for _ in range(n // per):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO q (body) VALUES (?)", [(BODY,)] * per)
        connection.execute("COMMIT")


def _take(connection: sqlite3.Connection, per: int, n: int) -> None:
    claim = "UPDATE q SET state = 1 WHERE id IN (SELECT id FROM q WHERE state = 0 ORDER BY id LIMIT ?) RETURNING id, body"
    left = n
    while left:
        ids = connection.execute(claim, (per,)).fetchall()
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("DELETE FROM q WHERE id = ?", [(i,) for i, _ in ids])
        connection.execute("COMMIT")
        left -= len(ids)


async def sqlite_from_a_loop(folder: Path, *, synchronous: str, n: int) -> float:
    """Plain transactions of one row, each in another thread and awaited: an fsync that does not stop the event loop."""
    loop, insert = asyncio.get_running_loop(), "INSERT INTO q (body) VALUES (?)"
    with ThreadPoolExecutor(1) as desk:
        connection = await loop.run_in_executor(desk, _open, folder, synchronous)
        started = time.perf_counter()
        for _ in range(n):
            await loop.run_in_executor(desk, connection.execute, insert, (BODY,))
        took = time.perf_counter() - started
        await loop.run_in_executor(desk, connection.close)
    return n / took


async def bare_loop(n: int) -> float:
    """Decode a job, run its function in an asyncio task with a fresh context, encode the result; 100 tasks at a time."""
    app = App("memory://")

    @app.task
    async def noop(x: int) -> None: ...

    signature, loop, base = noop.signature, asyncio.get_running_loop(), contextvars.copy_context()
    rows = [encode_job(Job(id=f"{i:026d}", task=noop.name, args=signature.encode_call((i,), {}), timeout_ms=30_000)) for i in range(n)]
    results: list[bytes] = []

    async def run(row: bytes, job_id: str) -> None:
        args, kwargs = signature.decode_call(decode_job(row, job_id=job_id).args)
        results.append(signature.encode_result(await noop.fn(*args, **kwargs)))  # type: ignore[misc]  # it is a coroutine function

    ids = [f"{i:026d}" for i in range(n)]
    started = time.perf_counter()
    for start in range(0, n, 100):
        for i in range(start, min(start + 100, n)):
            loop.create_task(run(rows[i], ids[i]), context=base.copy())  # awaited by the count below
        await asyncio.sleep(0)
    while len(results) < n:
        await asyncio.sleep(0)
    return n / (time.perf_counter() - started)

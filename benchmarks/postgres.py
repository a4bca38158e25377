"""`python -m benchmarks.postgres [--rounds 3]`: culm on a private PostgreSQL, beside raw loops of asyncpg on it, synchronous_commit on.

A ratio is taken within a round; the table shows the median of the ratios, with the least and the greatest.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
from tests.servers import PostgresServer

from benchmarks.__main__ import Row, drain, one, table
from culm.stores.postgres.address import parse
from culm.stores.postgres.migrate import migrate

N = 100_000
DRAINED = 100_000
BATCH = 500
BODY = b"\x94" + b"x" * 99  # about what the record of a no-op job takes

SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "4GB", "checkpoint_timeout": "15min"}  # alike for both sides

_TABLE = """DROP TABLE IF EXISTS raw; CREATE TABLE raw (
    id text COLLATE "C" PRIMARY KEY, queue text NOT NULL, priority smallint NOT NULL,
    due bigint NOT NULL, n bigint NOT NULL, job bytea NOT NULL
); CREATE INDEX ON raw (queue, priority, due, n)"""
_INSERT = """INSERT INTO raw SELECT i, 'default', 5, 0, n, job FROM unnest($1::text[], $2::bytea[]) WITH ORDINALITY t (i, job, n)"""
_TAKE = """DELETE FROM raw WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM raw WHERE queue = 'default' AND priority = 5 AND due <= 1 ORDER BY due, n LIMIT $1 FOR UPDATE SKIP LOCKED
)) RETURNING id, job"""


_CLAIMABLE = """ALTER TABLE raw ADD state smallint NOT NULL DEFAULT 0; DROP INDEX raw_queue_priority_due_n_idx;
CREATE INDEX ON raw (queue, priority, due, n) WHERE state = 0"""
_CLAIM = """UPDATE raw SET state = 1 WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM raw WHERE state = 0 AND queue = 'default' AND priority = 5 AND due <= 1 ORDER BY due, n LIMIT $1 FOR UPDATE SKIP LOCKED
)) RETURNING id, job"""
_DELETE = "DELETE FROM raw WHERE id = ANY ($1::text[])"


def ids(first: int, count: int) -> list[str]:
    return [f"{n:016x}0123456789" for n in range(first, first + count)]


async def _fill(connection: Any, batch: int) -> None:
    await connection.execute(_TABLE)
    for at in range(0, N, batch):
        await connection.execute(_INSERT, ids(at, batch), [BODY] * batch)


async def inserts(connection: Any) -> float:
    """Rows of a job's size per second, 1,000 to a statement, one statement under way."""
    started = time.perf_counter()
    await _fill(connection, 1_000)
    return N / (time.perf_counter() - started)


async def takes(connection: Any, batch: int = BATCH) -> float:
    """Rows claimed with SKIP LOCKED and deleted per second, a batch to a statement, one under way: at most once, a crash loses them."""
    await _fill(connection, 1_000)
    await connection.execute("ANALYZE raw")
    started = time.perf_counter()
    while await connection.fetch(_TAKE, batch):
        pass
    return N / (time.perf_counter() - started)


async def takes_by_100(connection: Any) -> float:
    """The same in batches as large as those of the ceilings on SQLite and Redis."""
    return await takes(connection, 100)


async def claims(connection: Any) -> float:
    """By two statements for 500, each committed: a crash between them loses nothing, as little as one of culm's workers does."""
    await _fill(connection, 1_000)
    await connection.execute(_CLAIMABLE)
    await connection.execute("ANALYZE raw")
    started = time.perf_counter()
    while found := await connection.fetch(_CLAIM, BATCH):
        await connection.execute(_DELETE, [row[0] for row in found])
    return N / (time.perf_counter() - started)


async def single_inserts(connection: Any) -> float:
    await connection.execute(_TABLE)
    started = time.perf_counter()
    for job_id in ids(0, 2_000):
        await connection.execute(_INSERT, [job_id], [BODY])
    return 2_000 / (time.perf_counter() - started)


async def commits_us(connection: Any) -> float:
    """What a job's round trip cannot do without: two commits that wait for the disk, a row each; the median."""
    await connection.execute(_TABLE)
    times = []
    for job_id in ids(0, 500):
        started = time.perf_counter()
        await connection.execute(_INSERT, [job_id], [BODY])
        await connection.fetch(_TAKE, 1)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e6


Ceiling = Callable[[Any], Awaitable[float]]


class Bench:
    """Figures on one server, each between two looks at what it stands beside: this machine's pace changes within seconds."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server

    def raw(self, ceiling: Ceiling) -> float:
        async def run() -> float:
            connection = await asyncpg.connect(self._server.url().partition("?")[0])
            try:
                return await ceiling(connection)
            finally:
                await connection.close()

        return asyncio.run(run())

    def url(self) -> str:
        """An address with tables that nobody used before."""
        found = self._server.url(f"s{uuid.uuid4().hex}")
        asyncio.run(migrate(parse(found)))
        return found

    def rate(self, name: str, figure: str = "per_s") -> float:
        return one(name, self.url())[figure]

    def drained(self, task: str, workers: int = 1) -> float:
        return drain(self.url(), task, workers, DRAINED)

    def beside(self, what: str, name: str, raw: Ceiling, figure: Callable[[], float]) -> Row:
        before, found = self.raw(raw), figure()
        return what, name, found, (before + self.raw(raw)) / 2

    def round(self) -> list[Row]:
        claimed, then = f"delete at once, {BATCH}", f"claim, then delete, {BATCH}"
        rows = [
            self.beside("drain, keep=0", then, claims, lambda: self.drained("gone")),
            self.beside("drain, keep=0", "delete at once, 100", takes_by_100, lambda: self.drained("gone")),
            self.beside("drain, keep=0", claimed, takes, lambda: self.drained("gone")),
            self.beside("drain, kept for an hour", then, claims, lambda: self.drained("kept")),
            self.beside("enqueue_many", "inserts of 1,000", inserts, lambda: self.rate("enqueue_many")),
            self.beside("enqueue one by one", "inserts of 1", single_inserts, lambda: self.rate("enqueue_one")),
            self.beside("100 callers enqueue", "inserts of 1,000", inserts, lambda: self.rate("callers_100")),
            self.beside("100 callers await results", then, claims, lambda: self.rate("calls_100")),
            self.beside("enqueue to result, p50 us", "two commits, us", commits_us, lambda: self.rate("round_trip", "p50_us")),
        ]
        return [*rows, ("drain, two workers", "drain, one worker", self.drained("gone", 2), self.drained("gone"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    rounds = []
    for n in range(asked.rounds):
        print(f"round {n + 1} of {asked.rounds} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            server = PostgresServer(Path(folder) / "server", **SETTINGS)
            try:
                rounds.append(Bench(server).round())
            finally:
                server.close()
    table(rounds)


if __name__ == "__main__":
    main()

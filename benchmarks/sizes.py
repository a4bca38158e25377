"""`python -m benchmarks.sizes [--jobs 1000000] [--naptime 1min]`: how large culm's tables become in a PostgreSQL that is always busy.

So many jobs go through a private server while only a few are open: batches of 500 are sent, claimed and ended by two loops. Most
jobs leave nothing; a tenth is kept for ten seconds, and of every tenth batch two are trees of three (a child, a join, an event and
a trigger). Retention sweeps beside it. The server's autovacuum is as it comes, but for how often it looks. Nothing here is a rate.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct
from tests.servers import PostgresServer

from benchmarks.postgres import BATCH, SETTINGS
from culm.commit import Commit, Event, Held, Trigger
from culm.job import Delivery, Job
from culm.outcome import Succeeded
from culm.stores.postgres.address import parse
from culm.stores.postgres.migrate import migrate
from culm.stores.postgres.store import PostgresStore

LOOPS = 2
KEPT_MS = 10_000
KEPT_EVERY = 10  # batches
TREES = 2  # of a batch
LEASE_MS = 60_000
SWEEP_S = 0.5
SETTLE_S = 75.0  # after the last job: autovacuum looks once a minute

_SIZES = """SELECT s.relname, pg_table_size(s.relid), pg_indexes_size(s.relid), s.n_live_tup, s.n_dead_tup, s.autovacuum_count
FROM pg_stat_user_tables s WHERE s.schemaname = 'culm' AND pg_total_relation_size(s.relid) > 0 ORDER BY 1"""


class Size(Struct, frozen=True):
    """Of one table, at one moment."""

    table_bytes: int
    index_bytes: int
    live: int
    dead: int
    autovacuums: int


class Traffic:
    """Sends and ends jobs until so many have ended. A loop sends only while it has fewer open than its share."""

    def __init__(self, store: PostgresStore, *, jobs: int, most_open: int) -> None:
        self._store = store
        self._jobs = jobs
        self._most_open = most_open
        self.sent = self.ended = 0

    async def loop(self, name: int) -> None:
        number = 0
        while self.ended < self._jobs:
            number += 1
            if self.sent - self.ended < self._most_open and self.sent < self._jobs:
                ids = [f"{time.time_ns():020x}-{name}-{at}" for at in range(BATCH)]
                self.sent += BATCH
                await self._store.commit(
                    [Commit(send=(Job(id=i, task="t", args=b"\x91" + b"x" * 90),)) for i in ids], batch=(f"s{name}", number)
                )
            claimed = await self._store.claim(["default"], lease=f"w{name}/{number}", limit=BATCH, for_ms=LEASE_MS)
            if claimed.deliveries:
                await self._store.commit(list(self._ends(claimed.deliveries, number)), batch=(f"e{name}", number))
                self.ended += sum("~" not in d.job.id for d in claimed.deliveries)
            elif self.sent >= self._jobs:
                await asyncio.sleep(0.01)

    def _ends(self, deliveries: Sequence[Delivery], number: int) -> Iterator[Commit]:
        keep_ms = KEPT_MS if number % KEPT_EVERY == 0 else 0
        trees = TREES if number % KEPT_EVERY == 1 else 0  # one commit that is not plain makes its whole batch go the long way
        for delivery in deliveries:
            held = Held(delivery.job.id, delivery.lease)
            if trees and "~" not in delivery.job.id:
                trees -= 1
                yield _tree(held)
            else:
                yield Commit(fence=held, outcome=Succeeded(), keep_ms=keep_ms)

    async def sweep(self) -> None:
        while True:
            while await self._store.sweep() > 0:
                pass
            await asyncio.sleep(SWEEP_S)


def _tree(held: Held) -> Commit:
    root = held.job_id
    child = Job(id=f"{root}~child", task="t", topic="over", keep_ms=KEPT_MS)
    join = Job(id=f"{root}~join", task="t", after_ms=None, keep_ms=KEPT_MS)
    trigger = Trigger(join.id, root, (("over", 1), ("said", 1)), 2)
    return Commit(
        fence=held, outcome=Succeeded(), keep_ms=KEPT_MS, send=(child, join), emit=(Event(root, "said", "it"),), triggers=(trigger,)
    )


def sizes(server: PostgresServer) -> dict[str, Size]:
    return {name: Size(*map(int, figures)) for name, *figures in server.ask(_SIZES)}


def show(found: dict[str, Size], ended: int, names: tuple[str, ...] = ("jobs", "ready", "done", "leases")) -> None:
    """One line of a table: megabytes of each, with its indexes, and of all of them."""
    total = sum(s.table_bytes + s.index_bytes for s in found.values())
    cells = [f"{_mb(found[n].table_bytes)} + {_mb(found[n].index_bytes)}" for n in names]
    rest = total - sum(found[n].table_bytes + found[n].index_bytes for n in names)
    dead = sum(s.dead for s in found.values())
    print(
        f"| {ended:,} | {' | '.join(cells)} | {_mb(rest)} | {_mb(total)} | {dead:,} | {sum(s.autovacuums for s in found.values())} |",
        flush=True,
    )


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f}"


async def run(server: PostgresServer, *, jobs: int, most_open: int, lines: int) -> None:
    store = PostgresStore(parse(server.url(connections="6")))
    traffic = Traffic(store, jobs=jobs, most_open=most_open)
    sweeping = asyncio.create_task(traffic.sweep())
    loops = asyncio.gather(*(traffic.loop(n) for n in range(LOOPS)))
    next_line = jobs // lines
    while not loops.done():
        await asyncio.wait([loops], timeout=0.5)
        if traffic.ended >= next_line:
            show(await asyncio.to_thread(sizes, server), traffic.ended)
            next_line += jobs // lines
    await loops
    await asyncio.sleep(SETTLE_S)
    sweeping.cancel()
    found = await asyncio.to_thread(sizes, server)
    show(found, traffic.ended)
    print("\n| table | MB | indexes, MB | live rows | dead rows | autovacuums |\n|---|---|---|---|---|---|")
    for name, s in found.items():
        print(f"| `{name}` | {_mb(s.table_bytes)} | {_mb(s.index_bytes)} | {s.live:,} | {s.dead:,} | {s.autovacuums} |")
    await store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--open", type=int, default=4_000, help="at most so many at a time")
    parser.add_argument("--lines", type=int, default=20, help="how often the sizes are printed")
    parser.add_argument("--naptime", default="1min", help="how often autovacuum looks, as the server's setting")
    asked = parser.parse_args()
    print("| jobs ended | `jobs`, MB + indexes | `ready` | `done` | `leases` | others | all | dead rows | autovacuums |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server = PostgresServer(Path(folder) / "server", **SETTINGS, autovacuum_naptime=asked.naptime)
        try:
            asyncio.run(migrate(parse(server.url())))
            asyncio.run(run(server, jobs=asked.jobs, most_open=asked.open, lines=asked.lines))
        finally:
            server.close()
    sys.exit(0)


if __name__ == "__main__":
    main()

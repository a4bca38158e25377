"""What the store of a crash run says, read past all of culm."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from culm.stores.postgres.address import parse
from culm.stores.postgres.migrate import migrate
from culm.stores.redis import address as redis_address
from tests import servers
from tests.crash.history import Row

STATES = {1: "succeeded", 2: "failed", 3: "cancelled", 4: "expired", 5: "lost", None: "unfinished"}


class Truth(Protocol):
    url: str

    def held_by(self, worker: str) -> int:
        """How many jobs lie under leases of that worker."""
        ...

    def unfinished(self) -> int: ...

    def finished(self) -> int: ...

    def can_write(self) -> bool:
        """False: somebody stopped in the middle of a transaction, and everybody waits for it."""
        ...

    def ledger(self) -> list[Row]: ...

    def states(self) -> dict[str, str]: ...


class Sqlite:
    def __init__(self, folder: Path, name: str = "jobs.db") -> None:
        self._db = folder / name
        self.url = f"sqlite:///{self._db}?ledger=on"

    def held_by(self, worker: str) -> int:
        return self._number("SELECT count(*) FROM held h JOIN leases l ON l.lid = h.lid WHERE l.lease LIKE ?", f"{worker}/%")

    def unfinished(self) -> int:
        return self._number("SELECT count(*) FROM jobs WHERE ended IS NULL")

    def finished(self) -> int:
        return self._number("SELECT count(*) FROM ledger")

    def can_write(self) -> bool:
        with closing(sqlite3.connect(self._db, timeout=0.3, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            connection.execute("ROLLBACK")
            return True

    def ledger(self) -> list[Row]:
        return [Row(i, lease) for i, lease in self._rows("SELECT id, lease FROM ledger")]

    def states(self) -> dict[str, str]:
        return {i: STATES[ended] for i, ended in self._rows("SELECT id, ended FROM jobs")}

    def _number(self, sql: str, *values: object) -> int:
        return int(self._rows(sql, *values)[0][0])

    def _rows(self, sql: str, *values: object) -> list[Any]:
        with closing(sqlite3.connect(self._db, timeout=5)) as connection:
            return connection.execute(sql, values).fetchall()


class Files:
    """Partitions, each a file."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder}/jobs?partitions=3&ledger=on"
        self._files = [Sqlite(folder / "jobs", f"{n}.db") for n in range(3)]

    def held_by(self, worker: str) -> int:
        return sum(file.held_by(worker) for file in self._files)

    def unfinished(self) -> int:
        return sum(not _is_own(job_id) and state == "unfinished" for file in self._files for job_id, state in file.states().items())

    def finished(self) -> int:
        return len(self.ledger())

    def can_write(self) -> bool:
        return all(file.can_write() for file in self._files)

    def ledger(self) -> list[Row]:
        return [row for file in self._files for row in file.ledger() if not _is_own(row.id)]

    def states(self) -> dict[str, str]:
        return {job_id: state for file in self._files for job_id, state in file.states().items() if not _is_own(job_id)}


def _is_own(job_id: str) -> bool:
    """What the partitioned store keeps for itself: its marks, and the outbox."""
    return job_id.startswith("culm ")


class Redis:
    def __init__(self, _: Path) -> None:
        self._server = servers.redis()
        self.url = self._server.url + "&ledger=on"
        self._prefix = redis_address.parse(self.url).prefix

    def held_by(self, worker: str) -> int:
        pairs = self._server.read("HGETALL", self._prefix + "held")
        return sum(1 for held in pairs[1::2] if held[1:].startswith(worker.encode() + b"/"))

    def unfinished(self) -> int:
        keys = [f"{self._prefix}q:{lane.decode()}" for lane in self._server.read("SMEMBERS", self._prefix + "lanes")]
        held = [job_id for job_id in self._server.read("HKEYS", self._prefix + "held") if job_id]
        bundled = sum(int(count) for count in self._server.read("HVALS", self._prefix + "bundled"))
        return len(held) + bundled + sum(int(self._server.read("ZCARD", key)) for key in keys)

    def finished(self) -> int:
        return int(self._server.read("LLEN", self._prefix + "ledger"))

    def can_write(self) -> bool:
        return True  # a script is never stopped half-way

    def ledger(self) -> list[Row]:
        return [Row(*entry.decode().split("\n")) for entry in self._server.read("LRANGE", self._prefix + "ledger", "0", "-1")]

    def states(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for job_id in self._server.read("HKEYS", self._prefix + "jobs"):
            outcome = (self._server.read("HGET", self._prefix + "outcomes", job_id.decode()) or b"").decode(errors="replace")
            found[job_id.decode()] = STATES[int(outcome[1])] if outcome.startswith("F") else "unfinished"
        return found


class Postgres:
    def __init__(self, _: Path) -> None:
        self._server, self._schema = servers.postgres(), f"s{uuid.uuid4().hex}"
        self.url = self._server.url(self._schema, ledger="on", durability="relaxed")
        asyncio.run(migrate(parse(self.url)))

    def held_by(self, worker: str) -> int:
        return self._number(f"SELECT count(*) FROM leases l, held_under(l.lid) WHERE l.lease LIKE '{worker}/%'")

    def unfinished(self) -> int:
        return self._number("SELECT count(*) FROM jobs")

    def finished(self) -> int:
        return self._number("SELECT count(*) FROM ledger")

    def can_write(self) -> bool:
        return True  # what a client asks is one statement: the server ends it, whoever is stopped

    def ledger(self) -> list[Row]:
        return [Row(i, lease) for i, lease in self._rows("SELECT id, lease FROM ledger")]

    def states(self) -> dict[str, str]:
        unfinished = {i: STATES[None] for (i,) in self._rows("SELECT id FROM jobs")}
        return unfinished | {i: STATES[int(ended)] for i, ended in self._rows("SELECT id, ended FROM done")}

    def _number(self, sql: str) -> int:
        return int(self._rows(sql)[0][0])

    def _rows(self, sql: str) -> list[list[str]]:
        return self._server.ask(f"SET search_path = {self._schema}; {sql}")

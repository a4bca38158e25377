"""A PostgreSQL of our own, synchronous_commit on, with the same settings for all; each measurement has a new database."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

from tests.servers import HOST, PostgresServer

SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "4GB", "checkpoint_timeout": "15min"}


class Databases:
    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._numbers = itertools.count()

    def fresh(self) -> str:
        """The address of a new one."""
        name = f"bench{next(self._numbers)}"
        self._server.ask(f"CREATE DATABASE {name}")
        return f"postgresql://{self._server.USER}@{HOST}:{self._server.port}/{name}"


@contextlib.contextmanager
def postgres_server(folder: Path) -> Iterator[Databases]:
    server = PostgresServer(folder / "postgres", **SETTINGS)
    try:
        yield Databases(server)
    finally:
        server.close()

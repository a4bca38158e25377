"""The file itself: making it, recognising it, connecting to it."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Literal

from culm.errors import ConfigError, StoreUnavailable
from culm.stores.sqlite.line import Line
from culm.stores.sqlite.sql import plain, schema

APPLICATION_ID = 0x63756C6D  # "culm"
SCHEMA = 1
OLDEST = (3, 38, 0)  # the first that reads JSON with ->>; RETURNING and UPDATE ... FROM are older
BUSY_MS = 10_000
PAGE_BYTES = 2048  # of a new file: one send changes four pages, and each goes to the disk whole
CHECKPOINT_BYTES = 16 << 20  # of WAL
SMALL_CHECKPOINT_BYTES = 4 << 20  # where all that is written is small: the next megabytes of a log cost more than the checkpoint
RESERVE_BYTES = 1 << 20
RESERVE_EVERY = 8  # transactions: most do not let the log grow

_SYNCHRONOUS = {"full": "FULL", "relaxed": "NORMAL"}


def connect(path: Path, durability: Literal["full", "relaxed"]) -> sqlite3.Connection:
    # With patience: whoever opens the file while another process recovers or removes the WAL finds it locked for a moment.
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=256, timeout=BUSY_MS / 1000, check_same_thread=False)
    connection.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[durability]}")
    connection.execute("PRAGMA cache_size = -32000")  # KiB
    checkpoint_at(connection, CHECKPOINT_BYTES)
    return connection


def checkpoint_at(connection: sqlite3.Connection, wal_bytes: int) -> None:
    """Its commits checkpoint once the WAL is so large; 0: never."""
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    connection.execute(f"PRAGMA wal_autocheckpoint = {wal_bytes // page_bytes}")


def connect_to_write(path: Path, durability: Literal["full", "relaxed"]) -> sqlite3.Connection:
    """For a desk that asks for the write lock by itself, far more often than SQLite would."""
    connection = connect(path, durability)
    connection.execute("PRAGMA temp_store = MEMORY")  # of what a statement would undo if a check in it fails
    connection.executescript(plain())
    connection.execute("PRAGMA busy_timeout = 0")
    return connection


class Reserve:
    """Lets the WAL grow by the megabyte: an fsync that also has to write down a new file size takes nearly twice as long.

    What follows the last frame is not read. Whoever writes a frame meanwhile says where it belongs, and so writes over what is added here.
    Called before each transaction, it says whether it let it grow: the next fsync takes longer, then.
    """

    def __init__(self, path: Path) -> None:
        self._path = os.path.realpath(path)  # where SQLite has the WAL, too
        self._wal = f"{self._path}-wal"
        self._file = _identity(self._path)
        self._until_next = 0

    def __call__(self) -> bool:
        self._until_next -= 1
        if self._until_next > 0:  # a look at the file costs a turn of the interpreter
            return False
        try:
            size = os.stat(self._wal).st_size
            missing = -size % RESERVE_BYTES
            if size and not missing:
                self._until_next = RESERVE_EVERY
            if not missing or _identity(self._path) != self._file:  # somebody put another file there: that WAL is not ours
                return False
            wal = os.open(self._wal, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(wal, bytes(missing))
            finally:
                os.close(wal)
        except OSError:  # there is none yet, or no room: SQLite will say so where it matters
            return False
        return True


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def prepare(path: Path) -> None:
    """Make the file, or see that it is ours. Raises ConfigError (which changes nothing) and StoreUnavailable (locked)."""
    if sqlite3.sqlite_version_info < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise ConfigError(f"sqlite:// needs SQLite {needed} or newer, this Python has {sqlite3.sqlite_version}; use a newer Python build")
    if not path.parent.is_dir():
        raise ConfigError(f"cannot open {path}: the folder {path.parent} does not exist; make it, or choose another path")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"cannot write {path}: it is a folder, or this user may not write there; choose another path")
    line = Line(path, lambda: sqlite3.connect(path, isolation_level=None, timeout=BUSY_MS / 1000, check_same_thread=False))
    give_up_at = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            with closing(line), line as connection:
                _prepare(connection, path)
                return
        except sqlite3.DatabaseError as e:
            code = getattr(e, "sqlite_errorcode", 0) & 0xFF
            if code not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                what = (
                    "is not a culm store but some other file; choose another path"
                    if code == sqlite3.SQLITE_NOTADB
                    else f"cannot be opened: {e}"
                )
                raise ConfigError(f"{path} {what}") from e
            if time.monotonic() > give_up_at:
                raise StoreUnavailable(f"{path} stayed locked by another process for {BUSY_MS // 1000} s") from e
        time.sleep(0.005)  # two that make the same file refuse each other at once, whatever the timeout


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN")  # one snapshot: another process may be making it between two questions
    ours = _is_ours(connection, path)
    connection.execute("COMMIT")
    if ours:
        return
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    if not _is_ours(connection, path):  # another process may have made it meanwhile
        for statement in schema().split(";\n"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA}")
    connection.execute("COMMIT")


def _is_ours(connection: sqlite3.Connection, path: Path) -> bool:
    """True: a store of this schema. False: an empty file. Raises ConfigError: anything else."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application == APPLICATION_ID:
        if version > SCHEMA:
            raise ConfigError(f"{path} has schema {version}, this culm reads up to {SCHEMA}; upgrade culm, or choose another path")
        return True
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application or version or tables:
        raise ConfigError(f"{path} is the database of another program; choose another path")
    return False

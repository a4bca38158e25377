"""The file: what cannot be a store is one clear line and stays as it was; what was promised of it is so."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from culm import App, ConfigError
from culm.stores.open import open_store
from culm.stores.sqlite.file import APPLICATION_ID, RESERVE_BYTES, SCHEMA, connect
from culm.stores.sqlite.store import SqliteStore


def refused(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        open_store(url)
    assert "\n" not in str(caught.value)


def make(path: Path, *statements: str) -> bytes:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return path.read_bytes()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    refused(
        f"sqlite:///{tmp_path}/nowhere/jobs.db", f"^cannot open {tmp_path}/nowhere/jobs.db: the folder {tmp_path}/nowhere does not exist"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    refused(f"sqlite:///{tmp_path}", f"^cannot write {tmp_path}: it is a folder, or this user may not write there")


def test_a_path_that_cannot_be_written_is_named() -> None:
    refused("sqlite:////proc/jobs.db", r"^cannot write /proc/jobs.db: |^/proc/jobs.db cannot be opened: ")


def test_a_device_is_no_store() -> None:
    refused("sqlite:////dev/full", r"^cannot write /dev/full|^/dev/full (is not a culm store|cannot be opened)")


def test_a_file_of_something_else_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    text = b"Dear Ada, " * 1000
    path.write_bytes(text)
    refused(f"sqlite:///{path}", f"^{path} is not a culm store but some other file; choose another path")
    assert path.read_bytes() == text
    assert list(tmp_path.iterdir()) == [path]


def test_the_database_of_another_program_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    before = make(path, "CREATE TABLE songs (name TEXT)")
    refused(f"sqlite:///{path}", f"^{path} is the database of another program; choose another path")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("pragma", ["application_id = 7", "user_version = 3"])
def test_an_empty_database_that_another_program_marked_stays_as_it_was(pragma: str, tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    before = make(path, f"PRAGMA {pragma}")
    refused(f"sqlite:///{path}", "is the database of another program")
    assert path.read_bytes() == before


def test_a_newer_schema_is_refused_and_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    before = make(path, f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {SCHEMA + 1}")
    refused(f"sqlite:///{path}", f"^{path} has schema {SCHEMA + 1}, this culm reads up to {SCHEMA}; upgrade culm, or choose another path")
    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    path.touch()
    SqliteStore(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redsi://ada:geheim@host/0", r"^unknown store address 'redsi://ada:\*\*\*@host/0': it must start with memory://, sqlite://"),
        ("sqlit:///x.db", r"did you mean sqlite://\?"),
        ("jobs.db", "^unknown store address 'jobs.db': it must start with"),
        ("", "^unknown store address ''"),
        ("memory://x", "^memory:// takes nothing behind it"),
        ("sqlite://", "names no file; say sqlite:///relative.db or sqlite:////absolute.db"),
        ("sqlite:///", "names no file"),
        ("sqlite://ada:geheim@host/jobs.db", "names no file"),
        (
            "sqlite:///x.db?durabilty=full",
            "^unknown option 'durabilty' in the address of x.db; the options are durability=full|relaxed, ledger=on|off",
        ),
        ("sqlite:///x.db?durability=some", "^unknown option durability=some"),
        ("sqlite:///x.db?ledger", "^unknown option ledger= in"),
        ("sqlite:///x.db?password=geheim", "^unknown option 'password' in"),
    ],
)
def test_an_address_that_cannot_be_is_one_clear_line(url: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=says) as caught:
        open_store(url)
    assert "geheim" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_relative_address_and_an_escaped_one_name_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_store("sqlite:///a%20b.db")
    open_store(f"sqlite:///{tmp_path}/c.db")
    assert {p.name for p in tmp_path.glob("*.db")} == {"a b.db", "c.db"}


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("relaxed", 1)])
def test_the_pragmas_are_what_was_promised(durability: Any, synchronous: int, tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    SqliteStore(path)
    with closing(connect(path, durability)) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (synchronous,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_every_connection_of_a_store_syncs_fully_unless_it_is_relaxed(tmp_path: Path) -> None:
    async def synchronous(url: str) -> int:
        async with App(url) as app:
            store: Any = app.store
            return int(await store._writes.do(lambda c: c.execute("PRAGMA synchronous").fetchone()[0]))

    path = tmp_path / "jobs.db"
    assert asyncio.run(synchronous(f"sqlite:///{path}")) == 2
    assert asyncio.run(synchronous(f"sqlite:///{path}?durability=full")) == 2
    assert asyncio.run(synchronous(f"sqlite:///{path}?durability=relaxed")) == 1


def test_the_log_grows_by_the_megabyte_and_keeps_what_was_written(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "jobs.db"
        wal = Path(f"{path}-wal")
        app = App(f"sqlite:///{path}")

        @app.task(name="t")
        async def t(text: str) -> None: ...

        jobs, sizes = [], set()
        async with app:
            for n in range(40):
                jobs.append(await t.enqueue(str(n) * 20_000))
                sizes.add(wal.stat().st_size)  # noqa: ASYNC240  # a test may
            whole = {size for size in sizes if size % RESERVE_BYTES == 0}
            assert len(whole) >= 2, "it grew, and was rounded up, more than once"
            copies = [tmp_path / "copy.db", tmp_path / "copy.db-wal"]
            for source, copy in zip((path, wal), copies, strict=True):  # as a crash would leave them
                copy.write_bytes(source.read_bytes())
        found = SqliteStore(copies[0])
        assert sorted(view.id for view in await found.jobs(limit=100)) == sorted(job.id for job in jobs)
        await found.close()

    asyncio.run(main())

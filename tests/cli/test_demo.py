"""The demo, whole, on small trees; its tasks, in this process; and its proof, against a store that somebody tampered with."""

import asyncio
import hashlib
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from culm import App
from culm.cli import demo_tasks
from culm.cli.demo_proof import Proof, prove
from culm.cli.demo_tasks import Forked, Report
from culm.store import WorkerInfo
from tests.cli.shell import Shell, gone


def tree(folder: Path, files: int) -> Path:
    """So many files with one line each, and one of each kind that is left out."""
    folder.mkdir()
    (folder / "deep").mkdir()
    for n in range(files):
        (folder / ("deep" if n % 2 else ".") / f"file-{n}").write_text(f"{n}\n")
    for name in (".hidden", "__pycache__", "venv"):
        (folder / name).mkdir()
        (folder / name / "left_out").write_text("x")
    (folder / "venv" / "pyvenv.cfg").write_text("")
    (folder / "link").symlink_to(folder / "deep")
    os.mkfifo(folder / "pipe")
    return folder


async def _read(folder: Path) -> tuple[Forked, Report]:
    app = demo_tasks.app
    async with app, app.worker():
        forked = await (await demo_tasks.walk.enqueue(os.fsencode(folder))).result(timeout=20)
        return forked, await app.job(forked.report, demo_tasks.report).result(timeout=20)


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_tasks.app, "url", "memory://")


# -- the command --------------------------------------------------------------------------------------------------------------


def test_the_demo_reads_a_tree_and_proves_it(shell: Shell) -> None:
    tree(shell.folder / "tree", 30)
    done = shell.run("demo", "tree")
    assert done.code == 0, done.err
    assert "files      30  (80 bytes, 30 lines)" in done.out
    assert "each of 30 files was committed exactly once" in done.out
    assert "\x1b" not in done.out
    assert Path(done.out.rpartition("store")[2].strip()).is_file()


@pytest.mark.slow
def test_the_demo_survives_the_murder_of_a_worker(shell: Shell) -> None:
    tree(shell.folder / "tree", 40)
    done = shell.run("demo", "tree", "--kill", "--store", "kept.db", "--json")
    assert done.code == 0, done.err
    told = done.json
    assert told["report"]["files"] == told["proof"]["committed"] == 40
    assert told["taken_over"] > 0
    assert f"killed worker pid {told['killed'][0]} with SIGKILL" in done.err
    assert told["store"] == str(shell.folder / "kept.db")
    with closing(sqlite3.connect(shell.folder / "kept.db")) as connection:
        rows = connection.execute("SELECT count(*), count(DISTINCT id) FROM ledger").fetchone()
    assert rows == (42, 42)  # and the walk, and the report


def test_the_demo_of_an_empty_folder_works(shell: Shell) -> None:
    (shell.folder / "empty").mkdir()
    done = shell.run("demo", "empty", "--processes", "1", "--json")
    assert done.code == 0, done.err
    assert done.json["report"]["files"] == 0
    assert done.json["proof"]["holds"]


@pytest.mark.slow
def test_an_interrupted_demo_leaves_nothing_behind(shell: Shell) -> None:
    os.truncate(tree(shell.folder / "tree", 3_000) / "file-2998", 1 << 30)  # the signal comes before this is read
    demo = shell.start("demo", "tree", "--kill", "--json", "--store", "kept.db")
    demo.line("killed worker")
    demo.signal(signal.SIGINT)
    assert demo.end() == 130
    with closing(sqlite3.connect(shell.folder / "kept.db")) as connection:
        workers = [msgspec.msgpack.decode(info, type=WorkerInfo).pid for (info,) in connection.execute("SELECT info FROM workers")]
    assert len(workers) >= 2
    assert all(gone(pid) for pid in workers)
    assert not any("Traceback" in line for line in demo.lines)


# -- its tasks ----------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_memory")
def test_the_walk_says_what_it_left_out(tmp_path: Path) -> None:
    forked, report = asyncio.run(_read(tree(tmp_path / "tree", 3)))
    assert forked.files == report.files == 3
    assert report.skipped == demo_tasks.Skipped(hidden=1, caches=1, environments=1, links=1, special=1)


@pytest.mark.usefixtures("in_memory")
def test_a_tree_too_large_for_one_commit_is_forked_in_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_tasks, "DIRECTLY", 10)
    monkeypatch.setattr(demo_tasks, "SHARE", 4)
    forked, report = asyncio.run(_read(tree(tmp_path / "tree", 30)))
    assert (forked.shares, forked.files, report.files, report.lines) == (8, 30, 30, 30)


@pytest.mark.usefixtures("in_memory")
def test_a_file_that_cannot_be_read_is_reported_and_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = demo_tasks.find_files
    monkeypatch.setattr(demo_tasks, "find_files", lambda *a: [*found(*a), os.fsencode(tmp_path / "vanished")])
    forked, report = asyncio.run(_read(tree(tmp_path / "tree", 3)))
    assert (forked.files, report.files) == (4, 3)
    [failure] = report.failures
    assert failure.startswith("FileNotFoundError")
    assert "vanished" in failure


@pytest.mark.usefixtures("in_memory")
def test_the_report_adds_up(tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    folder.mkdir()
    contents = {b"a": b"1\n2\n", b"b\xff": b"no newline", b"c": b""}
    for name, data in contents.items():
        (folder / os.fsdecode(name)).write_bytes(data)
    _, report = asyncio.run(_read(folder))
    whole = b"".join(hashlib.sha256(data).hexdigest().encode() + b" " + name + b"\n" for name, data in sorted(contents.items()))
    assert report.digest == hashlib.sha256(whole).hexdigest()
    assert (report.bytes, report.lines) == (14, 3)
    assert report.largest[0] == (r"b\\xff", 10)


# -- its proof ----------------------------------------------------------------------------------------------------------------


def test_the_proof_finds_what_was_committed_twice_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "jobs.db"
    monkeypatch.setattr(demo_tasks.app, "url", f"sqlite:///{path}?ledger=on")
    forked, _ = asyncio.run(_read(tree(tmp_path / "tree", 5)))
    root = forked.report.partition("~")[0]

    async def proof() -> Proof:
        async with App(f"sqlite:///{path}") as app:
            return await prove(app.store, path, root, files=5)

    def tamper(statement: str) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(statement)

    assert asyncio.run(proof()) == Proof(files=5, committed=5, twice=[], missing=0)
    tamper("INSERT INTO ledger SELECT * FROM ledger WHERE id LIKE '%~%' LIMIT 1")
    twice = asyncio.run(proof())
    assert len(twice.twice) == 1
    assert not twice.holds
    tamper("DELETE FROM ledger")
    nothing = asyncio.run(proof())
    assert nothing.missing == 5
    assert not nothing.holds

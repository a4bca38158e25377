"""A disk that refuses to sync: what a file of SQLite cannot keep is not acknowledged, and what was acknowledged is there, once."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.failing_sync import failing_sync

pytestmark = pytest.mark.server  # it needs a program that `make servers` installs
ROOT = Path(__file__).parents[2]


def until(done: Callable[[], bool], child: subprocess.Popen[bytes], log: Path) -> None:
    ends_at = time.monotonic() + 60
    while not done():
        assert child.poll() is None, log.read_text()
        assert time.monotonic() < ends_at, log.read_text()[-2000:]
        time.sleep(0.02)


@pytest.mark.parametrize("end", ["goes on", "is killed"])
def test_a_file_that_cannot_be_synced_acknowledges_nothing_and_loses_nothing(end: str, tmp_path: Path) -> None:  # I1, I3, I30, I31
    said, log, file = tmp_path / "said", tmp_path / "log", tmp_path / "jobs.db"
    command = [sys.executable, "-m", "tests.sqlite.syncs", f"sqlite:///{file}?ledger=on"]

    def started() -> subprocess.Popen[bytes]:
        with said.open("ab") as out, log.open("ab") as err:
            return subprocess.Popen(command, stdout=out, stderr=err, cwd=ROOT)

    def acked() -> list[str]:
        return [line.removeprefix("acked ") for line in said.read_text().splitlines() if line.startswith("acked ")]

    child = started()
    try:
        until(lambda: len(acked()) >= 50, child, log)
        with failing_sync([child.pid], tmp_path) as refused:
            until(lambda: refused.count() >= 3, child, log)
            before = len(acked())
            time.sleep(2)  # the fault itself: nothing is awaited
            assert len(acked()) == before, "acknowledged while nothing could be kept"
            assert refused.count() > 3
            if end == "is killed":
                child.kill()
                child.wait()
        if end == "is killed":
            child = started()
        until(lambda: len(acked()) >= before + 50, child, log)
        child.terminate()
        assert child.wait(timeout=30) == 0
    finally:
        child.kill()
        child.wait()
    with closing(sqlite3.connect(file)) as connection:
        ends = [i for (i,) in connection.execute("SELECT id FROM ledger").fetchall()]
        kept = {i for (i,) in connection.execute("SELECT id FROM jobs").fetchall()}
    assert len(ends) == len(set(ends)), "one final commit for each"
    assert set(acked()) <= kept
    assert set(acked()) <= set(ends)

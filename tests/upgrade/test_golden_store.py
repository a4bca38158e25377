"""What an earlier release left in a store is done by this one: a frozen store, for clones that cannot build that release."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.shell import Running

pytestmark = pytest.mark.slow  # real processes

WITHIN_S = 30.0
HERE = Path(__file__).parent


def culm(folder: Path, *words: str) -> Running:
    env = os.environ | {
        "CULM_URL": f"sqlite:///{folder / 'jobs.db'}",
        "SHOP_LEDGER": str(folder / "ledger"),
        "SHOP_WHO": "new",
        "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parents[1]}",
    }
    command = [sys.executable, "-m", "culm", *words]
    return Running(subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))


def test_the_jobs_of_an_earlier_release_are_done_once(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        connection.executescript((HERE / "store.sql").read_text(encoding="utf-8"))
    (tmp_path / "ledger").touch()
    worker = culm(tmp_path, "worker", "shop:app", "--lease", "2", "--heartbeat", "0.3")
    try:
        for job_id in ("open", "later", "fork"):
            asked = culm(tmp_path, "result", job_id, "--timeout", "20")
            assert asked.end(30) == 0, asked.lines
            asked.close()
        with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
            ends = time.monotonic() + WITHIN_S
            while connection.execute("SELECT count(*) FROM jobs WHERE ended IS NULL").fetchone() != (0,):
                assert time.monotonic() < ends, worker.lines
                time.sleep(0.02)
            states = dict(connection.execute("SELECT id, ended FROM jobs").fetchall())
        assert states["dies"] == 2  # a dead letter still
        assert {states[job_id] for job_id in ("open", "later", "fork")} == {1}
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
    finally:
        worker.close()
    lines = [line.split()[:2] for line in (tmp_path / "ledger").read_text().splitlines()]
    assert set(Counter(map(tuple, lines)).values()) == {1}
    kinds = Counter(kind for kind, _ in lines)
    assert kinds["again"] == kinds["fork"] == 1
    assert {root for kind, root in lines if kind == "join"} == {"fork", "forked"}
    assert not any(job_id in ("done", "cancelled", "dies") for _, job_id in lines)

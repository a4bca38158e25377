"""A rolling upgrade: the previous release and this one send to one store and work on it at once. Nothing is lost, nothing runs twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests import servers
from tests.cli.shell import Running
from tests.upgrade import previous

pytestmark = [pytest.mark.slow, pytest.mark.server]

HERE = Path(__file__).parent
WITHIN_S = 90.0
EACH = 40  # of three kinds, of each sender


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of the previous release."""
    try:
        return previous.install(tmp_path_factory.mktemp("previous"))
    except previous.Missing as e:
        pytest.skip(str(e))


class Shop:
    def __init__(self, folder: Path, url: str, pythons: dict[str, Path]) -> None:
        self.ledger = folder / "ledger"
        self.ledger.touch()
        self._folder = folder
        self._url = url
        self._pythons = pythons
        self._running: list[Running] = []

    def start(self, who: str, *words: str) -> Running:
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        env |= {"CULM_URL": self._url, "SHOP_LEDGER": str(self.ledger), "SHOP_WHO": who, "PYTHONPATH": str(HERE)}
        process = subprocess.Popen(
            [str(self._pythons[who]), *words], cwd=self._folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        running = Running(process)
        self._running.append(running)
        return running

    def worker(self, who: str) -> Running:
        worker = self.start(who, "-m", "culm", "worker", "shop:app", "-c", "8", "--lease", "10", "--heartbeat", "1")
        worker.line("worker.started")
        return worker

    def send(self, who: str, prefix: str) -> Running:
        return self.start(who, str(HERE / "shop.py"), prefix, str(EACH))

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self.ledger.read_text().splitlines()]

    def await_all(self, prefixes: list[str]) -> None:
        """Every join has run: the last thing to happen; and all that waits for nothing."""
        wanted = {(kind, f"{prefix}-{kind}-{n}") for prefix in prefixes for kind in ("one", "again", "fork") for n in range(EACH)}
        wanted |= {("join", f"{prefix}-fork-{n}") for prefix in prefixes for n in range(EACH)}
        ends = time.monotonic() + WITHIN_S
        while missing := wanted - {(kind, job_id) for kind, job_id, _ in self.lines()}:
            assert time.monotonic() < ends, f"{len(missing)} are missing, such as {sorted(missing)[:5]}"
            time.sleep(0.05)

    def close(self) -> None:
        for running in self._running:
            running.close()


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_old_and_new_senders_and_workers_share_a_store(store: str, old: Path, tmp_path: Path) -> None:
    url = servers.redis().url if store == "redis" else f"sqlite:///{tmp_path / 'jobs.db'}"
    shop = Shop(tmp_path, url, {"old": old, "new": Path(sys.executable)})
    try:
        workers = [shop.worker("old"), shop.worker("new")]
        senders = [shop.send("old", "a"), shop.send("new", "b")]
        for sender, who in zip(senders, ("previous", "src"), strict=True):
            assert sender.end(60) == 0
            assert who in sender.line("sent")  # each has its own version
        shop.await_all(["a", "b"])
        workers[0].signal(signal.SIGTERM)  # the old worker is replaced by a new one; an old sender goes on
        late = shop.send("old", "c")
        workers.append(shop.worker("new"))
        assert workers[0].end(60) == 0
        assert late.end(60) == 0
        shop.await_all(["c"])
        for worker in workers[1:]:
            worker.signal(signal.SIGTERM)
            assert worker.end(60) == 0
        assert not [line for worker in workers for line in worker.lines if " ERROR " in line or "fenced" in line]
    finally:
        shop.close()
    counts = Counter((kind, job_id) for kind, job_id, _ in shop.lines())
    assert set(counts.values()) == {1}  # nobody died, so nothing ran twice
    assert len(counts) == 3 * EACH * (3 + 3 + 1)  # one, again, fork, its three parts, its join
    ran = {(who, job_id[0]) for _, job_id, who in shop.lines()}
    assert {("old", "a"), ("old", "b"), ("new", "a"), ("new", "b"), ("new", "c")} <= ran  # each ran what the other had sent

"""Health goes through the claim path: only what the store really answered keeps a worker ready."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.shell import Running, Shell, pid_in
from tests.servers import RedisServer, free_port

pytestmark = pytest.mark.slow  # real processes

QUICK = ("--lease", "2", "--heartbeat", "0.3", "--grace", "1")
BLOCKS = """
import time
from culm import App

app = App()

@app.task
async def blocks(seconds: float) -> None:
    time.sleep(seconds)

@app.task
async def nap() -> None:
    import asyncio
    await asyncio.sleep(600)
"""


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    (tmp_path / "shop.py").write_text(BLOCKS)
    yield shell
    shell.close()


def until(done: Callable[[], bool], within: float = 30.0) -> None:
    ends = time.monotonic() + within
    while not done():
        assert time.monotonic() < ends, "not in time"
        time.sleep(0.02)


def asked(port: int, path: str) -> tuple[int, str]:
    """(0, "") when nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1) as reply:
            return reply.status, reply.read().decode().strip()
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.read().decode().strip()
    except OSError:
        return 0, ""


def is_(port: int, path: str, code: int) -> Callable[[], bool]:
    return lambda: asked(port, path)[0] == code


def renewed(file: Path, times: int = 2) -> None:
    """Await that it is renewed."""
    for _ in range(times):
        seen = file.stat().st_mtime_ns if file.exists() else 0
        until(lambda seen=seen: file.exists() and file.stat().st_mtime_ns > seen)  # type: ignore[misc]


def serve(shell: Shell, health: object, *options: str) -> Running:
    worker = shell.start("worker", "shop:app", "--health", str(health), *QUICK, *options)
    worker.line("worker.started")
    return worker


@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_file_is_renewed_while_the_worker_is_idle_and_while_it_is_full_and_removed_at_the_end(shell: Shell, processes: str) -> None:
    file = shell.folder / "health"
    file.touch()  # of one that was killed
    os.utime(file, (1, 1))
    worker = serve(shell, file, "--concurrency", "1", "--processes", processes)
    renewed(file)
    assert abs(time.time() - file.stat().st_mtime) < 3
    for _ in range(int(processes)):
        shell.run("enqueue", "shop:app", "shop.nap")
    until(lambda: shell.run("queues", "--json").out.count('"leased":') > 0)
    renewed(file, 4)  # no room: nothing is claimed, but the heart is answered
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0
    assert not file.exists()


@pytest.mark.server
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_store_that_is_away_is_not_ready_and_its_return_is(shell: Shell, processes: str, tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis", appendonly="yes")
    shell.env["CULM_URL"] = server.url
    file, port = shell.folder / "health", free_port()
    try:
        worker = serve(shell, f"127.0.0.1:{port}", "--processes", processes)
        other = serve(shell, file)
        until(is_(port, "/readyz", 200))
        renewed(file)
        server.kill()
        until(is_(port, "/readyz", 503))
        assert "the store has not answered for" in asked(port, "/readyz")[1]
        assert asked(port, "/livez") == (200, "ok")  # a restart would not help
        stood = file.stat().st_mtime_ns
        assert time.time() - stood / 1e9 > 1
        server.start()
        until(is_(port, "/readyz", 200))
        renewed(file, 1)
        for one in (worker, other):
            one.signal(signal.SIGTERM)
        until(is_(port, "/readyz", 0))
        assert worker.end() == other.end() == 0
    finally:
        server.close()


def test_a_loop_that_is_blocked_is_not_live(shell: Shell) -> None:
    port, file = free_port(), shell.folder / "health"
    worker = serve(shell, f"127.0.0.1:{port}", "--stuck-after", "0.5")
    until(is_(port, "/readyz", 200))
    assert asked(port, "/other")[0] == 404
    shell.run("enqueue", "shop:app", "shop.blocks", "3")
    until(is_(port, "/livez", 503))
    assert "its loop has not turned for" in asked(port, "/readyz")[1]
    until(is_(port, "/readyz", 200))
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0
    other = serve(shell, file)
    renewed(file)
    os.kill(pid_in(other.line("worker: shop:app")), signal.SIGSTOP)
    stood = file.stat().st_mtime_ns
    until(lambda: time.time() - stood / 1e9 > 2)
    assert file.stat().st_mtime_ns == stood
    other.signal(signal.SIGCONT)
    renewed(file, 1)
    other.signal(signal.SIGTERM)
    assert other.end() == 0


def test_one_of_several_processes_that_stands_still_is_seen(shell: Shell) -> None:
    port = free_port()
    worker = serve(shell, f"127.0.0.1:{port}", "--processes", "2", "--stuck-after", "600")
    worker.line("worker.started", nth=2)
    until(is_(port, "/readyz", 200))
    victim = pid_in(worker.line("supervisor.started", nth=2))
    os.kill(victim, signal.SIGSTOP)
    until(is_(port, "/readyz", 503))
    assert asked(port, "/livez")[0] == 200  # its supervisor replaces it
    os.kill(victim, signal.SIGKILL)
    until(is_(port, "/readyz", 200))
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0


def test_a_worker_that_stops_is_not_ready_but_lives(shell: Shell) -> None:
    port = free_port()
    worker = serve(shell, f"127.0.0.1:{port}", "--grace", "600")
    shell.run("enqueue", "shop:app", "shop.nap", "--id", "nap")
    until(lambda: shell.run("status", "nap", "--json").json["state"] == "leased")
    worker.signal(signal.SIGTERM)
    until(is_(port, "/readyz", 503))
    assert asked(port, "/readyz")[1] == "it is stopping"
    assert asked(port, "/livez") == (200, "ok")
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0


@pytest.mark.parametrize("processes", ["1", "2"])
def test_what_cannot_be_is_refused_at_the_start(shell: Shell, processes: str) -> None:
    for where, reason in [
        ("0.0.0.0:9001", "for this machine only"),
        ("127.0.0.1:99999", "--health"),
        (str(shell.folder / "no" / "file"), "it cannot be written"),
        (str(shell.folder), "it cannot be written"),
    ]:
        done = shell.run("worker", "shop:app", "--health", where, "--processes", processes)
        assert (done.code, done.err.count("Traceback")) == (78, 0), done.err
        assert reason in done.err


def test_the_probes_in_the_documentation_tell_a_fresh_file_from_an_old_and_a_missing_one(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    probes = re.findall(r"test \$\(\(.*?-lt \d+", text)
    assert len(probes) == 3
    file = tmp_path / "health"
    for probe in probes:
        file.touch()
        script = probe.replace("/tmp/health", str(file))
        for seconds, good in ((0, True), (5, True), (700, False)):
            os.utime(file, (time.time() - seconds,) * 2)
            assert (subprocess.run(["sh", "-c", script], capture_output=True, check=False).returncode == 0) is good
        file.unlink()
        assert subprocess.run(["sh", "-c", script], capture_output=True, check=False).returncode != 0

"""`culm worker` as a process: how it starts, stops, and is replaced."""

import gc
import os
import signal
import socket
import sqlite3
from contextlib import closing
from typing import cast

import pytest

from culm import App
from culm.worker import process
from culm.worker.worker import Worker
from tests.cli.shell import Shell, gone, pid_in

pytestmark = pytest.mark.slow  # real processes

QUICK = ("--lease", "2", "--heartbeat", "0.3")


def attempts(shell: Shell, job_id: str) -> int:
    with closing(sqlite3.connect(shell.store)) as connection:
        [(attempt,)] = connection.execute("SELECT attempt FROM jobs WHERE id = ?", (job_id,)).fetchall()
    return int(attempt)


def test_a_worker_says_what_it_serves_and_where(shell: Shell) -> None:
    worker = shell.start("worker", "shop:app", "-q", "mail", "-q", "night", "-c", "7")
    started = worker.line("worker.started", "queues mail, night", "concurrency 7")
    assert " INFO " in started
    assert worker.line("tasks shop.add, shop.boom, shop.nap")
    assert worker.line("store:", str(shell.store), "D2")
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0


def test_a_worker_that_is_told_to_stop_finishes_what_runs(shell: Shell) -> None:
    shell.run("enqueue", "shop:app", "shop.nap", "1.0", "--id", "runs")
    worker = shell.start("worker", "shop:app")
    worker.line("napping")
    worker.signal(signal.SIGTERM)
    worker.line("worker.stopping", "SIGTERM")
    assert worker.end() == 0
    assert any("rested" in line for line in worker.lines)
    assert shell.run("result", "runs", "--timeout", "0").out == '"rested"\n'


def test_a_second_signal_gives_back_at_once_what_runs(shell: Shell) -> None:
    shell.run("enqueue", "shop:app", "shop.nap", "600", "--id", "runs")
    worker = shell.start("worker", "shop:app")
    worker.line("napping")
    worker.signal(signal.SIGINT)
    worker.line("worker.stopping", "SIGINT")
    worker.signal(signal.SIGINT)
    worker.line("worker.hurries")
    assert worker.end() == 0
    assert shell.run("status", "runs", "--json").json["state"] == "open"
    assert attempts(shell, "runs") == 0


def test_a_stop_waits_no_longer_than_the_grace(shell: Shell) -> None:
    shell.run("enqueue", "shop:app", "shop.nap", "600", "--id", "runs")
    worker = shell.start("worker", "shop:app", "--grace", "0.2")
    worker.line("napping")
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0
    assert shell.run("status", "runs", "--json").json["state"] == "open"


@pytest.mark.parametrize("processes", [(), ("--processes", "1")])
def test_a_task_that_does_not_listen_keeps_no_process_alive(shell: Shell, processes: tuple[str, ...]) -> None:  # I34
    shell.run("enqueue", "shop:app", "shop.stubborn", "--id", "runs")
    worker = shell.start("worker", "shop:app", "--grace", "0.2", *processes)
    worker.line("deaf")
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0
    assert any("worker.stubborn" in line for line in worker.lines)
    assert shell.run("status", "runs", "--json").json["state"] == "open"


def test_a_supervisor_replaces_a_child_that_was_killed(shell: Shell) -> None:
    shell.run("enqueue", "shop:app", "shop.nap", "4", "--id", "runs")
    supervisor = shell.start("worker", "shop:app", "--processes", "2", *QUICK)
    supervisor.line("worker.started", nth=2)
    victim = pid_in(supervisor.line("napping in"))
    os.kill(victim, signal.SIGKILL)
    supervisor.line("supervisor.died", f"pid {victim}", "killed by SIGKILL")
    supervisor.line("suspects.run: 1 jobs")
    supervisor.line("rested")
    supervisor.signal(signal.SIGTERM)
    assert supervisor.end() == 0
    view = shell.run("status", "runs", "--json").json
    assert view["state"] == "succeeded"
    assert view["expiries"] == 0  # nobody waited for its lease to run out


def test_a_supervisor_passes_both_signals_on(shell: Shell) -> None:
    for job_id in ("one", "two"):
        shell.run("enqueue", "shop:app", "shop.nap", "600", "--id", job_id)
    supervisor = shell.start("worker", "shop:app", "--processes", "2", "-c", "1")
    supervisor.line("napping", nth=2)
    supervisor.signal(signal.SIGINT)
    supervisor.line("worker.stopping", nth=2)
    supervisor.signal(signal.SIGTERM)
    assert supervisor.end() == 0
    assert [shell.run("status", job_id, "--json").json["state"] for job_id in ("one", "two")] == ["open", "open"]


def test_workers_do_not_outlive_their_supervisor(shell: Shell) -> None:
    supervisor = shell.start("worker", "shop:app", "--processes", "2")
    supervisor.line("worker.started", nth=2)
    pids = [pid_in(supervisor.line("supervisor.started", nth=n)) for n in (1, 2)]
    supervisor.signal(signal.SIGKILL)
    assert all(gone(pid) for pid in pids)


def test_a_child_that_dies_young_again_and_again_is_replaced_ever_later(shell: Shell) -> None:
    (shell.folder / "shop.py").write_text(
        "import os, pathlib\nfrom culm import App\napp = App()\nfirst = pathlib.Path('first')\n"
        "if first.exists(): os._exit(3)\nfirst.touch()\n"
    )
    supervisor = shell.start("worker", "shop:app", "--processes", "2")
    supervisor.line("worker.started")
    assert "exit code 3; replaced in 0.1 s" in supervisor.line("supervisor.died")
    assert "exit code 3; replaced in 0.2 s" in supervisor.line("supervisor.died", nth=2)
    supervisor.signal(signal.SIGTERM)
    assert supervisor.end() == 0


@pytest.mark.parametrize("processes", ["1", "2"])
def test_systemd_is_told_when_it_is_ready_that_it_lives_and_that_it_stops(shell: Shell, processes: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(shell.folder / "notify"))
        heard.settimeout(20)
        shell.env["NOTIFY_SOCKET"] = str(shell.folder / "notify")
        worker = shell.start("worker", "shop:app", "--processes", processes)
        told: list[str] = []
        while not {"READY=1", "WATCHDOG=1"} <= set(told):
            told.append(heard.recv(100).decode())
        worker.signal(signal.SIGTERM)
        while told[-1] != "STOPPING=1":
            told.append(heard.recv(100).decode())
        assert worker.end() == 0
    assert told.count("READY=1") == told.count("STOPPING=1") == 1


class Broken:
    """A worker whose claimer ended by itself."""

    failed = RuntimeError("the claimer is broken")
    leash = None

    async def start(self) -> None: ...

    async def stop(self) -> None:
        raise self.failed


def test_a_worker_whose_claimer_ends_says_why_and_exits_1(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(gc, "set_threshold", lambda *_: None)
    broken = cast("Worker", Broken())
    assert process.run_worker(App("memory://"), broken, title="shop:app", grace=1, ready=lambda: None) == 1
    assert "worker.failed: RuntimeError: the claimer is broken" in caplog.text

"""A real `culm worker` is scraped over HTTP, and its log is read line by line as JSON."""

from __future__ import annotations

import json
import os
import signal
import socket

import pytest

from tests.cli.shell import Running, Shell, pid_in
from tests.telemetry.scrape import Samples, scrape

pytestmark = pytest.mark.slow  # real processes


def free_ports(count: int) -> int:
    """The first of so many ports in a row that were free a moment ago."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
        try:
            for n in range(count):
                with socket.socket() as one:
                    one.bind(("127.0.0.1", port + n))
        except (OSError, OverflowError):
            continue
        return port


def address_in(worker: Running, nth: int = 1) -> str:
    line = worker.line("metrics: http://", nth=nth)
    return line.partition("http://")[2].partition("/")[0]


def test_a_worker_is_scraped_over_http(shell: Shell) -> None:
    worker = shell.start("worker", "shop:app", "--metrics", "127.0.0.1:0")
    address = address_in(worker)
    assert shell.run("enqueue", "shop:app", "shop.add", "1", "2", "--wait", "10").code == 0
    assert shell.run("enqueue", "shop:app", "shop.boom", "--wait", "10").code == 1
    shell.run("enqueue", "shop:app", "shop.add", "1", "--delay", "3600")
    found = scrape(address)
    assert found['culm_job_outcomes_total{outcome="succeeded",task="shop.add"}'] == 1
    assert found['culm_job_outcomes_total{outcome="failed",task="shop.boom"}'] == 1
    assert found['culm_job_run_seconds_count{task="shop.add"}'] == 1
    assert found['culm_queue_jobs{queue="default",state="delayed"}'] == 1
    assert found["process_resident_memory_bytes"] > 1 << 20
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0


def test_each_process_of_a_supervisor_has_a_port_of_its_own(shell: Shell) -> None:
    port = free_ports(2)
    supervisor = shell.start("worker", "shop:app", "--processes", "2", "--metrics", f"127.0.0.1:{port}")
    supervisor.line("worker.started", nth=2, within=60)
    for n in range(4):
        assert shell.run("enqueue", "shop:app", "shop.add", str(n), "--wait", "10").code == 0
    both: list[Samples] = [scrape(f"127.0.0.1:{port + n}") for n in range(2)]
    assert sum(found.get('culm_job_outcomes_total{outcome="succeeded",task="shop.add"}', 0) for found in both) == 4
    supervisor.signal(signal.SIGTERM)
    assert supervisor.end() == 0


def test_a_job_that_ran_in_a_process_that_died_is_counted_as_a_suspect_by_one_that_goes_on(shell: Shell) -> None:
    port = free_ports(2)
    supervisor = shell.start("worker", "shop:app", "--processes", "2", "--metrics", f"127.0.0.1:{port}")
    supervisor.line("worker.started", nth=2, within=60)
    shell.run("enqueue", "shop:app", "shop.nap", "2", "--id", "runs")
    os.kill(pid_in(supervisor.line("napping in")), signal.SIGKILL)
    supervisor.line("rested")
    assert shell.run("result", "runs", "--timeout", "20").out == '"rested"\n'
    supervisor.line("metrics: http://", nth=3, within=60)  # the replacement of the dead one, on its port
    assert sum(scrape(f"127.0.0.1:{port + n}")["culm_suspects_total"] for n in range(2)) == 1
    supervisor.signal(signal.SIGTERM)
    assert supervisor.end() == 0


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_port_that_is_taken_is_one_line_and_exit_78(shell: Shell, processes: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = shell.run("worker", "shop:app", "--metrics", address, "--processes", processes)
    assert done.code == 78
    assert done.err.splitlines()[-1] == f"culm: cannot serve metrics on {address}: Address already in use; choose another with --metrics"


@pytest.mark.parametrize(
    ("address", "says"),
    [("nowhere", "--metrics takes HOST:PORT"), ("0.0.0.0:9000", "for this machine only"), ("127.0.0.1:65535", "ports end at 65535")],
)
def test_a_bad_address_is_one_line_and_exit_78(shell: Shell, address: str, says: str) -> None:
    done = shell.run("worker", "shop:app", "--metrics", address, "--processes", "2")
    assert (done.code, len(done.err.splitlines())) == (78, 1)
    assert says in done.err


def test_a_log_in_json_says_of_each_line_which_job_it_belongs_to(shell: Shell) -> None:
    shell.run("enqueue", "shop:app", "shop.nap", "0", "--id", "order-42")
    worker = shell.start("worker", "shop:app", "--log-format", "json")
    worker.line("rested")
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0
    lines = [json.loads(line) for line in worker.lines]
    [napping] = [line for line in lines if line["message"].startswith("napping in")]
    assert (napping["job_id"], napping["task"], napping["attempt"], napping["logger"]) == ("order-42", "shop.nap", 1, "shop")
    [started] = [line for line in lines if line["message"].startswith("worker.started")]
    assert "job_id" not in started


def test_an_unknown_log_format_is_a_usage_error(shell: Shell) -> None:
    done = shell.run("worker", "shop:app", "--log-format", "xml")
    assert done.code == 2
    assert "'xml'" in done.err

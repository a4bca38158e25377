"""`culm worker --reload`: real files change under real processes."""

from __future__ import annotations

import os
import py_compile
import signal
from pathlib import Path

import pytest

from culm.worker.imported import is_ours
from tests.cli.shell import Running, Shell, gone, pid_in

pytestmark = pytest.mark.slow  # real processes

QUICK = ("--lease", "2", "--heartbeat", "0.3")
CODE = """
import asyncio, logging
from culm import App
import prices

app = App()

@app.task
async def price() -> int:
    return prices.NOW

@app.task
async def nap() -> str:
    logging.getLogger("shop").info("napping")
    await asyncio.sleep(1.5)
    return "rested"
"""


@pytest.fixture
def code(shell: Shell) -> Shell:
    (shell.folder / "shop.py").write_text(CODE)
    (shell.folder / "prices.py").write_text("NOW = 1\n")
    return shell


def price(shell: Shell) -> str:
    return shell.run("enqueue", "shop:app", "shop.price", "--wait", "20").out.splitlines()[-1]


def started(shell: Shell, *options: str) -> Running:
    worker = shell.start("worker", "shop:app", "--reload", *QUICK, *options)
    worker.line("worker.started")
    return worker


def ended(worker: Running) -> int:
    worker.signal(signal.SIGTERM)
    return worker.end()


def test_a_change_starts_the_worker_anew_and_what_runs_may_end(code: Shell) -> None:
    worker = started(code)
    assert price(code) == "1"
    code.run("enqueue", "shop:app", "shop.nap", "--id", "runs")
    worker.line("napping")
    py_compile.compile(str(code.folder / "prices.py"))  # by somebody else, who imports the app, too
    then = (code.folder / "prices.py").stat().st_mtime_ns
    (code.folder / "prices.py").write_text("NOW = 2\n")
    os.utime(code.folder / "prices.py", ns=(then, then // 10**9 * 10**9 + (then + 1) % 10**9))  # within the same second
    worker.line("reload.restarts", "prices.py")
    worker.line("worker.started", nth=2)
    assert code.run("status", "runs", "--json").json["state"] == "succeeded"
    assert code.run("status", "runs", "--json").json["attempt"] == 1
    assert price(code) == "2"
    assert ended(worker) == 0


def test_all_processes_of_a_supervisor_start_anew(code: Shell) -> None:
    worker = started(code, "--processes", "2")
    worker.line("worker.started", nth=2)
    before = [pid_in(worker.line("supervisor.started", nth=n)) for n in (1, 2)]
    (code.folder / "prices.py").write_text("NOW = 3\n")
    worker.line("worker.started", nth=4)
    assert all(gone(pid) for pid in before)
    assert price(code) == "3"
    assert ended(worker) == 0


def test_a_syntax_error_is_one_line_and_the_next_change_is_waited_for(code: Shell) -> None:
    worker = started(code)
    (code.folder / "prices.py").write_text("NOW = \n")
    line = worker.line("reload.waits", f"{code.folder / 'prices.py'}:1: SyntaxError: invalid syntax")
    assert not any("worker.stopping" in text for text in worker.lines)  # it goes on with the code that it has
    (code.folder / "prices.py").write_text("NOW = 42\n")
    worker.line("worker.started", nth=2)
    assert price(code) == "42"
    said = worker.lines[worker.lines.index(line) :]
    assert [text for text in said if "SyntaxError" in text] == [line]
    assert not any("Traceback" in text for text in worker.lines)
    assert ended(worker) == 0


def test_code_that_cannot_be_imported_is_waited_for_from_the_first_start_on(code: Shell) -> None:
    (code.folder / "prices.py").write_text("NOW = nothing\n")
    worker = code.start("worker", "shop:app", "--reload", *QUICK)
    worker.line("culm: cannot load 'shop:app'", "prices.py:1: NameError")
    worker.line("reload.waits", "exit code 78")
    (code.folder / "prices.py").write_text("NOW = 5\n")
    worker.line("worker.started")
    assert price(code) == "5"
    assert ended(worker) == 0


def test_a_reloader_that_waits_for_a_change_ends_at_once(code: Shell) -> None:
    (code.folder / "shop.py").write_text("import")
    worker = code.start("worker", "shop:app", "--reload")
    worker.line("reload.waits")
    assert ended(worker) == 0


def test_files_that_are_not_imported_are_left_alone_and_workers_die_with_their_reloader(code: Shell) -> None:
    worker = started(code)
    pid = pid_in(worker.line("worker: shop:app"))
    (code.folder / "notes.py").write_text("NOW = 7\n")
    (code.folder / "prices.py").write_text("NOW = 8\n")
    assert "notes.py" not in worker.line("reload.restarts")
    worker.line("worker.started", nth=2)
    worker.signal(signal.SIGKILL)
    assert gone(pid)
    assert gone(pid_in(worker.line("worker: shop:app", nth=2)))


def test_what_was_installed_below_the_working_directory_is_not_the_users_own() -> None:
    here = Path("/srv/shop")
    assert is_ours(here / "shop" / "tasks.py", here)
    assert is_ours(here / "tasks.py", here)
    for path in (".venv/lib/python3.12/site-packages/culm/app.py", "env/site-packages/x.py", ".tox/x.py", "../other/x.py"):
        assert not is_ours(here / path, here)
    assert not is_ours(Path("/usr/lib/python3/json.py"), here)

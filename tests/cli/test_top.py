"""`culm top`: live in a terminal, plain without one, and it ends at Ctrl-C."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import msgspec
import pytest

from culm.cli import queues
from culm.cli.queues import Sight
from culm.errors import StoreUnavailable
from culm.job import Job
from culm.store import QueueCounts, WorkerInfo
from tests.cli.desk import ALIVE, Desk
from tests.cli.shell import WITHIN_S, Shell


def test_without_a_terminal_each_look_is_a_plain_table(desk: Desk) -> None:
    desk.show(ALIVE)
    desk.send(Job(id="a", task="t"))
    done = desk.culm("top", "--times", "2", "--every", "0.1")
    assert done.code == 0
    assert "\x1b" not in done.out
    looks = done.out.strip().split("\n\n")
    assert len(looks) == 2
    for look in looks:
        head, columns, default, mail, _, worker = look.splitlines()
        assert "1 workers, 2 running, 1 ready, 2.0 done/s; the look took " in head
        assert [line.split()[0] for line in (columns, default, mail, worker)] == ["queue", "default", "mail", "w1"]


def test_with_json_each_look_is_a_line(desk: Desk) -> None:
    desk.show(ALIVE)
    done = desk.culm("top", "-n", "2", "-e", "0.1", "--json")
    looks = [msgspec.json.decode(line) for line in done.out.splitlines()]
    assert [look["workers"][0]["id"] for look in looks] == ["w1", "w1"]
    assert looks[0]["queues"][0]["rate"] == 2.0
    assert looks[0]["at_ms"] < looks[1]["at_ms"]


def test_while_the_store_is_away_it_says_so_and_goes_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    looks_taken = [0]

    def see(counts: Sequence[QueueCounts], live: Sequence[WorkerInfo]) -> list[Sight]:
        looks_taken[0] += 1
        if looks_taken[0] == 2:
            raise StoreUnavailable("gone for a moment")
        return queues.see(counts, live)

    monkeypatch.setattr("culm.cli.top.see", see)
    done = desk.culm("top", "-n", "3", "-e", "0.1", "--json")
    looks = [msgspec.json.decode(line) for line in done.out.splitlines()]
    assert done.code == 0
    assert [look.get("error", "") for look in looks] == ["", "gone for a moment", ""]


def test_a_store_that_never_answered_is_exit_1(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def see(counts: Sequence[QueueCounts], live: Sequence[WorkerInfo]) -> list[Sight]:
        raise StoreUnavailable("not there")

    monkeypatch.setattr("culm.cli.top.see", see)
    done = desk.culm("top", "-e", "0.1")
    assert (done.code, done.out, done.err) == (1, "", "culm: not there\n")


@pytest.mark.parametrize("options", [("--every", "0"), ("--every", "nan"), ("--times", "-1")])
def test_a_pace_that_cannot_be_is_a_usage_error(desk: Desk, options: tuple[str, ...]) -> None:
    done = desk.culm("top", *options)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1


def test_without_a_terminal_ctrl_c_ends_it_with_exit_0(shell: Shell) -> None:
    shell.run("enqueue", "shop:app", "shop.add", "1")
    process = subprocess.Popen(
        [sys.executable, "-m", "culm", "top", "--every", "0.1"],
        cwd=shell.folder, env=shell.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert "1 ready" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WITHIN_S)
    assert (process.returncode, err) == (0, "")


def test_in_a_terminal_it_is_one_screen_that_ctrl_c_leaves_as_it_was(shell: Shell) -> None:
    shell.run("enqueue", "shop:app", "shop.add", "1")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "culm", "top", "--every", "0.1"],
        cwd=shell.folder, env=shell.env | {"TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        seen = _read_until(ours, b"Ctrl-C ends this")
        process.send_signal(signal.SIGINT)
        seen += _read_until(ours, b"\x1b[?1049l")  # the terminal's own screen is back
        assert process.wait(WITHIN_S) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert b"\x1b[?1049h" in seen
    assert b"default" in seen
    assert b"Traceback" not in seen


def _read_until(terminal: int, end: bytes) -> bytes:
    seen, until = b"", time.monotonic() + WITHIN_S
    while end not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0.0, until - time.monotonic()))
        assert ready, f"no {end!r} within {WITHIN_S} s in {seen!r}"
        seen += os.read(terminal, 65_536)
    return seen

"""`culm pause`, `resume`, `drain` and `purge`."""

from __future__ import annotations

import threading

import msgspec
import pytest

from culm.job import Job
from culm.outcome import Succeeded
from tests.cli.desk import ALIVE, Desk


def test_a_paused_queue_gives_nothing_until_it_is_resumed(desk: Desk) -> None:
    desk.send(Job(id="a", task="t", queue="mail"))
    assert desk.culm("pause", "mail", "--json").json == {"queue": "mail", "paused": True, "leased": 0}
    assert desk.claim(queue="mail") == []
    assert desk.culm("resume", "mail").out == "resumed mail\n"
    assert [d.job.id for d in desk.claim(queue="mail")] == ["a"]
    assert desk.culm("resume", "mail").out == "mail was not paused\n"


def test_a_pause_says_when_nobody_knows_the_queue(desk: Desk) -> None:
    assert "is the name right?" in desk.culm("pause", "mial").out
    desk.show(ALIVE)
    assert "is the name right?" not in desk.culm("pause", "mail").out


def test_a_purge_asks_first_and_cancels_what_is_open(desk: Desk) -> None:
    desk.send(Job(id="runs", task="t"))
    desk.claim()
    desk.send(Job(id="a", task="t"), Job(id="b", task="t", after_ms=60_000), Job(id="c", task="t", after_ms=None))
    done = desk.culm("purge", "default")
    assert (done.code, done.out) == (2, "")
    assert "would cancel the 3 open jobs" in done.err
    assert desk.states("a", "b", "c") == ["open"] * 3
    assert desk.culm("purge", "default", "--yes", "--json").json == {"queue": "default", "cancelled": 3}
    assert desk.states("runs", "a", "b", "c") == ["leased", "cancelled", "cancelled", "cancelled"]


def test_a_drain_waits_for_what_runs(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.send(Job(id="runs", task="t"))
    runs = desk.claim()
    desk.send(Job(id="waits", task="t"))
    said: list[str] = []
    ending = threading.Thread(target=desk.end, args=(Succeeded(), *runs))

    def hear(line: str) -> None:
        said.append(line)
        if len(said) == 1:
            ending.start()  # the job ends once the drain has seen it run

    monkeypatch.setattr("culm.cli.steer.say", hear)
    assert desk.culm("drain", "default").code == 0
    ending.join()
    assert said == [
        "default is paused; 1 of its jobs are with workers still",
        "drained default: nothing of it runs; it is paused until: culm resume default",
    ]
    assert (desk.states("runs", "waits"), desk.claim()) == (["succeeded", "open"], [])


def test_a_drain_that_does_not_end_in_time_is_exit_1(desk: Desk) -> None:
    desk.send(Job(id="runs", task="t"))
    desk.claim()
    done = desk.culm("drain", "default", "--timeout", "0.1", "--json")
    assert done.code == 1
    assert done.json == {"queue": "default", "drained": False, "leased": 1, "lapsed": 0}
    assert "did not end within 0.1 s" in done.err


def test_a_drain_does_not_wait_for_workers_that_died(desk: Desk) -> None:
    desk.send(Job(id="runs", task="t"))
    desk.claim(for_ms=0)
    done = desk.culm("drain", "default", "--json")
    assert (done.code, done.json) == (0, {"queue": "default", "drained": True, "leased": 0, "lapsed": 1})


@pytest.mark.parametrize("command", ["pause", "resume", "drain", "purge"])
def test_a_name_that_no_queue_can_have_is_a_usage_error(desk: Desk, command: str) -> None:
    done = desk.culm(command, "a b")
    assert (done.code, done.out) == (2, "")
    assert "queue must be" in done.err


def test_a_worker_that_says_nothing_of_its_queues_yet_is_shown(desk: Desk) -> None:
    desk.show(msgspec.structs.replace(ALIVE, loads=(), longest=(), beat_ms=0))
    [found] = [s for s in desk.culm("queues", "--json").json if s["queue"] == "mail"]
    assert (found["workers"], found["rate"], found["run_ms"]) == (1, None, None)

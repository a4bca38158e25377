"""`culm queues`, `workers` and `jobs`: what is there, from few questions to the store."""

from __future__ import annotations

import re

import msgspec
import pytest

from culm.job import Job
from culm.outcome import Failed, Fault, Retried, Succeeded
from culm.store import Load
from tests.cli.desk import ALIVE, Desk


def test_queues_show_the_store_and_what_workers_say(desk: Desk) -> None:
    desk.send(Job(id="held", task="t"), Job(id="held2", task="t"))
    desk.claim()
    desk.send(Job(id="a", task="t"), Job(id="b", task="t", after_ms=60_000), Job(id="x", task="t", queue="lonely"))
    desk.show(ALIVE, msgspec.structs.replace(ALIVE, id="w2", loads=(Load("default", 1, 30_000, 30, 60_000, 0, 0),)))
    default, lonely, mail = desk.culm("queues", "--json").json
    assert (default["ready"], default["delayed"], default["leased"], default["running"], default["workers"]) == (1, 1, 2, 3, 2)
    assert (default["rate"], default["run_ms"], default["wait_ms"], default["slots"], default["busy"]) == (3.0, 600.0, 40.0, 8, 4)
    assert (lonely["queue"], lonely["ready"], lonely["workers"], lonely["rate"]) == ("lonely", 1, 0, None)
    assert (mail["queue"], mail["workers"], mail["rate"]) == ("mail", 2, 0.0)
    head, first, second, _ = desk.culm("queues").out.splitlines()
    assert head.split() == ["queue", "ready", "delayed", "waiting", "leased", "running", "oldest", "rate/s", "wait", "run", "workers"]
    assert first.split()[-6:] == ["3", "40", "ms", "600", "ms", "2"]
    assert second.endswith("no worker")


def test_a_paused_queue_is_shown_as_such(desk: Desk) -> None:
    assert desk.culm("queues").out == "no queue has unfinished jobs, and no worker is there\n"
    desk.culm("pause", "mail")
    assert desk.culm("queues").out.splitlines()[1].endswith("paused")


def test_workers_are_shown_as_they_say_of_themselves(desk: Desk) -> None:
    assert desk.culm("workers").out.startswith("no worker is there")
    desk.show(ALIVE)
    [worker] = desk.culm("workers", "--json").json
    assert (worker["id"], worker["pid"], worker["beat_ms"], worker["longest"]) == ("w1", 7, 10_000, [{"id": "held", "ms": 90_000}])
    assert worker["loads"][0]["ended"] == 120
    _, line = desk.culm("workers").out.splitlines()
    assert line.split()[:6] == ["w1", "host", "7", "2", "4", "99"]
    assert line.endswith("1.5 min  default, mail")


def fill(desk: Desk) -> None:
    desk.send(Job(id="r", task="t"), Job(id="r~a", task="u"), Job(id="x", task="t"))
    runs, fails, retries = desk.claim()
    desk.end(Failed(Fault("E", "no")), fails)
    desk.end(Retried(3_600_000, Fault("E", "not\nyet")), retries)
    desk.send(Job(id="later", task="t", queue="mail", after_ms=259_200_000), Job(id="waits", task="t", after_ms=None))
    assert runs.job.id == "r"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ((), ["later", "r", "r~a", "waits", "x"]),
        (("--state", "open"), ["later", "waits", "x"]),
        (("-s", "leased"), ["r"]),
        (("-s", "dead"), ["r~a"]),
        (("--queue", "mail"), ["later"]),
        (("--task", "u"), ["r~a"]),
        (("--scope", "r"), ["r", "r~a"]),
        (("--scope", "r~a"), ["r", "r~a"]),
        (("--after", "r"), ["r~a", "waits", "x"]),
        (("--id", "x", "--id", "r", "--id", "nobody"), ["r", "x"]),
        (("--id", "x", "--id", "r", "--state", "leased"), ["r"]),
        (("--older-than", "1h"), []),
        (("--newer-than", "1m", "-s", "open", "-q", "default"), ["waits", "x"]),
    ],
)
def test_jobs_are_filtered(desk: Desk, options: tuple[str, ...], wanted: list[str]) -> None:
    fill(desk)
    done = desk.culm("jobs", "--json", *options)
    assert done.code == 0
    assert [view["id"] for view in done.json["jobs"]] == wanted


def test_jobs_go_by_pages(desk: Desk) -> None:
    fill(desk)
    first = desk.culm("jobs", "-n", "2", "--json").json
    assert ([view["id"] for view in first["jobs"]], first["after"]) == (["later", "r"], "r")
    assert desk.culm("jobs", "-n", "2").out.splitlines()[-1] == "there are more: --after r"
    assert desk.culm("jobs", "-n", "3", "--after", "r", "--json").json["after"] is None


def test_jobs_say_when_they_are_due_and_how_they_last_ended(desk: Desk) -> None:
    fill(desk)
    table = {line.split()[0]: line for line in desk.culm("jobs").out.splitlines()}
    assert "in 3.0 d" in table["later"]
    assert "a release" in table["waits"]
    assert re.search(r"  lease \d+\.\d (min|s)  ", table["r"])
    assert table["x"].endswith("E: not yet")
    assert table["r~a"].endswith("E: no")


def test_no_job_is_no_error(desk: Desk) -> None:
    assert desk.culm("jobs").out == "no job matches\n"
    assert desk.culm("jobs", "--json").json == {"jobs": [], "after": None}
    done = desk.culm("jobs", "--state", "done")
    assert (done.code, done.out) == (2, "")
    assert "succeeded" in done.err


def test_a_page_whose_jobs_are_too_young_is_gone_beyond(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("culm.cli.jobs.PAGE", 3)
    desk.send(*(Job(id=f"j{n}", task="t") for n in range(8)))
    desk.end(Succeeded(), *desk.claim())
    assert len(desk.culm("jobs", "--newer-than", "1h", "-n", "2", "--after", "j4", "--json").json["jobs"]) == 2
    assert desk.culm("jobs", "--older-than", "1h", "-n", "2", "--json").json["jobs"] == []

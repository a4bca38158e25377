"""`culm why`: each reason why a job is where it is, and no other."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from culm.commit import GLOBAL_SCOPE, Commit, Event, Trigger
from culm.job import Job
from culm.outcome import Cancelled, Failed, Fault, Lost, Outcome, Released, Retried, Snoozed, Succeeded, Suspended
from culm.store import Load
from tests.cli.desk import ALIVE, Desk

IDLE = msgspec.structs.replace(ALIVE, loads=(Load("default", 0, 60_000, 120, 1_000),), longest=(), running=0)


def why(desk: Desk, job_id: str) -> dict[str, Any]:
    done = desk.culm("why", job_id, "--json")
    assert (done.code, done.err) == (0, "")
    found: dict[str, Any] = done.json
    return found


def codes(desk: Desk, job_id: str) -> list[str]:
    return [reason["code"] for reason in why(desk, job_id)["reasons"]]


def text(desk: Desk, job_id: str, code: str) -> str:
    [found] = [reason["text"] for reason in why(desk, job_id)["reasons"] if reason["code"] == code]
    return str(found)


def test_a_due_job_with_an_idle_worker_starts_at_once(desk: Desk) -> None:
    desk.show(IDLE)
    desk.send(Job(id="a", task="t"))
    assert (codes(desk, "a"), why(desk, "a")["starts_in_ms"]) == (["due", "place", "start"], 0)
    first, second, *rest = desk.culm("why", "a").out.splitlines()
    assert first.startswith("job a of task t in queue default, priority 5, sent ")
    assert second == "is open, attempt 0, never claimed"
    assert rest == ["- it is due: a worker may claim it now", "- it is the next of its queue", "- it should start at once"]


def test_a_job_behind_others_starts_by_the_rate_of_its_queue(desk: Desk) -> None:
    desk.show(msgspec.structs.replace(IDLE, loads=(Load("default", 1, 60_000, 120, 1_000),), running=4))  # three of another queue
    desk.send(*(Job(id=f"j{n}", task="t") for n in range(20)))
    found = why(desk, "j9")
    assert (codes(desk, "j9"), found["ahead"], found["starts_in_ms"]) == (["due", "busy", "place", "start"], 9, 5_000)
    assert text(desk, "j9", "place") == "so many jobs of its queue are claimed before it: 9"
    assert text(desk, "j9", "start") == "it should start in about 5.0 s, by the last minute's 2 attempts per second"


def test_a_rate_that_nobody_knows_predicts_nothing(desk: Desk) -> None:
    desk.show(msgspec.structs.replace(IDLE, loads=(Load("default", 4, 60_000, 0, 240_000),), running=4))
    desk.send(Job(id="a", task="t"))
    assert "cannot be told" in text(desk, "a", "start")
    assert why(desk, "a")["starts_in_ms"] is None


def test_a_delayed_job_says_when_it_is_due(desk: Desk) -> None:
    desk.show(IDLE)
    desk.send(Job(id="a", task="t", after_ms=259_200_000))
    assert codes(desk, "a") == ["delayed", "place", "start"]
    assert text(desk, "a", "delayed") == "it is due in 3.0 d, not before"
    assert 250_000_000 < why(desk, "a")["starts_in_ms"] <= 259_200_000


def test_nobody_listens_or_knows_the_task(desk: Desk) -> None:
    desk.send(Job(id="a", task="t"), Job(id="b", task="unknown"), Job(id="c", task="t", queue="lonely"))
    assert "no worker is alive at all" in text(desk, "a", "no worker")
    desk.show(IDLE)
    assert "no worker" not in codes(desk, "a")
    assert "none of the 1 live workers of its queue knows task 'unknown'" in text(desk, "b", "unknown task")
    assert text(desk, "c", "no worker") == "no live worker listens to queue lonely: the 1 live ones listen to default, mail"
    assert why(desk, "b")["starts_in_ms"] is None


def test_its_queue_is_paused(desk: Desk) -> None:
    desk.show(IDLE)
    desk.send(Job(id="a", task="t"))
    desk.culm("pause", "default")
    assert codes(desk, "a") == ["due", "paused", "place"]
    assert text(desk, "a", "paused").endswith("go on with: culm resume default")


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Retried(60_000, Fault("E", "no")), "retried"),
        (Snoozed(60_000), "snoozed"),
        (Suspended(60_000), "suspended"),
        (Released(60_000), "released"),
    ],
)
def test_how_its_last_attempt_ended_is_told(desk: Desk, outcome: Outcome, code: str) -> None:
    desk.send(Job(id="a", task="t"))
    desk.end(outcome, *desk.claim())
    assert codes(desk, "a")[:2] == [code, "delayed"]


def test_a_replayed_job_says_so(desk: Desk) -> None:
    desk.die(Job(id="a", task="t"))
    assert codes(desk, "a") == ["dead"]
    desk.culm("dead", "replay", "a")
    assert codes(desk, "a")[:2] == ["replayed", "due"]
    assert ", replayed once\nis open, attempt 0, claimed once\n" in desk.culm("why", "a").out


@pytest.mark.parametrize(
    ("outcome", "code", "says"),
    [
        (Succeeded(), "ended", "it succeeded; its result: culm result a"),
        (Cancelled("by hand"), "ended", "it ended: cancelled, by hand"),
        (Failed(Fault("E", "no")), "dead", "culm dead replay a"),
        (Lost("three strikes"), "dead", "three strikes"),
    ],
)
def test_how_it_ended_is_told(desk: Desk, outcome: Outcome, code: str, says: str) -> None:
    desk.send(Job(id="a", task="t"))
    desk.end(outcome, *desk.claim())
    assert codes(desk, "a") == [code]
    assert says in text(desk, "a", code)


def test_who_holds_it_since_when_and_whether_that_worker_lives(desk: Desk) -> None:
    desk.send(Job(id="held", task="t"), Job(id="new", task="t"))
    desk.claim()
    assert "worker w1 has it, and has not shown itself for three heartbeats; its lease ends in" in text(desk, "held", "holder gone")
    desk.show(ALIVE)
    assert "worker w1 (pid 7 on host), which is alive, has run it for 1.5 min" in text(desk, "held", "held")
    assert "runs it, not among its 1 longest" in text(desk, "new", "held")
    desk.show(msgspec.structs.replace(ALIVE, running=1))
    assert "claimed it since its last heartbeat, within 10.0 s" in text(desk, "new", "held")


def test_leases_that_ran_out_are_told(desk: Desk) -> None:
    desk.send(Job(id="a", task="t"))
    desk.claim(for_ms=0)
    assert "its lease has run out, then another takes over" in text(desk, "a", "holder gone")
    desk.claim()
    assert text(desk, "a", "expiries").startswith("its lease ran out once before")


def test_a_join_says_which_events_of_which_jobs_it_waits_for(desk: Desk) -> None:
    desk.commit(
        Commit(
            send=(
                Job(id="r~a", task="t", topic="packed"),
                Job(id="r~b", task="t", topic="packed", after_ms=60_000),
                Job(id="r~join", task="t", after_ms=None),
            ),
            emit=(Event("r", "paid", "k"), Event("r", "seen", "s")),
            triggers=(Trigger("r~join", "r", (("packed", 2), ("paid", 1), ("done/r~b", 1), ("seen", 2)), 4),),
        )
    )
    desk.end(Succeeded(), *desk.claim())
    assert codes(desk, "r~join") == ["waits", "no worker"]
    assert text(desk, "r~join", "waits") == (
        "it waits for 3 more of these topics of scope r: the end of r~b (open); packed (1 of 2 events, there: r~a, to come: r~b (open)); "
        "seen (1 of 2 events, there: s, and no job is left whose end would be one)"
    )
    [wait] = why(desk, "r~join")["waits"]
    assert [topic["topic"] for topic in wait["topics"]] == ["done/r~b", "packed", "seen"]
    assert (wait["need"], wait["reached"], wait["topics"][1]["there"], wait["topics"][1]["missing"]) == (4, 1, ["r~a"], ["r~b (open)"])


def test_a_join_on_the_global_scope_says_so(desk: Desk) -> None:
    trigger = Trigger("r", GLOBAL_SCOPE, (("opened", 1),), 1)
    desk.commit(Commit(send=(Job(id="r", task="t", after_ms=None),), triggers=(trigger,)))
    assert "of these topics of the global scope: opened (0 of 1 events" in text(desk, "r", "waits")


def test_a_job_that_nothing_will_ever_release_says_so(desk: Desk) -> None:
    desk.send(Job(id="a", task="t", after_ms=None))
    assert codes(desk, "a") == ["orphan", "no worker"]


def test_an_unknown_job_is_one_clear_line(desk: Desk) -> None:
    done = desk.culm("why", "nobody")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("culm: job nobody is not known; it was never sent")

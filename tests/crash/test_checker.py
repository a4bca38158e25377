"""The checker of crash runs can fail: from a good history, each of these mutants breaks one promise, and is named for it."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from tests.crash.history import History, Least, Row, judge, summary, vacuous
from tests.crash.records import Ack, Boot, Entry, Fault, Invoke, Start, of

IDS = [f"job-{n}" for n in range(200)]
LEAST = Least(kills=1, stops=1, fenced=2, reruns=5, unsent=1)


def good_history() -> History:
    """Worker a is killed while it runs five jobs, worker b is stopped with three, c finishes them; one call was never answered."""
    entries: list[Entry] = [Boot(1, "a", 0.0), Boot(2, "b", 0.0), Boot(3, "c", 0.0)]
    for at in range(0, len(IDS), 40):
        entries += [Invoke(IDS[at : at + 40]), Ack(IDS[at : at + 40])]
    entries.append(Invoke(["unknown-1", "unknown-2"]))
    rows: list[Row] = []
    for n, i in enumerate([*IDS, "unknown-1"]):
        pid, lease = (1, "a/4") if n < 5 else (2, "b/9") if n < 8 else (3, "c/2")
        entries.append(Start(i, pid, 1, n / 10))
        if n < 8:
            entries.append(Start(i, 3, 2, 30 + n / 10))
            lease = "c/7"
        rows.append(Row(i, lease))
    entries += [Fault("kill", 1, 6, 20.0), Fault("stop", 2, 3, 20.0)]
    return History(entries, rows, {r.id: "succeeded" for r in rows}, fenced=3)


def without(history: History, job_id: str) -> History:
    ledger = [r for r in history.ledger if r.id != job_id]
    return replace(history, ledger=ledger, states={i: s for i, s in history.states.items() if i != job_id})


def with_row(history: History, row: Row) -> History:
    return replace(history, ledger=[*history.ledger, row], states={**history.states, row.id: "succeeded"})


def with_entry(history: History, *entries: Entry) -> History:
    return replace(history, entries=[*history.entries, *entries])


def without_starts(history: History, job_id: str) -> History:
    return replace(history, entries=[e for e in history.entries if not (isinstance(e, Start) and e.id == job_id)])


def committed_by(history: History, job_id: str, lease: str) -> History:
    return replace(history, ledger=[Row(r.id, lease) if r.id == job_id else r for r in history.ledger])


def ended(history: History, job_id: str, state: str) -> History:
    return replace(history, states={**history.states, job_id: state})


def start_of(history: History, job_id: str) -> Start:
    return next(s for s in of(Start, history.entries) if s.id == job_id)


MUTANTS: dict[str, tuple[str, Callable[[History, str], History]]] = {
    "an acknowledged job is dropped": ("I1", lambda h, i: without(without_starts(h, i), i)),
    "a ledger row is dropped": ("I1", lambda h, i: replace(h, ledger=[r for r in h.ledger if r.id != i])),
    "a finished job is gone from the store": ("I1", lambda h, i: replace(h, states={k: v for k, v in h.states.items() if k != i})),
    "a job never ends": ("I1", lambda h, i: ended(h, i, "unfinished")),
    "a job is lost": ("I1", lambda h, i: ended(h, i, "lost")),
    "a job fails": ("I1", lambda h, i: ended(h, i, "failed")),
    "a job commits without a start": ("I2", without_starts),
    "a row is duplicated": ("I3", lambda h, i: with_row(h, next(r for r in h.ledger if r.id == i))),
    "a job commits again under a later lease": ("I3", lambda h, i: with_row(h, Row(i, "c/99"))),
    "a foreign row appears": ("I4", lambda h, i: with_entry(with_row(h, Row("foreign", "c/2")), Start("foreign", 3, 1, 9.0))),
    "a foreign job starts": ("I4", lambda h, i: with_entry(h, Start("foreign", 3, 1, 9.0))),
    "a fence is given twice": ("I5", lambda h, i: with_entry(h, start_of(h, i))),
    "a stale lease commits": ("I6", lambda h, i: committed_by(with_entry(h, Start(i, 2, 9, 40.0)), i, "c/2")),
    "a lease of nobody commits": ("I6", lambda h, i: committed_by(h, i, "z/1")),
    "more runs again than was held": (
        "reruns",
        lambda h, i: with_entry(h, *(Start(j, 3, 5, 50.0) for j in IDS[20:40])),
    ),
}


def test_a_good_history_passes() -> None:
    assert judge(good_history()) == []
    assert vacuous(good_history(), LEAST) == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", MUTANTS)
def test_each_mutant_is_caught_and_named(name: str, seed: int) -> None:
    invariant, mutate = MUTANTS[name]
    broken = judge(mutate(good_history(), random.Random(seed).choice(IDS[8:])))
    assert invariant in {b.invariant for b in broken}, broken


def test_the_jobs_of_an_unanswered_call_may_be_there_or_not() -> None:
    assert judge(without(without_starts(good_history(), "unknown-1"), "unknown-1")) == []


@pytest.mark.parametrize(
    ("missing", "mutate"),
    [
        ("kills", lambda h: replace(h, entries=[e for e in h.entries if not (isinstance(e, Fault) and e.kind == "kill")])),
        ("stops", lambda h: replace(h, entries=[e for e in h.entries if not (isinstance(e, Fault) and e.kind == "stop")])),
        ("fenced", lambda h: replace(h, fenced=0)),
        ("reruns", lambda h: replace(h, entries=[e for e in h.entries if not (isinstance(e, Start) and e.fence > 1)])),
        ("invocations", lambda h: with_entry(h, Ack(["unknown-1", "unknown-2"]))),
    ],
)
def test_a_run_whose_faults_did_not_bite_is_refused_as_vacuous(missing: str, mutate: Callable[[History], History]) -> None:
    assert [reason for reason in vacuous(mutate(good_history()), LEAST) if missing in reason]


def test_a_kill_of_an_idle_worker_interrupts_nothing() -> None:
    history = with_entry(good_history(), Boot(4, "d", 0.0), Fault("kill", 4, 0, 21.0))
    assert summary(history).biting_kills == 1

"""The simulation can fail: it finds each seeded bug within 300 runs, and names an invariant that the bug breaks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from culm.clock import SystemClock
from culm.stores.tables import Tables
from culm.testing.cluster import Played, simulate
from culm.testing.cluster_check import Violation
from tests.seeded import SEEDED
from tests.seeded.workers import BUGS, STORES

pytestmark = pytest.mark.slow

RUNS = 300

# What may be named. A bug of the engine shows in whatever it breaks first.
OF_THE_WORKER = {
    "ack before run": "I2 I7 I8",
    "effects outside the commit": "I13 I15",
    "a batch whose answer is lost is taken for applied": "I1 I9 I14 I32 I34",
    "effects of a failed attempt": "I15",
    "retry ignores the limit": "I8",
    "retry without a pause": "I20",
    "timeout ignored": "I1 I8",
    "expiry ignored": "I20",
    "unknown task is lost at once": "I1 I2",
    "a join reads one event": "I13",
    "the heart does not extend": "I1 I14 I32",
    "cancel ignored by the worker": "I10",
    "a new lease after a lost reply": "I32 I34",
    "stop loses the claim in flight": "I32 I34",
    "stop gives nothing back": "I1 I14 I32 I34",
    "stop does not await its last commits": "I32 I34",
    "a resent batch gets a new number": "I3",
    "an unanswered batch is taken for applied": "I1 I9 I14 I32 I34",
}
OF_A_STORE = {
    "claim not atomic": "I3 I5",
    "timer by another clock": "I13 I20",
    "no fence": "I3 I5 I6",
    "finished may be committed again": "I5 I6 I7 I15",
    "late attempt overwrites a result": "I5 I6 I7",
    "no resend memory": "I3",
    "effects of a refused commit": "I15",
    "child enqueued outside the commit": "I9 I15",
    "stale heartbeat steals a lease": "I5",
    "claim twice": "I5 I8 I32 I34",
    "expired lease not claimable": "I1 I14 I18",
    "crash not counted": "I8",
    "fence falls back": "I5",
    "attempts not given back": "I8",
    "released keeps no due": "I1 I14 I18",
    "join off by one": "I13",
    "count off by one": "I14",
    "event before trigger lost": "I14",
    "event counted twice": "I13",
    "event overwrites": "I13",
    "instant ignored": "I20",
    "tombstone ignored": "I10",
    "cancel ignored": "I10",
    "conflict ignored": "I4 I9",
}


def store_with(bug: str) -> type[Tables]:
    return STORES[bug] if bug in STORES else type(SEEDED[bug](SystemClock()).tables)


def violations(tables: type[Tables] = Tables) -> Iterator[Violation]:
    for seed in range(RUNS):
        try:
            simulate(seed, tables=tables)
        except Violation as e:
            yield e


@pytest.mark.parametrize("bug", OF_THE_WORKER)
def test_a_bug_of_the_worker_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    BUGS[bug](monkeypatch)
    found = next(violations(), None)
    assert found is not None
    assert found.number in OF_THE_WORKER[bug].split(), found


@pytest.mark.parametrize("bug", OF_A_STORE)
def test_a_bug_of_a_store_is_found(bug: str) -> None:
    found = next(violations(store_with(bug)), None)
    assert found is not None
    assert found.number in OF_A_STORE[bug].split(), found


def test_every_bug_of_the_worker_is_looked_for() -> None:
    assert set(OF_THE_WORKER) == set(BUGS)


@pytest.mark.parametrize("first", range(0, RUNS, 100))
def test_without_a_bug_the_same_runs_break_nothing(first: int) -> None:
    for seed in range(first, first + 100):
        assert isinstance(simulate(seed), Played)


def test_a_violation_names_its_invariant_and_the_line_that_plays_it_again() -> None:
    found = next(violations(store_with("crash not counted")))
    assert str(found).startswith("I8: ")
    assert f"python -m culm.testing.cluster {found.seed}" in str(found)
    assert found.notes

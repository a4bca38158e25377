"""Random histories: each store against the specification, every answer and every table, after every step."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.conformance.histories import histories_of
from tests.conformance.stores import SUBJECTS, Subject

# Histories in which these did not happen often enough prove nothing.
WANTED = {
    "applied": 150, "conflict": 20, "lease_lost": 40, "resent": 20, "granted": 30, "reclaimed": 3, "claims repeated": 8,
    "held": 15, "lost": 15, "cancelled": 300, "succeeded": 40, "failed": 5, "leased": 300, "open": 1_000,
    "swept": 10, "replayed": 1, "discarded": 1, "purged": 10, "events": 400, "records": 100, "replays": 3, "awaits": 100, "ahead": 300,
}  # fmt: skip

MOST = {"sqlite": 150}  # a history on a server takes many times as long; each run draws others
FEWER = 30
ENOUGH = 100


@pytest.mark.parametrize("subject", [s.param(slow=s.name != "sqlite") for s in SUBJECTS])
def test_a_store_lives_every_history_as_the_specification_does(subject: Subject) -> None:  # I1..I20
    machine = histories_of(subject)
    profile = settings.default
    assert profile is not None
    histories = min(profile.max_examples, MOST.get(subject.name, FEWER))
    run_state_machine_as_test(machine, settings=settings(profile, max_examples=histories))
    wanted = WANTED
    if "order" not in subject.features:  # no older batches there
        wanted |= {"lease_lost": 10, "swept": 1, "awaits": 0, "ahead": 0}
    if histories < ENOUGH:  # may do little of one thing; the many watch the generator
        wanted = {what: n // 20 for what, n in wanted.items() if n >= 100}
    assert {what: n for what, n in wanted.items() if machine.saw[what] < n} == {}, dict(machine.saw)

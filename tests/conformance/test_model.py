"""Random histories: each store against the specification, every answer and every table, after every step."""

from __future__ import annotations

import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.conformance.histories import histories_of
from tests.conformance.stores import STORES, Opener

# Histories in which these did not happen often enough prove nothing.
WANTED = {
    "applied": 250, "conflict": 15, "lease_lost": 60, "resent": 20, "granted": 40, "reclaimed": 3, "claims repeated": 8,
    "held": 15, "lost": 20, "cancelled": 300, "succeeded": 40, "failed": 10, "leased": 500, "open": 1_000,
    "swept": 4, "replayed": 1, "discarded": 1, "purged": 10, "events": 400, "records": 100,
}  # fmt: skip


@pytest.mark.parametrize("opener", STORES.values(), ids=STORES.keys())
def test_a_store_lives_every_history_as_the_specification_does(opener: Opener) -> None:  # I1..I20
    machine = histories_of(opener)
    run_state_machine_as_test(machine)
    assert {what: n for what, n in WANTED.items() if machine.saw[what] < n} == {}, dict(machine.saw)

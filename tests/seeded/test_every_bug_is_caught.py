"""The suites can fail: each seeded bug breaks an exercise, and random histories find bugs of every kind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from culm.stores.memory import MemoryStore
from culm.testing.clock import ManualClock
from culm.testing.conformance import Bench, Broken, Case, cases
from tests.conformance.histories import histories_of
from tests.conformance.stores import Subject
from tests.seeded import SEEDED
from tests.seeded.catalogue import Maker

# Those that a few dozen histories meet, one of each kind.
FOUND_BY_HISTORIES = ["no resend memory", "claim twice", "join off by one", "crash not counted", "newest first"]


def breaks(maker: Maker) -> Iterator[str]:
    """The exercises that this store does not pass, one after the other."""
    for case in cases():
        clock = ManualClock()
        if asyncio.run(_is_broken(case, Bench(maker(clock), clock))):
            yield case.name


async def _is_broken(case: Case, bench: Bench) -> bool:
    try:
        await asyncio.wait_for(case.exercise(bench), 1)
    except (Broken, TimeoutError):
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("maker", SEEDED.values(), ids=SEEDED.keys())
def test_a_seeded_bug_breaks_an_exercise(maker: Maker) -> None:
    assert next(breaks(maker), None) is not None


def test_a_store_without_a_bug_breaks_none() -> None:
    assert list(breaks(MemoryStore)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUND_BY_HISTORIES)
def test_a_seeded_bug_does_not_survive_random_histories(name: str) -> None:
    machine = histories_of(Subject(name, lambda _, clock: SEEDED[name](clock)))
    bounded = settings(
        max_examples=200, stateful_step_count=40, deadline=None, derandomize=True, phases=[Phase.generate], report_multiple_bugs=False
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=bounded)


def test_there_are_bugs_of_every_kind() -> None:
    assert len(SEEDED) >= 30

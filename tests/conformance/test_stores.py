"""The public conformance suite, over each of our own stores."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from culm.testing.clock import ManualClock
from culm.testing.conformance import Bench, Case, cases
from culm.testing.conformance.suite import case
from culm.transitions import TABLE
from tests.conformance.stores import SUBJECTS, Subject


@pytest.mark.parametrize(("subject", "exercise"), [s.param(c, name=f"{s.name}-{c.name}") for s in SUBJECTS for c in cases(s.features)])
def test_a_store_conforms(subject: Subject, exercise: Case, tmp_path: Path) -> None:
    async def run() -> None:
        clock = ManualClock()
        store = subject.open(tmp_path, clock)
        try:
            await exercise.exercise(Bench(store, clock))
        finally:
            await store.close()

    asyncio.run(run())


def test_the_suite_holds_the_whole_table_and_more() -> None:
    names = {c.name for c in cases()}
    assert {f"{t.given} to a job that is {t.at} is answered {t.answer}".replace(" ", "_") for t in TABLE} <= names
    assert len(names) > len(TABLE) + 120


def test_a_store_without_features_is_asked_for_everything_else() -> None:
    asked = {c.name for c in cases(())}
    assert "a_wait_ends_when_its_time_is_over" in asked
    assert "a_wait_ends_when_a_job_is_sent" not in asked
    assert not any(c.needs for c in cases(()))


def test_two_exercises_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two exercises"):
        case(cases()[0].exercise)
